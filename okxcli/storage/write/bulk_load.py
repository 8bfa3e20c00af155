"""Whole days of fills into the tape at once: rows that come as COPY's text, and the ledger, in one transaction.

Only where nothing of them is known yet; whoever has fills that may be there already takes the `Writer`, which looks at
each.
"""

from collections.abc import Iterable
from datetime import date

from psycopg import sql

from okxcli.core.model import StandardizedTrade
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.id_ledger import Covered
from okxcli.storage.rows.copying import copy
from okxcli.storage.rows.row_format import columns_of
from okxcli.storage.schema import partitions
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.schema.versions import PARTITION_LOCK
from okxcli.storage.server.pooled_connection import Connection

_TABLE = "raw_trades"
_COLUMNS = columns_of(StandardizedTrade)
_KEY = sql.SQL("(exchange, symbol, epoch, trade_id, timestamp)")


def store_day(connection: Connection, day: Covered, rows: Iterable[str], now_ms: int) -> bool:
    """Store the fills of one symbol and UTC day; False, with nothing changed, if the ledger has any of them.

    `rows` are those of the ids that `day` tells, as COPY takes them, in the order of the columns of a trade.

    Raises:
        psycopg.Error: nothing was stored.
    """
    start = partitions.start_of(_TABLE, day.day * DAY_MS)
    beside = day.day < now_ms // DAY_MS - 1 and start not in partitions.existing(connection, _TABLE)
    if not beside:
        partitions.make(connection, _TABLE, start)
    with connection.transaction():
        id_ledger.introduce(connection, [day.key])
        id_ledger.lock(connection, [day.key])
        if id_ledger.known(connection, {day.key: day.ids}):
            return False
        if beside:
            _new_partition(connection, start, rows)
        else:
            copy(connection, _TABLE, _COLUMNS, rows)
        id_ledger.cover_days(connection, [day])
    return True


def _new_partition(connection: Connection, start: date, rows: Iterable[str]) -> None:
    """Copy rows into a table of their own and make it the partition of a day that has none.

    Its key is built when the rows are in, which takes a third of the time. If somebody else has made the partition
    meanwhile, the rows are moved there.
    """
    name = partitions.name_of(_TABLE, start)
    loading, key, new_key = f"loading_{name}", f"loading_{name}_pkey", f"{name}_pkey"
    parent, part, apart = sql.Identifier(_TABLE), sql.Identifier(name), sql.Identifier(loading)
    partitions.as_owner(connection, _TABLE)
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES)").format(apart, parent))
    copy(connection, loading, _COLUMNS, rows)
    connection.execute(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY {}").format(apart, sql.Identifier(key), _KEY)
    )
    # Whoever makes partitions holds this lock for a moment, and waits for nothing meanwhile: no circle.
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [PARTITION_LOCK])
    if connection.execute("SELECT to_regclass(%s)", [name]).fetchone() != (None,):
        names = sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
        connection.execute(sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(parent, names, names, apart))
        connection.execute(sql.SQL("DROP TABLE {}").format(apart))
        return
    rename = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}")
    connection.execute(rename.format(apart, sql.Identifier(key), sql.Identifier(new_key)))
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(apart, part))
    partitions.attach(connection, _TABLE, start)
