"""The ledger of ids: which fills of a symbol we have, and which the exchange itself does not have.

One row per symbol and UTC day of the trade's own time. It is what decides that a fill is new, and it changes in the
transaction of the rows, while the symbol's row in `symbols` is locked. Ids near midnight may lie in either day, hence
sets of ranges and not bounds.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from psycopg.types.multirange import Int8Multirange

from okxcli.core.model import Absent, StandardizedTrade
from okxcli.storage.ledger.checksum import checksum
from okxcli.storage.rows import row_format
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.schema.partitions import DAY_MS, start_of
from okxcli.storage.server.pooled_connection import Connection

#: Ranges of ids, both ends included, lowest first, apart from each other.
Ranges = list[tuple[int, int]]
#: Exchange and symbol.
Key = tuple[str, str]
#: Checksums of fills by symbol and UTC day (a number since 1970).
Sums = dict[tuple[Key, int], Decimal]


def ranges_of(ids: Sequence[int]) -> Ranges:
    """Return strictly rising ids as ranges."""
    if not ids:
        return []
    if ids[-1] - ids[0] + 1 == len(ids):
        return [(ids[0], ids[-1])]
    found: Ranges = []
    first = last = ids[0]
    for number in ids[1:]:
        if number != last + 1:
            found.append((first, last))
            first = number
        last = number
    found.append((first, last))
    return found


def union(parts: Iterable[tuple[int, int]]) -> Ranges:
    """Return ranges in any order, overlapping or touching, as ranges apart from each other."""
    found: Ranges = []
    for first, last in sorted(parts):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def subtract(ranges: Ranges, minus: Iterable[tuple[int, int]]) -> Ranges:
    """Return what of `ranges` (apart, lowest first) is not in `minus`; both are gone through once."""
    cuts = union(minus)
    found: Ranges = []
    at = 0
    for first, last in ranges:
        start = first
        while at < len(cuts) and cuts[at][1] < start:
            at += 1
        here = at
        while here < len(cuts) and cuts[here][0] <= last:
            if cuts[here][0] > start:
                found.append((start, cuts[here][0] - 1))
            start = cuts[here][1] + 1
            here += 1
        if start <= last:
            found.append((start, last))
    return found


def common(ranges: Ranges, others: Iterable[tuple[int, int]]) -> Ranges:
    """Return what of `ranges` (apart, lowest first) is in `others` as well."""
    return subtract(ranges, subtract(ranges, others))


def size(ranges: Iterable[tuple[int, int]]) -> int:
    """Return how many ids are in ranges."""
    return sum(last - first + 1 for first, last in ranges)


def holds(ranges: Ranges, number: int) -> bool:
    """Whether one of the ranges (apart, lowest first) holds `number`."""
    at = bisect_right(ranges, (number, 2**63)) - 1
    return at >= 0 and number <= ranges[at][1]


def written(ranges: Ranges) -> str:
    """Return ranges in Postgres' spelling of a multirange."""
    return "{" + ",".join(f"[{first},{last}]" for first, last in ranges) + "}"


def read(multirange: Int8Multirange) -> Ranges:
    """Return a multirange of Postgres as ranges; its upper ends are exclusive."""
    return [(part.lower, part.upper - 1) for part in multirange if part.lower is not None and part.upper is not None]


@dataclass(frozen=True)
class Known:
    """Ids that the ledger already has, and the time between the first and the last fill of their days.

    `live` are those of each UTC day (a number since 1970) whose rows should be there: it is not archived.
    """

    ids: Ranges
    first_time: datetime
    last_time: datetime
    live: dict[int, Ranges]

    def lacks(self, number: int, day: int) -> bool:
        """Whether a known id of that day should have a row."""
        return holds(self.live.get(day, []), number)

    def archived(self, number: int) -> bool:
        """Whether a known id has no row because retention dropped it."""
        return not any(holds(ids, number) for ids in self.live.values())


