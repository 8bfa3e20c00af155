"""Whole days of fills into the tape at once: rows that come as COPY's text, and the ledger, in one transaction.

Only where nothing of them is known yet; whoever has fills that may be there already takes the `Writer`, which looks at
each.
"""

from collections.abc import Iterable

import psycopg

from okxcli.core.model import StandardizedTrade
from okxcli.storage import ledger
from okxcli.storage.database import Connection
from okxcli.storage.ledger import Covered
from okxcli.storage.partitions import DAY_MS, Partitions
from okxcli.storage.rows import columns_of
from okxcli.storage.staging import copy


def store_day(connection: Connection, day: Covered, rows: Iterable[str], now_ms: int) -> bool:
    """Store the fills of one symbol and UTC day; False, with nothing changed, if the ledger has any of them.

    `rows` are those of the ids that `day` tells, as COPY takes them, in the order of the columns of a trade.

    Raises:
        psycopg.Error: nothing was stored.
    """
    Partitions().ensure(connection, "raw_trades", [day.day], now_ms // DAY_MS)
    with connection.transaction():
        ledger.introduce(connection, [day.key])
        ledger.lock(connection, [day.key])
        if ledger.known(connection, {day.key: day.ids}):
            return False
        copy(connection, "raw_trades", columns_of(StandardizedTrade), rows)
        ledger.cover_days(connection, [day])
    if connection.closed:  # psycopg leaves the block quietly when there is nobody to send the COMMIT to
        raise psycopg.OperationalError("the connection was lost before the commit")
    return True
