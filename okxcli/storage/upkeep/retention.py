"""Retention: rows older than so many days go, a whole partition at a time; the ledger keeps what it knew.

What time it is decides what is dropped for good, and a clock can be wrong: no row goes because of a clock alone.
"""

import logging
import threading
from collections.abc import Mapping
from datetime import date, timedelta

import psycopg
from psycopg import sql

from okxcli.core.states import STATES
from okxcli.storage.schema import partitions
from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

#: How long a partition that somebody reads is waited for.
_PATIENCE_S = 5.0

#: The tables behind each kind of row that a configuration names.
TABLES: Mapping[str, tuple[str, ...]] = {
    "trades": ("raw_trades", "merged_trades"),
    "candles": ("market_data",),
    "books": ("order_books",),
    **{one.table: (one.table,) for one in STATES},
}


def apply(connection: Connection, keep_days: Mapping[str, int | None], now_ms: int) -> dict[str, list[date]]:
    """Drop every partition that ended `keep_days` or more whole days ago, and return where the dropped ones began.

    Ago: before `now_ms`, or before the partition of the newest row of its table if that is earlier. `keep_days` has the
    days for `trades`, `candles`, `books` and each table of states; None or a missing kind is kept for ever. The days of
    dropped trades stay in the ledger, marked `archived`, so that nobody fetches them again. A partition that somebody
    holds locked for more than 5 s is left to the next run. Must not be called within a transaction.
    """
    dropped: dict[str, list[date]] = {}
    for kind, tables in TABLES.items():
        days = keep_days.get(kind)
        if days is None:
            continue
        for table in tables:
            gone = dropped.setdefault(table, [])
            starts = partitions.existing(connection, table)
            newest = _newest(connection, table, starts)
            if newest is None:
                continue
            oldest = min(newest, partitions.start_of("tickers", now_ms)) - timedelta(days=days)
            for start in starts:
                if partitions.end_of(table, start) <= oldest and _drop(connection, table, start):
                    gone.append(start)
    return {table: gone for table, gone in dropped.items() if gone}


def _newest(connection: Connection, table: str, starts: list[date]) -> date | None:
    """Return where the newest partition of a table with a row in it begins; None without any row."""
    for start in reversed(starts):
        name = sql.Identifier(partitions.name_of(table, start))
        if connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(name)).fetchone() == (True,):
            return start
    return None


def _drop(connection: Connection, table: str, start: date) -> bool:
    timer = threading.Timer(_PATIENCE_S, connection.cancel_safe)
    timer.start()
    try:
        # First the mark, then the rows: killed between the two, the next run drops what is left. And once more: a fill
        # that came between the two has opened the day.
        _archive(connection, table, start)
        partitions.drop(connection, table, start)
        _archive(connection, table, start)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        _log.warning("%s is in use: dropped another time", partitions.name_of(table, start))
        return False
    finally:
        timer.cancel()
    _log.info("dropped %s", partitions.name_of(table, start))
    return True


def _archive(connection: Connection, table: str, day: date) -> None:
    if table == "raw_trades":
        connection.execute(
            "UPDATE trade_ledger SET archived = true, covered = covered + retired, retired = '{}'"
            " WHERE day = %s AND NOT archived",
            [day],
        )
