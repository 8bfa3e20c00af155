"""Stored rows back as lines: in order, a few at a time, from one snapshot of the database.

Every series (a symbol; a symbol and a timeframe) is read by a cursor on the server, so memory stays flat whatever the
range. Fills come by id. The ledger says which days to look at, so that a read opens a few partitions at a time and
not years of them.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, LiteralString, TypeVar

import msgspec
from psycopg import sql

from okxcli.core.model import (
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    Absent,
    BookSnapshot,
    Instrument,
    Line,
    OHLCVCandle,
    StandardizedTrade,
    State,
)
from okxcli.core.selection import Selection, expanded
from okxcli.core.states import HEAD, Described
from okxcli.storage.rows.row_format import TRADE_LINE, fields_of, stamp
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import SNAPSHOT, Connection

#: Rows fetched at a time: few enough for flat memory, enough that the round trips do not show.
_FETCH = 2_000
_numbers = count()
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Span:
    """Milliseconds: `since` is in, `until` is out. Of candles those are meant that lie within it whole."""

    since: int = MIN_TIMESTAMP
    until: int = MAX_TIMESTAMP


EVERYTHING = Span()


@dataclass(frozen=True)
class Series:
    """What is read in one go: the rows of a symbol of one exchange; `timeframe` for candles alone.

    `origin` narrows it: of trades `trades` means the merged ones and None the tape; of candles and books it is the
    column of that name.
    """

    exchange: str
    symbol: str
    timeframe: str | None = None
    origin: str | None = None


def exchanges_of(connection: Connection, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the exchanges that each of the symbols is stored of; none for an unknown one."""
    rows = connection.execute(
        "SELECT symbol, exchange FROM symbols WHERE epoch = 0 AND symbol = ANY(%s) ORDER BY 1, 2", [list(names)]
    ).fetchall()
    return {name: [exchange for symbol, exchange in rows if symbol == name] for name in names}


def symbols(connection: Connection) -> list[str]:
    """Return every symbol that anything is stored of, by name."""
    return [row[0] for row in connection.execute("SELECT DISTINCT symbol FROM symbols WHERE epoch = 0 ORDER BY 1")]


def meant(connection: Connection, wanted: Sequence[str], types: Sequence[str] = ()) -> list[str]:
    """Return the symbols that names and patterns mean: those that are named, and what is stored that is selected."""
    if not Selection(tuple(wanted), tuple(types)).open:
        return list(dict.fromkeys(wanted))
    rows = connection.execute(
        "SELECT symbol, max(kind) FROM symbols LEFT JOIN instruments USING (exchange, symbol)"
        " WHERE epoch = 0 GROUP BY 1"
    )
    return expanded(wanted, types, dict(rows.fetchall()))


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """Read everything within as of one moment, and change nothing."""
    with connection.transaction(begin=SNAPSHOT):
        yield


def merged(parts: Sequence[Iterator[Line]]) -> Iterator[Line]:
    """Yield several series as one, by time; each keeps its own order, a line without a time goes with the next."""
    if len(parts) == 1:
        return parts[0]
    return heapq.merge(*parts, key=lambda line: getattr(line, "timestamp", 0))


def with_context(connection: Connection, series: Series, fills: Iterator[StandardizedTrade]) -> Iterator[Line]:
    """Yield the fills of a symbol, and between them what candles need to know of it.

    That is the instrument as it was (before the first fill, and wherever it changed), and the ids that the exchange
    does not have, before the fill that follows them. Within a `snapshot`.
    """
    periods = deque(instruments(connection, series))
    holes = deque(_absent(connection, series))
    first = True
    for fill in fills:
        told: Instrument | None = None
        while periods and periods[0][0] <= fill.timestamp:
            told = periods.popleft()[1]
        if first and told is None and periods:
            told = periods.popleft()[1]  # learned after the fill was made; the nearest there is
        if told is not None:
            yield told
        while holes and holes[0].first <= fill.trade_id:
            hole = holes.popleft()
            if not first or hole.last == fill.trade_id - 1:
                yield hole
        yield fill
        first = False


def instruments(connection: Connection, series: Series) -> list[tuple[int, Instrument]]:
    """Return what a symbol has been, each with the moment (ms) from which on, oldest first."""
    query = sql.SQL(
        "SELECT (extract(epoch FROM valid_from) * 1000)::bigint, {} FROM instruments"
        " WHERE exchange = %s AND symbol = %s ORDER BY valid_from"
    ).format(fields_of(Instrument))
    rows = connection.execute(query, [series.exchange, series.symbol], binary=True)
    return [(row[0], Instrument(*row[1:])) for row in rows]


