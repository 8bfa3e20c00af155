"""The local exchange as an object: a server in a thread of its own, and everything a test or a command does to it.

with LocalExchange(["BTC-USDT"], rate=50, seed=7) as exchange:
    run_client(exchange.ws_url, exchange.rest_url)
    truth = exchange.fills("BTC-USDT")
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from okxcli.local.faults import ANY, Planned, parse_fault
from okxcli.local.feeds import Feed
from okxcli.local.network.engine import Engine, Options
from okxcli.local.network.hub import Message
from okxcli.local.network.pushes import Channels
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.venue import Venue

Result = TypeVar("Result")


class ConnectionInfo(NamedTuple):
    """A connection as it stands: its path, its id, what it subscribed, how many requests it made."""

    path: str
    conn_id: str
    channels: tuple[tuple[str, str], ...]
    requests: int


class LocalServer:
    """A venue served on loopback by a thread. Methods may be called from any thread while the `with` block lasts."""

    def __init__(self, venue: Venue, channels: Channels, options: Options, planned: Sequence[Planned]) -> None:
        self._engine = Engine(venue, channels, options, planned)
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
        await self._engine.run(self._ready.set)

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

    def _call(self, act: Callable[[], Result]) -> Result:
        """Run `act` in the server's thread and return what it returns; what it caused goes out at once."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the local exchange is not running")
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(act())
            except BaseException as error:  # handed to the caller
                future.set_exception(error)
            self._engine.wake()

        self._loop.call_soon_threadsafe(run)
        return future.result(timeout=30)

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

    def fills(self, symbol: str) -> list[Fill]:
        """Return the fills of `symbol` that exist by now and are still kept, oldest first."""
        return self._call(lambda: list(self._engine.venue.listings[symbol].tape.fills))

    def absent(self, symbol: str) -> list[int]:
        """Return the ids of `symbol` that the exchange lost for good."""
        return self._call(lambda: list(self._engine.venue.listings[symbol].tape.absent))

    def candles(self, symbol: str, bar: str = "1m") -> list[list[str]]:
        """Return every candle of `symbol` as OKX's rows, oldest first, the running one last."""
        return self._call(lambda: list(self._engine.venue.listings[symbol].bars.rows(bar, self.now_ms()))[::-1])

    def connections(self) -> list[ConnectionInfo]:
        """Return the open WebSocket connections."""

        def look() -> list[ConnectionInfo]:
            return [
                ConnectionInfo(one.session.path, one.session.conn_id, tuple(one.session.subscriptions), one.requests)
                for one in self._engine.connections
            ]

        return self._call(look)

    def counts(self) -> dict[str, int]:
        """Return how often what was asked: `handshakes`, `pings`, and `GET market/trades` for each end point.

        And how it was answered: `429`, `old answers` (from a cache that is behind).
        """
        return self._call(lambda: dict(self._engine.counts))

    def wait_subscribed(self, channel: str, symbol: str, timeout_s: float = 10.0) -> bool:
        """Wait until somebody is subscribed to `channel` of `symbol`; return False when the time is over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self._call(lambda: (channel, symbol) in self._engine.hub.subscribers):
                return True
            time.sleep(0.01)
        return False

    # Faults, from now on

    def cut(self, path: str = ANY) -> int:
        """Drop the connections of `path` (`public`, `business`; all by default) without a close frame; count them."""
        return self._call(lambda: self._engine.cut(path))

    def freeze(self, path: str = ANY) -> int:
        """Leave connections half open: no byte is read or sent any more, and they never end; count them."""
        return self._call(lambda: self._engine.freeze(path))

    def close_connections(self, code: int = 1001, reason: str = "", path: str = ANY) -> None:
        """Close connections with a close frame, with any of OKX's codes."""

        def close() -> None:
            for one in self._engine.on(path):
                one.close(code, reason)

        self._call(close)

    def notice(self, after_s: float = 60.0) -> None:
        """Announce an upgrade (64008) on public connections and close all connections `after_s` later."""
        self._call(lambda: self._engine.notice(after_s))

    def fault(self, spec: str) -> None:
        """Make the fault `spec` happen now, written as for the command line but without `@WHEN`."""
        planned = parse_fault(spec)
        self._call(lambda: self._engine.inflict(planned))

    def heal(self) -> None:
        """End every fault: mutes, planned drops and losses, delays, refusals, old caches."""
        self._call(self._engine.faults.clear)

    def mute(self, channel: str = ANY, symbol: str = ANY) -> None:
        """Push nothing on `channel` for `symbol` any more, though it stays acked."""
        self._call(lambda: self._engine.faults.mute(channel, symbol))

    def deafen(self, channel: str = ANY, symbol: str = ANY, lasting: bool = False) -> int:
        """Push nothing more on these subscriptions of the present connections, though they stay acked; count them.

        A new subscription ends it, or, with `lasting`, a new connection alone.
        """
        return self._call(lambda: self._engine.deafen(channel, symbol, lasting))

    def unmute(self) -> None:
        """End every mute."""
        self._call(self._engine.faults.muted.clear)

    def drop(self, symbol: str, count: int = 1) -> None:
        """Leave the next `count` fills out of the pushes; REST has them."""
        self.fault(f"drop={count}:{symbol}")

    def lose(self, symbol: str, count: int = 1) -> None:
        """Lose the next `count` fills for good: their ids exist nowhere."""
        self.fault(f"lose={count}:{symbol}")

    def duplicate(self, symbol: str, count: int = 1) -> None:
        """Push the next `count` fills twice."""
        self.fault(f"duplicate={count}:{symbol}")

    def delay(self, seconds: float) -> None:
        """Push everything `seconds` later; 0 ends it."""
        self._call(lambda: setattr(self._engine.faults, "delay_s", seconds))

    def refuse(self, seconds: float) -> None:
        """Refuse handshakes with 429 for so long; 0 ends it."""
        self._until("refuse_until", seconds)

    def no_pong(self, seconds: float) -> None:
        """Leave pings without an answer for so long; 0 ends it."""
        self._until("no_pong_until", seconds)

    def no_ack(self, seconds: float) -> None:
        """Ignore every request for so long; 0 ends it."""
        self._until("no_ack_until", seconds)

    def busy(self, seconds: float) -> None:
        """Answer REST with 429 and 50011 for so long; 0 ends it."""
        self._until("busy_until", seconds)

    def html(self, seconds: float) -> None:
        """Answer REST with 503 and an HTML page for so long; 0 ends it."""
        self._until("html_until", seconds)

    def stale_rest(self, behind_ms: int) -> None:
        """Answer every other REST request, at random, from a cache `behind_ms` behind; 0 ends it."""
        self._call(lambda: setattr(self._engine.faults, "stale_rest_ms", behind_ms))

    def slow_rest(self, seconds: float) -> None:
        """Let every REST answer take so long; 0 ends it."""
        self._call(lambda: setattr(self._engine.faults, "slow_rest_s", seconds))

    def send(self, text: str | bytes, path: str = ANY) -> None:
        """Send any text to every connection of `path`, be it what OKX would never send."""
        message = Message(text.encode() if isinstance(text, str) else text)

        def push() -> None:
            for one in self._engine.on(path):
                one.push(message)

        self._call(push)

    def set_state(self, symbol: str, state: str) -> None:
        """Change an instrument's state (`suspend`, `expired`...) and tell the `instruments` channel."""

        def change() -> None:
            row = self._engine.venue.listings[symbol].row
            row["state"] = state
            self._engine.channels.instruments([row])

        self._call(change)

    def _until(self, name: str, seconds: float) -> None:
        self._call(lambda: setattr(self._engine.faults, name, time.monotonic() + seconds if seconds else 0.0))
