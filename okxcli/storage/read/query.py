"""SQL of the user's own, and its rows in the spelling of lines."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from okxcli.core.decimals import plain
from okxcli.errors import UsageError
from okxcli.storage.server.pooled_connection import Connection

_FETCH = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: What is no statement: comments, and what stands between two statements.
_NOTHING = re.compile(r"--[^\n]*|/\*.*?\*/|[;\s]", re.DOTALL)

Row = dict[str, object]


class _Text(Loader):
    """Values that Python cannot hold (`infinity`, the year 294276) as Postgres spells them."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode()


def batches(connection: Connection, statement: str, whole: bool = False) -> Iterator[list[Row]]:
    """Run `statement` and yield its rows, some at a time, or with `whole` each result at once.

    A single statement is streamed; several in one text are one transaction, whose results are held in memory.
    Numeric values become canonical strings, times milliseconds since the epoch.

    Raises:
        UsageError: Postgres does not understand or does not allow it; the text is its own.
    """
    if not _NOTHING.sub("", statement):
        raise UsageError("an empty statement: there is nothing to run")
    for kind in ("timestamptz", "timestamp", "date", "interval"):
        connection.adapters.register_loader(kind, _Text)
    several = ";" in statement.strip().rstrip(";")
    run = _streamed if not several and not whole else _held
    try:
        try:
            with connection.transaction():
                yield from run(connection, statement)
        except psycopg.errors.ActiveSqlTransaction:  # VACUUM and its like, which have done nothing yet
            yield from run(connection, statement)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise UsageError(_told(error)) from None


def _held(connection: Connection, statement: str) -> Iterator[list[Row]]:
    with connection.cursor() as cursor:
        cursor.execute(statement.encode())
        while True:
            if cursor.description is not None:
                yield _rows(cursor.description, cursor.fetchall())
            if not cursor.nextset():
                return


def _streamed(connection: Connection, statement: str) -> Iterator[list[Row]]:
    held: list[tuple[Any, ...]] = []
    with connection.cursor() as cursor:
        try:
            for row in cursor.stream(statement.encode(), size=_FETCH):
                held.append(row)
                if len(held) >= _FETCH:
                    yield _rows(cursor.description, held)
                    held = []
        except psycopg.ProgrammingError as error:
            if error.sqlstate is not None:
                raise
            return  # psycopg's word that the statement gives no rows; it has run
        yield _rows(cursor.description, held)


def _rows(columns: Any, values: list[tuple[Any, ...]]) -> list[Row]:
    """Return rows as mappings; a name that comes twice gets a number."""
    names: list[str] = []
    for column in columns or []:
        name, number = column.name, 2
        while name in names:
            name, number = f"{column.name}_{number}", number + 1
        names.append(name)
    times = [column.type_display.startswith("timestamp") for column in columns or []]
    return [{name: _value(value, time) for name, value, time in zip(names, row, times, strict=True)} for row in values]


def _value(value: Any, is_time: bool) -> object:
    if is_time and isinstance(value, str):
        return _milliseconds(value)
    if isinstance(value, Decimal):
        return plain(value) if value.is_finite() else str(value)
    if isinstance(value, list):
        return [_value(item, is_time) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value if isinstance(value, dict) else str(value)


def _milliseconds(text: str) -> object:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _told(error: psycopg.Error) -> str:
    """Return Postgres' complaint in one line, with its hint and the place."""
    diag = error.diag
    words = [diag.message_primary or str(error).splitlines()[0]]
    words += [text for text in (diag.message_detail, diag.message_hint) if text]
    place = f" (at character {diag.statement_position})" if diag.statement_position else ""
    return " ".join(". ".join(word.rstrip(".") for word in words).split()) + place
