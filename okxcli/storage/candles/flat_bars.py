"""Flat bars for the quiet that the ids prove: nothing traded between the last id before it and the first after it.

A candle maker writes them itself while it runs. Those of a quiet over which it was started anew, or in a past that was
mended, are found here, in what is stored.
"""

import logging
from collections.abc import Callable, Iterator
from typing import LiteralString, Protocol

from okxcli.core.candles.bucket import flat_candle
from okxcli.core.candles.series import longest_quiet
from okxcli.core.model import MAX_TIMESTAMP, MIN_TIMESTAMP, OHLCVCandle
from okxcli.core.timeframes import Timeframe
from okxcli.storage.candles.rebuild import starts_in, store_bars
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.ledger.proof import count_within
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

#: Bars stored at a time: a quiet of a night is tens of thousands of one second.
_CHUNK = 1_000

# The times without a bar between two bars, flat or not, and the highest id before and the lowest after each of them. A
# flat bar is none that is not complete, or has another price than the bar before it, or if that has not the highest id.
# After the last bar in which something was traded there are such flat ones at most, and no id is known. `lies` are the
# flat bars that say that they are complete, and have another price than the highest id before them.
_QUIET: LiteralString = """
WITH bars AS (
    SELECT (extract(epoch FROM start) * 1000)::bigint AS start, (extract(epoch FROM timestamp) * 1000)::bigint AS stop,
        first_trade_id, last_trade_id, close, complete,
        max(last_trade_id) OVER (ORDER BY timestamp) AS before,
        min(first_trade_id) OVER (ORDER BY timestamp DESC) AS after,
        count(first_trade_id) OVER (ORDER BY timestamp) AS n
    FROM market_data
    WHERE exchange = %s AND symbol = %s AND origin = 'trades' AND timeframe = %s AND closed
        AND start >= %s::timestamptz AND timestamp <= %s::timestamptz
), priced AS (
    SELECT *, first_value(close) OVER q AS price, first_value(last_trade_id) OVER q AS number
    FROM bars WINDOW q AS (PARTITION BY n ORDER BY start)
), counted AS (
    SELECT *, count(*) FILTER (WHERE first_trade_id IS NULL AND complete AND close <> price AND number = before)
        OVER (ORDER BY start) AS lies
    FROM priced
), beside AS (
    SELECT stop, before, lead(after) OVER w AS after,
        coalesce(lead(start) OVER w, (SELECT max(stop) FROM bars)) AS next,
        coalesce(lead(lies) OVER w, (SELECT max(lies) FROM counted)) - lies AS lies
    FROM counted
    WHERE first_trade_id IS NOT NULL OR (complete AND (close <> price OR number <> before) IS NOT TRUE)
    WINDOW w AS (ORDER BY start)
)
SELECT stop, next, before, after, lies FROM beside WHERE next > stop AND before IS NOT NULL
ORDER BY stop
"""
_RIGHT: LiteralString = (
    "SELECT (extract(epoch FROM start) * 1000)::bigint FROM market_data WHERE exchange = %s AND symbol = %s"
    " AND origin = 'trades' AND timeframe = %s AND closed AND complete AND first_trade_id IS NULL"
    " AND timestamp > %s::timestamptz AND timestamp <= %s::timestamptz AND close = %s"
)
_CLOSE: LiteralString = (
    "SELECT close FROM market_data WHERE exchange = %s AND symbol = %s AND origin = 'trades' AND timeframe = %s"
    " AND closed AND last_trade_id = %s AND timestamp <= %s::timestamptz ORDER BY timestamp DESC LIMIT 1"
)

_FALSE: LiteralString = (
    "UPDATE market_data m SET complete = false, revision = m.revision + 1, written = now()"
    " FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS w (since, until) WHERE m.exchange = %s AND m.symbol = %s"
    " AND m.origin = 'trades' AND m.timeframe = %s AND m.closed AND m.complete AND m.first_trade_id IS NULL"
    " AND m.timestamp > w.since AND m.timestamp <= w.until"
)


class Ids(Protocol):
    """What is known of a symbol's ids: `ledger.proof.Proof`, or `candle_chain.Chain` without a ledger."""

    exchange: str
    symbol: str
    covered: Ranges

    def whole(self, connection: Connection, start: int, end: int, first: int, last: int) -> bool:
        """Whether nothing is missing in `[start, end)` (ms), by the ids `first .. last` in it or beside it."""

    def time_above(self, connection: Connection, number: int) -> int | None:
        """Return when the lowest stored fill above an id was (ms); None where no fills are stored, or none is above."""


def flats(
    connection: Connection,
    ids: Ids,
    frame: Timeframe,
    since: int,
    until: int,
    false: Callable[[tuple[int, int]], object] = lambda span: None,
) -> Iterator[OHLCVCandle]:
    """Yield the flat bars that are not stored, oldest first, between the stored bars that lie in `[since, until)`.

    Their price is that of the fill before the quiet. `false` gets the start and the end of what the ids do not prove
    to be a quiet, and has flat bars that say so, of a price that is not that one. Costs a look at every bar.
    """
    span = [stamp(max(since, MIN_TIMESTAMP)), stamp(min(until, MAX_TIMESTAMP))]
    key = [ids.exchange, ids.symbol, frame.name]
    long = 0
    for start, end, before, after, lies in connection.execute(_QUIET, [*key, *span]).fetchall():
        if not _proved(connection, ids, start, end, before, after):
            if lies:
                false((start, end))
            continue
        if end - start > longest_quiet(frame):
            long += 1
            continue
        row = connection.execute(_CLOSE, [*key, before, stamp(start)]).fetchone()
        if row is None:  # its bar lies outside of what is looked at, and in it a fill that came late
            continue
        right = connection.execute(_RIGHT, [*key, stamp(start), stamp(end), row[0]]).fetchall()
        for at in sorted({*starts_in(frame, start, end)} - {at for (at,) in right}):
            yield flat_candle(ids.exchange, ids.symbol, frame.name, at, frame.end_of(at), row[0])
    if long:
        _log.info("%s: %d quiets of more than a week have no %s bars", ids.symbol, long, frame.name)


def _proved(connection: Connection, ids: Ids, start: int, end: int, before: int, after: int | None) -> bool:
    """Whether nothing was traded from `start` to `end` (ms); ids of bars `before`, and `after` if there are any."""
    if not ids.whole(connection, start, end, before, before):
        return False
    if after is None:
        trades = ids.time_above(connection, before)
        return trades is not None and trades >= end
    return before >= after or not count_within(ids.covered, before + 1, after - 1)


def store_flats(connection: Connection, ids: Ids, frame: Timeframe, since: int, until: int) -> int:
    """Store what `flats` yields; return how many were. Those of a wrong price that nothing replaces are not complete.

    A bar that was revised has another last price: what follows on it and was made before does not know that.
    """
    stored = 0
    false: list[tuple[int, int]] = []
    batch: list[OHLCVCandle] = []
    for bar in flats(connection, ids, frame, since, until, false.append):
        batch.append(bar)
        if len(batch) == _CHUNK:
            stored += store_bars(connection, batch)
            batch = []
    stored += store_bars(connection, batch)
    if false:
        columns = [list(map(stamp, times)) for times in zip(*false, strict=True)]
        connection.execute(_FALSE, [*columns, ids.exchange, ids.symbol, frame.name])
    return stored
