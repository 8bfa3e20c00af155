"""Lines as rows of COPY's text format or as an array of each column, and which columns they fill.

The columns are the keys of the lines, so they come from the model types and are not written down a second time.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, LiteralString, get_args

import msgspec
from psycopg import sql

from okxcli.core import states
from okxcli.core.decimals import plain
from okxcli.core.model import (
    BookSnapshot,
    Levels,
    StandardizedTrade,
)

#: How COPY spells null.
NULL = "\\N"

#: Rows sent to Postgres at a time: it parses them while we make the next. Measured, 250 to 1000 are alike.
PIECE = 500

# The keys of a line in their documented order, which for some types is not the order of the fields.
_ORDER: dict[type, tuple[str, ...]] = {
    StandardizedTrade: (
        "exchange", "symbol", "trade_id", "count", "side", "price", "size", "timestamp", "received", "source", "origin",
    ),
    BookSnapshot: ("exchange", "symbol", "timestamp", "received", "seq_id", "bids", "asks", "origin"),
}  # fmt: skip


def columns_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the columns of a line type's table, in the order of its keys."""
    return _ORDER.get(kind, kind.__struct_fields__)


_MILLIS = [f".{ms:03d}+00" for ms in range(1000)]


@lru_cache(4096)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def stamp(ms: int) -> str:
    """Return milliseconds since the epoch as Postgres reads them, exactly."""
    return _second(ms // 1000) + _MILLIS[ms % 1000]


def fields_of(kind: type[msgspec.Struct], *table: str) -> sql.Composed:
    """Return the select list whose rows are the fields of `kind` in their order, times as milliseconds."""
    names = [(name, sql.Identifier(*table, name)) for name in kind.__struct_fields__]
    return sql.SQL(", ").join([_MS.format(column) if name in _TIMES else column for name, column in names])


#: A time as a line has it. `extract` gives a numeric: exact.
_MS = sql.SQL("(extract(epoch FROM {}) * 1000)::bigint")

#: A trade's row as its line: what `codec.encode` makes of it, a few times as fast. A test holds both together.
TRADE_LINE = sql.SQL(
    """'{{"type":"trade","exchange":"' || exchange || '","symbol":"' || symbol || '","trade_id":' || trade_id"""
    """ || ',"count":' || count || ',"side":"' || side || '","price":"' || trim_scale(price)"""
    """ || '","size":"' || trim_scale(size) || '","timestamp":' || {}"""
    """ || ',"received":' || coalesce({}::text, 'null') || ',"source":' || coalesce(source::text, 'null')"""
    """ || ',"origin":"' || origin || '"}}'"""
).format(_MS.format(sql.Identifier("timestamp")), _MS.format(sql.Identifier("received")))


@lru_cache(4096)
def escaped(text: str) -> str:
    """Return text as COPY wants it. Names that were checked hold nothing to escape; a caller may have skipped that."""
    for char, spelt in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(char, spelt)
    return text


def trade_rows(trades: list[StandardizedTrade]) -> Iterator[str]:
    """Yield trades of one exchange and symbol as rows, `PIECE` at a time."""
    prefix = f"{escaped(trades[0].exchange)}\t{escaped(trades[0].symbol)}"
    for at in range(0, len(trades), PIECE):
        yield "".join(
            [
                f"{prefix}\t{t.trade_id}\t{t.count}\t{t.side}\t{plain(t.price)}\t{plain(t.size)}\t"
                f"{_second(t.timestamp // 1000)}{_MILLIS[t.timestamp % 1000]}\t"
                f"{NULL if t.received is None else stamp(t.received)}\t"
                f"{NULL if t.source is None else t.source}\t{escaped(t.origin)}\n"
                for t in trades[at : at + PIECE]
            ]
        )


_TIMES = frozenset(("start", "timestamp", "received", "listed", "expires")).union(
    *(states.times(kind) for kind in states.BY_KIND)
)


def type_of(kind: type[msgspec.Struct], name: str) -> LiteralString:
    """Return what Postgres calls the values of a column."""
    if name in _TIMES:
        return "timestamptz"
    hint = kind.__annotations__[name]
    if hint == Levels:
        return "numeric[]"
    kinds: tuple[tuple[type, LiteralString], ...] = ((Decimal, "numeric"), (bool, "boolean"), (int, "bigint"))
    return next((there for here, there in kinds if hint is here or here in get_args(hint)), "text")


@lru_cache(4096)
def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _value(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, tuple):
        return '"{' + ",".join([f"{{{plain(price)},{plain(size)}}}" for price, size in value]) + '}"'
    return str(value)


def _moment(value: int | None) -> str:
    return "NULL" if value is None else f'"{stamp(value)}"'


def arrays(lines: Sequence[msgspec.Struct]) -> list[str]:
    """Return the values of lines of one type as an array of Postgres for each column."""
    spelt: list[tuple[str, Callable[[Any], str]]] = [
        (name, _moment if name in _TIMES else _value) for name in columns_of(type(lines[0]))
    ]
    return [array(map(spell, map(attrgetter(name), lines))) for name, spell in spelt]


def columns(rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return rows of plain values as an array of Postgres for each column; psycopg takes five times as long."""
    return [array(map(_value, column)) for column in zip(*rows, strict=True)]


def moments(times: Iterable[int | None]) -> str:
    """Return times (ms) as an array of Postgres."""
    return array(map(_moment, times))


def array(values: Iterable[str]) -> str:
    """Return spelt values as an array of Postgres."""
    return "{" + ",".join(values) + "}"
