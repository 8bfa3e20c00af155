"""Rows into a table: by COPY where all of them are new, else by one statement that looks at what is there."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import LiteralString

import msgspec
from psycopg import sql

from okxcli.storage.rows.row_format import arrays, columns_of, moments, type_of
from okxcli.storage.server.pooled_connection import Connection

#: What stands around rows in COPY's binary format: the signature, no flags, no more in the header; no row comes.
_BINARY_HEAD, _BINARY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def copy(connection: Connection, table: str, columns: Iterable[str], rows: Iterable[str | bytes]) -> None:
    """Copy rows into a table: text in COPY's text format, bytes in its binary format, which Postgres reads faster.

    `rows` comes in pieces of any number of rows, all alike: Postgres works on one while the caller makes the next.
    """
    waiting = iter(rows)
    first = next(waiting, "")
    command = sql.SQL("COPY {} ({}) FROM STDIN{}").format(
        sql.Identifier(table), _names(columns), sql.SQL(" (FORMAT binary)" if isinstance(first, bytes) else "")
    )
    with connection.cursor() as cursor, cursor.copy(command) as stream:
        if isinstance(first, bytes):
            stream.write(_BINARY_HEAD)
        for piece in chain([first], waiting):
            stream.write(piece)
        if isinstance(first, bytes):
            stream.write(_BINARY_END)


def insert(
    connection: Connection,
    table: str,
    lines: Sequence[msgspec.Struct],
    over: tuple[str, ...] = (),
    **times: Sequence[int | None],
) -> int:
    """Insert lines of one type, those left out that are there already; return how many were not.

    With `over` the columns of that key, which may come once, tell which row a line takes the place of. `times` are
    more columns, in ms. No temporary table: its making costs more than a small batch, and it belongs to a session.
    """
    command = _insertion(table, type(lines[0]), tuple(times), over)
    return connection.execute(command, [*arrays(lines), *map(moments, times.values())]).rowcount


@cache
def _insertion(table: str, kind: type[msgspec.Struct], times: tuple[str, ...], over: tuple[str, ...]) -> sql.Composed:
    columns = columns_of(kind)
    types: list[LiteralString] = [*(type_of(kind, name) for name in columns), *("timestamptz" for _ in times)]
    names = [sql.Identifier(name) for name in (*columns, *times)]
    values = [sql.SQL("{}::{}").format(name, sql.SQL(there)) for name, there in zip(names, types, strict=True)]
    conflict: sql.Composable = sql.SQL("NOTHING")
    if over:
        changed = [name for name in (*columns, "written") if name not in over]
        sets = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in changed)
        conflict = sql.SQL("UPDATE SET {}").format(sets)
    return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM unnest({}) AS g ({}) ON CONFLICT {} DO {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(names),
        sql.SQL(", ").join(values),
        sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(names)),
        sql.SQL(", ").join(names),
        sql.SQL("({})").format(_names(over)) if over else sql.SQL(""),
        conflict,
    )
