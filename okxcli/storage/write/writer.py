"""Lines into Postgres: batches, one transaction each, durable when `flush` returns.

A batch ends at 5,000 lines or 250 ms after its first. A connection that breaks is made anew and the batch sent again,
which does no harm even if it had been committed after all: the ledger and the keys know what is there. A row that
Postgres refuses, or that one of our own bugs chokes on, is found by halving the batch, and goes to quarantine alone.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass

import psycopg

from okxcli.core.codec import encode
from okxcli.core.model import BookSnapshot, Line
from okxcli.core.states import STATES
from okxcli.errors import BUGS, DatabaseUnavailable
from okxcli.runtime.clock import now_ms
from okxcli.storage.database import explain
from okxcli.storage.ledger import id_ledger
from okxcli.storage.rows.fill_block import FillBlock
from okxcli.storage.rows.outcome import Outcome, Refused, Unreadable, quarantine, quarantine_unreadable
from okxcli.storage.schema.partitions import DAY_MS, Partitions
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.write import trade_tables
from okxcli.storage.write.aside import Aside
from okxcli.storage.write.batch import Batch, Parts, Taken, apart
from okxcli.storage.write.far_ids import Anchors

_log = logging.getLogger(__name__)

#: A deep book weighs as much as one row for every ten levels, and four fills of a block as much as one, so that a batch
#: of any lines is some megabytes.
BATCH_ROWS = 5_000
_OF_A_BLOCK = 4
BATCH_MS = 250
#: Time between two looks at a batch that is being committed aside.
_LOOK_S = 0.02
#: Longest wait between two tries to reach a database that went away.
_BACK_OFF_S = 2.0
#: Quarantined lines that are told one by one; the closing counts tell of all.
_TOLD = 20

# SQLSTATE classes that blame the row: data exception, integrity, an exception raised by a trigger, program limit.
_POISON = ("22", "23", "P0", "54")
_Batch = list[tuple[Line, bytes | None]]
#: Batches whose fills are looked at one by one after one of which not all were new.
_WARY = 20

#: The counts of `Writer.counts`, in their order: rows by table, ids noted absent, lines that changed nothing, refused.
_TABLES = ("raw_trades", "merged_trades", "market_data", "order_books", "tickers", "instruments")
COUNTS = (*_TABLES, "absent", "duplicates", "quarantined")
#: Told where there are any.
_MORE = tuple(one.table for one in STATES if one.table not in _TABLES)


@dataclass(eq=False)
class Writer:
    """Collects lines and commits them in batches.

    `connect` gives a new connection in autocommit mode (`Database.connect`). `on_durable` is called after each commit
    with the bytes of the lines that are now stored (in their order, duplicates included, refused ones not), as far as
    `add` was given any. `patience_s` is how long a batch is tried again while the database cannot be reached. `proven`
    says that the candles were rebuilt from rows that the ledger proves, and so beat any other. With `ahead` a full
    batch is committed in a thread of its own while the next one is taken in; what comes of it, errors too, comes at
    the next call. Each transaction is made in the context that `watch` gives.
    """

    connect: Callable[[], Connection]
    _: KW_ONLY
    where: str = "the database"
    clock: Callable[[], int] = now_ms
    batch_rows: int = BATCH_ROWS
    patience_s: float = 30.0
    on_durable: Callable[[list[bytes]], None] | None = None
    proven: bool = False
    ahead: bool = False
    watch: Callable[[Connection], AbstractContextManager[object]] = nullcontext

    def __post_init__(self) -> None:
        self._batch = Batch()
        self._aside: Aside[list[Refused]] | None = None  # commits `_gone`
        self._gone = Batch()
        self._storing = self._batch
        self._wary = 0  # batches whose blocks are to be taken apart
        self._connection: Connection | None = None
        self._partitions = Partitions()
        self._introduced: set[id_ledger.Key] = set()
        self._anchors: Anchors = {}
        self._counts: Counter[str] = Counter()
        self._told = 0

    @property
    def pending(self) -> int:
        """How many lines are not committed yet."""
        return self._batch.pending + self._gone.pending

    @property
    def room(self) -> int:
        """How many lines more make the batch full."""
        return max(1, self.batch_rows - self._batch.weight) * _OF_A_BLOCK

    def add(self, line: Line, raw: bytes | None = None) -> None:
        """Take a line in; commit the batch if it is full. `raw` is what it came in as."""
        self._batch.items.append((line, raw))
        self._batch.size += 1
        self._weigh(1 if type(line) is not BookSnapshot else 1 + (len(line.bids) + len(line.asks)) // 10)

    def add_fills(self, block: FillBlock) -> None:
        """Take a block of fills in, as many lines as there is `room` for; commit the batch if it is full."""
        self._batch.items.append((block, None))
        self._batch.size += block.size
        self._weigh(-(-block.size // _OF_A_BLOCK))

    def refuse(self, raw: bytes, reason: str) -> None:
        """Take in a line that could not be decoded, for the quarantine; commit the batch if it is full."""
        self._batch.unreadable.append(Unreadable(raw, reason))
        self._weigh(1)

    def _weigh(self, weight: int) -> None:
        if not self._batch.weight:
            self._batch.began_ms = self.clock()
        self._batch.weight += weight
        if self._batch.weight < self.batch_rows:
            return
        if not self.ahead:
            self.flush()
            return
        self._settle()
        self._gone, self._batch = self._batch, Batch()
        self._aside = Aside(lambda: self._store_taken(self._gone))

    def due_in(self, now: int) -> float | None:
        """Return the seconds until `tick` is to be called, 0 when that is past; None when nothing is pending."""
        if self._aside is not None:
            return 0.0 if self._aside.done else _LOOK_S
        if not self._batch.pending:
            return None
        # A wall clock that was set back must not hold a batch up.
        return min(max(self._batch.began_ms + BATCH_MS - now, 0), BATCH_MS) / 1000

    def tick(self, now: int) -> None:
        """Commit the batch if it is due; raises as `flush`."""
        if self._aside is not None and self._aside.done:
            self._settle()
        if self.due_in(now) == 0:
            self.flush()

    def flush(self) -> None:
        """Commit everything taken in so far; when this returns it is durable, or in quarantine.

        Raises:
            DatabaseUnavailable: the database could not be reached within the patience, or refuses as a whole. The
                lines are still pending: `flush` may be called again.
        """
        self._settle()
        if self._batch.pending:
            refused = self._store_taken(self._batch)
            batch, self._batch = self._batch, Batch()
            self._note(batch, refused)

    def _settle(self) -> None:
        """Wait for the batch that is being committed; if it could not be, it is pending as if it had not been begun."""
        aside, self._aside = self._aside, None
        if aside is None:
            return
        batch, self._gone = self._gone, Batch()
        try:
            refused = aside.result()
        except BaseException:
            batch.put_before(self._batch)
            self._batch = batch
            raise
        self._note(batch, refused)

    def _note(self, batch: Batch, refused: list[Refused]) -> None:
        self._counts["quarantined"] += len(batch.unreadable)
        if self.on_durable is not None and batch.size:
            self.on_durable(batch.stored_lines(refused))

    def take_pending(self) -> list[bytes]:
        """Return the lines that are not committed, as they came in or as they are written, and forget them.

        None may be being committed: `flush`, or what else commits, has failed.
        """
        batch, self._batch = self._batch, Batch()
        return batch.lines()

    def _store_taken(self, batch: Batch) -> list[Refused]:
        """Commit a batch and return what went to quarantine: blocks as they are, where all in them is new."""
        self._storing = batch
        if any(isinstance(item, FillBlock) for item, _ in batch.items):
            if not self._wary:
                try:
                    return self._commit(batch.items, thorough=False)
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
        return self._store_apart(batch)

    def _store_apart(self, batch: Batch) -> list[Refused]:
        """Commit a batch by its lines, some thousand at a time; those that are stored already are duplicates again."""
        refused: list[Refused] = []
        kept: Taken = []
        unreadable = batch.unreadable
        for piece in batch.pieces(max(1, self.batch_rows // 2)):
            lines = apart(piece)
            self._storing = Batch([*lines], unreadable)
            found = self._store(lines)
            unreadable = []  # they are kept by now
            kept += self._storing.items if found else piece
            refused += found
        batch.items = kept
        return refused

    def counts(self) -> dict[str, int]:
        """Return what was committed so far: rows by table, `absent` ids, `duplicates`, `quarantined` lines."""
        return {n: self._counts[n] for n in COUNTS} | {n: self._counts[n] for n in _MORE if self._counts[n]}

    def close(self) -> None:
        """Close the connection; what is pending stays uncommitted, but for what is being committed."""
        if self._aside is not None:
            with suppress(Exception):
                self._settle()
        self._disconnect()

    def _disconnect(self) -> None:
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
            self._disconnect()
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
        parts = Parts(line for line, _ in batch)
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
            whole = self._storing
            raw = {id(line): text for line, text in whole.items if text is not None} if outcome.refused else {}
            quarantine(connection, outcome.refused, raw)
            quarantine_unreadable(connection, whole.unreadable)
        return outcome

    def _tell(self, one: Refused) -> None:
        told, self._told = self._told, self._told + 1
        if told < _TOLD:
            beside = f", stored is {one.stored.decode()}" if one.stored else ""
            _log.warning("quarantined (%s): %s%s", one.reason, encode(one.line).decode()[:500], beside)
        elif told == _TOLD:
            _log.warning("more lines are quarantined; the table quarantine has them all")


def _blames_a_row(error: psycopg.Error) -> bool:
    """Whether it is a value that is wrong: by Postgres' word, or psycopg's own, which will not even send it."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate[:2] in _POISON
