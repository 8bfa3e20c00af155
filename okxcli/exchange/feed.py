"""`Feed`: raw lines of many symbols and channels, over as many connections as it takes, as one stream.

Used by `stream` and by `collect`. Lines are OKX's bytes. The first ones tell what the symbols are; then come pushes
in the order in which they arrived, except that fills are in the order of their ids, those that no socket brought
fetched from REST.
"""

import logging
import re
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from okxcli.errors import OkxError, UsageError
from okxcli.exchange.actions import Refuse
from okxcli.exchange.channels import Subscription, argument_of, path_of
from okxcli.exchange.dialling import PROCESS_DIALS, DialLimiter
from okxcli.exchange.history import TradeHistory
from okxcli.exchange.holes import Holes
from okxcli.exchange.inbox import Inbox
from okxcli.exchange.instruments import Catalogue, instrument_line, likely_kind
from okxcli.exchange.repair import Repair
from okxcli.exchange.rest import RestClient
from okxcli.exchange.websocket import ConnectionState, OKXWebSocketClient
from okxcli.runtime.clock import now_ms

_log = logging.getLogger(__name__)

#: Subscriptions of one connection; OKX publishes no limit and closes with 4008 or 4009 beyond it.
PER_CONNECTION = 50
#: Data waits so long, at most, for the instruments that come first.
_INSTRUMENTS_WAIT_S = 5.0
_STOP_S = 3.0
#: The channel whose ids are numbered one by one, and repaired.
TAPE = "trades-all"
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
#: Codes that mean: no such channel, or no such instrument on it.
_UNKNOWN = ("60018", "64001", "64002", "60008")


def plan(symbols: Iterable[str], channels: Iterable[str]) -> dict[str, list[list[Subscription]]]:
    """Return the subscriptions of each connection, by endpoint path; those of one symbol stand together.

    Raises:
        UsageError: an unknown channel, or what cannot be a symbol.
    """
    by_path: dict[str, dict[Subscription, None]] = {}
    wanted = list(dict.fromkeys(channels))
    names = list(dict.fromkeys(symbols))
    if not wanted or not names:
        raise UsageError(f"no {'symbol' if wanted else 'channel'} given: there is nothing to stream")
    for symbol in names:
        if _SYMBOL.fullmatch(symbol) is None:
            raise UsageError(f"not a symbol: {symbol[:40]!r}. OKX names them like BTC-USDT or BTC-USDT-SWAP")
        for channel in wanted:
            key = argument_of(channel)
            value = {"instId": symbol, "instType": likely_kind(symbol), "": ""}[key]
            by_path.setdefault(path_of(channel), {})[Subscription(channel, value, key)] = None
    return {path: _spread(list(subscriptions)) for path, subscriptions in by_path.items()}