def lock(connection: Connection, keys: Sequence[Key]) -> int:
    """Lock these symbols until the transaction ends, in an order that all writers share; return how many there are."""
    rows = connection.execute(
        "SELECT 1 FROM symbols WHERE epoch = 0 AND (exchange, symbol) IN"
        " (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY exchange, symbol, epoch FOR UPDATE",
        row_format.columns(sorted(keys)),
    )
    return len(rows.fetchall())


def introduce(connection: Connection, keys: Sequence[Key]) -> None:
    """Give symbols that may be new their row to lock."""
    connection.execute(
        "INSERT INTO symbols (exchange, symbol) SELECT * FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING",
        row_format.columns(sorted(keys)),
    )


@contextmanager
def locked(connection: Connection, key: Key, force_rollback: bool = False) -> Iterator[None]:
    """Hold the lock of a symbol, which may be new, over a `with` block that is a transaction."""
    with connection.transaction(force_rollback=force_rollback):
        introduce(connection, [key])
        lock(connection, [key])
        yield


def known(connection: Connection, wanted: dict[Key, Ranges]) -> dict[Key, Known]:
    """Return which of the wanted ids are covered, for the symbols that have any: one multirange test a symbol."""
    keys = list(wanted)
    if not keys:
        return {}
    rows = connection.execute(
        """
        WITH batch AS MATERIALIZED (
            SELECT exchange, symbol, ids::int8multirange AS ids, n
            FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS g (exchange, symbol, ids, n)
        )
        SELECT b.n, l.covered * b.ids, l.first_time, l.last_time,
            CASE WHEN NOT l.archived THEN (l.day - date '1970-01-01')::bigint END
        FROM batch b JOIN trade_ledger l ON l.exchange = b.exchange AND l.symbol = b.symbol AND l.epoch = 0
        WHERE l.first_id < upper(b.ids) AND l.last_id >= lower(b.ids) AND l.covered && b.ids
        """,
        row_format.columns([(*key, written(wanted[key])) for key in keys]),
    ).fetchall()
    found: dict[Key, Known] = {}
    for number, ids, first, last, day in rows:
        key = keys[number - 1]
        before = found.get(key, Known([], first, last, {}))
        live = before.live | ({day: read(ids)} if day is not None else {})
        every = union(before.ids + read(ids))
        found[key] = Known(every, min(before.first_time, first), max(before.last_time, last), live)
    return found


def cover(connection: Connection, new: dict[Key, list[StandardizedTrade]], sums: Sums) -> None:
    """Add fills to the ledger. `new` has each symbol's by rising id; none may be covered yet.

    `sums` has the checksums that are known already.
    """
    days = [
        Covered(
            key,
            day,
            ranges_of([t.trade_id for t in part]),
            min(t.timestamp for t in part),
            max(t.timestamp for t in part),
            sums[key, day] if (key, day) in sums else checksum(part),
        )
        for key, trades in new.items()
        for day, part in by_day(trades)
    ]
    if days:
        cover_days(connection, days)


class Covered(NamedTuple):
    """Ids of one symbol whose fills lie in one UTC day (a number since 1970), and their first and last time (ms).

    Without a `checksum` the day has none until its next audit.
    """

    key: Key
    day: int
    ids: Ranges
    first_ms: int
    last_ms: int
    checksum: Decimal | None = None


