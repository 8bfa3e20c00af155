"""Tries in a thread of its own whether a database that is away takes writes again: a try may hang for seconds."""

import logging
import threading
from collections.abc import Callable

import psycopg
from psycopg import sql

from okxcli.core.states import STATES
from okxcli.errors import BUGS, ConfigError, OkxError
from okxcli.storage.database import Database
from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

# A writer's own lock on every table it may write to; their partitions are not asked, there may be thousands.
_TABLES = (
    "symbols", "trade_ledger", "raw_trades", "merged_trades", "market_data", "order_books", "instruments",
    *(one.table for one in STATES),
)  # fmt: skip
_TRY_LOCKS = sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(
    sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(table)) for table in _TABLES)
)


class Probe:
    """Looks for one database at a time, from `begin` until `found`. `connect` gives a new connection to it."""

    def __init__(self, database: Database, connect: Callable[[], Connection]) -> None:
        self._database = database
        self._connect = connect
        self._stopped = threading.Event()
        self._end: Connection | ConfigError | None = None

    def begin(self, pause_s: float) -> None:
        """Try every so many seconds."""
        self._end = None
        threading.Thread(target=self._run, args=(pause_s,), name="okx reach database", daemon=True).start()

    @property
    def found(self) -> bool:
        """Whether the search has ended: `result` tells how."""
        return self._end is not None

    def result(self) -> None:
        """Raise ConfigError if the database is there, and is not the one that we are for."""
        if isinstance(self._end, ConfigError):
            raise self._end

    def take(self) -> Connection | None:
        """Return the connection that was made, once; the caller closes it."""
        end, self._end = self._end, None
        return end if isinstance(end, Connection) else None

    def stop(self) -> None:
        self._stopped.set()
        connection = self.take()
        if connection is not None:
            connection.close()

    def _run(self, pause_s: float) -> None:
        while not self._stopped.wait(pause_s):
            try:
                self._database.revive()
                connection = self._connect()
            except ConfigError as error:
                self._end = error
                return
            except (OkxError, OSError, psycopg.Error) as error:
                _log.debug("still away: %s", error)
                continue
            except BUGS:  # whatever it is, the next try may do
                _log.exception("a bug of okx")
                continue
            if _takes_writes(connection) and not self._stopped.is_set():
                self._end = connection
                return
            connection.close()


def _takes_writes(connection: Connection) -> bool:
    """Whether the database is neither a standby nor read-only, and nobody holds one of the tables locked for long."""
    try:
        with connection.transaction():
            row = connection.execute(
                "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
            ).fetchone()
            if row is None or row[0]:
                return False
            connection.execute(_TRY_LOCKS)
    except psycopg.Error as error:
        _log.debug("it is there, but takes nothing: %s", error)
        return False
    return True