def _absent(connection: Connection, series: Series) -> list[Absent]:
    rows = connection.execute(
        "SELECT lower(r), upper(r) - 1 FROM trade_ledger, unnest(absent) AS r"
        " WHERE exchange = %s AND symbol = %s AND epoch = 0 ORDER BY 1",
        [series.exchange, series.symbol],
    )
    return [Absent(series.exchange, series.symbol, first, last) for first, last in rows]


def trades(
    connection: Connection, series: Series, span: Span, newest: int | None = None, above: int = 0
) -> Iterator[StandardizedTrade]:
    """Yield the fills of a symbol by rising id, those with an id higher than `above`. Within a `snapshot`.

    With `newest` the last so many only.
    """
    for source, values in _fills(connection, series, span, newest, above):
        query = sql.SQL("SELECT {} {} ORDER BY trade_id").format(fields_of(StandardizedTrade), source)
        yield from _stream(connection, query, values, lambda row: StandardizedTrade(*row))


def trade_lines(
    connection: Connection, series: Series, span: Span, newest: int | None = None, most: int | None = None
) -> Iterator[tuple[bytes, int]]:
    """Yield the lines of those fills as Postgres spells them: some joined by newlines, and how many. At most so many.

    They are what `codec.encode` makes of the fills that `trades` gives. Within a `snapshot`.
    """
    left = most
    for source, values in _fills(connection, series, span, newest):
        query = sql.SQL("SELECT {} {} ORDER BY trade_id").format(TRADE_LINE, source)
        name = sql.Identifier(f"okx_read_{next(_numbers)}")
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("DECLARE {} CURSOR FOR {}").format(name, query), values)
            while left is None or left > 0:
                size = _FETCH if left is None else min(left, _FETCH)
                found = cursor.execute(sql.SQL("FETCH FORWARD {} FROM {}").format(sql.Literal(size), name)).pgresult
                count = 0 if found is None else found.ntuples
                if found is None or not count:
                    break
                lines = b"\n".join([found.get_value(row, 0) or b"" for row in range(count)])
                if not lines.isascii():  # names of ours are, those that others stored may not be
                    lines = lines.decode(connection.info.encoding).encode()
                yield lines, count
                left = None if left is None else left - count
            cursor.execute(sql.SQL("CLOSE {}").format(name))


def _fills(
    connection: Connection, series: Series, span: Span, newest: int | None, above: int = 0
) -> Iterator[tuple[sql.Composed, list[Any]]]:
    """Yield the sources whose rows are the fills of a symbol, one after the other, each with its parameters."""
    if series.origin == "trades":
        parts = [span]
        source = _TRADES.format(sql.Identifier("merged_trades"))
    else:
        parts = _days(connection, series, span)
        source = _TRADES.format(sql.Identifier("raw_trades"))
    if newest is not None:
        parts, first = _tail(connection, source, series, parts, newest)
        above = max(above, first - 1)
    for part in parts:
        yield source, [*_bounds(series, part), above]


# The tables are given, the values are parameters.
_TRADES = sql.SQL(
    "FROM {} WHERE exchange = %s AND symbol = %s AND epoch = 0"
    " AND timestamp >= %s::timestamptz AND timestamp < %s::timestamptz AND trade_id > %s"
)


def _bounds(series: Series, span: Span) -> list[Any]:
    return [series.exchange, series.symbol, stamp(span.since), stamp(span.until)]


def _days(connection: Connection, series: Series, span: Span) -> list[Span]:
    """Cut a span at those midnights that the ids respect: days whose ids interleave stay together, and rise by id."""
    rows = connection.execute(
        "SELECT (day - date '1970-01-01')::bigint, first_id, last_id FROM trade_ledger"
        " WHERE exchange = %s AND symbol = %s AND epoch = 0 AND first_id IS NOT NULL"
        " AND last_time >= %s::timestamptz AND first_time < %s::timestamptz ORDER BY first_id",
        _bounds(series, span),
    ).fetchall()
    groups: list[tuple[int, int, int]] = []  # first day, last day, highest id
    for day, first, last in rows:
        group = (day, day, last)
        # A clock that stepped back can join a day to several before it.
        while groups and (first <= groups[-1][2] or group[0] <= groups[-1][1]):
            before = groups.pop()
            group = (min(before[0], group[0]), max(before[1], group[1]), max(before[2], group[2]))
        groups.append(group)
    return [Span(max(span.since, first * DAY_MS), min(span.until, (last + 1) * DAY_MS)) for first, last, _ in groups]


