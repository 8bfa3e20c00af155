"""Which stored bars are to be made again: those that are incomplete, or missing, although the ledger knows better.

The ids of neighbouring bars follow on each other. Where they do not, and the ledger has fills between, a bar is
missing or holds too few.
"""

from okxcli.core.timeframes import Timeframe
from okxcli.storage.candles.rebuild import Starts, starts_with_rows
from okxcli.storage.ledger.proof import Proof, count_within
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection


def stale(connection: Connection, proof: Proof, frame: Timeframe, since: int, until: int) -> Starts:
    """Return the starts of the bars to make again that touch `[since, until)`, rising. Costs a look at every bar."""
    clock = proof.last_time
    if clock is None or proof.first_time is None or proof.last_id is None:
        return []
    begin, end = max(since, proof.first_time), min(until, clock + 1)
    found: set[int] = set()

    def check(low: int, high: int, first: int, last: int, held: int) -> None:
        """Want the bars from `low` to `high` if they hold fewer of the ids `first .. last` than the ledger."""
        if low < end and high > begin and held < count_within(proof.covered, first, last):
            if held or proof.step:  # a fill that came late belongs to a bar before those that its id lies among
                early, late = _times(connection, proof, first, last)
                low, high = min(low, early or low), max(high, (late or 0) + 1)
            found.update(starts_with_rows(connection, proof, frame, max(low, begin), min(high, end)))

    lowest = _lowest_at(connection, proof, begin)
    edge = proof.last_id + 1 if lowest is None else lowest
    edge_start, held, whole = begin, 0, False
    low, high = frame.start_of(begin), frame.end_of(frame.start_of(end))
    values = [proof.exchange, proof.symbol, frame.name, stamp(low), stamp(high)]
    for first, start, first_end, count, lasting, holds_all in connection.execute(_SEGMENTS, values):
        if not whole:
            check(edge_start, first_end, edge, first - 1, held)
        edge, edge_start, held, whole = first, start, count, holds_all
        for one_first, one_last, one_start, one_end in lasting or ():
            inside = one_start < end and one_end > begin
            if inside and proof.whole(connection, one_start, one_end, one_first, one_last):
                found.add(one_start)
    check(edge_start, end, edge, proof.last_id, held)
    return sorted(found)


def _lowest_at(connection: Connection, proof: Proof, begin: int) -> int | None:
    """Return the lowest covered id from a moment on; None without rows (an archived day) at that time."""
    if proof.first_time is not None and begin <= proof.first_time:
        return proof.covered[0][0]
    row = connection.execute(
        "SELECT trade_id FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0"
        " AND timestamp >= %s::timestamptz ORDER BY trade_id LIMIT 1",
        [proof.exchange, proof.symbol, stamp(begin)],
    ).fetchone()
    return None if row is None else int(row[0])


def _times(connection: Connection, proof: Proof, first: int, last: int) -> tuple[int | None, int | None]:
    """Return the first and the last time of the stored fills with ids of a range."""
    days = [day.start for day in proof.days if count_within(day.covered, first, last)]
    row = connection.execute(
        "SELECT (extract(epoch FROM min(timestamp)) * 1000)::bigint,"
        " (extract(epoch FROM max(timestamp)) * 1000)::bigint"
        " FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id BETWEEN %s AND %s"
        " AND timestamp >= %s::timestamptz AND timestamp < %s::timestamptz",
        [proof.exchange, proof.symbol, first, last, stamp(min(days)), stamp(max(days) + DAY_MS)],
    ).fetchone()
    return (None, None) if row is None else row


# Bars cut into segments whose ids do not reach into another (the ids of neighbouring bars may interleave): of each the
# lowest id, the start, the end of its first bar, the fills in it, its bars that are not complete, and whether it holds
# every id up to the next segment. (`later` runs backwards: a frame whose start moves would be counted anew for every
# row.) Good ones after a good one are left out: a year of them is one row.
_SEGMENTS = """
WITH bars AS (
    SELECT first_trade_id AS first, last_trade_id AS last, (extract(epoch FROM start) * 1000)::bigint AS start,
        (extract(epoch FROM timestamp) * 1000)::bigint AS stop, complete, trade_count,
        max(last_trade_id) OVER earlier AS before, min(first_trade_id) OVER later AS lowest
    FROM market_data
    WHERE exchange = %s AND symbol = %s AND origin = 'trades' AND timeframe = %s AND closed
        AND first_trade_id IS NOT NULL AND start >= %s::timestamptz AND timestamp <= %s::timestamptz
    WINDOW earlier AS (ORDER BY timestamp ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        later AS (ORDER BY timestamp DESC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
), cut AS (
    SELECT *, sum((lowest = first AND coalesce(before < first, true))::int) OVER (ORDER BY start) AS segment FROM bars
), segments AS (
    SELECT segment, min(first) AS first, min(start) AS start, min(stop) AS stop, sum(trade_count)::bigint AS held,
        jsonb_agg(jsonb_build_array(first, last, start, stop)) FILTER (WHERE NOT complete) AS lasting
    FROM cut GROUP BY segment
), told AS (
    SELECT *, lead(first) OVER (ORDER BY segment) - first = held AS whole,
        lag(segment) OVER (ORDER BY segment) IS NULL AS opening
    FROM segments
)
SELECT first, start, stop, held, lasting, whole IS TRUE
FROM (SELECT *, lag(whole) OVER (ORDER BY segment) AS after_whole FROM told) AS t
WHERE opening OR whole IS NOT TRUE OR lasting IS NOT NULL OR after_whole IS NOT TRUE
ORDER BY segment
"""
