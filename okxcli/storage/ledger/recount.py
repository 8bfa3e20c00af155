"""The ledger against the rows: whether what it says is there is there, once, and as it was; and mending it.

Rows are counted in the database, a day at a time. Days whose rows retention dropped are left alone.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from psycopg import sql

from okxcli.core.codec import encode
from okxcli.core.model import StandardizedTrade
from okxcli.storage.ledger import id_ledger, time_steps, unsettled
from okxcli.storage.ledger.checksum import SUM
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.rows import reader
from okxcli.storage.rows.outcome import Refused, quarantine
from okxcli.storage.rows.row_format import fields_of, stamp
from okxcli.storage.schema import partitions
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection

#: lost: in the ledger, and no row. uncounted: a row that the ledger does not have. misplaced: under another day than
#: that of the row. twice: more than one row. altered: one of the rows of these ids is not what was stored.
Kind = Literal["lost", "uncounted", "misplaced", "twice", "altered"]

#: The starts (ms) of UTC days; None: of all.
Days = Collection[int] | None


@dataclass(frozen=True)
class Difference:
    """Ids of which ledger and rows do not say the same."""

    kind: Kind
    first: int
    last: int

    @property
    def count(self) -> int:
        """How many ids they are."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Rows:
    """The rows of a UTC day: their ids, those of them that have several rows, the first and the last time (ms)."""

    day: int
    ids: Ranges
    twice: list[int]
    first_time: int
    last_time: int
    checksum: Decimal


def recount(connection: Connection, exchange: str, symbol: str, days: Days = None) -> list[Difference]:
    """Return where the ledger of a symbol and its rows differ, by kind and rising id; nothing is changed.

    `days` are the starts (ms) of those to look at, None: all.
    """
    with reader.snapshot(connection):
        return compare(connection, Proof.load(connection, exchange, symbol), days)


def repair(connection: Connection, exchange: str, symbol: str, days: Days = None) -> list[Difference]:
    """Make the ledger of a symbol say what the rows say; return what differed.

    Ids that are lost are remembered as missing, so that `okx backfill` fetches them, wherever they lie. Of an id with
    several rows the one received first stays, as it would have if the ledger had been right; the others go to the
    quarantine. How far time steps back is measured anew, of all days.
    """
    with id_ledger.locked(connection, (exchange, symbol)):
        proof = Proof.load(connection, exchange, symbol)
        found = compare(connection, proof, days)
        twice = [number for one in found if one.kind == "twice" for number in range(one.first, one.last + 1)]
        if twice:
            _keep_first(connection, exchange, symbol, twice)
        if found:
            _rewrite(connection, proof, list(_counted(connection, exchange, symbol, days)), days)
        if days is None:
            time_steps.measure(connection, (exchange, symbol))
        unsettled.want(connection, exchange, symbol, [(one.first, one.last) for one in found if one.kind == "lost"])
    return found


def _counted(connection: Connection, exchange: str, symbol: str, days: Days) -> Iterator[Rows]:
    """Yield the days that have rows. Those of a partition that is being dropped do not count."""
    for start in partitions.existing(connection, "raw_trades"):
        day = partitions.ms_of(start)
        if days is not None and day not in days:
            continue
        values = [exchange, symbol, stamp(day), stamp(day + DAY_MS)]
        row = connection.execute(_COUNT, values).fetchone()
        if row is None or row[0] is None:
            continue
        ids = id_ledger.read(row[0])
        again = connection.execute(_AGAIN, values) if row[1] > id_ledger.size(ids) else ()
        twice = [number for (number,) in again]
        yield Rows(day, ids, twice, row[2], row[3], row[4])


_OF_DAY = sql.SQL(
    "FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0"
    " AND timestamp >= %s::timestamptz AND timestamp < %s::timestamptz"
)
_COUNT = sql.SQL(
    "SELECT range_agg(int8range(trade_id - count + 1, trade_id, '[]')), sum(count)::bigint,"
    " (extract(epoch FROM min(timestamp)) * 1000)::bigint, (extract(epoch FROM max(timestamp)) * 1000)::bigint, {} {}"
).format(SUM, _OF_DAY)
_AGAIN = sql.SQL("SELECT trade_id {} GROUP BY 1 HAVING count(*) > 1 ORDER BY 1").format(_OF_DAY)


