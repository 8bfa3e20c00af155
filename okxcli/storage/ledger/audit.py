"""The rows of the tape against what the ledger says, a day at a time in turn: whether all are there, and unchanged.

A day is read once, in a snapshot of its own, and nobody waits for it. What is found stands with the day in the ledger
until it is mended; a day of which neither count nor checksum is known gets both at its first audit.
"""

import logging
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import LiteralString

import psycopg

from okxcli.storage.ledger import id_ledger, recount
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.rows import reader
from okxcli.storage.schema import partitions
from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

#: A collector takes so many seconds every ten minutes for it, a day at least: a year of ten symbols within some weeks.
BUDGET_S = 5.0


@dataclass(frozen=True)
class Found:
    """A day whose rows are not what the ledger says, and in words what differs."""

    exchange: str
    symbol: str
    day: date
    what: str


_NEXT: LiteralString = (
    "SELECT exchange, symbol, day FROM trade_ledger WHERE epoch = 0 AND NOT archived"
    " AND (%(symbols)s::text[] IS NULL OR symbol = ANY(%(symbols)s))"
    " AND (audited IS NULL OR audited < %(begun)s)"
    " ORDER BY audited NULLS FIRST, day LIMIT 1"
)
# Days that have rows of a symbol, and no ledger.
_UNKNOWN: LiteralString = (
    "SELECT s.exchange, s.symbol, d.day FROM symbols s CROSS JOIN unnest(%s::date[]) AS d (day)"
    " WHERE s.epoch = 0 AND NOT EXISTS (SELECT FROM trade_ledger l WHERE l.exchange = s.exchange"
    " AND l.symbol = s.symbol AND l.epoch = 0 AND l.day = d.day) AND EXISTS (SELECT FROM raw_trades t"
    " WHERE t.exchange = s.exchange AND t.symbol = s.symbol AND t.epoch = 0"
    " AND t.timestamp >= d.day::timestamp AT TIME ZONE 'UTC'"
    " AND t.timestamp < (d.day + 1)::timestamp AT TIME ZONE 'UTC')"
)


def audit(connection: Connection, budget_s: float = BUDGET_S, symbols: Collection[str] | None = None) -> list[Found]:
    """Count days for so many seconds, one at least, those first whose last audit is longest ago; return what was found.

    Of all symbols, or of some; each day once.
    """
    end = time.monotonic() + budget_s
    _note_unknown(connection)
    found: list[Found] = []
    (begun,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    values = {"symbols": None if symbols is None else list(symbols), "begun": begun}
    while (row := connection.execute(_NEXT, values).fetchone()) is not None:
        exchange, symbol, day = row
        what = audit_day(connection, exchange, symbol, day)
        if what is not None:
            found.append(Found(exchange, symbol, day, what))
            _log.warning("%s: the rows of %s are not what the ledger says: %s. Try: okx backfill", symbol, day, what)
        if time.monotonic() > end:
            break
    return found


def _note_unknown(connection: Connection) -> None:
    """Give days that have rows and no ledger an empty one, so that their turn comes."""
    days = partitions.existing(connection, "raw_trades")
    for row in connection.execute(_UNKNOWN, [days]).fetchall():
        connection.execute(
            "INSERT INTO trade_ledger (exchange, symbol, day, fills, checksum) VALUES (%s, %s, %s, 0, 0)"
            " ON CONFLICT DO NOTHING",
            row,
        )


def audit_day(connection: Connection, exchange: str, symbol: str, day: date) -> str | None:
    """Count a day; note and return in words what differs, None for nothing."""
    start = partitions.ms_of(day)
    key = [exchange, symbol, day]
    rows: list[recount.Rows] = []
    try:
        with reader.snapshot(connection):
            proof = Proof.load(connection, exchange, symbol)
            differing = recount.compare(connection, proof, [start], rows)
        ids: Counter[str] = Counter()
        for one in differing:
            ids[one.kind] += one.count
        what = ", ".join(f"{count:,} {kind}" if kind != "altered" else kind for kind, count in ids.items()) or None
    except psycopg.errors.QueryCanceled:
        what = "could not be counted in time"
    connection.execute(
        "UPDATE trade_ledger SET audited = clock_timestamp(), found = %s WHERE exchange = %s AND symbol = %s"
        " AND epoch = 0 AND day = %s AND NOT archived",
        [what, *key],
    )
    if what is None and rows:  # as long as nothing came meanwhile
        connection.execute(
            "UPDATE trade_ledger SET fills = %s, checksum = %s WHERE exchange = %s AND symbol = %s AND epoch = 0"
            " AND day = %s AND checksum IS NULL AND covered = %s::int8multirange",
            [id_ledger.size(rows[0].ids), rows[0].checksum, *key, id_ledger.written(rows[0].ids)],
        )
    return what


def findings(connection: Connection) -> list[Found]:
    """Return the days that were found to differ and are not mended, by symbol and day."""
    rows = connection.execute(
        "SELECT exchange, symbol, day, found FROM trade_ledger WHERE epoch = 0 AND found IS NOT NULL AND NOT archived"
        " ORDER BY 1, 2, 3"
    )
    return [Found(*row) for row in rows]


def found_days(connection: Connection, exchange: str, symbol: str) -> list[int]:
    """Return the starts (ms) of the days of a symbol that were found to differ."""
    return [
        partitions.ms_of(one.day) for one in findings(connection) if (one.exchange, one.symbol) == (exchange, symbol)
    ]


def audited(connection: Connection) -> tuple[int, int]:
    """Return how many days were audited at all, and how many there are."""
    row = connection.execute(
        "SELECT count(audited), count(*) FROM trade_ledger WHERE epoch = 0 AND NOT archived"
    ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))
