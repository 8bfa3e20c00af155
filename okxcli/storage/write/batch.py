"""A batch of lines on its way into Postgres, and its parts by where they go."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from okxcli.core.codec import encode
from okxcli.core.model import Absent, BookSnapshot, Instrument, Line, OHLCVCandle, StandardizedTrade
from okxcli.core.states import STATES
from okxcli.storage.ledger import id_ledger
from okxcli.storage.rows import candle_table
from okxcli.storage.rows.fill_block import FillBlock, rows_of
from okxcli.storage.rows.outcome import Outcome, Refused, Unreadable
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.write import snapshots, trade_tables
from okxcli.storage.write.far_ids import Anchors

#: Lines, or blocks of fills, each with the bytes that it came in as, if they are known.
Taken = list[tuple[Line | FillBlock, bytes | None]]
#: Where lines go that are stored as they are, unless they are there.
_PLAIN: dict[type[Line], str] = {BookSnapshot: "order_books", **{one.kind: one.table for one in STATES}}
#: Where lines go whose partition is that of their time, but for trades, which have two tables.
_TIMED: dict[type[Line], str] = {OHLCVCandle: "market_data", **_PLAIN}


@dataclass(eq=False)
class Batch:
    """What was taken in and is not committed yet: since when (ms), how many lines, and what they weigh."""

    items: Taken = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    began_ms: int = 0
    size: int = 0
    weight: int = 0

    @property
    def pending(self) -> int:
        """How many lines it has, unreadable ones too."""
        return self.size + len(self.unreadable)

    def put_before(self, later: "Batch") -> None:
        """Take in what came after it."""
        self.items += later.items
        self.unreadable += later.unreadable
        self.size += later.size
        self.weight += later.weight

    def pieces(self, most: int) -> Iterator[Taken]:
        """Yield what it has in pieces of so many lines or a few more: a line takes ten times as much as in a block."""
        piece: Taken = []
        size = 0
        for item, raw in self.items:
            parts = item.pieces(most) if isinstance(item, FillBlock) else [item]
            for part in parts:
                piece.append((part, raw))
                size += part.size if isinstance(part, FillBlock) else 1
                if size >= most:
                    yield piece
                    piece, size = [], 0
        if piece or not self.items:
            yield piece

    def lines(self) -> list[bytes]:
        """Return the lines, as they came in or as they are written."""
        found: list[bytes] = []
        for item, raw in self.items:
            if isinstance(item, FillBlock):
                found += item.lines[:-1].split(b"\n")
            else:
                found.append(encode(item) if raw is None else raw)
        return found + [one.raw for one in self.unreadable]

    def stored_lines(self, refused: list[Refused]) -> list[bytes]:
        """Return the lines that came in as bytes and were not refused, in their order."""
        gone = {id(one.line) for one in refused}
        found: list[bytes] = []
        for item, raw in self.items:
            if isinstance(item, FillBlock):
                found += item.lines[:-1].split(b"\n")
            elif raw is not None and id(item) not in gone:
                found.append(raw)
        return found


def apart(piece: Taken) -> list[tuple[Line, bytes | None]]:
    """Return the lines of blocks, and lines as they are."""
    found: list[tuple[Line, bytes | None]] = []
    for item, raw in piece:
        found += item.trades() if isinstance(item, FillBlock) else [(item, raw)]
    return found


class Parts:
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
        for kind, table in _PLAIN.items():
            snapshots.store_new(connection, table, self.others[kind], outcome)
        if instruments := self.others[Instrument]:
            snapshots.store_instruments(connection, instruments, outcome, now)
