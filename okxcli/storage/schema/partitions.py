"""Partitions by UTC day or month: made before data needs them, dropped whole by retention.

A new partition is made beside its table and attached, which no running reader or writer waits for; making it in place
would wait for a long `okx read` and hold up every writer meanwhile. It is dropped the same way.
"""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from psycopg import sql

from okxcli.core.states import STATES
from okxcli.storage.schema.versions import PARTITION_LOCK
from okxcli.storage.server.pooled_connection import Connection

DAY_MS = 86_400_000

#: What a table is cut into: days, or months where there are few rows.
STEP = {
    **dict.fromkeys(("raw_trades", "merged_trades", "order_books", "tickers"), "day"),
    "market_data": "month",
    **{one.table: one.step for one in STATES},
}
_EPOCH = date(1970, 1, 1)


def start_of(table: str, timestamp: int) -> date:
    """Return the first day of the partition of `table` that holds `timestamp` (ms)."""
    day = _EPOCH + timedelta(days=timestamp // DAY_MS)
    return day if STEP[table] == "day" else day.replace(day=1)


def ms_of(start: date) -> int:
    """Return the midnight (ms, UTC) at which a day begins."""
    return (start - _EPOCH).days * DAY_MS


def end_of(table: str, start: date) -> date:
    """Return the first day after the partition of `table` that begins at `start`."""
    if STEP[table] == "day":
        return start + timedelta(days=1)
    return (start + timedelta(days=31)).replace(day=1)


def name_of(table: str, start: date) -> str:
    """Return the name of the partition of `table` that begins at `start`: `raw_trades_20240125`."""
    return f"{table}_{start:%Y%m%d}" if STEP[table] == "day" else f"{table}_{start:%Y%m}"


def start_in(table: str, name: str) -> date | None:
    """Return where the partition called `name` begins; None if that is no partition of `table`."""
    found = re.fullmatch(rf"{table}_([0-9]{{4}})([0-9]{{2}})([0-9]{{2}})?", name)
    if found is None or (found[3] is None) != (STEP[table] == "month"):
        return None
    return date(int(found[1]), int(found[2]), int(found[3] or 1))


class Partitions:
    """Which partitions a writer knows to be there."""

    def __init__(self) -> None:
        self._known: set[tuple[str, int]] = set()

    def forget(self) -> None:
        """Look again the next time: somebody else may have dropped one."""
        self._known.clear()

    def ensure(self, connection: Connection, table: str, days: Iterable[int], today: int) -> None:
        """Make the partitions of `table` for these days (numbers since 1970), and tomorrow's if today is among them.

        In transactions of its own: it must not be called within one.
        """
        wanted = set(days)
        if today in wanted:
            wanted.add(today + 1)
        for day in sorted(wanted):
            if (table, day) not in self._known:
                make(connection, table, start_of(table, day * DAY_MS))
                self._known.add((table, day))


def make(connection: Connection, table: str, start: date) -> bool:
    """Make the partition of `table` that begins at `start`; return False if it was there."""
    name = name_of(table, start)
    if name in _attached(connection, table):
        return False
    parent, part = sql.Identifier(table), sql.Identifier(name)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [PARTITION_LOCK])
        if name in _attached(connection, table):
            return False
        as_owner(connection, table)
        # It may stand there detached, if retention was cut short; its rows are then as good as they were.
        connection.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE {} INCLUDING ALL)").format(part, parent))
        attach(connection, table, start)
    return True


def as_owner(connection: Connection, table: str) -> None:
    """Be the owner of a table for the rest of the transaction: a partition is to be that role's too, whoever makes it.

    Raises:
        InsufficientPrivilege: we are no member of it.
    """
    connection.execute(
        "SELECT set_config('role', pg_get_userbyid(relowner), true) FROM pg_class WHERE oid = to_regclass(%s)", [table]
    )


def attach(connection: Connection, table: str, start: date) -> None:
    """Make the table that bears its name the partition of `table` that begins at `start`, under the partition lock."""
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            sql.Identifier(table),
            sql.Identifier(name_of(table, start)),
            _midnight(start),
            _midnight(end_of(table, start)),
        )
    )


def drop(connection: Connection, table: str, start: date) -> None:
    """Drop the partition of `table` that begins at `start`, with its rows; waits for no reader of other partitions.

    Must not be called within a transaction. Goes on where an earlier call was cut short.
    """
    name = name_of(table, start)
    pending = _attached(connection, table).get(name)
    if pending is not None:
        # It runs in no transaction, which would bring its search path: so the names are whole.
        rows = connection.execute(
            "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass(%s)",
            [table],
        )
        [(schema,)] = rows.fetchall()
        how = sql.SQL("FINALIZE" if pending else "CONCURRENTLY")
        parent, part = sql.Identifier(schema, table), sql.Identifier(schema, name)
        connection.cursor().execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(parent, part, how))
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))


def existing(connection: Connection, table: str) -> list[date]:
    """Return where the partitions of `table` begin, oldest first, those included that are detached but not dropped."""
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace ="
        " (SELECT relnamespace FROM pg_class WHERE oid = to_regclass(%s)) AND starts_with(relname, %s)",
        [table, f"{table}_"],
    )
    return sorted(start for (name,) in rows if (start := start_in(table, name)) is not None)


def _attached(connection: Connection, table: str) -> dict[str, bool]:
    """Return the partitions of `table` by name, and whether a detach of it is under way."""
    rows = connection.execute(
        "SELECT c.relname, i.inhdetachpending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass(%s)",
        [table],
    )
    return dict(rows.fetchall())


def _midnight(day: date) -> sql.Literal:
    return sql.Literal(datetime(day.year, day.month, day.day, tzinfo=UTC).isoformat())
