"""Bulk files into Postgres, bars included: whole days at once where that is possible, line by line elsewhere.

A faultless file goes in at once: its fills are copied day by day, and the bars that lie wholly inside of it are
made there too. Any other file, and any day of which something is stored already, is written line by line. At the end
the bars that the ledger proves by then and that are not stored, or not whole, are made from the rows.
"""

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import psycopg

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.codec import decode
from okxcli.core.model import UNSTAMPED_AHEAD_MS, Instrument
from okxcli.core.tape import Run, is_complete
from okxcli.core.timeframes import Timeframe, common, parse_list
from okxcli.errors import InputError, InvalidLine
from okxcli.exchanges.file_interface import Fills, RowsAs, WholeFile
from okxcli.exchanges.interface import Exchange, Normalizer, Taken
from okxcli.exchanges.registry import files_of
from okxcli.runtime.clock import now_ms
from okxcli.storage.candles.flat_bars import store_flats
from okxcli.storage.candles.outdated import stale
from okxcli.storage.candles.rebuild import rebuild
from okxcli.storage.database import Database, explain
from okxcli.storage.ledger import id_ledger, time_steps
from okxcli.storage.ledger.id_ledger import Covered
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.rows import reader
from okxcli.storage.rows.fill_block import FillBlock, FillScanner
from okxcli.storage.rows.reader import Series
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.write.bulk_load import store_day
from okxcli.storage.write.writer import Writer

_log = logging.getLogger(__name__)

#: No file holds more than a month of one symbol; one that seems to is not gone through day by day.
_SPAN_MS = 400 * DAY_MS
_FOREVER = 1 << 62


@dataclass
class Loaded:
    """What a load did: trades and candles stored, trades that were there, rows and files that could not be read."""

    trades: int = 0
    candles: int = 0
    duplicates: int = 0
    damaged: int = 0
    unreadable: int = 0


