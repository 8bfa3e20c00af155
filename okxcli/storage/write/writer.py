"""Lines into Postgres: batches, one transaction each, durable when `flush` returns.

A batch ends at 5,000 lines or 250 ms after its first. A connection that breaks is made anew and the batch sent again,
which does no harm even if it had been committed after all: the ledger and the keys know what is there. A row that
Postgres refuses, or that one of our own bugs chokes on, is found by halving the batch, and goes to quarantine alone.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import Any

import psycopg

from okxcli.core.codec import encode
from okxcli.core.model import Absent, BookSnapshot, Instrument, Line, OHLCVCandle, StandardizedTrade, Ticker
from okxcli.errors import BUGS, DatabaseUnavailable
from okxcli.runtime.clock import now_ms
from okxcli.storage.database import explain
from okxcli.storage.ledger import id_ledger
from okxcli.storage.rows import candle_table
from okxcli.storage.rows.fill_block import FillBlock, rows_of
from okxcli.storage.rows.outcome import Outcome, Refused, Unreadable, quarantine, quarantine_unreadable
from okxcli.storage.schema.partitions import DAY_MS, Partitions
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.write import snapshots, trade_tables
from okxcli.storage.write.far_ids import Anchors

_log = logging.getLogger(__name__)

#: A deep book weighs as much as one row for every ten levels, and four fills of a block as much as one, so that a batch
#: of any lines is some megabytes.
BATCH_ROWS = 5_000
_OF_A_BLOCK = 4
BATCH_MS = 250
#: Longest wait between two tries to reach a database that went away.
_BACK_OFF_S = 2.0
#: Quarantined lines that are told one by one; the closing counts tell of all.
_TOLD = 20

# SQLSTATE classes that blame the row: data exception, integrity, an exception raised by a trigger, program limit.
_POISON = ("22", "23", "P0", "54")
_Batch = list[tuple[Line, bytes | None]]
_Taken = list[tuple[Line | FillBlock, bytes | None]]
#: Batches whose fills are looked at one by one after one of which not all were new.
_WARY = 20

#: The counts of `Writer.counts`, in their order: rows by table, ids noted absent, lines that changed nothing, refused.
_TABLES = ("raw_trades", "merged_trades", "market_data", "order_books", "tickers", "instruments")
COUNTS = (*_TABLES, "absent", "duplicates", "quarantined")
#: Where lines go whose partition is that of their time, but for trades, which have two tables.
_TIMED: dict[type[Line], str] = {OHLCVCandle: "market_data", BookSnapshot: "order_books", Ticker: "tickers"}


@dataclass(eq=False)
class Writer:
    """Collects lines and commits them in batches.

    `connect` gives a new connection in autocommit mode (`Database.connect`). `on_durable` is called after each commit
    with the bytes of the lines that are now stored (in their order, duplicates included, refused ones not), as far as
    `add` was given any. `patience_s` is how long a batch is tried again while the database cannot be reached. `proven`
    says that the candles were rebuilt from rows that the ledger proves, and so beat any other. Each transaction is made
    in the context that `watch` gives.
    """

    connect: Callable[[], Connection]
    _: KW_ONLY
    where: str = "the database"
    clock: Callable[[], int] = now_ms
    batch_rows: int = BATCH_ROWS
    patience_s: float = 30.0
    on_durable: Callable[[list[bytes]], None] | None = None
    proven: bool = False
    watch: Callable[[Connection], AbstractContextManager[object]] = nullcontext

    def __post_init__(self) -> None:
        self._batch: _Taken = []
        self._lines = 0  # in the batch
        self._wary = 0  # batches whose blocks are to be taken apart
        self._unreadable: list[Unreadable] = []
        self._began_ms = 0
        self._weight = 0
        self._connection: Connection | None = None
        self._partitions = Partitions()
        self._introduced: set[id_ledger.Key] = set()
        self._anchors: Anchors = {}
        self._counts: Counter[str] = Counter()
        self._told = 0

    @property
    def pending(self) -> int:
        """How many lines are not committed yet."""
        return self._lines + len(self._unreadable)

    @property
    def room(self) -> int:
        """How many lines more make the batch full."""
        return max(1, self.batch_rows - self._weight) * _OF_A_BLOCK

    def add(self, line: Line, raw: bytes | None = None) -> None:
        """Take a line in; `flush` the batch if it is full. `raw` is what it came in as."""
        self._batch.append((line, raw))
        self._lines += 1
        self._weigh(1 if type(line) is not BookSnapshot else 1 + (len(line.bids) + len(line.asks)) // 10)

    def add_fills(self, block: FillBlock) -> None:
        """Take a block of fills in, as many lines as there is `room` for; `flush` the batch if it is full."""
        self._batch.append((block, None))
        self._lines += block.size
        self._weigh(-(-block.size // _OF_A_BLOCK))

    def refuse(self, raw: bytes, reason: str) -> None:
        """Take in a line that could not be decoded, for the quarantine; `flush` the batch if it is full."""
        self._unreadable.append(Unreadable(raw, reason))
        self._weigh(1)

    def _weigh(self, weight: int) -> None:
        if not self._weight:
            self._began_ms = self.clock()
        self._weight += weight
        if self._weight >= self.batch_rows:
            self.flush()

    def due_in(self, now: int) -> float | None:
        """Return the seconds until the batch is to be flushed, 0 when that is past; None when there is none."""
        if not self.pending:
            return None
        # A wall clock that was set back must not hold a batch up.
        return min(max(self._began_ms + BATCH_MS - now, 0), BATCH_MS) / 1000

    def flush(self) -> None:
        """Commit everything taken in so far; when this returns it is durable, or in quarantine.

        Raises:
            DatabaseUnavailable: the database could not be reached within the patience, or refuses as a whole. The
                lines are still pending: `flush` may be called again.
        """
        if not self.pending:
            return
        refused = self._store_taken()
        batch = self._forget_batch()
        self._counts["quarantined"] += len(self._unreadable)
        self._unreadable.clear()
        if self.on_durable is not None and batch:
            gone = {id(one.line) for one in refused}
            self.on_durable([raw for line, raw in _lines(batch) if raw is not None and id(line) not in gone])

    def take_pending(self) -> list[bytes]:
        """Return the lines that are not committed, as they came in or as they are written, and forget them."""
        batch = self._forget_batch()
        unreadable, self._unreadable = self._unreadable, []
        lines = [encode(line) if raw is None and line is not None else raw or b"" for line, raw in _lines(batch)]
        return lines + [one.raw for one in unreadable]

    def _forget_batch(self) -> _Taken:
        batch, self._batch = self._batch, []
        self._lines = self._weight = 0
        return batch

    def _store_taken(self) -> list[Refused]:
        """Commit the batch and return what went to quarantine: blocks as they are, where all in them is new."""
        if any(isinstance(item, FillBlock) for item, _ in self._batch):
            if not self._wary:
                try:
                    return self._commit(self._batch, thorough=False)
                except trade_tables.NotNew as reason:
                    self._wary = 0 if reason.passing else _WARY
                except psycopg.Error as error:
                    if not _blames_a_row(error):
                        raise explain(error, self.where) from None
                    self._wary = _WARY
                except (OverflowError, *BUGS):  # line by line it costs its own line alone
                    _log.debug("a block of fills is taken apart", exc_info=True)
                    self._wary = _WARY
            self._wary = max(self._wary - 1, 0)
            self._batch = [pair for item, raw in self._batch for pair in _apart(item, raw)]
        return self._store([(line, raw) for line, raw in self._batch if not isinstance(line, FillBlock)])

    def counts(self) -> dict[str, int]:
        """Return what was committed so far: rows by table, `absent` ids, `duplicates`, `quarantined` lines."""
        return {name: self._counts[name] for name in COUNTS}

    def close(self) -> None:
        """Close the connection; what is pending stays uncommitted."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._forget()

    def _forget(self) -> None:
        self._partitions.forget()
        self._introduced.clear()
        self._anchors.clear()

    def _store(self, batch: _Batch, thorough: bool = False) -> list[Refused]:
        """Commit a batch and return what went to quarantine; halve it if Postgres, or a bug, refuses a row of it."""
        try:
            return self._commit(batch, thorough)
        except psycopg.Error as error:
            reason = " ".join((error.diag.message_primary or str(error)).split())
            if not _blames_a_row(error):
                raise explain(error, self.where) from None
        except BUGS as error:
            reason = f"a bug of okx: {type(error).__name__}: {error}"
            if thorough and len(batch) == 1:
                [(line, raw)] = batch
                shown = repr(line) if raw is None else raw.decode(errors="replace")
                _log.exception("a bug of okx, on the line %s", shown[:500])
        if not thorough:
            # Perhaps no row is to blame, but what we believed: a partition was dropped, rows and ledger disagree.
            self._forget()
            return self._store(batch, thorough=True)
        if len(batch) == 1:
            return self._commit([], True, [Refused(batch[0][0], reason)])
        middle = len(batch) // 2
        return self._store(batch[:middle], True) + self._store(batch[middle:], True)

    def _commit(
        self, batch: Sequence[tuple[Line | FillBlock, bytes | None]], thorough: bool, refused: Sequence[Refused] = ()
    ) -> list[Refused]:
        """Commit a batch in one transaction; try again on a new connection while the way to the database is broken."""
        outcome = self._patiently(lambda connection: self._transact(connection, batch, thorough, refused))
        for one in outcome.refused:
            self._tell(one)
        outcome.counts["quarantined"] = len(outcome.refused)
        self._counts += outcome.counts
        return outcome.refused

    def _patiently(self, work: Callable[[Connection], Outcome]) -> Outcome:
        until = time.monotonic() + self.patience_s
        wait_s = 0.05
        away = False
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self.connect()
                with self.watch(self._connection):
                    outcome = work(self._connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if _blames_a_row(error):
                    raise
                failure = explain(error, self.where)
            except DatabaseUnavailable as error:
                failure = error
            else:
                if away:
                    _log.info("Postgres at %s is back", self.where)
                return outcome
            self.close()
            if time.monotonic() + wait_s > until:
                raise failure
            if not away and self.patience_s >= 1:  # with less, whoever has so little says what comes next
                _log.warning("%s: trying again for %.0f s", failure, self.patience_s)
            away = self.patience_s >= 1
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, _BACK_OFF_S)

    def _transact(
        self,
        connection: Connection,
        batch: Sequence[tuple[Line | FillBlock, bytes | None]],
        thorough: bool,
        refused: Sequence[Refused],
    ) -> Outcome:
        parts = _Parts(line for line, _ in batch)
        outcome = Outcome(refused=list(refused))
        now = self.clock()
        for table, days in parts.days().items():
            self._partitions.ensure(connection, table, days, now // DAY_MS)
        keys = parts.keys()
        new = keys - self._introduced
        if new:
            id_ledger.introduce(connection, list(new))
            self._introduced |= new
        with connection.transaction():
            if keys and id_ledger.lock(connection, list(keys)) < len(keys):
                id_ledger.introduce(connection, list(keys))
                id_ledger.lock(connection, list(keys))
            parts.store(connection, outcome, thorough, self.proven, now, self._anchors)
            # `batch` may be a part of what was taken in, and lacks what is refused by itself.
            raw = {id(line): text for line, text in self._batch if text is not None} if outcome.refused else {}
            quarantine(connection, outcome.refused, raw)
            quarantine_unreadable(connection, self._unreadable)
        return outcome

    def _tell(self, one: Refused) -> None:
        told, self._told = self._told, self._told + 1
        if told < _TOLD:
            beside = f", stored is {one.stored.decode()}" if one.stored else ""
            _log.warning("quarantined (%s): %s%s", one.reason, encode(one.line).decode()[:500], beside)
        elif told == _TOLD:
            _log.warning("more lines are quarantined; the table quarantine has them all")


class _Parts:
    """A batch by type of line, each in the order it came; trades by symbol as well."""

    def __init__(self, lines: Iterable[Line | FillBlock]) -> None:
        blocks: list[FillBlock] = []
        self.trades: trade_tables.Groups = defaultdict(list)
        self.merged: trade_tables.Groups = defaultdict(list)
        self.others: dict[type[Line], list[Any]] = defaultdict(list)
        for line in lines:
            if isinstance(line, FillBlock):
                blocks.append(line)
            elif isinstance(line, StandardizedTrade):
                (self.merged if trade_tables.is_merged(line) else self.trades)[line.exchange, line.symbol].append(line)
            else:
                self.others[type(line)].append(line)
        self.rows = rows_of(blocks) if blocks else []

    def days(self) -> dict[str, set[int]]:
        """Return the UTC days (numbers since 1970) that each partitioned table needs."""
        timed = {"raw_trades": chain(*self.trades.values()), "merged_trades": chain(*self.merged.values())}
        timed |= {table: chain(self.others[kind]) for kind, table in _TIMED.items()}
        days = {table: {line.timestamp // DAY_MS for line in lines} for table, lines in timed.items()}
        days["raw_trades"] |= {run.day for run in self.rows}
        return days

    def keys(self) -> set[id_ledger.Key]:
        """Return the symbols to lock: of everything but instruments, which have a lock of their own."""
        parts = (lines for kind, lines in self.others.items() if kind is not Instrument)
        every = chain(*parts, self.rows)
        return {(one.exchange, one.symbol) for one in every} | self.trades.keys() | self.merged.keys()

    def store(
        self, connection: Connection, outcome: Outcome, thorough: bool, proven: bool, now: int, anchors: Anchors
    ) -> None:
        """Store every type, within the transaction that holds the locks.

        Raises:
            NotNew: there are blocks of fills, and not all of those are new.
        """
        if self.rows:
            if any((run.exchange, run.symbol) in self.trades for run in self.rows):
                raise trade_tables.NotNew(passing=True)
            trade_tables.store_new(connection, self.rows, outcome, anchors)
        if self.trades:
            trade_tables.store_trades(connection, self.trades, outcome, thorough, anchors)
        if self.merged:
            trade_tables.store_merged(connection, self.merged, outcome)
        if absent := self.others[Absent]:
            trade_tables.store_absent(connection, absent, outcome, now, anchors)
        if candles := self.others[OHLCVCandle]:
            candle_table.store_candles(connection, candles, outcome, proven)
        for kind in (BookSnapshot, Ticker):
            snapshots.store_new(connection, _TIMED[kind], self.others[kind], outcome)
        if instruments := self.others[Instrument]:
            snapshots.store_instruments(connection, instruments, outcome, now)


def _apart(item: Line | FillBlock, raw: bytes | None) -> list[tuple[Line | FillBlock, bytes | None]]:
    """Return a block as its lines, and a line as it is."""
    return [*item.trades()] if isinstance(item, FillBlock) else [(item, raw)]


def _lines(batch: _Taken) -> Iterator[tuple[Line | None, bytes | None]]:
    """Yield the lines of a batch with what each came in as; those of a block without being read."""
    for item, raw in batch:
        if isinstance(item, FillBlock):
            yield from ((None, line) for line in item.lines[:-1].split(b"\n"))
        else:
            yield item, raw


def _blames_a_row(error: psycopg.Error) -> bool:
    """Whether it is a value that is wrong: by Postgres' word, or psycopg's own, which will not even send it."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate[:2] in _POISON
