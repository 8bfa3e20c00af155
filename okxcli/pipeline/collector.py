"""The whole pipe in one process: feed, normalise, make candles, store. Composes what the filters call, adds no rule.

Lines flow from the feed's inbox through the normaliser and the candle maker into the keeper, which commits them, or
spools them while Postgres is away. When even the spool has no room nothing is taken from the feed: what has come waits
in the inbox, which is bounded and stops reading the sockets when it is full.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, replace

from okxcli.core.candles.block_processor import BlockCandleProcessor, processor
from okxcli.core.candles.outlet import Rules
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.codec import decode
from okxcli.core.model import TAPE, BookSnapshot, BookUpdate, Line, OHLCVCandle, StandardizedTrade
from okxcli.errors import BUGS, ConfigError, DatabaseUnavailable, Early, InvalidLine, OkxError, OutputError, TryLater
from okxcli.exchanges.interface import Feed, PartlyInvalid
from okxcli.exchanges.registry import configured
from okxcli.pipeline.book_keeping import BookKeeping
from okxcli.pipeline.config_change import other_candles, tell_change
from okxcli.pipeline.followed_symbols import FollowedSymbols
from okxcli.runtime.archive.archive import Archive
from okxcli.runtime.clock import ClockDoubt
from okxcli.runtime.configuration.config import Config
from okxcli.runtime.memory import give_back
from okxcli.runtime.road import kernel
from okxcli.runtime.signals import Lifecycle
from okxcli.storage.candles.live_mending import LiveMender
from okxcli.storage.candles.open_bars import newest_ids, reopen
from okxcli.storage.rows.fill_block import FillBlock, FillScanner
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.upkeep.housekeeping import Housekeeping
from okxcli.storage.write.durable_writer import DurableWriter

_log = logging.getLogger(__name__)

#: Time between two lines in the log file that say that all is well.
_HEARTBEAT_S = 60.0
#: Time between two times that freed memory is given back: the later, the more of it has new neighbours that stay.
_GIVE_BACK_S = 10.0
#: What comes within so long of the last that was taken is taken together: a batch is not committed much sooner.
_TOGETHER_S = 0.02
#: Rejected messages told one by one; the closing counts have them all.
_TOLD = 50
#: Rejected messages of a run that are kept in the table `quarantine`.
_QUARANTINED = 1_000
#: Time between two tries to take up another configuration while the database cannot be read.
_RETRY_S = 5.0
#: How a trade begins, as `core.codec` writes it.
_TRADE = b'{"type":"trade",'


@dataclass(eq=False)
class Collector:
    """Collects what `config` names from `feed` into `keeper`.

    Candles are made of `trades-all` where that is configured, else of the merged `trades`. `housekeep` is called now
    and then with the configuration, and what `mender` returns for it makes bars whole that had to be written
    incomplete, both in a thread of their own (`chores`). `session` gives a connection for what is read at a change of
    the configuration; `load` reads that anew when a HUP asks for it, and `followed` tells which symbols its patterns
    mean. `clock` is the keeper's; bars are closed by the feed's, which is corrected when the exchange's time is known
    better. `archive` has a line before it is committed.
    """

    config: Config
    feed: Feed
    keeper: DurableWriter
    session: Callable[[], AbstractContextManager[Connection]]
    clock: Callable[[], int]
    _: KW_ONLY
    housekeep: Callable[[Config], None] = lambda config: None
    mender: Callable[[Config], LiveMender] | None = None
    archive: Archive | None = None
    load: Callable[[], Config] | None = None
    followed: FollowedSymbols | None = None

    def __post_init__(self) -> None:
        self.rejected = 0
        self.messages = 0
        self._exchange = configured(self.config)
        self._normalizer = self._exchange.normalizer()
        self._scanner = FillScanner()
        self._doubt = ClockDoubt()
        self._books = BookKeeping(self.config, self.keeper.add, self._mend_book)
        self._candles_due: int | None = None
        self._next_heartbeat = time.monotonic() + _HEARTBEAT_S
        self._next_giving = time.monotonic() + _GIVE_BACK_S
        self._next_poll = 0.0
        self._wish: Config | None = None  # a configuration that is to be taken up
        self._next_try = 0.0
        self._removed: set[str] = set()
        self._over: OutputError | None = None
        self._candles, self.chores = self._made(self.config)

    def _made(self, config: Config) -> tuple[RealTimeCandleProcessor | None, Housekeeping]:
        """Return the candle maker for a configuration, and the chores beside it."""
        self._fill_by_fill = TAPE in config.channels
        mender = self.mender(config) if self.mender is not None else None
        chores = Housekeeping(lambda: self.keeper.up, lambda: self.housekeep(self.config), mender)
        if not config.timeframes:
            return None, chores
        rules: Rules = {"lateness_ms": config.lateness_ms, "grace_ms": config.grace_ms, "fill": config.fill}
        candles = processor(kernel("core.candles._runs"), config.timeframes, self.keeper.add, **rules)
        if self._fill_by_fill:
            candles.on_candle(chores.note)
        return candles, chores

    def run(self, life: Lifecycle, seconds: float | None = None) -> None:
        """Collect until a signal, or for so many seconds; then store everything that has come.

        Raises:
            TryLater: at the end, when Postgres is away and lines are left in the spool.
            OutputError: the archive has no room, and that is to end it.
            OkxError: what `Feed.poll` raises.
        """
        end = None if seconds is None else time.monotonic() + seconds
        self.chores.start()
        while not life.stop and self._over is None and (end is None or time.monotonic() < end):
            # With no room left nothing is taken in: the feed stops reading its sockets when its inbox is full.
            rest_s = max(self._next_poll - time.monotonic(), 0)
            fd = None if self.keeper.full or rest_s else self.feed.fileno()
            if life.wait(fd, min(self._wait_s(end), rest_s) if rest_s else self._wait_s(end)):
                self.take(self.feed.poll())
                self._next_poll = time.monotonic() + _TOGETHER_S
            self.tick()
            if life.reload:
                life.reload = False
                self._read_again()
            if self._wish is None and self.followed is not None and (found := self.followed.news()):
                self._wish = replace(self.config, symbols=tuple(found))
            if self._wish is not None:
                self._try_change(self._wish)
        self.feed.stop()
        while lines := self.feed.poll():
            self.take(lines)
        self.chores.stop()
        self.finish()
        if self._over is not None:
            raise self._over

    def reopen(self, connection: Connection, symbols: Iterable[str] | None = None) -> None:
        """Take up the bars that are open by what is stored, before anything of these symbols (all) is taken in."""
        if not self._fill_by_fill or self._candles is None:
            return
        for symbol in self.config.symbols if symbols is None else symbols:
            last = reopen(connection, self._exchange.name, symbol, self._candles, self._candles.feed)
            if last is not None:
                _log.debug("%s: goes on after id %d", symbol, last)

    # Another configuration

    def _read_again(self) -> None:
        """Read the configuration anew; one with mistakes changes nothing."""
        if self.load is None:
            return
        try:
            wish = self.load()
            if wish.exchange != self.config.exchange:
                raise ConfigError("exchange.name is another one, which needs a new start")
        except OkxError as error:
            _log.error("the configuration stays as it was: %s", "; ".join(str(error).splitlines()))
            return
        self._wish = wish
        self._next_try = 0.0
        if not self.keeper.up:
            _log.info("the new configuration is taken up when the database is back")

    def _try_change(self, config: Config) -> None:
        """Take up another configuration, as soon as the database is there: it says where symbols begin."""
        if not self.keeper.up or time.monotonic() < self._next_try:
            return
        try:
            self.change(config)
        except DatabaseUnavailable as error:
            _log.debug("the new configuration has to wait: %s", error)
            self._next_try = time.monotonic() + _RETRY_S
            return
        except OkxError as error:
            _log.error("the configuration stays as it was: %s", error)
        self._wish = None

    def change(self, config: Config) -> None:
        """Collect what `config` names from now on. What is common to it and the one before goes on undisturbed.

        New symbols begin as at a start: after their newest stored fill, with the bars that were open then. What has
        come of symbols that are not wanted any more is stored.

        Raises:
            DatabaseUnavailable: it is away; nothing has changed.
            UsageError: a symbol that cannot be; nothing has changed.
        """
        before = self.config
        new = [symbol for symbol in config.symbols if symbol not in before.symbols]
        gone = [symbol for symbol in before.symbols if symbol not in config.symbols]
        others = other_candles(before, config)
        taped = new if TAPE in before.channels else config.symbols
        with self.session() as connection:
            resume = newest_ids(connection, self._exchange.name, taped) if TAPE in config.channels else {}
            self.take(self.feed.poll())
            if config.proxy != before.proxy:
                self.feed.go_through(config.proxy)
            self.take(self.feed.change(config.symbols, config.channels, resume))
            self.config = config
            self._books.configure(config)
            self._removed = (self._removed | set(gone)) - set(config.symbols)
            for symbol in gone:
                self._books.forget(self._exchange.name, symbol)
                if self._candles is not None:
                    self._candles.forget(self._exchange.name, symbol)
            if others:
                self._begin_anew(connection)
            else:
                self._reopen_what_can_be(connection, new)
        tell_change(before, config, new, gone)

    def _begin_anew(self, connection: Connection) -> None:
        """Make other candles from now on, beginning with what is stored of the open bars."""
        if self._candles is not None:
            self._candles.finish()
        self.keeper.finish()
        self.chores.stop()
        self._candles, self.chores = self._made(self.config)
        self._candles_due = None
        self.chores.start()
        self._reopen_what_can_be(connection, self.config.symbols)

    def _reopen_what_can_be(self, connection: Connection, symbols: Iterable[str]) -> None:
        try:
            self.reopen(connection, symbols)
        except DatabaseUnavailable as error:
            _log.warning("bars that are open now will be incomplete until okx backfill mends them: %s", error)

    def take(self, lines: list[bytes]) -> None:
        """Put raw lines through to the keeper; those that are bad are told and counted."""
        self._keep_raw(lines)
        self.messages += len(lines)
        if self.followed is not None:
            self.followed.see(lines)
        block, at = b"".join([line + b"\n" for line in lines]), 0
        while at < len(block):
            made = self._normalizer.take(block, at)
            if made.taken:
                self._take_made(made.lines)
            at = made.next
            if at < len(block):
                end = block.index(b"\n", at)
                self._take_one(block[at:end])
                at = end + 1
        self._books.settle()

    def _keep_raw(self, lines: list[bytes]) -> None:
        """Keep lines in the archive, if there is one, before anything of them can be committed."""
        if self.archive is None or self._over is not None:
            return
        try:
            self.archive.take(lines)
            if lines:
                self.archive.hand_over()
            self.archive.flush()
        except OutputError as error:  # which is to end us, with everything stored
            self._over = error

    def _take_made(self, lines: bytes) -> None:
        """Put lines of ours through: trades by the block, of books only those that are wanted."""
        every = lines.split(b"\n")
        trades = [line for line in every if line.startswith(_TRADE)]
        for line in every if len(trades) < len(every) else ():
            if not line.startswith(_TRADE) and not self._books.is_needless(line):
                self._guarded(self._route, line)
        if trades:
            self._take_fills(b"\n".join(trades) + b"\n")

    def _take_one(self, line: bytes) -> None:
        try:
            for item in self._normalized(line):
                self._route(item)
        except InvalidLine as reason:
            self._reject(line, str(reason), reason.early)
        except BUGS as error:
            _log.exception("a bug of okx")
            self._reject(line, f"a bug of okx: {type(error).__name__}: {error}")

    def _take_fills(self, block: bytes) -> None:
        """Put trade lines through: the everyday ones by the block, a bar before the fill that closed it."""
        at = 0
        while at < len(block):
            now, end = self.clock(), block.index(b"\n", at) + 1
            known, count = self._scanner.take(block, at, now, self.keeper.room) if self._by_block else (at, 0)
            if not count:
                self._guarded(self._route, block[at : end - 1])
                at = end
                continue
            if isinstance(self._candles, BlockCandleProcessor):
                known, count = self._candles.take(block[:known], at, now)
            if not count:  # it makes a bar due
                self._guarded(self._feed_candles, block[at : end - 1])
                known, count = end, 1
            self.keeper.add_fills(FillBlock(block[at:known], count))
            at = known

    def _feed_candles(self, trade: Line) -> None:
        if self._candles is not None:
            self._candles.feed(trade)

    def _guarded(self, act: Callable[[Line], None], line: bytes) -> None:
        """Do something with what a line of ours says; a bug costs that line alone."""
        try:
            act(decode(line))
        except BUGS as error:
            _log.exception("a bug of okx")
            self._reject(line, f"a bug of okx: {type(error).__name__}: {error}")

    @property
    def _by_block(self) -> bool:
        """Whether everyday fills are for the candles as well, if there are any, and need no look at each."""
        foldable = isinstance(self._candles, BlockCandleProcessor) and self._fill_by_fill
        return not self._removed and (self._candles is None or foldable)

    def _normalized(self, line: bytes) -> list[Line]:
        try:
            return self._normalizer.feed(line)
        except PartlyInvalid as reason:
            self._reject(line, str(reason), reason.early)
            return reason.lines

    def _route(self, item: Line) -> None:
        """Give one line to those whom it concerns, a bar before the trade that closed it."""
        if isinstance(item, (BookSnapshot, BookUpdate)):
            self._books.take(item)
            return
        if isinstance(item, OHLCVCandle) and not item.closed:
            return  # the exchange's own, pushed again every second: its last push has it all
        if self._candles is not None and self._is_for_candles(item):
            self._candles.feed(item)
        self.keeper.add(item)

    def _mend_book(self, symbol: str, origin: str) -> None:
        self.feed.mend_book(symbol, origin)

    def _is_for_candles(self, item: Line) -> bool:
        """Whether bars are made of it. What was under way when a symbol was removed is stored; its bars are over."""
        if self._removed and getattr(item, "symbol", None) in self._removed:
            return False
        return not isinstance(item, StandardizedTrade) or (item.origin != "trades") == self._fill_by_fill

    def _reject(self, line: bytes, reason: str, early: tuple[Early, ...] = ()) -> None:
        self.rejected += 1
        if self.rejected <= _QUARANTINED or early:  # trades may be taken back, all of them
            self.keeper.refuse(line, reason)
        self._doubt.note(early)
        if self.rejected <= _TOLD:
            _log.warning("rejected a message: %s: %s", reason, line[:300].decode(errors="replace"))

    def tick(self) -> None:
        """Do what time has made due: candles by the exchange's clock, a batch."""
        if self._candles is not None:
            self._candles_due = self._candles.advance(self.feed.clock())
        self.keeper.tick()
        self._keep_raw([])
        self._books.advance()
        if time.monotonic() >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + _HEARTBEAT_S
            _log.debug("alive: %s", self.counts())
        if time.monotonic() >= self._next_giving:
            self._next_giving = time.monotonic() + _GIVE_BACK_S
            give_back()

    def _wait_s(self, end: float | None) -> float:
        waits = [max(self._next_heartbeat - time.monotonic(), 0)]
        if (due := self.keeper.due_in(self.clock())) is not None:
            waits.append(due)
        if self._candles_due is not None:
            waits.append(max(self._candles_due - self.feed.clock(), 0) / 1000)
        if self.archive is not None:
            waits.append(self.archive.due_in())
        if end is not None:
            waits.append(max(end - time.monotonic(), 0))
        return min(waits)

    def finish(self) -> None:
        """Write what late trades changed and commit everything.

        Raises:
            TryLater: Postgres is away; the lines are in the spool.
        """
        if self._candles is not None:
            self._candles.finish()
        left = self.keeper.finish()
        if left:
            raise TryLater(self.keeper.explain_left(left))

    def counts(self) -> dict[str, int]:
        """Return the counts of every step, as the filters give them."""
        candles = self._candles.counts() if self._candles is not None else {}
        made = {f"candle_{k}" if k in ("duplicates", "trades") else k: v for k, v in candles.items()}
        ours = {"messages": self.messages, "rejected": self.rejected} | made
        return ours | self._books.counts() | self.keeper.counts()
