"""What fills that come out of order say of what is stored: how far time steps back over ids, and which bars lack them.

Fills that are newer than all others, by id and by time, cost one look at the ledger's newest days.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence

from psycopg import sql

from okxcli.core.candles.series import longest_quiet
from okxcli.core.model import OHLCVCandle, StandardizedTrade
from okxcli.core.tape import Run
from okxcli.core.timeframes import Timeframe
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.id_ledger import Key
from okxcli.storage.rows.candle_table import stored_frames
from okxcli.storage.rows.fill_block import FillRows
from okxcli.storage.rows.row_format import fields_of, stamp
from okxcli.storage.server.pooled_connection import Connection

#: Ids on both sides of a fill among which a step back is looked for.
_NEAR = 10_000
#: Fills further apart than this are looked at as several spans of time.
_APART_MS = 60_000

_NEWEST = """
SELECT k.exchange, k.symbol, max(days.last_id), (extract(epoch FROM max(days.last_time)) * 1000)::bigint
FROM unnest(%s::text[], %s::text[]) AS k (exchange, symbol),
    LATERAL (SELECT last_id, last_time FROM trade_ledger l WHERE l.exchange = k.exchange AND l.symbol = k.symbol
        AND epoch = 0 AND last_id IS NOT NULL ORDER BY day DESC LIMIT 2) AS days
GROUP BY 1, 2
"""
# Of each run of ids: the latest of the fills stored below it, and the earliest of those above it.
_BESIDE = """
SELECT greatest(max(below.ms - r.low), max(r.high - above.ms), 0) FROM
    unnest(%s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::timestamptz[], %s::timestamptz[])
        AS r (first, last, low, high, since, until),
    LATERAL (SELECT (extract(epoch FROM max(timestamp)) * 1000)::bigint AS ms FROM raw_trades WHERE exchange = %s
        AND symbol = %s AND epoch = 0 AND trade_id < r.first AND trade_id >= r.first - %s AND timestamp > r.since
        AND timestamp < r.since + interval '1 day') AS below,
    LATERAL (SELECT (extract(epoch FROM min(timestamp)) * 1000)::bigint AS ms FROM raw_trades WHERE exchange = %s
        AND symbol = %s AND epoch = 0 AND trade_id > r.last AND trade_id <= r.last + %s AND timestamp < r.until
        AND timestamp > r.until - interval '1 day') AS above
"""
_COMPLETE = sql.SQL(
    "SELECT {} FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[]) AS w (name, since, until)"
    " JOIN market_data m ON m.timeframe = w.name AND m.timestamp > w.since AND m.timestamp <= w.until"
    " WHERE m.exchange = %s AND m.symbol = %s AND m.origin = 'trades' AND m.complete"
).format(fields_of(OHLCVCandle, "m"))

_FALSE = (
    "UPDATE market_data m SET complete = false, revision = m.revision + 1, written = now()"
    " FROM unnest(%s::text[], %s::timestamptz[]) AS w (name, stop) WHERE m.exchange = %s AND m.symbol = %s"
    " AND m.origin = 'trades' AND m.timeframe = w.name AND m.timestamp = w.stop"
    " AND m.timestamp BETWEEN %s::timestamptz AND %s::timestamptz"
)
# Flat bars in and after some spans, up to the next bar in which something was traded.
_FLAT = """
UPDATE market_data m SET complete = false, revision = m.revision + 1, written = now()
FROM (SELECT name, since, until, until + length AS most FROM
        unnest(%(n)s::text[], %(a)s::timestamptz[], %(b)s::timestamptz[], %(c)s::interval[])
            AS g (name, since, until, length)) AS w,
    LATERAL (SELECT coalesce((SELECT t.start FROM market_data t WHERE t.exchange = %(e)s AND t.symbol = %(s)s
        AND t.origin = 'trades' AND t.timeframe = w.name AND t.timestamp > w.until AND t.timestamp <= w.most
        AND t.first_trade_id IS NOT NULL ORDER BY t.timestamp LIMIT 1), w.most) AS stop) AS n