def cover_days(connection: Connection, days: Sequence[Covered]) -> None:
    """Add ids to the ledger, at least one day's; none may be covered yet.

    A day whose rows retention dropped is open again with its first new one; the ids that it had are `retired` then.
    """
    rows = [
        (
            *one.key,
            str(start_of("raw_trades", one.day * DAY_MS)),
            written(one.ids),
            one.ids[0][0],
            one.ids[-1][1],
            stamp(one.first_ms),
            stamp(one.last_ms),
            None if one.checksum is None else size(one.ids),
            one.checksum,
        )
        for one in days
    ]
    columns = row_format.columns(rows)
    connection.execute(
        """
        INSERT INTO trade_ledger AS l
            (exchange, symbol, day, covered, first_id, last_id, first_time, last_time, fills, checksum)
        SELECT exchange, symbol, day::date, ids::int8multirange, first_id, last_id,
            first_time::timestamptz, last_time::timestamptz, fills, checksum
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::int8[], %s::int8[], %s::text[], %s::text[],
            %s::int8[], %s::numeric[])
            AS n (exchange, symbol, day, ids, first_id, last_id, first_time, last_time, fills, checksum)
        ON CONFLICT (exchange, symbol, epoch, day) DO UPDATE SET
            covered = CASE WHEN l.archived THEN '{}' ELSE l.covered END + excluded.covered,
            retired = CASE WHEN l.archived THEN l.covered + l.retired ELSE l.retired END - excluded.covered,
            archived = false,
            first_id = least(l.first_id, excluded.first_id),
            last_id = greatest(l.last_id, excluded.last_id),
            first_time = least(l.first_time, excluded.first_time),
            last_time = greatest(l.last_time, excluded.last_time),
            fills = CASE WHEN l.archived THEN 0 ELSE l.fills END + excluded.fills,
            checksum = CASE WHEN l.archived THEN 0 ELSE l.checksum END + excluded.checksum
        """,
        columns,
    )
    # A fill that turns up after all is no longer absent, on whatever day it was noted.
    connection.execute(
        """
        UPDATE trade_ledger l SET absent = l.absent - n.ids::int8multirange
        FROM unnest(%s::text[], %s::text[], %s::text[]) AS n (exchange, symbol, ids)
        WHERE l.exchange = n.exchange AND l.symbol = n.symbol AND l.epoch = 0
            AND NOT isempty(l.absent) AND l.absent && n.ids::int8multirange
        """,
        [columns[0], columns[1], columns[3]],
    )