def _spread(subscriptions: list[Subscription]) -> list[list[Subscription]]:
    """Cut into the fewest connections, evenly filled."""
    count = -(-len(subscriptions) // PER_CONNECTION)
    size = -(-len(subscriptions) // count)
    return [subscriptions[i : i + size] for i in range(0, len(subscriptions), size)]


class Feed:
    """Streams `channels` of `symbols` until `stop`. One thread calls `poll` whenever `fileno` is readable.

    With `stamp`, each line gets a last key `"received"`: when it was read, in milliseconds since the epoch. With
    `repair`, holes in the ids of `trades-all` are filled from REST, and fills that came twice are dropped. With
    `since_ms`, each symbol begins with its fills since that time (and one before), with `resume` right after the id
    that it names; the live fills join on.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        channels: Iterable[str],
        *,
        ws_url: str,
        rest_url: str,
        connect_timeout_s: float = 30.0,
        stamp: bool = False,
        dials: DialLimiter = PROCESS_DIALS,
        repair: bool = True,
        since_ms: int | None = None,
        resume: Mapping[str, int] | None = None,
    ) -> None:
        channels = list(channels)
        if (since_ms is not None or resume) and (TAPE not in channels or not repair):
            raise UsageError(f"only repaired {TAPE} can begin with the past: leave --no-repair out, add -c {TAPE}")
        base = ws_url.rstrip("/")
        parts = urlsplit(base)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise UsageError(f"not a WebSocket base: {ws_url!r}. Write it as wss://ws.okx.com")
        self._symbols = list(dict.fromkeys(symbols))
        self._stamp = stamp
        self._inbox = Inbox(self._wake_all)
        self._stopping = threading.Event()
        # A few quick attempts: the data does not wait for long, and can do without.
        self._rest = RestClient(rest_url, timeout_s=4.0, attempts=3, patience_s=6.0, sleep=self._sleep)
        self._catalogue = Catalogue(self._rest)
        self._catalogue_done = threading.Event()
        self._refusals: list[Refuse] = []
        self._refused = 0
        self._total = 0
        self._lock = threading.Lock()
        self._clients: list[OKXWebSocketClient] = []
        self._repair = self._make_repair(since_ms, resume) if repair and TAPE in channels else None
        for path, connections in plan(self._symbols, channels).items():
            for subscriptions in connections:
                self._total += len(subscriptions)
                self._clients.append(
                    OKXWebSocketClient(
                        base + path,
                        subscriptions,
                        self._deliver,
                        self._on_refused,
                        self._inbox.poke,
                        lambda: self._inbox.full,
                        connect_timeout_s,
                        dials,
                    )
                )

    def _make_repair(self, since_ms: int | None, resume: Mapping[str, int] | None) -> Repair:
        # Few attempts here: `Holes` asks again, and knows for how long it is worth it.
        rest = RestClient(self._rest.base_url, timeout_s=5.0, attempts=2, patience_s=8.0, sleep=self._sleep)
        self._history_rest = rest
        holes = Holes(self._symbols, since=since_ms is not None, resume=resume)
        return Repair(holes, TradeHistory(rest, sleep=self._sleep), self._inbox.poke, self._stamped, since_ms)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        threading.Thread(target=self._fetch_instruments, name="okx instruments", daemon=True).start()
        threading.Thread(target=self._stop_waiting, name="okx patience", daemon=True).start()
        for client in self._clients:
            client.start()

    def fileno(self) -> int:
        """Return a descriptor that is readable when `poll` has lines or news."""
        return self._inbox.fileno()

    def poll(self) -> list[bytes]:
        """Return the lines that have come, in their order, without newlines; does not wait.

        Raises:
            UsageError: OKX has none of what is asked for.
            ExchangeUnavailable: never connected within the time given.
        """
        lines = self._inbox.take()
        if self._repair is not None and not self._inbox.held:
            lines = self._repair.feed(lines, any(client.overlapping for client in self._clients))
            if self._stopping.is_set():
                lines += self._repair.release()
        if not self._stopping.is_set():
            self._tell_refusals()
            failure = next((c.failure for c in self._clients if c.failure is not None), None)
            if failure is not None and lines:
                self._inbox.poke()
            elif failure is not None:
                self.stop()
                raise failure if isinstance(failure, OkxError) else RuntimeError(str(failure)) from failure
        return lines

    def stop(self) -> None:
        """Close all connections; what has come can still be polled."""
        self._stopping.set()
        for client in self._clients:
            client.stop()
        slow = [client.url for client in self._clients if not client.join(_STOP_S)]
        if slow:
            _log.warning("connections that do not end: %s", ", ".join(slow))
        if self._repair is not None:
            self._repair.stop()
            self._history_rest.close()
        self._inbox.release([])
        self._rest.close()

    def repairs(self) -> dict[str, int]:
        """Return the counts of the repair: holes seen, fills repaired, left to backfill, absent, old ones dropped."""
        return dict(self._repair.counts) if self._repair is not None else {}

    def state(self) -> list[ConnectionState]:
        """Tell how each connection does."""
        return [client.state() for client in self._clients]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()
        self._inbox.close()

    # In other threads

    def _deliver(self, frames: list[bytes]) -> None:
        self._inbox.put(self._as_lines(frames))

    def _as_lines(self, frames: list[bytes]) -> list[bytes]:
        # A line break can only stand between JSON's tokens; a blank there means the same.
        lines = [f.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in f else f for f in frames]
        return self._stamped(lines)

    def _stamped(self, lines: list[bytes]) -> list[bytes]:
        if not self._stamp:
            return lines
        tail = b',"received":%d}' % now_ms()
        return [line[:-1] + tail if line.endswith(b"}") else line for line in lines]

    def _on_refused(self, refusal: Refuse) -> None:
        with self._lock:
            self._refusals.append(refusal)
        self._inbox.poke()

    def _fetch_instruments(self) -> None:
        try:
            rows = self._catalogue.find(self._symbols)
        except OkxError as error:
            if not self._stopping.is_set():
                _log.warning("streaming without instruments: %s", error)
            rows = {}
        except Exception:
            _log.exception("a bug of okx: streaming without instruments")
            rows = {}
        lines = self._as_lines([instrument_line(row) for row in rows.values()])
        self._catalogue_done.set()
        if not self._inbox.release(lines):
            self._inbox.put(lines)
        self._inbox.poke()

    def _stop_waiting(self) -> None:
        """Let the data through when the instruments take too long."""
        if not self._catalogue_done.wait(_INSTRUMENTS_WAIT_S) and not self._stopping.is_set():
            _log.warning("no answer from %s yet: streaming without instruments", self._rest.base_url)
            self._catalogue_done.set()
            self._inbox.release([])
            self._inbox.poke()

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _wake_all(self) -> None:
        for client in self._clients:
            client.wake()

    # Refusals

    def _tell_refusals(self) -> None:
        """Say what OKX refuses, once it is known whether anything is left."""
        if not self._refusals or not self._catalogue_done.is_set():
            return
        if not all(client.settled.is_set() for client in self._clients):
            return
        with self._lock:
            refusals, self._refusals = self._refusals, []
        self._refused += len(refusals)
        text = " ".join(self._explained(refusals))
        if self._refused == self._total:
            self.stop()
            raise UsageError(text)
        _log.warning("%s", text)

    def _explained(self, refusals: list[Refuse]) -> list[str]:
        texts: list[str] = []
        unknown: dict[tuple[str, str], list[str]] = {}
        for refusal in refusals:
            subscription = refusal.subscription
            if refusal.code in _UNKNOWN:
                unknown.setdefault((subscription.value, refusal.code), []).append(subscription.channel)
            else:
                texts.append(f"OKX refuses {subscription} ({refusal.code}): {refusal.message}.")
        for (symbol, code), channels in unknown.items():
            near = self._catalogue.nearest(symbol) if symbol not in self._catalogue else None
            hint = f" Did you mean {near}?" if near else ""
            texts.append(f"OKX has no {symbol} on {', '.join(channels)} ({code}).{hint}")
        if any(symbol not in self._catalogue for symbol, _ in unknown):
            texts.append("All names: okx instruments --symbols")
        return texts
