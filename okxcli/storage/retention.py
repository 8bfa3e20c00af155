"""Retention: rows older than so many days go, a whole partition at a time; the ledger keeps what it knew."""

import logging
from collections.abc import Mapping
from datetime import date, timedelta

import psycopg

from okxcli.storage import partitions
from okxcli.storage.database import Connection

_log = logging.getLogger(__name__)

#: How long a partition that somebody reads is waited for.
_LOCK_TIMEOUT = "5s"

#: The tables behind each kind of row that a configuration names.
TABLES: Mapping[str, tuple[str, ...]] = {
    "trades": ("raw_trades", "merged_trades"),
    "candles": ("market_data",),
    "books": ("order_books",),
    "tickers": ("tickers",),
}


def apply(connection: Connection, keep_days: Mapping[str, int | None], now_ms: int) -> dict[str, list[date]]:
    """Drop every partition that ended `keep_days` or more whole days ago, and return where the dropped ones began.

    `keep_days` has the days for `trades`, `candles`, `books`, `tickers`; None or a missing kind is kept for ever. The
    days of dropped trades stay in the ledger, marked `archived`, so that nobody fetches them again. A partition that
    somebody holds locked for more than 5 s is left to the next run. Must not be called within a transaction.
    """
    dropped: dict[str, list[date]] = {}
    for kind, tables in TABLES.items():
        days = keep_days.get(kind)
        if days is None:
            continue
        today = partitions.start_of("tickers", now_ms)
        for table in tables:
            gone = dropped.setdefault(table, [])
            for start in partitions.existing(connection, table):
                if partitions.end_of(table, start) <= today - timedelta(days=days) and _drop(connection, table, start):
                    gone.append(start)
    return {table: gone for table, gone in dropped.items() if gone}


def _drop(connection: Connection, table: str, start: date) -> bool:
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
    try:
        if table == "raw_trades":
            # First the mark, then the rows: killed between the two, the next run drops what is left.
            connection.execute("UPDATE trade_ledger SET archived = true WHERE day = %s AND NOT archived", [start])
        partitions.drop(connection, table, start)
    except psycopg.errors.LockNotAvailable:
        _log.warning("%s is in use: dropped another time", partitions.name_of(table, start))
        return False
    finally:
        connection.execute("RESET lock_timeout")
    _log.info("dropped %s", partitions.name_of(table, start))
    return True