def by_day(trades: list[StandardizedTrade]) -> list[tuple[int, list[StandardizedTrade]]]:
    """Return trades by UTC day, in their order."""
    times = [trade.timestamp for trade in trades]
    first, last = min(times), max(times)
    if first // DAY_MS == last // DAY_MS:
        return [(first // DAY_MS, trades)]
    days: dict[int, list[StandardizedTrade]] = {}
    for trade in trades:
        days.setdefault(trade.timestamp // DAY_MS, []).append(trade)
    return list(days.items())


def note_absent(connection: Connection, absent: Absent, now_ms: int) -> int:
    """Note ids that the exchange does not have, as far as they are not known; return how many were new.

    They belong to the day of the fill before them (after them, if none is before); with no fill at all, to today.
    """
    rows = connection.execute(
        "SELECT day, first_id, covered + retired, absent FROM trade_ledger WHERE exchange = %s AND symbol = %s"
        " AND epoch = 0 ORDER BY first_id NULLS LAST, day",
        [absent.exchange, absent.symbol],
    ).fetchall()
    new: Ranges = [(absent.first, absent.last)]
    home = start_of("raw_trades", now_ms)
    with_fills = [row for row in rows if row[1] is not None]
    if with_fills:
        before = [row for row in with_fills if row[1] <= absent.first]
        home = (before[-1] if before else with_fills[0])[0]
    for _, _, covered, noted in rows:
        new = subtract(new, read(covered) + read(noted))
    if new:
        connection.execute(
            "INSERT INTO trade_ledger AS l (exchange, symbol, day, absent) VALUES (%s, %s, %s, %s::int8multirange)"
            " ON CONFLICT (exchange, symbol, epoch, day) DO UPDATE SET absent = l.absent + excluded.absent",
            [absent.exchange, absent.symbol, home, written(new)],
        )
    return size(new)


def step_of(connection: Connection, exchange: str, symbol: str) -> int:
    """Return how far time was seen to step back from one fill of a symbol to one with a higher id (ms)."""
    row = connection.execute(
        "SELECT step FROM symbols WHERE exchange = %s AND symbol = %s AND epoch = 0", [exchange, symbol]
    ).fetchone()
    return 0 if row is None else int(row[0])


def note_step(connection: Connection, key: Key, step: int) -> None:
    """Keep the largest step back of a symbol (ms). It must be locked."""
    if step > 0:
        connection.execute(
            "UPDATE symbols SET step = %s WHERE exchange = %s AND symbol = %s AND epoch = 0 AND step < %s",
            [step, *key, step],
        )


def newest(connection: Connection, exchange: str, symbol: str) -> tuple[int, int] | None:
    """Return the highest covered id of a symbol and the newest time (ms) of its day; None without any fill."""
    row = connection.execute(
        "SELECT last_id, last_time FROM trade_ledger WHERE exchange = %s AND symbol = %s AND epoch = 0"
        " AND last_id IS NOT NULL ORDER BY last_id DESC LIMIT 1",
        [exchange, symbol],
    ).fetchone()
    if row is None:
        return None
    return int(row[0]), (row[1] - datetime.fromtimestamp(0, row[1].tzinfo)) // timedelta(milliseconds=1)


class Retired(NamedTuple):
    """A day of whose fills retention dropped the rows: those ids, and the ends of the times of the day."""

    day: date
    ids: Ranges
    first_time: datetime
    last_time: datetime


def unarchive(connection: Connection, exchange: str, symbol: str, since_ms: int, until_ms: int) -> list[Retired]:
    """Forget the fills of the days in a span whose rows retention dropped; return what was known of them.

    What has come for such a day since stays. The symbol is locked.
    """
    rows = connection.execute(
        "UPDATE trade_ledger l SET archived = false, retired = '{}', covered = l.covered - old.gone,"
        " fills = CASE WHEN NOT archived THEN fills ELSE 0 END,"
        " checksum = CASE WHEN NOT archived THEN checksum ELSE 0 END,"
        " first_id = CASE WHEN NOT archived THEN first_id END, last_id = CASE WHEN NOT archived THEN last_id END,"
        " first_time = CASE WHEN NOT archived THEN l.first_time END,"
        " last_time = CASE WHEN NOT archived THEN l.last_time END FROM (SELECT day AS that, first_time, last_time,"
        " CASE WHEN archived THEN covered ELSE retired END AS gone FROM trade_ledger"
        " WHERE exchange = %(e)s AND symbol = %(s)s AND epoch = 0 AND day BETWEEN %(since)s AND %(until)s) AS old"
        " WHERE l.exchange = %(e)s AND l.symbol = %(s)s AND l.epoch = 0 AND l.day = old.that AND NOT isempty(old.gone)"
        " RETURNING l.day, old.gone, old.first_time, old.last_time",
        {
            "e": exchange,
            "s": symbol,
            "since": start_of("raw_trades", since_ms),
            "until": start_of("raw_trades", until_ms - 1),
        },
    )
    return [Retired(day, read(gone), first, last) for day, gone, first, last in rows]


def archive(connection: Connection, exchange: str, symbol: str, retired: Retired) -> None:
    """Take back what `unarchive` did, as far as the fills of a day have not come again. The symbol is locked."""
    connection.execute(
        "UPDATE trade_ledger SET archived = isempty(covered),"
        " covered = CASE WHEN isempty(covered) THEN %(ids)s::int8multirange ELSE covered END,"
        " retired = CASE WHEN isempty(covered) THEN '{}' ELSE retired + %(ids)s::int8multirange - covered END,"
        " first_id = least(first_id, %(first)s), last_id = greatest(last_id, %(last)s),"
        " first_time = least(first_time, %(since)s), last_time = greatest(last_time, %(until)s)"
        " WHERE exchange = %(e)s AND symbol = %(s)s AND epoch = 0 AND day = %(day)s",
        {
            "ids": written(retired.ids),
            "first": retired.ids[0][0],
            "last": retired.ids[-1][1],
            "since": retired.first_time,
            "until": retired.last_time,
            "e": exchange,
            "s": symbol,
            "day": retired.day,
        },
    )
