"""The event loop of the local exchange: one port for WebSocket and REST, a heartbeat that publishes and flushes."""

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

from okxcli.errors import OkxError, UsageError
from okxcli.local.faults import ANY, Planned, parse_fault
from okxcli.local.network.conversation import PATHS, REQUESTS_PER_HOUR, Reply, Session, Subscribe, Unsubscribe
from okxcli.local.network.pushes import Channels
from okxcli.local.network.request_limits import HANDSHAKE, Limits
from okxcli.local.network.rest_answers import PREFIX, TOO_MANY, Answer, answer, refusal
from okxcli.local.network.websocket_connection import MAX_BACKLOG, Connection, Message

log = logging.getLogger(__name__)

_SHORTEST_S = 0.003  # between two beats: what comes in between leaves in one block
_HTML = Answer(
    503,
    b"<html><head><title>503 Service Temporarily Unavailable</title></head><body>cloudflare</body></html>",
    "text/html",
)


class Feed(Protocol):
    """A source of fills or messages that the engine drives."""

    def step(self, now_s: float) -> float | None:
        """Publish what is due at `now_s`; return when to be called again, None: not before something happens."""

    def close(self) -> None:
        """Write out what is held back."""


@dataclass(frozen=True)
class Options:
    """Where the exchange listens and how strict it is.

    `limits` scales all rate limits (0: none). `keys` maps API keys to (secret, passphrase); `vip`: they have the fee
    tier for the fast books. With `cert` (and `key`, where it is a file of its own; both PEM) the port speaks TLS.
    """

    host: str = "127.0.0.1"
    port: int = 0
    idle_s: float = 30.0
    limits: float = 1.0
    requests_per_hour: int = REQUESTS_PER_HOUR
    max_backlog: int = MAX_BACKLOG
    keys: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    vip: bool = False
    seed: int = 1
    cert: Path | None = None
    key: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return the server's side of TLS, None without a certificate.

        Raises:
            UsageError: the certificate or its key cannot be used.
        """
        if self.cert is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # SSLError is one
            raise UsageError(f"cannot use the certificate {self.cert}: {error.strerror or error}") from None
        return context


class Engine:
    """Serves a venue. Everything here runs in one event loop; `local/server.py` is the way in from other threads.

    `feed` is set before it runs.
    """

    feed: Feed

    def __init__(self, channels: Channels, options: Options, faults: Iterable[str]) -> None:
        self.venue = channels.venue
        self.channels = channels
        self.faults = channels.faults
        self.options = options
        self.offers: Callable[[str, str], bool] = lambda channel, symbol: True
        self.transports: set[asyncio.Transport] = set()
        self.connections: set[Connection] = set()
        self.counts: Counter[str] = Counter()
        self.port = 0
        self._limits = Limits(options.limits)
        self._random = Random(f"{options.seed}/engine")
        self._planned = [(time.monotonic() + one.after_s, one) for one in map(parse_fault, faults)]
        self._ended: asyncio.Future[None] | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._idle_checked_s = 0.0

    async def run(self, accept: Callable[["Engine"], asyncio.Protocol], ready: Callable[[], None]) -> None:
        """Serve until `end` is called; `ready` is called once the port is open, `accept` for every client.

        Raises:
            UsageError: the port cannot be had.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        tls = self.options.tls()
        try:
            server = await loop.create_server(lambda: accept(self), self.options.host, self.options.port, ssl=tls)
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(f"cannot listen on {self.options.host}:{self.options.port}: {why}. Try --port 0") from None
        self.port = server.sockets[0].getsockname()[1]
        ready()
        self.wake()
        try:
            await self._ended
        finally:
            server.close()
            if self._beat is not None:
                self._beat.cancel()
            for one in list(self.connections):
                one.close(1001, "")
            await asyncio.sleep(0)
            for transport in list(self.transports):
                transport.abort()
            self.feed.close()

    def end(self, error: BaseException | None = None) -> None:
        """Stop serving; `error` comes out of `run`."""
        if self._ended is not None and not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(error)

    def guard(self, act: Callable[..., None], *arguments: object) -> None:
        """Call `act`; an error that it did not expect ends the server instead of vanishing in the event loop."""
        try:
            act(*arguments)
        except Exception as error:
            if not isinstance(error, OkxError):
                log.exception("the local exchange failed")
            self.end(error)

    def wake(self) -> None:
        """Beat as soon as possible, because something changed."""
        if self._beat is not None:
            self._beat.cancel()
        self._beat = asyncio.get_running_loop().call_later(0, self.guard, self._tick)

    def _tick(self) -> None:
        """Publish what is due, send it, and come back when there is more."""
        now_s = time.monotonic()
        wake = now_s + 1.0
        self._faults_due(now_s)
        with self.venue.clock.moment():
            dues = self.feed.step(now_s), self.channels.pump(now_s), self.channels.release(now_s)
        for due in (*dues, min((moment for moment, _ in self._planned), default=None)):
            wake = wake if due is None else min(wake, due)
        for one in list(self.connections):
            one.flush()
        idle_pace_s = min(0.5, self.options.idle_s / 10)
        if now_s - self._idle_checked_s >= idle_pace_s:
            self._idle_checked_s = now_s
            for one in list(self.connections):
                one.check_idle(now_s, self.options.idle_s)
        wake = min(wake, self._idle_checked_s + idle_pace_s)
        delay = max(_SHORTEST_S, wake - time.monotonic())
        self._beat = asyncio.get_running_loop().call_later(delay, self.guard, self._tick)

    # WebSocket

    def connect(self, client: str, path: str, transport: asyncio.Transport) -> Connection | Answer:
        """Return a new connection on `path`, or the answer to a handshake that is refused."""
        now_s = time.monotonic()
        self.counts["handshakes"] += 1
        if path not in PATHS:
            return Answer(404, b'{"msg":"Not Found","code":"404","data":[]}')
        if now_s < self.faults.refuse_until or not self._limits.take(client, HANDSHAKE, now_s):
            self.counts["handshakes refused"] += 1
            return Answer(429, b"Too Many Requests", "text/plain")
        conn_id = f"{self._random.getrandbits(32):08x}"
        options = self.options
        session = Session(path, conn_id, self._listed, options.keys, options.requests_per_hour, options.vip)
        return Connection(transport, session, self.options.max_backlog, self.forget)

    def _listed(self, channel: str, symbol: str) -> bool:
        return self.venue.subject(channel, symbol) is not None and self.offers(channel, symbol)

    def receive(self, connection: Connection, data: bytes) -> None:
        """Act on every message in the bytes that a client sent."""
        for text in connection.receive(data):
            if text != "ping":
                self._request(connection, text)
                continue
            self.counts["pings"] += 1
            if time.monotonic() >= self.faults.no_pong_until:
                connection.pong()

    def _request(self, connection: Connection, text: str) -> None:
        connection.requests += 1
        self.counts["requests"] += 1
        now_s = time.monotonic()
        if now_s < self.faults.no_ack_until:
            return
        actions = connection.session.receive(text, now_s, time.time())
        for action in actions:
            if isinstance(action, Reply):
                connection.push(Message(action.payload))
            elif isinstance(action, Unsubscribe):
                self.channels.unsubscribe(action.key, connection)
        for action in actions:  # all acks of a request come before its first data, as recorded
            if isinstance(action, Subscribe) and action.key not in connection.deaf:
                self.channels.subscribe(action.key, connection, now_s)
                self.wake()
        connection.flush()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is closing."""
        self.connections.discard(connection)
        for key in connection.session.subscriptions:
            self.channels.unsubscribe(key, connection)

    # REST

    def rest(self, client: str, method: str, path: str, query: Mapping[str, str]) -> Answer:
        """Answer a REST request, by its merits and by the faults that are on."""
        now_s = time.monotonic()
        endpoint = path.removeprefix(PREFIX)
        self.counts[f"GET {endpoint}"] += 1
        if now_s < self.faults.html_until:
            found = _HTML
        elif now_s < self.faults.busy_until or not self._limits.take(client, endpoint, now_s):
            self.counts["429"] += 1
            found = TOO_MANY
        elif method != "GET":
            return refusal(405, "50115", "Invalid request method.")
        else:
            listing = self.venue.find(query.get("instId"))
            age = 0
            if self.faults.stale_rest_s and self._random.random() < 0.5:
                self.counts["old answers"] += 1
                age = int(self.faults.stale_rest_s * 1000)
            with self.venue.clock.moment():
                self.feed.step(now_s)
                if endpoint == "market/books" and listing is not None:
                    self.channels.books_now(listing)
                found = answer(self.venue, endpoint if path.startswith(PREFIX) else "", query, age)
        return found._replace(delay_s=self.faults.slow_rest_s)

    # Faults

    def _faults_due(self, now_s: float) -> None:
        planned, self._planned = self._planned, []
        for moment, one in planned:
            if moment > now_s:
                self._planned.append((moment, one))
                continue
            self.inflict(one)
            if one.every_s is not None:
                self._planned.append((now_s + one.every_s, one))

    def inflict(self, planned: Planned) -> None:
        """Make a fault happen now."""
        log.debug("fault: %s", planned.name)
        if planned.name == "cut":
            self.cut()
        elif planned.name == "freeze":
            self.freeze()
        elif planned.name == "notice":
            self.notice(planned.seconds)
        elif planned.name in ("list", "delist"):
            self._list(planned.symbol, "live" if planned.name == "list" else "expired")
        else:
            self.faults.apply(planned, list(self.venue.listings), time.monotonic())

    def _list(self, symbol: str, state: str) -> None:
        """Change the state of a symbol (all), and tell who listens to instruments."""
        for listing in self.venue.listings.values():
            if symbol in (ANY, listing.symbol):
                listing.row["state"] = state
                self.channels.instruments([listing.row])

    def cut(self, path: str = ANY) -> int:
        """Drop the connections of `path` (all of them by default) without a close frame; return how many."""
        chosen = self.on(path)
        for one in chosen:
            one.cut()
        return len(chosen)

    def freeze(self) -> int:
        """Leave all connections half open: nothing is read from them or sent on them; return how many."""
        for one in self.connections:
            one.frozen = True
        return len(self.connections)

    def on(self, path: str) -> list[Connection]:
        """Return the open connections whose path ends in `path` (`public`, `business`), or all of them (`*`)."""
        return [one for one in self.connections if path == ANY or one.session.path.endswith(path)]

    def notice(self, after_s: float) -> None:
        """Announce an upgrade on public and private connections, as OKX does, and close every one `after_s` later."""
        chosen = list(self.connections)
        for one in chosen:
            if not one.session.path.endswith("business"):
                one.push(Message(one.session.notice().payload))
                one.flush()
        loop = asyncio.get_running_loop()
        for one in chosen:
            loop.call_later(after_s, one.close, 1001, "Service upgrade")
