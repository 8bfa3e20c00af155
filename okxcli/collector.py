"""The whole pipe in one process: feed, normalise, make candles, store. Composes what the filters call, adds no rule.

Lines flow from the feed's inbox through the normaliser and the candle maker into the keeper, which commits them, or
spools them while Postgres is away. When even the spool has no room nothing is taken from the feed: what has come waits
in the inbox, which is bounded and stops reading the sockets when it is full.
"""

import logging
import time
from collections import deque
from collections.abc import Callable

from okxcli.core.candles import RealTimeCandleProcessor
from okxcli.core.model import BookSnapshot, Line, StandardizedTrade
from okxcli.errors import BUGS, InvalidLine, TryLater
from okxcli.exchange.feed import TAPE, Feed
from okxcli.exchange.normalize import Normalizer, PartlyInvalid
from okxcli.exchange.rows import EXCHANGE
from okxcli.runtime.clock import now_ms
from okxcli.runtime.config import Config
from okxcli.runtime.signals import Lifecycle
from okxcli.storage.chores import Chores
from okxcli.storage.database import Connection
from okxcli.storage.keeper import Keeper
from okxcli.storage.mender import Mender
from okxcli.storage.opening import reopen

_log = logging.getLogger(__name__)

#: Time between two lines in the log file that say that all is well.
_HEARTBEAT_S = 60.0
#: Rejected messages told one by one; the closing counts have them all.
_TOLD = 50
#: Bars held while the open ones are taken up again.
_REOPENED = 1_000


class Collector:
    """Collects what `config` names from `feed` into `keeper`.

    Candles are made of `trades-all` where that is configured, else of the merged `trades`. `housekeep` is called now
    and then, and `mender` makes bars whole that had to be written incomplete, both in a thread of their own (`chores`).
    """

    def __init__(
        self,
        config: Config,
        feed: Feed,
        keeper: Keeper,
        housekeep: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = now_ms,
        mender: Mender | None = None,
    ) -> None:
        self.rejected = 0
        self.stored_books = 0
        self.messages = 0
        self._feed = feed
        self._keeper = keeper
        self.chores = Chores(lambda: keeper.up, housekeep, mender)
        self._clock = clock
        self._normalizer = Normalizer()
        self._ready: deque[Line] = deque()
        self._candles: RealTimeCandleProcessor | None = None
        if config.timeframes:
            self._candles = RealTimeCandleProcessor(
                config.timeframes, self._ready.append, config.lateness_ms, config.grace_ms, config.fill
            )
        self._fill_by_fill = TAPE in config.channels
        self._symbols = config.symbols
        if mender is not None and self._candles is not None and self._fill_by_fill:
            self._candles.on_candle(self.chores.note)
        self._books_every_ms = config.books_every_ms
        self._book_slots: dict[tuple[str, str], int] = {}
        self._candles_due: int | None = None
        self._next_heartbeat = time.monotonic() + _HEARTBEAT_S

    def run(self, life: Lifecycle, seconds: float | None = None) -> None:
        """Collect until a signal, or for so many seconds; then store everything that has come.

        Raises:
            TryLater: at the end, when Postgres is away and lines are left in the spool.
            OkxError: what `Feed.poll` raises.
        """
        end = None if seconds is None else time.monotonic() + seconds
        self.chores.start()
        while not life.stop and (end is None or time.monotonic() < end):
            # With no room left nothing is taken in: the feed stops reading its sockets when its inbox is full.
            if life.wait(None if self._keeper.full else self._feed.fileno(), self._wait_s(end)):
                self.take(self._feed.poll())
            self.tick()
        self._feed.stop()
        self.take(self._feed.poll())
        self.chores.stop()
        self.finish()

    def reopen(self, connection: Connection) -> None:
        """Take up the bars that are open by what is stored, before anything is taken in."""
        if not self._fill_by_fill or self._candles is None:
            return
        candles = self._candles

        def give(line: Line) -> None:
            candles.feed(line)
            if len(self._ready) >= _REOPENED:
                self._store()

        for symbol in self._symbols:
            last = reopen(connection, EXCHANGE, symbol, candles, give)
            self._store()
            if last is not None:
                _log.debug("%s: goes on after id %d", symbol, last)

    def take(self, lines: list[bytes]) -> None:
        """Put raw lines through to the keeper; those that are bad are told and counted."""
        for line in lines:
            self.messages += 1
            try:
                for item in self._normalized(line):
                    self._route(item)
            except InvalidLine as reason:
                self._reject(line, str(reason))
            except BUGS as error:
                _log.exception("a bug of okx")
                self._reject(line, f"a bug of okx: {type(error).__name__}: {error}")
        self._store()

    def _normalized(self, line: bytes) -> list[Line]:
        try:
            return self._normalizer.feed(line)
        except PartlyInvalid as reason:
            self._reject(line, str(reason))
            return reason.lines

    def _route(self, item: Line) -> None:
        """Give one line to those whom it concerns, a bar before the trade that closed it."""
        if isinstance(item, BookSnapshot):
            if self._books_every_ms:
                key, slot = (item.symbol, item.origin), item.timestamp // self._books_every_ms
                if self._book_slots.get(key) == slot:
                    return
                self._book_slots[key] = slot
            self.stored_books += 1
        elif self._candles is not None and (
            not isinstance(item, StandardizedTrade) or (item.origin != "trades") == self._fill_by_fill
        ):
            self._candles.feed(item)
        self._ready.append(item)

    def _reject(self, line: bytes, reason: str) -> None:
        self.rejected += 1
        if self.rejected <= _TOLD:
            _log.warning("rejected a message: %s: %s", reason, line[:300].decode(errors="replace"))

    def tick(self) -> None:
        """Do what time has made due: candles by the wall clock, a batch."""
        now = self._clock()
        if self._candles is not None:
            self._candles_due = self._candles.advance(now)
        self._store()
        self._keeper.tick()
        if time.monotonic() >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + _HEARTBEAT_S
            _log.debug("alive: %s", self.counts())

    def _wait_s(self, end: float | None) -> float:
        now = self._clock()
        waits = [max(self._next_heartbeat - time.monotonic(), 0)]
        due = self._keeper.due_in(now)
        if due is not None:
            waits.append(due)
        if self._candles_due is not None:
            waits.append(max(self._candles_due - now, 0) / 1000)
        if end is not None:
            waits.append(max(end - time.monotonic(), 0))
        return min(waits)

    def _store(self) -> None:
        while self._ready:
            self._keeper.add(self._ready.popleft())

    def finish(self) -> None:
        """Write what late trades changed and commit everything.

        Raises:
            TryLater: Postgres is away; the lines are in the spool.
        """
        if self._candles is not None:
            self._candles.finish()
        self._store()
        left = self._keeper.finish()
        if left:
            raise TryLater(self._keeper.explain_left(left))

    def counts(self) -> dict[str, int]:
        """Return the counts of every step, as the filters give them."""
        candles = self._candles.counts() if self._candles is not None else {}
        made = {f"candle_{k}" if k in ("duplicates", "trades") else k: v for k, v in candles.items()}
        return {"messages": self.messages, "rejected": self.rejected} | made | self._keeper.counts()
