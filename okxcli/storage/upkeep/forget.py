"""Ids taken out of the tape by name: rows, what the ledger says of them, and the bars that they were in.

What is taken out goes to the quarantine, from where it can be stored again. Ids between others are missing then, and
fetched by the next backfill, unless they are given up for good.
"""

from dataclasses import dataclass

from psycopg import sql

from okxcli.core.model import Absent, StandardizedTrade
from okxcli.errors import UsageError
from okxcli.storage.candles.rebuild import largest_part, rebuild
from okxcli.storage.ledger import id_ledger, time_steps, unsettled
from okxcli.storage.ledger.checksum import checksum
from okxcli.storage.ledger.id_ledger import Key, Ranges
from okxcli.storage.ledger.proof import Proof, count_within
from okxcli.storage.ledger.unsettled import Doubt
from okxcli.storage.rows.candle_table import stored_frames
from okxcli.storage.rows.outcome import TAKEN_OUT, Refused, quarantine
from okxcli.storage.rows.row_format import fields_of, stamp
from okxcli.storage.schema.partitions import DAY_MS, start_of
from okxcli.storage.server.pooled_connection import Connection

#: Rows taken out at a time: each is a line in the quarantine.
MOST = 100_000
_REASON = TAKEN_OUT + "forgotten"
_ROWS = sql.SQL(
    "DELETE FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id BETWEEN %s AND %s"
    " RETURNING {}"
).format(fields_of(StandardizedTrade))


@dataclass(frozen=True)
class Forgotten:
    """How many rows, ids of the ledger that had none, absent ids and ids given up there were; and bars made again."""

    fills: int
    lost: int
    absent: int
    given_up: int
    candles: int


def forget(
    connection: Connection,
    exchange: str,
    symbol: str,
    first: int,
    last: int,
    *,
    absent_only: bool = False,
    for_good: bool = False,
    done: bool = True,
) -> Forgotten:
    """Forget what is stored of the ids `first .. last`, of absent ones alone with `absent_only`; return what there was.

    With `for_good` those that lie between others are not missed either; without it, what was given up before is missed
    again. Unless `done`, nothing is changed.

    Raises:
        UsageError: they are more rows than are taken out at once.
    """
    key = (exchange, symbol)
    ids: Ranges = [(first, last)]
    with id_ledger.locked(connection, key, force_rollback=not done):
        before = Proof.load(connection, *key)
        low, high = before.below(first), before.above(last)
        times = before.times(connection, [n for n in (low, high) if n is not None])
        rows = [] if absent_only else _take_out(connection, key, first, last)
        gone = [] if absent_only else ids
        had = sum(count_within(ranges, first, last) for ranges in (before.covered, before.ahead))
        absent = [(max(a, first), min(b, last)) for a, b in before.absent if a <= last and b >= first]
        _adjust(connection, key, ids, gone, rows)
        quarantine(connection, [Refused(Absent(*key, a, b), _REASON) for a, b in absent], {})
        after = Proof.load(connection, *key)
        open_ids = id_ledger.subtract(ids, after.known) if not absent_only else absent
        held = unsettled.without(unsettled.load(connection, *key), open_ids)
        lost = [part for part in open_ids if low is not None and high is not None] if for_good else []
        held += [Doubt(a, b, forgotten=True) for a, b in lost]
        unsettled.save(connection, *key, sorted(held, key=lambda one: one.first))
        moments = [row.timestamp for row in rows]
        edges = (times.get(low or 0), times.get(high or 0))
        candles = _doubt_bars(connection, key, ids, edges, moments)
        if rows and before.step:  # one of them may have shown it
            time_steps.measure(connection, key)
    if done:
        _make_bars(connection, key, moments)
    return Forgotten(
        len(rows),
        0 if absent_only else had - len(rows),
        id_ledger.size(absent),
        id_ledger.size(lost),
        candles,
    )


def _take_out(connection: Connection, key: Key, first: int, last: int) -> list[StandardizedTrade]:
    """Move rows to the quarantine."""
    found = connection.execute(_ROWS, [*key, first, last], binary=True).fetchmany(MOST + 1)
    if len(found) > MOST:
        raise UsageError(f"those are more than {MOST:,} fills: forget them in parts")
    rows = [StandardizedTrade(*row) for row in found]
    quarantine(connection, [Refused(row, _REASON) for row in rows], {})
    return rows


