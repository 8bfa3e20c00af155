"""The local exchange as an object: a server in a thread of its own, and everything a test or a command does to it.

with LocalExchange(["BTC-USDT"], rate=50, seed=7) as exchange:
    run_client(exchange.ws_url, exchange.rest_url)
    truth = exchange.fills("BTC-USDT")
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import TracebackType
from typing import Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from okxcli.local.faults import ANY, parse_fault
from okxcli.local.network.engine import Engine, Feed, Options
from okxcli.local.network.port import Wire
from okxcli.local.network.pushes import Channels
from okxcli.local.network.websocket_connection import Message
from okxcli.local.venue.fills import Fill

Server = TypeVar("Server", bound="LocalServer")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def served(
    method: Callable[Concatenate[Server, Arguments], Result],
) -> Callable[Concatenate[Server, Arguments], Result]:
    """Run a method in the server's thread, whoever calls it; what it causes goes out at once."""

    @wraps(method)
    def call(self: Server, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return self.call(lambda: method(self, *arguments, **named))

    return call


class ConnectionInfo(NamedTuple):
    """A connection as it stands: its path, its id, what it subscribed, how many requests it made."""

    path: str
    conn_id: str
    channels: tuple[tuple[str, str], ...]
    requests: int


class LocalServer:
    """A venue served on loopback by a thread. Methods may be called from any thread while the `with` block lasts."""

    #: What the environment of a command has beside the addresses.
    environment: Mapping[str, str] = {}

    def __init__(self, channels: Channels, options: Options, faults: Iterable[str]) -> None:
        self._engine = Engine(channels, options, faults)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def _feed(self) -> Feed:
        """Return the feed; called in the thread, before the port opens."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="local-exchange", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def _run(self) -> None:
        try:
            self._engine.feed = self._feed()
            asyncio.run(self._main())
        except BaseException as error:  # handed to the thread that waits, in __enter__ or __exit__
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._engine.run(Wire, self._ready.set)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
        if kind is None and self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close every connection and the port, and end the thread."""
        if self._thread is not None and self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._engine.end)
            self._thread.join()

    @property
    def failed(self) -> bool:
        """Whether the server ended by itself, by an error; the end of the `with` block raises it."""
        return self._error is not None

    def call(self, act: Callable[[], Result]) -> Result:
        """Run `act` in the server's thread and return what it returns; what it caused goes out at once."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the local exchange is not running")

        async def run() -> Result:
            try:
                return act()
            finally:
                self._engine.wake()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=30)

    # Where it is, and what it has

    @property
    def ws_url(self) -> str:
        """The WebSocket base, without a path (`OKX_WS_URL`)."""
        options = self._engine.options
        host = f"[{options.host}]" if ":" in options.host else options.host
        return f"{'ws' if options.cert is None else 'wss'}://{host}:{self._engine.port}"

    @property
    def rest_url(self) -> str:
        """The REST base, without a path (`OKX_REST_URL`)."""
        return self.ws_url.replace("ws", "http", 1)

    def now_ms(self) -> int:
        """Return the market's time in ms."""
        return self._engine.venue.clock.now_ms()

    @served
    def fills(self, symbol: str) -> list[Fill]:
        """Return the fills of `symbol` that exist by now and are still kept, oldest first."""
        return list(self._engine.venue.listings[symbol].tape.fills)

    @served
    def absent(self, symbol: str) -> list[int]:
        """Return the ids of `symbol` that the exchange lost for good."""
        return list(self._engine.venue.listings[symbol].tape.absent)

    @served
    def candles(self, symbol: str, bar: str = "1m") -> list[list[str]]:
        """Return every candle of `symbol` as OKX's rows, oldest first, the running one last."""
        return list(self._engine.venue.listings[symbol].bars.rows(bar, self.now_ms()))[::-1]

    @served
    def connections(self) -> list[ConnectionInfo]:
        """Return the open WebSocket connections."""
        return [
            ConnectionInfo(one.session.path, one.session.conn_id, tuple(one.session.subscriptions), one.requests)
            for one in self._engine.connections
        ]

    @served
    def counts(self) -> dict[str, int]:
        """Return how often what was asked: `handshakes`, `pings`, `requests`, `GET market/trades` and its like.

        And how it was answered: `429`, `old answers` (from a cache that is behind).
        """
        return dict(self._engine.counts)

    def wait_subscribed(self, channel: str, symbol: str, timeout_s: float = 10.0) -> bool:
        """Wait until somebody is subscribed to `channel` of `symbol`; return False when the time is over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.call(lambda: (channel, symbol) in self._engine.channels.subscribers):
                return True
            time.sleep(0.01)
        return False

    # Faults, from now on

    @served
    def fault(self, spec: str) -> None:
        """Make the fault `spec` happen now, written as for the command line but without `@WHEN`; 0s ends one."""
        self._engine.inflict(parse_fault(spec))

    @served
    def heal(self) -> None:
        """End every fault: mutes, planned drops and losses, delays, refusals, old caches."""
        self._engine.faults.clear()

    @served
    def cut(self, path: str = ANY) -> int:
        """Drop the connections of `path` (`public`, `business`; all by default) without a close frame; count them."""
        return self._engine.cut(path)

    @served
    def freeze(self) -> int:
        """Leave all connections half open: no byte is read or sent any more, and they never end; count them."""
        return self._engine.freeze()

    @served
    def close_connections(self, code: int = 1001, reason: str = "", path: str = ANY) -> None:
        """Close connections with a close frame, with any of OKX's codes."""
        for one in self._engine.on(path):
            one.close(code, reason)

    @served
    def deafen(self, channel: str = ANY, symbol: str = ANY, lasting: bool = False) -> int:
        """Push nothing more on these subscriptions of the present connections, though they stay acked; count them.

        A new subscription ends it, or, with `lasting`, a new connection alone.
        """
        count = 0
        for one in self._engine.connections:
            for key in one.session.subscriptions:
                if channel in (ANY, key[0]) and symbol in (ANY, key[1]):
                    self._engine.channels.unsubscribe(key, one)
                    count += 1
                    if lasting:
                        one.deaf.add(key)
        return count

    @served
    def send(self, text: str | bytes, path: str = ANY) -> None:
        """Send any text to every connection of `path`, be it what OKX would never send."""
        message = Message(text.encode() if isinstance(text, str) else text)
        for one in self._engine.on(path):
            one.push(message)

    @served
    def set_state(self, symbol: str, state: str) -> None:
        """Change an instrument's state (`suspend`, `expired`...) and tell the `instruments` channel."""
        row = self._engine.venue.listings[symbol].row
        row["state"] = state
        self._engine.channels.instruments([row])
