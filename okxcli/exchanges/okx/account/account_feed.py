"""`AccountFeed`: raw lines of the private channels of an account, over a connection to each endpoint, as one stream."""

import logging
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from okxcli.errors import OkxError, UsageError
from okxcli.exchanges.okx.channels import ACCOUNT_CHANNELS, Subscription
from okxcli.exchanges.okx.connection.actions import Refuse
from okxcli.exchanges.okx.connection.client import OKXWebSocketClient, stop_all
from okxcli.exchanges.okx.connection.dialling import PROCESS_DIALS, DialLimiter
from okxcli.exchanges.okx.connection.login import Login, credentials
from okxcli.exchanges.okx.connection.message_queue import MessageQueue, QueuedSource, lines_of, stamped
from okxcli.exchanges.okx.connection.receiver import Receiver
from okxcli.exchanges.okx.feed.liveness import Hands, Times, Watch
from okxcli.exchanges.okx.rest import bounded_http
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.sites import WS_URL, origin_of
from okxcli.runtime.clock import SteadyClock
from okxcli.runtime.proxy import Proxies

_log = logging.getLogger(__name__)

#: What OKX calls all kinds of instruments.
_ANY = "ANY"


def subscriptions(channels: Iterable[str]) -> dict[str, list[Subscription]]:
    """Return what to subscribe of an account, by endpoint path.

    Raises:
        UsageError: none are named, or one that is no channel of an account.
    """
    found: dict[str, list[Subscription]] = {}
    for channel in dict.fromkeys(channels):
        if channel not in ACCOUNT_CHANNELS:
            raise UsageError(f"{channel} is no private channel of OKX. There are {', '.join(ACCOUNT_CHANNELS)}")
        path, key = ACCOUNT_CHANNELS[channel]
        found.setdefault(path, []).append(Subscription(channel, _ANY if key else "", key))
    if not found:
        raise UsageError("no channel given: there is nothing to stream")
    return found


class AccountFeed(QueuedSource):
    """Streams private `channels` until `stop`. One thread calls `poll` whenever `fileno` is readable.

    Each connection logs in anew, before anything is subscribed, with the key that `key_file`, the variables or systemd
    name, by OKX's time. What was pushed while a connection was away is not repeated by OKX: `account` and `positions`
    begin with how things are. With `stamp`, each line gets a last key `"received"`: when it was read (ms, OKX's time).

    Raises:
        LoginRefused: there is no key. UsageError: an unknown channel.
    """

    def __init__(
        self,
        channels: Iterable[str],
        *,
        ws_url: str,
        rest_url: str,
        key_file: Path | None = None,
        proxies: Proxies | None = None,
        connect_timeout_s: float = 30.0,
        stamp: bool = False,
        dials: DialLimiter = PROCESS_DIALS,
    ) -> None:
        wanted = subscriptions(channels)
        base = bounded_http.base(ws_url, ("ws", "wss"), "a WebSocket base", WS_URL)
        key = credentials(key_file)
        proxies = proxies or Proxies()
        self._stamp = stamp
        self._clock = SteadyClock()
        self._stopping = threading.Event()
        self._rest = RestClient(rest_url, timeout_s=4.0, attempts=1, proxies=proxies, sleep=self._sleep)
        # A market on this machine may live in the past; who logs in there does it by the clock of the machine.
        times = Times(clock_ms=None) if origin_of(rest_url) == "local" else Times()
        hands = Hands(dict, _nothing, _nothing, _nothing, lambda symbol, reason: None)
        self._watch = Watch(self._rest, hands, self._clock, fill=False, times=times)
        self._receiver = Receiver(self._deliver, lambda: self._inbox.full)
        self._inbox = MessageQueue(self._receiver.wake)
        self._refusals: list[Refuse] = []
        client = partial(
            OKXWebSocketClient,
            receiver=self._receiver,
            refused=self._on_refused,
            ended=self._inbox.poke,
            connect_timeout_s=connect_timeout_s,
            dials=dials,
            proxies=proxies,
            login=Login(key, self._clock),
        )
        self._clients = [client(base + path, some) for path, some in wanted.items()]

    def start(self) -> None:
        """Learn what time it is, and begin to connect."""
        self._watch.measure(again=False)
        self._inbox.release([])
        for client in self._clients:
            client.start()
        self._watch.start()

    def poll(self) -> list[bytes]:
        """Return the lines that have come, in their order, without newlines; does not wait.

        Raises:
            LoginRefused: OKX does not take the key.
            UsageError: OKX refuses all of the channels.
            ExchangeUnavailable: never connected within the time given.
        """
        lines = self._inbox.take()
        if lines or self._stopping.is_set():
            return lines
        refusals, self._refusals = self._refusals, []
        text = " ".join(f"OKX refuses {one.subscription} ({one.code}): {one.message}." for one in refusals)
        failure = next((client.failure for client in self._clients if client.failure is not None), None)
        if failure is not None:
            self.stop()
            raise failure if isinstance(failure, OkxError) else RuntimeError(str(failure)) from failure
        if text and not any(client.wanted for client in self._clients):
            self.stop()
            raise UsageError(text)
        if text:
            _log.warning("%s", text)
        return lines

    def stop(self) -> None:
        """Close all connections; what has come can still be polled."""
        self._stopping.set()
        stop_all(self._clients)
        self._watch.stop()
        self._rest.close()

    # In other threads

    def _deliver(self, frames: list[bytes]) -> None:
        lines = lines_of(frames)
        self._inbox.put(stamped(lines, self._clock()) if self._stamp else lines)

    def _on_refused(self, refusal: Refuse) -> None:
        self._refusals.append(refusal)
        self._inbox.poke()

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)


def _nothing(some: object) -> None:
    """Do what is to be done about market data: there is none."""