def _adjust(connection: Connection, key: Key, ids: Ranges, gone: Ranges, rows: list[StandardizedTrade]) -> None:
    """Take ids out of the ledger: of the absent ones `ids`, of the others `gone`, whose rows were `rows`."""
    connection.execute(
        "UPDATE trade_ledger SET absent = absent - %(ids)s::int8multirange,"
        " covered = covered - %(gone)s::int8multirange, retired = retired - %(gone)s::int8multirange"
        " WHERE exchange = %(e)s AND symbol = %(s)s AND epoch = 0 AND (absent && %(ids)s::int8multirange"
        " OR covered && %(gone)s::int8multirange OR retired && %(gone)s::int8multirange)",
        {"ids": id_ledger.written(ids), "gone": id_ledger.written(gone), "e": key[0], "s": key[1]},
    )
    for day in sorted({row.timestamp // DAY_MS for row in rows}):
        some = [row for row in rows if row.timestamp // DAY_MS == day]
        span = [stamp(day * DAY_MS), stamp((day + 1) * DAY_MS)]
        connection.execute(
            "UPDATE trade_ledger l SET fills = fills - %s, checksum = checksum - %s,"
            " (first_time, last_time) = (SELECT min(timestamp), max(timestamp) FROM raw_trades t WHERE t.exchange ="
            " l.exchange AND t.symbol = l.symbol AND t.epoch = 0 AND t.timestamp >= %s::timestamptz"
            " AND t.timestamp < %s::timestamptz) WHERE exchange = %s AND symbol = %s AND epoch = 0 AND day = %s",
            [len(some), checksum(some), *span, *key, start_of("raw_trades", day * DAY_MS)],
        )
    connection.execute(
        "UPDATE trade_ledger SET first_id = CASE WHEN NOT isempty(covered + retired) THEN lower(covered + retired) END,"
        " last_id = CASE WHEN NOT isempty(covered + retired) THEN upper(covered + retired) - 1 END,"
        " first_time = CASE WHEN NOT isempty(covered + retired) THEN first_time END,"
        " last_time = CASE WHEN NOT isempty(covered + retired) THEN last_time END"
        " WHERE exchange = %s AND symbol = %s AND epoch = 0",
        key,
    )
    connection.execute(
        "DELETE FROM trade_ledger l WHERE exchange = %s AND symbol = %s AND epoch = 0"
        " AND isempty(covered + retired + absent) AND EXISTS (SELECT FROM trade_ledger o WHERE o.exchange = l.exchange"
        " AND o.symbol = l.symbol AND o.epoch = 0 AND o.day <> l.day)",
        key,
    )


def _doubt_bars(
    connection: Connection, key: Key, ids: Ranges, edges: tuple[int | None, int | None], moments: list[int]
) -> int:
    """Note that the bars with or beside these ids are not complete; return how many there are.

    Those of the `moments` of rows that were taken out hold nothing any more: what is made of the rest is better.
    """
    since, until = edges
    low = min([one for one in (since, *moments) if one is not None], default=None)
    high = max([one for one in (until, *moments) if one is not None], default=None)
    span = {
        "e": key[0],
        "s": key[1],
        "first": ids[0][0] - 1,
        "last": ids[-1][1] + 1,
        "low": None if low is None else stamp(low),
        "high": None if high is None or until is None else stamp(high),
        "moments": [stamp(one) for one in sorted(set(moments))],
    }
    changed = connection.execute(
        "UPDATE market_data m SET complete = false, trade_count = CASE WHEN EXISTS (SELECT"
        " FROM unnest(%(moments)s::text[]::timestamptz[]) AS t (at) WHERE m.start <= t.at AND t.at < m.timestamp)"
        " AND NOT EXISTS (SELECT FROM trade_ledger l WHERE l.exchange = m.exchange AND l.symbol = m.symbol"
        " AND l.epoch = 0 AND l.archived AND l.day BETWEEN (m.start AT TIME ZONE 'UTC')::date"
        " AND (m.timestamp AT TIME ZONE 'UTC')::date) THEN 0 ELSE trade_count END"
        " WHERE exchange = %(e)s AND symbol = %(s)s AND origin = 'trades' AND first_trade_id <= %(last)s"
        " AND last_trade_id >= %(first)s AND (%(low)s::timestamptz IS NULL OR timestamp > %(low)s::timestamptz)"
        " AND (%(high)s::timestamptz IS NULL OR start <= %(high)s::timestamptz)",
        span,
    )
    return changed.rowcount


def _make_bars(connection: Connection, key: Key, moments: list[int]) -> None:
    """Make the bars again in which rows were taken out; those in which nothing is left are no bars, nor any after the
    newest fill.
    """
    frames = stored_frames(connection, key) if moments else ()
    for at, frame in enumerate(frames):
        starts = sorted({frame.start_of(moment) for moment in moments})
        source = largest_part(frame, frames[:at])
        rebuild(connection, *key, frame, starts, source=source, force=True)
        newest = Proof.load(connection, *key).last_time
        connection.execute(
            "DELETE FROM market_data WHERE exchange = %s AND symbol = %s AND origin = 'trades' AND timeframe = %s"
            " AND (trade_count = 0 AND first_trade_id IS NOT NULL AND start = ANY(%s::text[]::timestamptz[])"
            " OR start > %s::timestamptz)",
            [*key, frame.name, [stamp(one) for one in starts], None if newest is None else stamp(newest)],
        )
