"""Every bar of a span made again from the rows, whatever is stored of it: the cure where stored bars were changed.

What is made of all fills of its ids takes the place of any bar, and so does one that holds as many as that says it
has. A stored bar for which no fill is stored is taken out, where the rows of its day are all there.
"""

from collections.abc import Collection

from psycopg import sql

from okxcli.core.model import OHLCVCandle
from okxcli.core.timeframes import Timeframe
from okxcli.storage.candles.bar_evidence import Evidence
from okxcli.storage.candles.flat_bars import Ids, store_flats
from okxcli.storage.candles.rebuild import largest_part, rebuild, starts_in
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.proof import Day, Proof
from okxcli.storage.rows.candle_table import stored_frames
from okxcli.storage.rows.outcome import TAKEN_OUT, Refused, quarantine
from okxcli.storage.rows.row_format import fields_of, stamp
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection

_KEY = sql.SQL("exchange = %s AND symbol = %s AND origin = 'trades' AND timeframe = %s")
_STORED = sql.SQL(
    "SELECT (extract(epoch FROM start) * 1000)::bigint, (extract(epoch FROM timestamp) * 1000)::bigint"
    " FROM market_data WHERE {} AND timestamp > %s::timestamptz AND timestamp <= %s::timestamptz AND closed"
).format(_KEY)
_REMOVE = sql.SQL(
    "DELETE FROM market_data WHERE {} AND timestamp BETWEEN %s::timestamptz AND %s::timestamptz"
    " AND timestamp = ANY(%s::text[]::timestamptz[]) RETURNING {}"
).format(_KEY, fields_of(OHLCVCandle))
# Which bars of a length hold a fill, and how many fills there are.
_TRADED = sql.SQL(
    "SELECT ms - mod(ms - %s, %s), count(*) FROM (SELECT (extract(epoch FROM timestamp) * 1000)::bigint AS ms"
    " FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0 AND timestamp >= %s::timestamptz"
    " AND timestamp < %s::timestamptz) AS t GROUP BY 1"
)


def make_anew(connection: Connection, exchange: str, symbol: str, since: int, until: int) -> int:
    """Make each stored timeframe's bars that touch `[since, until)` (ms) again; return how many changed.

    Days whose rows retention dropped are left alone.
    """
    frames = stored_frames(connection, (exchange, symbol))
    changed = 0
    for at, frame in enumerate(frames):
        proof = Proof.load(connection, exchange, symbol)
        source = largest_part(frame, frames[:at])
        done = since
        for day in proof.days:
            if day.archived or day.first_time is None or day.last_time is None:
                continue
            low, high = max(done, day.first_time), min(until, day.last_time + 1)
            starts = list(starts_in(frame, low, high))
            changed += rebuild(connection, exchange, symbol, frame, starts, source=source, force=True)
            done = max(done, frame.end_of(starts[-1])) if starts else done
            changed += _without_false(connection, proof, frame, day, max(since, day.start), min(until, high))
    return changed


def _without_false(connection: Connection, proof: Proof, frame: Timeframe, day: Day, since: int, until: int) -> int:
    """Take out the bars of a part of a day that hold no fill, if all fills of the day are there; return how many."""
    if frame.months or frame.length > DAY_MS or since >= until:
        return 0
    low, high = day.covered[0][0], day.covered[-1][1]
    if any(first <= high + 1 and last >= low - 1 for first, last in proof.holes()):
        return 0
    values = [frame.offset, frame.length, proof.exchange, proof.symbol, stamp(day.start), stamp(day.start + DAY_MS)]
    rows = connection.execute(_TRADED, values).fetchall()
    if sum(count for _, count in rows) != id_ledger.size(day.covered):
        return 0
    return remove_false(connection, proof, frame, since, until, {start for start, _ in rows})


def remove_false(
    connection: Connection, proof: Ids, frame: Timeframe, since: int, until: int, traded: Collection[int]
) -> int:
    """Take out the bars that end in `(since, until]` and do not start at one of `traded`; return how many.

    Those that say that they hold fills go to the quarantine; flat ones are made again where the ids prove the quiet.
    """
    key = [proof.exchange, proof.symbol, frame.name]
    stored = connection.execute(_STORED, [*key, stamp(since), stamp(until)]).fetchall()
    false = [stamp(end) for start, end in stored if start not in traded or frame.end_of(start) != end]
    if not false:
        return 0
    with id_ledger.locked(connection, (proof.exchange, proof.symbol)):
        rows = connection.execute(_REMOVE, [*key, min(false), max(false), false], binary=True).fetchall()
        bars = [OHLCVCandle(*row) for row in rows]
        dated = [Refused(bar, TAKEN_OUT + "no fill of it is stored") for bar in bars if bar.first_trade_id is not None]
        quarantine(connection, dated, {})
    if len(dated) == len(bars):
        return len(bars)
    evidence = Evidence(connection, proof.exchange, proof.symbol, frame)
    before, after = evidence.before(since), evidence.after(until)
    low, high = before.start if before else since, after.timestamp if after else until
    return len(bars) - store_flats(connection, proof, frame, low, high)