WHERE m.exchange = %(e)s AND m.symbol = %(s)s AND m.origin = 'trades' AND m.timeframe = w.name
    AND m.timestamp > w.since AND m.timestamp <= n.stop AND m.first_trade_id IS NULL AND m.complete
"""


def note_fills(connection: Connection, groups: Mapping[Key, Sequence[StandardizedTrade]]) -> None:
    """Take notice of new fills of symbols, by rising id, before the ledger covers them; their rows are there.

    The largest step back of a symbol is kept, and bars that are stored as complete without such a fill are not
    complete any more. The symbols must be locked.
    """
    newest = _newest(connection, groups)
    for key, fills in groups.items():
        _note(connection, key, fills, newest.get(key))


def note_newest(connection: Connection, groups: Mapping[Key, Sequence[FillRows]]) -> bool:
    """Do the same for runs of fills by rising id, if all of them are newer than all others, by id and by time.

    So are the first fills of a symbol, unless there are bars of it already.

    Returns False, with nothing noted, if they are not. The symbols must be locked.
    """
    newest = _newest(connection, groups)
    for key, runs in groups.items():
        before = newest.get(key)
        if before is None:
            if stored_frames(connection, key):  # they lack the first fills of all: which of them is to be looked at
                return False
        elif runs[0].first <= before[0] or min(run.low for run in runs) < before[1]:
            return False
    for key, runs in groups.items():
        high = step = 0
        for run in runs:
            step = max(step, run.step, high - run.low)
            high = max(high, run.high)
        id_ledger.note_step(connection, key, step)
    return True


def _newest(connection: Connection, keys: Collection[Key]) -> dict[Key, tuple[int, int]]:
    """Return the highest id and the newest time (ms) of the newest days of those symbols that have any."""
    if not keys:
        return {}
    rows = connection.execute(_NEWEST, [list(names) for names in zip(*keys, strict=True)])
    return {(exchange, symbol): (int(last), int(ms)) for exchange, symbol, last, ms in rows}


def _note(connection: Connection, key: Key, fills: Sequence[StandardizedTrade], before: tuple[int, int] | None) -> None:
    """Take notice of the fills of a symbol; `before` has the highest id and the newest time (ms) of its newest days."""
    top = 0 if before is None else before[1]
    new = before is None or fills[0].trade_id > before[0]
    high, step = top if new else 0, 0
    for fill in fills:
        if fill.timestamp >= high:
            high = fill.timestamp
        elif high - fill.timestamp > step:
            step = high - fill.timestamp
    if not new:
        step = max(step, _step_beside(connection, key, _runs(fills)))
    id_ledger.note_step(connection, key, step)
    late = [fill for fill in fills if fill.timestamp < top or before is None]
    if late:
        _doubt(connection, key, late)


def note_run(connection: Connection, key: Key, run: Run, step: int) -> None:
    """Take notice of stored fills that follow on each other, between whose times there are steps back of `step` (ms).

    `run` has their first and last time. Bars that do not hold them are not looked at. The symbol must be locked.
    """
    id_ledger.note_step(connection, key, max(step, _step_beside(connection, key, [run])))


def _runs(fills: Sequence[StandardizedTrade]) -> list[Run]:
    """Return fills by rising id as runs of ids, each with the first and the last time."""
    found: list[Run] = []
    for fill in fills:
        at = fill.timestamp
        if found and fill.trade_id == found[-1].last + 1:
            run = found[-1]
            found[-1] = Run(run.first, fill.trade_id, min(run.low, at), max(run.high, at))
        else:
            found.append(Run(fill.trade_id, fill.trade_id, at, at))
    return found


def _step_beside(connection: Connection, key: Key, runs: Sequence[Run]) -> int:
    """Return how far time steps back between runs of fills and those stored below and above them."""
    firsts, lasts, lows, highs, _ = (list(column) for column in zip(*runs, strict=True))
    values = [firsts, lasts, lows, highs, list(map(stamp, lows)), list(map(stamp, highs))]
    row = connection.execute(_BESIDE, [*values, *key, _NEAR, *key, _NEAR]).fetchone()
    return int(row[0]) if row is not None else 0


def measure(connection: Connection, key: Key) -> None:
    """Keep the step back that the stored fills show, and no larger one. The symbol must be locked. Reads every row."""
    connection.execute(
        "UPDATE symbols SET step = (SELECT coalesce(max(before - ms), 0) FROM ("
        " SELECT (extract(epoch FROM timestamp) * 1000)::bigint AS ms, (extract(epoch FROM max(timestamp)"
        " OVER (ORDER BY trade_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) * 1000)::bigint AS before"
        " FROM raw_trades WHERE exchange = %(e)s AND symbol = %(s)s AND epoch = 0) AS t WHERE before > ms)"
        " WHERE exchange = %(e)s AND symbol = %(s)s AND epoch = 0",
        {"e": key[0], "s": key[1]},
    )


def _doubt(connection: Connection, key: Key, fills: Sequence[StandardizedTrade]) -> None:
    """Make those complete bars incomplete that do not hold these fills of theirs."""
    by_time = sorted(fills, key=lambda fill: fill.timestamp)
    times = [fill.timestamp for fill in by_time]
    frames = {frame.name: frame for frame in stored_frames(connection, key)}
    if not frames:
        return
    wanted = [span for frame in frames.values() for span in _spans(frame, times)]
    rows = connection.execute(_COMPLETE, [*map(list, zip(*wanted, strict=True)), *key], binary=True)
    false: list[OHLCVCandle] = []
    held: dict[str, set[int]] = {name: set() for name in frames}
    for bar in (OHLCVCandle(*row) for row in rows):
        inside = by_time[bisect_left(times, bar.start) : bisect_left(times, bar.timestamp)]
        here = [fill.trade_id for fill in inside if _holds(bar, fill)]
        held[bar.timeframe].update(here)
        if len(here) < len(inside):
            false.append(bar)
    if false:
        ends = [stamp(bar.timestamp) for bar in false]
        connection.execute(_FALSE, [[bar.timeframe for bar in false], ends, *key, min(ends), max(ends)])
    _doubt_quiets(connection, key, frames, by_time, held)


def _doubt_quiets(
    connection: Connection,
    key: Key,
    frames: Mapping[str, Timeframe],
    fills: Sequence[StandardizedTrade],
    held: Mapping[str, set[int]],
) -> None:
    """Make the flat bars incomplete in and after the bars of fills that no complete bar has: their price is another."""
    wanted = [
        (*span, f"{longest_quiet(frame)} ms")
        for name, frame in frames.items()
        for span in _spans(frame, [fill.timestamp for fill in fills if fill.trade_id not in held[name]])
    ]
    if wanted:
        columns = dict(zip("nabc", map(list, zip(*wanted, strict=True)), strict=True))
        connection.execute(_FLAT, {"e": key[0], "s": key[1]} | columns)


def _spans(frame: Timeframe, times: Sequence[int]) -> list[tuple[str, str, str]]:
    """Return rising times (ms) as spans: the name of a timeframe, a first time, the end of the bar of a last one."""
    found: list[list[int]] = []
    for at in times:
        if not found or at - found[-1][1] > _APART_MS:
            found.append([at, at])
        found[-1][1] = at
    return [(frame.name, stamp(low), stamp(frame.end_of(frame.start_of(high)))) for low, high in found]


def _holds(bar: OHLCVCandle, fill: StandardizedTrade) -> bool:
    """Whether a bar holds a fill for certain: it has all ids from its first to its last, and that is one of them."""
    first, last = bar.first_trade_id, bar.last_trade_id
    if first is None or last is None or bar.trade_count != last - first + 1:
        return False
    return first <= fill.trade_id <= last