class BulkLoader:
    """Stores the fills of `symbols` that bulk files hold, and their bars in `timeframes`.

    With `fill` a quiet that the ids prove gets flat bars. `describe` gives raw lines of what a symbol is, for one that
    the database does not know. `rows_as` says what rows of trades are, whatever they
    look like; `source` whose they are. `by_symbol` tells of each how many fills were stored (`files`), and what of its
    files could not be read: a damaged row of a file of several counts for each of them, as nobody knows whose it was.
    """

    def __init__(
        self,
        database: Database,
        symbols: Iterable[str],
        timeframes: Iterable[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        fill: bool = False,
        describe: Callable[[str], list[bytes]] = lambda symbol: [],
        rows_as: RowsAs | None = None,
        *,
        source: Exchange,
    ) -> None:
        self._exchange, self._files = source, files_of(source)
        self.symbols = list(dict.fromkeys(symbols))
        self._database = database
        names = list(timeframes)
        self._timeframes = parse_list(names) if names else ()
        self._since = since_ms or 0
        self._until = _FOREVER if until_ms is None else until_ms
        self._fill = fill
        self._stop: Callable[[], bool] = lambda: False
        self._describe = describe
        self._rows_as = rows_as
        self._writer = Writer(database.connect, where=database.where)
        self._proven = Writer(database.connect, where=database.where, proven=True)
        self._scanner = FillScanner()
        self._loaded = Loaded()
        self.by_symbol: dict[str, Counter[str]] = {symbol: Counter() for symbol in self.symbols}
        self._edges: dict[tuple[str, str, int], tuple[int, int]] = {}  # incomplete bars made here: first and last id

    def load(
        self,
        places: Iterable[str | Path],
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Loaded:
        """Store what the files at `places` (files, folders, patterns) hold.

        `stop` is asked between two days and ends the load early: what was stored stays, the next run goes on.
        `progress` is called with files done and all files.

        Raises:
            UsageError: no such file, folder or pattern.
            DatabaseUnavailable: Postgres went away; what was stored stays.
        """
        self._stop = stop
        paths = self._files.archive(places, self.symbols, since_ms=self._since or None, until_ms=self._until).paths
        try:
            with closing(self._database.connect()) as connection, closing(self._writer), closing(self._proven):
                self._introduce(connection)
                before = {symbol: self._covered(connection, symbol) for symbol in self.symbols}
                for number, path in enumerate(paths):
                    if self._stop():
                        break
                    self._file(connection, path)
                    progress(number + 1, len(paths))
                self._writer.flush()
                for symbol in self.symbols:
                    self.by_symbol[symbol]["files"] = self._covered(connection, symbol) - before[symbol]
                if not self._stop():
                    self._rest(connection)
        except psycopg.Error as error:
            raise explain(error, self._database.where) from None
        counts = self._writer.counts()
        self._loaded.trades += counts["raw_trades"]
        self._loaded.candles += counts["market_data"] + self._proven.counts()["market_data"]
        self._loaded.duplicates += counts["duplicates"]
        return self._loaded

    def _introduce(self, connection: Connection) -> None:
        """Store what the symbols are, without which nobody knows what a size is worth."""
        normalizer = self._exchange.normalizer()
        for symbol in self.symbols:
            known = reader.instruments(connection, Series(self._exchange.name, symbol))
            for raw in [] if known else self._describe(symbol):
                for line in normalizer.feed(raw):
                    self._writer.add(line)
        self._writer.flush()

    def _file(self, connection: Connection, path: Path) -> None:
        done = self._rows_as != "aggregates"
        try:
            with closing(self._files.whole(path, self.symbols)) as files:
                for file in files if done else ():
                    if file is None:
                        done = False
                        break
                    done &= self._at_once(connection, file, path)
        except InputError:
            done = False
        if not done:
            self._by_line(path, self.symbols, self._since or None, self._until)

    def _at_once(self, connection: Connection, file: WholeFile, path: Path) -> bool:
        """Store a file day by day; False if it is not all fills without a hole."""
        found = {symbol: file.fills(symbol) for symbol in self.symbols if file.holds(symbol)}
        if None in found.values():
            return False
        latest = now_ms() + UNSTAMPED_AHEAD_MS
        if any(one and (one.last_ms > latest or one.last_ms - one.first_ms > _SPAN_MS) for one in found.values()):
            return False  # a wild time: line by line it is refused, or stored on a day of its own
        for fills in found.values():
            assert fills is not None
            fresh = True
            since, until = max(fills.first_ms, self._since), min(fills.last_ms + 1, self._until)
            for day in range(since // DAY_MS, -(-until // DAY_MS)):
                if self._stop():
                    return True
                fresh &= self._day(connection, file, fills.symbol, day, path)
            key, run = (self._exchange.name, fills.symbol), Run(fills.first, fills.last, fills.first_ms, fills.last_ms)
            with connection.transaction():
                id_ledger.introduce(connection, [key])
                id_ledger.lock(connection, [key])
                time_steps.note_run(connection, key, run, file.step(fills.symbol))
            if fresh and since < until:
                self._bars(connection, file, fills, since, until)
        return True

    def _day(self, connection: Connection, file: WholeFile, symbol: str, day: int, path: Path) -> bool:
        """Store one UTC day of a symbol; False if some of it was there already, and it went line by line."""
        since, until = max(day * DAY_MS, self._since), min((day + 1) * DAY_MS, self._until)
        part = file.slice(symbol, since, until)
        if part is None:
            return True
        covered = Covered((self._exchange.name, symbol), day, part.ids, part.first_ms, part.last_ms)
        rows = file.text(symbol, part.ids[0][0], part.ids[-1][1], since, until)
        if store_day(connection, covered, rows, now_ms()):
            self._loaded.trades += sum(last - first + 1 for first, last in part.ids)
            return True
        self._by_line(path, [symbol], since, until)
        return False

    def _by_line(self, path: Path, symbols: list[str], since: int | None, until: int) -> None:
        """Store what a file holds through the same steps as the pipe of commands."""
        archive = self._files.archive([path], symbols, since_ms=since, until_ms=until, rows_as=self._rows_as)
        normalizer = self._exchange.normalizer()
        for lines, _ in archive.pushes():
            self._raw(lines + b"\n", normalizer, path)
            if self._stop():
                break
        self._writer.flush()
        self._loaded.damaged += archive.damaged
        self._loaded.unreadable += archive.unreadable
        for symbol in symbols if archive.damaged or archive.unreadable else ():
            if self._files.may_hold(path, symbol):
                self.by_symbol[symbol] += Counter(damaged=archive.damaged, unreadable=archive.unreadable)

    def _raw(self, block: bytes, normalizer: Normalizer, path: Path) -> None:
        """Write raw lines, everyday ones by the block."""
        at = 0
        while at < len(block):
            made = normalizer.take(block, at) if self._scanner.built else Taken(b"", 0, at, 0)
            if made.made:
                self._fills(made.lines + b"\n")
            if made.next < len(block):
                end = block.index(b"\n", made.next)
                try:
                    for found in normalizer.feed(block[made.next : end]):
                        self._writer.add(found)
                except InvalidLine as reason:
                    self._loaded.damaged += 1
                    _log.warning("%s: %s", path, reason)
                at = end + 1
            else:
                at = made.next

    def _fills(self, block: bytes) -> None:
        """Write trade lines."""
        at = 0
        while at < len(block):
            end, some = self._scanner.take(block, at, now_ms(), self._writer.room)
            if some:
                self._writer.add_fills(FillBlock(block[at:end], some))
            else:
                end = block.index(b"\n", at) + 1
                self._writer.add(decode(block[at : end - 1], now_ms()))
            at = end

    # Bars

    def _bars(self, connection: Connection, file: WholeFile, fills: Fills, since: int, until: int) -> None:
        """Store the bars of what was stored at once; those are complete that have their neighbours in it too."""
        whole = file.slice(fills.symbol, since, until)
        if whole is None or len(whole.ids) != 1 or not self._timeframes:
            return
        known, instrument = self._instrument(connection, fills.symbol, whole.first_ms, whole.last_ms)
        first, last = whole.ids[0]
        run = Run(first, last, whole.begin_ms, whole.end_ms, first == 1)
        step = id_ledger.step_of(connection, self._exchange.name, fills.symbol)
        base = common(self._timeframes)
        parts = file.buckets(fills.symbol, base, since, until, instrument) if known else None
        for frame in self._timeframes if parts is not None else ():
            for bar in _larger(frame, parts or []):
                if bar.end > whole.last_ms:
                    continue
                proven = is_complete(run, bar.first_id, bar.last_id, bar.start, bar.end, step)
                if not proven:
                    self._edges[fills.symbol, frame.name, bar.start] = bar.first_id, bar.last_id
                candle = bar.candle(self._exchange.name, fills.symbol, frame.name, closed=True, complete=proven)
                (self._proven if proven else self._writer).add(candle)
        self._proven.flush()
        self._writer.flush()

    def _rest(self, connection: Connection) -> None:
        """Make the bars that are not stored, or not whole, although the ledger proves them."""
        for symbol in self.symbols:
            proof = Proof.load(connection, self._exchange.name, symbol)
            source: Timeframe | None = None
            for frame in self._timeframes:
                found = stale(connection, proof, frame, self._since, self._until)
                starts = [start for start in found if not self._is_all(proof, frame, start)]
                fits = source if source is not None and frame.holds(source) else None
                self._loaded.candles += rebuild(connection, self._exchange.name, symbol, frame, starts, source=fits)
                if self._fill:
                    self._loaded.candles += store_flats(connection, proof, frame, self._since, self._until)
                source = source or frame

    def _is_all(self, proof: Proof, frame: Timeframe, start: int) -> bool:
        """Whether a bar was made here of all fills that are stored of it, so that its rows need not be read again."""
        if (proof.symbol, frame.name, start) not in self._edges:
            return False
        first, last = self._edges[proof.symbol, frame.name, start]
        return proof.below(first) is None and proof.above(last) in (None, last + 1)

    def _covered(self, connection: Connection, symbol: str) -> int:
        return sum(last - first + 1 for first, last in Proof.load(connection, self._exchange.name, symbol).covered)

    def _instrument(
        self, connection: Connection, symbol: str, first_ms: int, last_ms: int
    ) -> tuple[bool, Instrument | None]:
        """Return whether one answer is right for a whole span, and what the symbol is; None: nobody knows."""
        periods = reader.instruments(connection, Series(self._exchange.name, symbol))
        if not periods:
            return True, None
        early, late = (max(bisect_right(periods, at, key=itemgetter(0)), 1) for at in (first_ms, last_ms))
        known = [one for _, one in periods[early - 1 : late]]
        worth = {(one.kind, one.contract_type, one.contract_value, one.contract_multiplier) for one in known}
        return len(worth) == 1, known[0]


def _larger(frame: Timeframe, parts: list[TimeframeBucket]) -> list[TimeframeBucket]:
    """Return bars merged of smaller ones, oldest first."""
    found: dict[int, TimeframeBucket] = {}
    for part in parts:
        start = frame.start_of(part.start)
        if start not in found:
            found[start] = TimeframeBucket(start, frame.end_of(start))
        found[start].merge(part)
    return list(found.values())