def compare(
    connection: Connection, proof: Proof, days: Days = None, rows: list[Rows] | None = None
) -> list[Difference]:
    """Return where ledger and rows differ, as of the snapshot or the lock of the caller's transaction.

    What was counted is added to `rows`.
    """
    counted = list(_counted(connection, proof.exchange, proof.symbol, days))
    if rows is not None:
        rows += counted
    every = {day.start: id_ledger.union([*day.covered, *day.ahead]) for day in proof.days if not day.archived}
    live = {start: ids for start, ids in every.items() if days is None or start in days}
    gone = id_ledger.union([*proof.retired, *(part for day in proof.days if day.archived for part in day.covered)])
    covered = id_ledger.union(part for day in live.values() for part in day)
    elsewhere = id_ledger.union(part for start, day in every.items() if start not in live for part in day)
    there = id_ledger.union(part for one in counted for part in one.ids)
    uncounted = id_ledger.subtract(id_ledger.subtract(there, covered), [*gone, *elsewhere])
    moved = id_ledger.union(
        part
        for one in counted
        for part in id_ledger.subtract(id_ledger.subtract(one.ids, live.get(one.day, [])), [*uncounted, *gone])
    )
    twice = id_ledger.ranges_of(_twice(counted))
    sums = _sums(connection, proof)
    altered = [
        (one.ids[0][0], one.ids[-1][1])
        for one in counted
        if one.ids == live.get(one.day) and not one.twice and one.checksum != sums.get(one.day, one.checksum)
    ]
    kinds: list[tuple[Kind, Ranges]] = [
        ("lost", id_ledger.subtract(covered, there)),
        ("uncounted", uncounted),
        ("misplaced", id_ledger.subtract(moved, twice)),
        ("twice", twice),
        ("altered", altered),
    ]
    return [Difference(kind, first, last) for kind, ranges in kinds for first, last in ranges]


def _sums(connection: Connection, proof: Proof) -> dict[int, Decimal]:
    """Return the checksum that the fills of each day have by the ledger, as far as it is known; by start (ms)."""
    rows = connection.execute(
        "SELECT (day - date '1970-01-01')::bigint, checksum FROM trade_ledger WHERE exchange = %s AND symbol = %s"
        " AND epoch = 0 AND checksum IS NOT NULL",
        [proof.exchange, proof.symbol],
    )
    return {day * DAY_MS: checksum for day, checksum in rows}


def _twice(counted: list[Rows]) -> list[int]:
    """Return the ids with several rows, of one day or of several, rising."""
    found = {number for one in counted for number in one.twice}
    seen: Ranges = []
    for one in counted:
        for first, last in id_ledger.common(seen, one.ids):
            found.update(range(first, last + 1))
        seen = id_ledger.union([*seen, *one.ids])
    return sorted(found)


def _keep_first(connection: Connection, exchange: str, symbol: str, numbers: list[int]) -> None:
    """Put all rows of each of these ids but the one received first into the quarantine."""
    query = sql.SQL(
        "SELECT {} FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id = ANY(%s)"
        " ORDER BY trade_id, received NULLS LAST, timestamp"
    ).format(fields_of(StandardizedTrade))
    kept: StandardizedTrade | None = None
    for row in connection.execute(query, [exchange, symbol, numbers], binary=True).fetchall():
        trade = StandardizedTrade(*row)
        if kept is not None and kept.trade_id == trade.trade_id:
            take_out(connection, trade, "id stored twice", kept)
        else:
            kept = trade


def take_out(connection: Connection, row: StandardizedTrade, reason: str, own: StandardizedTrade | None) -> None:
    """Put one row into the quarantine, with the fill that stands in its place, if there is one."""
    quarantine(connection, [Refused(row, reason, None if own is None else encode(own))], {})
    connection.execute(
        "DELETE FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id = %s"
        " AND timestamp = %s::timestamptz",
        [row.exchange, row.symbol, row.trade_id, stamp(row.timestamp)],
    )


def _rewrite(connection: Connection, proof: Proof, counted: list[Rows], days: Days) -> None:
    """Give every day that is not archived the ids of its rows, and their checksum."""
    there = id_ledger.union(part for one in counted for part in one.ids)
    rows = {one.day: one for one in counted}
    archived = {day.start for day in proof.days if day.archived}
    for start in sorted({*rows, *(day.start for day in proof.days if days is None or day.start in days)} - archived):
        one = rows.get(start)
        absent = next((day.absent for day in proof.days if day.start == start), [])
        connection.execute(
            "INSERT INTO trade_ledger (exchange, symbol, day, covered, absent, first_id, last_id, first_time,"
            " last_time, fills, checksum) VALUES (%s, %s, %s, %s::int8multirange, %s::int8multirange, %s, %s,"
            " %s::timestamptz, %s::timestamptz, %s, %s)"
            " ON CONFLICT (exchange, symbol, epoch, day) DO UPDATE SET covered = excluded.covered,"
            " absent = excluded.absent, first_id = excluded.first_id, last_id = excluded.last_id,"
            " first_time = excluded.first_time, last_time = excluded.last_time, fills = excluded.fills,"
            " checksum = excluded.checksum, found = NULL",
            [
                proof.exchange,
                proof.symbol,
                partitions.start_of("raw_trades", start),
                id_ledger.written(one.ids if one else []),
                id_ledger.written(id_ledger.subtract(absent, there)),
                *([one.ids[0][0], one.ids[-1][1]] if one else [None, None]),
                *([stamp(one.first_time), stamp(one.last_time)] if one else [None, None]),
                *([id_ledger.size(one.ids), one.checksum] if one else [0, 0]),
            ],
        )
