"""`Feed`: raw lines of many symbols and channels, over as many connections as it takes, as one stream.

Used by `stream` and by `collect`. Lines are OKX's bytes. The first ones tell what the symbols are; then come pushes
in the order in which they arrived, except that fills are in the order of their ids, those that no socket brought
fetched from REST. A watch finds channels that are subscribed and bring nothing.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from okxcli.core.model import AHEAD_MS, TAPE
from okxcli.errors import OkxError, UsageError
from okxcli.exchanges.okx.books.book_repair import BookRepair
from okxcli.exchanges.okx.channels import LOGIN_CHANNELS, PUBLIC, Subscription
from okxcli.exchanges.okx.connection.actions import Refuse
from okxcli.exchanges.okx.connection.client import OKXWebSocketClient, stop_all
from okxcli.exchanges.okx.connection.dialling import PROCESS_DIALS, DialLimiter
from okxcli.exchanges.okx.connection.live_session import ConnectionState
from okxcli.exchanges.okx.connection.login import Login, credentials
from okxcli.exchanges.okx.connection.message_queue import MessageQueue, QueuedSource, lines_of, stamped
from okxcli.exchanges.okx.connection.receiver import Receiver
from okxcli.exchanges.okx.connection.subscribed import Seen
from okxcli.exchanges.okx.feed.allotment import PER_CONNECTION, plan, spread, subscriptions
from okxcli.exchanges.okx.feed.disk_queue import DiskQueue, Room
from okxcli.exchanges.okx.feed.gap_repair import Repair
from okxcli.exchanges.okx.feed.gap_tracker import GapTracker
from okxcli.exchanges.okx.feed.listings import CHANNEL, Listing
from okxcli.exchanges.okx.feed.liveness import Hands, Times, Watch
from okxcli.exchanges.okx.feed.mute_channels import Watchdog
from okxcli.exchanges.okx.feed.refusals import Retired, explained
from okxcli.exchanges.okx.rest import bounded_http
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.exchanges.okx.rest.instrument_list import Catalogue, instrument_line
from okxcli.exchanges.okx.sites import WS_URL, origin_of
from okxcli.runtime.clock import SteadyClock, now_ms, passed_ms
from okxcli.runtime.proxy import Proxies

__all__ = ["Feed", "plan"]

_log = logging.getLogger(__name__)

#: Data waits so long, at most, for the instruments that come first.
_INSTRUMENTS_WAIT_S = 5.0


class Feed(QueuedSource):
    """Streams `channels` of `symbols` until `stop`. One thread calls `poll` whenever `fileno` is readable.

    With `stamp`, each line gets a last key `"received"`: when it was read by the exchange's clock (ms), for which it is
    asked first (`measure`); without, as long as that is known to be an hour ahead of the wall clock. With `repair`,
    holes in the ids of `trades-all` are filled from REST, and fills that came twice are dropped. With `since_ms`, each
    symbol begins with its fills since that time (and one before), with `resume` right after the id that it names; the
    live fills join on. With `listing`, what OKX says of the symbols themselves comes as it happens. `clock` is OKX's
    time as far as it is known; `dog` and `times` say how patient the watch is; `proxies` knows the way to the exchange;
    `batch_s`: so much time may pass between two reads. `wants` is for `Listing`.
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
        dog: Watchdog | None = None,
        times: Times | None = None,
        listing: bool = False,
        proxies: Proxies | None = None,
        batch_s: float = 0.0,
        wants: Callable[[str], bool] | None = None,
        key_file: Path | None = None,
    ) -> None:
        channels = list(channels)
        if (since_ms is not None or resume) and (TAPE not in channels or not repair):
            raise UsageError(f"only repaired {TAPE} can begin with the past: leave --no-repair out, add -c {TAPE}")
        self._base = bounded_http.base(ws_url, ("ws", "wss"), "a WebSocket base", WS_URL)
        self.clock = SteadyClock()
        self._login = Login(credentials(key_file), self.clock) if LOGIN_CHANNELS & {*channels} else None
        self._symbols = list(dict.fromkeys(symbols))
        self._stamp = stamp
        self._dials = dials
        self._proxies = proxies or Proxies()
        self._receiver = Receiver(self._deliver, lambda: self._inbox.full, batch_s)
        self._inbox = MessageQueue(self._receiver.wake)
        self._stopping = threading.Event()
        # A few quick attempts: the data does not wait for long, and can do without.
        rest = partial(RestClient, rest_url, proxies=self._proxies, sleep=self._sleep)
        self._rest = rest(timeout_s=4.0, attempts=3, patience_s=6.0)
        self._catalogue = Catalogue(self._rest)
        self._catalogue_done = threading.Event()
        self._refusals: list[Refuse] = []
        self._retired = Retired()
        self._refused = 0
        self._changes = 0
        self._lock = threading.Lock()
        self._history_rest = rest(timeout_s=5.0, attempts=2, patience_s=8.0)
        self._repairs = repair
        self._repair = self._make_repair(since_ms, resume) if repair and TAPE in channels else None
        self._books = BookRepair(self._history_rest, self._renew, self._inbox.poke, self._stamped) if repair else None
        self._clients: list[OKXWebSocketClient] = []
        self._ended: list[OKXWebSocketClient] = []
        self._total = sum(map(len, subscriptions(self._symbols, channels).values()))
        for path, connections in plan(self._symbols, [*channels, *([CHANNEL] if listing else [])]).items():
            self._clients += [self._client(path, wanted, connect_timeout_s) for wanted in connections]
        self._watch_rest = rest(timeout_s=4.0, attempts=1)
        default = Times(clock_ms=5_000, local=True) if origin_of(rest_url) == "local" else Times()
        hands = Hands(self._seen, self._renew, self._replace, self._bring, self._retire, self._retry)
        self._watch = Watch(self._watch_rest, hands, self.clock, fill=repair, dog=dog, times=times or default)
        self._tells = listing
        self._listing = Listing(lambda: self._symbols, self._watch.told if listing else None, wants)

    def _client(self, path: str, wanted: Iterable[Subscription], timeout_s: float | None) -> OKXWebSocketClient:
        url, receiver, ways = self._base + path, self._receiver, (self._dials, self._on_retired, self._proxies)
        login = self._login if path == PUBLIC else None
        return OKXWebSocketClient(url, wanted, receiver, self._on_refused, self._inbox.poke, timeout_s, *ways, login)

    def _make_repair(self, since_ms: int | None, resume: Mapping[str, int] | None) -> Repair:
        # `GapTracker` asks again, and knows for how long it is worth it.
        room = Room()
        holes = GapTracker(self._symbols, overflow=lambda: DiskQueue(room), since=since_ms is not None, resume=resume)
        history = TradeHistory(self._history_rest, sleep=self._sleep)
        return Repair(holes, history, self._inbox.poke, self._stamped, since_ms)

    def start(self) -> None:
        """Begin to connect; returns at once, with `stamp` when it is known what time it is."""
        if self._stamp or self._login is not None:
            self.measure()
        threading.Thread(target=self._fetch_instruments, name="okx instruments", daemon=True).start()
        threading.Thread(target=self._stop_waiting, name="okx patience", daemon=True).start()
        for client in self._clients:
            client.start()
        self._watch.start()

    def measure(self) -> None:
        """Ask for the exchange's time, unless it is known; takes some seconds at most, and may have to do without."""
        self._watch.measure(again=False)

    @property
    def wall_offset_ms(self) -> int | None:
        """By how much this machine's clock is behind the exchange's (negative: ahead); None while it is not known."""
        return self._watch.wall_offset_ms

    def poll(self) -> list[bytes]:
        """Return the lines that have come, in their order, without newlines; does not wait.

        After `stop` what is held comes too, a piece at a time: until there is none.

        Raises:
            UsageError: OKX has none of what is asked for.
            ExchangeUnavailable: never connected within the time given.
        """
        lines = self._inbox.take()
        overlap = any(client.overlapping for client in self._clients)
        if self._books is not None:
            lines = self._books.feed(lines, overlap)
        if self._repair is not None and not self._inbox.held:
            lines = self._repair.feed(lines, overlap)
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
        with self._lock:
            clients = [*self._clients, *self._ended]
        stop_all(clients)
        self._watch.stop()
        for repair in (self._repair, self._books):
            if repair is not None:
                repair.stop()
        self._inbox.release([])
        for rest in (self._rest, self._history_rest, self._watch_rest):
            rest.close()

    def repairs(self) -> dict[str, int]:
        """Return the counts of the repair: holes seen, fills repaired, left to backfill, absent, old ones dropped.

        Of books: those broken, subscribed anew and fetched.
        """
        return {name: n for one in (self._repair, self._books) if one is not None for name, n in one.counts.items()}

    def mend_book(self, symbol: str, channel: str) -> None:
        """Have a book begin anew of which a message was no good, unless that is under way."""
        if self._books is not None:
            self._books.mend(symbol, channel)

    def state(self) -> list[ConnectionState]:
        """Tell how each connection does."""
        return [client.state() for client in self._clients]

    # Another wish, while it runs

    def go_through(self, configured: str | None) -> None:
        """Go on over new connections, through the proxy that the configuration names now."""
        self._proxies.configured = configured
        for client in self._clients:
            client.replace("the configuration names another proxy.")
        for rest in (self._rest, self._history_rest, self._watch_rest):
            rest.close()

    def change(
        self, symbols: Iterable[str], channels: Iterable[str], resume: Mapping[str, int] | None = None
    ) -> list[bytes]:
        """Stream other symbols or channels from now on; what is common to both goes on over the same connections.

        Called by the thread that polls. New symbols begin right after the id that `resume` names, if it does; what
        was refused or put off is tried again at once. Returns what was held back of symbols that are not wanted any
        more, to be written before what the next `poll` returns.

        Raises:
            UsageError: an unknown channel, or what cannot be a symbol; nothing has changed then.
        """
        channels = [*channels, *([CHANNEL] if self._tells else [])]
        if self._login is None and (secret := sorted(LOGIN_CHANNELS & {*channels})):
            raise UsageError(f"{secret[0]} wants a login, and so a new start")
        wanted = {self._base + path: dict.fromkeys(found) for path, found in subscriptions(symbols, channels).items()}
        names = list(dict.fromkeys(symbols))
        new = [name for name in names if name not in self._symbols]
        kept: dict[str, set[Subscription]] = {}
        held: list[bytes] = []
        with self._lock:
            self._changes += 1
            for client in list(self._clients):
                has = client.wanted
                stays = {s for s in has if s in wanted.get(client.url, {})} if client.alive else set()
                kept.setdefault(client.url, set()).update(stays)
                gone = [s for s in has if s not in stays]
                self._retired.forget(gone)
                held += self._books.forget(gone) if self._books is not None else []
                self._watch.forget(gone)
                if stays:
                    client.unsubscribe(gone)
                    client.retry()
                else:
                    self._clients.remove(client)
                    self._ended.append(client)
                    client.stop()
        more = {url: [s for s in found if s not in kept.get(url, ())] for url, found in wanted.items()}
        out = held + self._retape(names if TAPE in channels else [], resume)
        self._symbols = names
        arguments = (self._changes, new, {url: some for url, some in more.items() if some})
        threading.Thread(target=self._extend, args=arguments, name="okx instruments", daemon=True).start()
        return out

    def _retape(self, names: list[str], resume: Mapping[str, int] | None) -> list[bytes]:
        """Have the repair look after these symbols; return what it held of the others."""
        if self._repair is None:
            if names and self._repairs:
                self._symbols = names
                self._repair = self._make_repair(None, resume)
            return []
        return self._repair.retape(names, resume or {})

    def _extend(self, change: int, names: list[str], more: Mapping[str, list[Subscription]]) -> None:
        """Tell what new symbols are, then subscribe, unless there is another wish by then.

        In a thread, since REST may take its time.
        """
        if names:
            self._catalogue = Catalogue(self._rest)
            self._inbox.put(self._instruments(names))
        with self._lock:
            if self._stopping.is_set() or change != self._changes:
                return
            for url, wanted in more.items():
                left = list(wanted)
                for client in self._clients:
                    if client.url == url and client.alive and left:
                        room = max(0, PER_CONNECTION - len(client.wanted))
                        client.subscribe(left[:room])
                        left = left[room:]
                for part in spread(left):
                    # What runs already is not to end because another end point cannot be reached.
                    client = self._client(url.removeprefix(self._base), part, timeout_s=None)
                    self._clients.append(client)
                    client.start()

    # In other threads

    def _deliver(self, frames: list[bytes]) -> None:
        self._inbox.put(self._as_lines(self._listing.own(frames)))

    def _as_lines(self, frames: list[bytes]) -> list[bytes]:
        return self._stamped(lines_of(frames))

    def _stamped(self, lines: list[bytes]) -> list[bytes]:
        now = self.clock() if self._watch.measured else now_ms()
        # Where the wall clock is that wrong, who reads the lines by it would take the present for the future.
        if not self._stamp and now - now_ms() < AHEAD_MS:
            return lines
        return stamped(lines, now)

    def _on_refused(self, refusal: Refuse) -> None:
        with self._lock:
            self._refusals.append(refusal)
        self._inbox.poke()

    def _on_retired(self, refusal: Refuse) -> None:
        self._retired.add([refusal.subscription], f"OKX refuses it now ({refusal.code})", passed_ms())

    def _instruments(self, names: list[str]) -> list[bytes]:
        """Return the lines that tell what symbols are; none if REST does not answer."""
        rows = self._catalogue.tried(names, self._stopping.is_set)
        self._watch.listings.know(rows)
        return self._as_lines([instrument_line(row) for row in rows.values()])

    def _fetch_instruments(self) -> None:
        lines = self._instruments(self._symbols)
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

    # For the watch

    def _retry(self) -> None:
        for client in list(self._clients):
            client.retry()

    def _seen(self) -> dict[Subscription, Seen]:
        found: dict[Subscription, Seen] = {}
        for client in self._clients:
            found |= client.seen()
        self._retired.look(found)
        return found

    def _holders(self, some: Iterable[Subscription]) -> list[tuple[OKXWebSocketClient, list[Subscription]]]:
        """Return the connections that hold these subscriptions."""
        wanted = set(some)
        pairs = [(client, [s for s in client.wanted if s in wanted]) for client in self._clients]
        return [(client, held) for client, held in pairs if held]

    def _renew(self, mute: list[Subscription]) -> None:
        for client, held in self._holders(mute):
            client.renew(held)

    def _replace(self, mute: list[Subscription]) -> None:
        for client, held in self._holders(mute):
            client.replace(f"{held[0]} is mute.")

    def _bring(self, lines: list[bytes]) -> None:
        self._inbox.put(self._as_lines(lines))

    def _retire(self, symbol: str, reason: str) -> None:
        held = [(client, [s for s in client.wanted if s.value == symbol]) for client in self._clients]
        self._retired.add([s for _, some in held for s in some], reason, passed_ms())
        for client, some in held:
            client.retire(some)

    # Refusals

    def _tell_refusals(self) -> None:
        """Say what OKX refuses, once it is known whether anything is left."""
        settled = self._catalogue_done.is_set() and all(client.settled.is_set() for client in self._clients)
        if not self._refusals or not settled:
            return
        with self._lock:
            refusals, self._refusals = self._refusals, []
        self._refused += len(refusals)
        text = explained(refusals, self._catalogue)
        if self._refused == self._total and not self._changes:
            self.stop()
            raise UsageError(text)
        _log.warning("%s", text)