def _tail(
    connection: Connection, source: sql.Composed, series: Series, parts: list[Span], newest: int
) -> tuple[list[Span], int]:
    """Return the parts that hold the last `newest` fills, and the id to begin at."""
    left = newest
    at_id = sql.SQL("SELECT trade_id {} ORDER BY trade_id DESC OFFSET %s LIMIT 1").format(source)
    total = sql.SQL("SELECT count(*) {}").format(source)
    for index in range(len(parts) - 1, -1, -1):
        if left <= 0:
            return parts[index + 1 :], 0
        bounds = [*_bounds(series, parts[index]), 0]
        row = connection.execute(at_id, [*bounds, left - 1]).fetchone()
        if row is not None:
            return parts[index:], int(row[0])
        row = connection.execute(total, bounds).fetchone()
        left -= int(row[0]) if row is not None else 0
    return (parts, 0) if newest > 0 else ([], 0)


def candles(
    connection: Connection, series: Series, span: Span, newest: int | None = None, running: bool = False
) -> Iterator[OHLCVCandle]:
    """Yield the candles of a symbol and timeframe by time; with `newest` the last so many only. Within a `snapshot`.

    Bars that are over, unless `running` asks for the others too.
    """
    values = [*_bounds(series, span), series.origin or "trades", series.timeframe, running]
    query = _ordered(OHLCVCandle, _CANDLES, newest, "timestamp")
    return _stream(connection, query, values, lambda row: OHLCVCandle(*row))


_CANDLES = (
    "SELECT * FROM market_data WHERE exchange = %s AND symbol = %s AND start >= %s::timestamptz"
    " AND timestamp <= %s::timestamptz AND origin = %s AND timeframe = %s AND (closed OR %s)"
)


def books(connection: Connection, series: Series, span: Span, newest: int | None = None) -> Iterator[BookSnapshot]:
    """Yield the book snapshots of a symbol by time and sequence; with `newest` the last so many only.

    Of every origin, unless the series names one. Within a `snapshot`.
    """
    values = [*_bounds(series, span), series.origin, series.origin]
    query = _ordered(BookSnapshot, _BOOKS, newest, "timestamp", "seq_id")
    return _stream(connection, query, values, _book)


_BOOKS = (
    "SELECT * FROM order_books WHERE exchange = %s AND symbol = %s AND timestamp >= %s::timestamptz"
    " AND timestamp < %s::timestamptz AND (%s::text IS NULL OR origin = %s)"
)


def _book(row: tuple[Any, ...]) -> BookSnapshot:
    book = BookSnapshot(*row)
    return msgspec.structs.replace(book, bids=tuple(map(tuple, book.bids)), asks=tuple(map(tuple, book.asks)))


def states(
    connection: Connection, described: Described, series: Series, span: Span, newest: int | None = None
) -> Iterator[State]:
    """Yield the states of a type of a symbol by time; with `newest` the last so many only. Within a `snapshot`.

    Of every origin, unless the series names one, where the type has any.
    """
    fields = described.kind.__struct_fields__
    of_origin = "origin" in fields and series.origin is not None
    rows = _STATES.format(sql.Identifier(described.table), sql.SQL(" AND origin = %s" if of_origin else ""))
    values = [*_bounds(series, span), *([series.origin] if of_origin else [])]
    query = _ordered(described.kind, rows, newest, HEAD[2], *described.key)
    return _stream(connection, query, values, lambda row: described.kind(**dict(zip(fields, row, strict=True))))


_STATES = sql.SQL(
    "SELECT * FROM {} WHERE exchange = %s AND symbol = %s AND timestamp >= %s::timestamptz"
    " AND timestamp < %s::timestamptz{}"
)


def _ordered(
    kind: type[msgspec.Struct], rows: LiteralString | sql.Composable, newest: int | None, *order: str
) -> sql.Composed:
    """Return the query for `rows` in order, or for the last so many of them in that order."""
    source = rows if isinstance(rows, sql.Composable) else sql.SQL(rows)
    if newest is not None:
        down = sql.SQL(", ").join(sql.SQL("{} DESC NULLS LAST").format(sql.Identifier(name)) for name in order)
        source = sql.SQL("{} ORDER BY {} LIMIT {}").format(source, down, sql.Literal(newest))
    up = sql.SQL(", ").join(map(sql.Identifier, order))
    return sql.SQL("SELECT {} FROM ({}) AS r ORDER BY {}").format(fields_of(kind), source, up)


def _stream(
    connection: Connection, query: sql.Composed, values: list[Any], make: Callable[[tuple[Any, ...]], _Row]
) -> Iterator[_Row]:
    with connection.cursor(f"okx_read_{next(_numbers)}") as cursor:
        cursor.itersize = _FETCH
        cursor.execute(query, values, binary=True)
        for row in cursor:
            yield make(row)
