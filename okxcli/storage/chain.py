"""The proof where only candles are stored: the ids of neighbouring bars follow on each other.

There are no rows and no ledger then. A whole bar proves its ids, the last id of one and the first of the next prove
that nothing lies between. Larger bars are made of smaller ones, which must be stored.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import msgspec
from psycopg import sql

from okxcli.core.bucket import TimeframeBucket
from okxcli.core.model import MAX_TIMESTAMP, MIN_TIMESTAMP, OHLCVCandle
from okxcli.core.timeframes import Timeframe, parse_list
from okxcli.storage import doubts, ledger, reader
from okxcli.storage.database import Connection
from okxcli.storage.ledger import Ranges
from okxcli.storage.rangebook import IdRange, RangeBook
from okxcli.storage.reader import Series, Span
from okxcli.storage.rebuild import Starts, bucket_of, joined, store_bars
from okxcli.storage.rows import stamp

#: A stream that goes on begins so many fills early, a page of REST, for times can step back across the edge of a bar.
_EARLY = 100


@dataclass(frozen=True)
class Link:
    """Ids that follow on each other, and the start of the first and the end of the last bar with them (ms).

    `low` and `high` are the ids beside them, where a complete bar says that those are known, else the first and last.
    """

    first: int
    last: int
    start: int
    end: int
    low: int = 0
    high: int = 0


@dataclass(frozen=True)
class Bars:
    """What is stored of one timeframe: its links by rising id, and the newest bar with a fill in it."""

    frame: Timeframe
    links: list[Link]
    newest: OHLCVCandle

    @property
    def sure_ms(self) -> int:
        """The moment up to which bars are over for certain: the symbol has traded at or after it."""
        return self.newest.timestamp if self.newest.complete else self.newest.start


class Chain:
    """The stored candles of a symbol. `frames` are their timeframes, shortest first.

    `roots` has the bars of those timeframes whose bars are not made of smaller stored ones; the smallest is the first
    of them, and the proof. `absent` are ids that the exchange does not have.
    """

    def __init__(
        self, exchange: str, symbol: str, frames: tuple[Timeframe, ...], roots: list[Bars], absent: Ranges
    ) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.frames = frames
        self.roots = roots
        self.absent = absent
        self.covered: Ranges = [(link.first, link.last) for link in roots[0].links]
        self.known = ledger.union([*self.covered, *absent])
        self._beside = ledger.union([*self.known, *((link.low, link.high) for link in roots[0].links)])

    @classmethod
    def load(cls, connection: Connection, exchange: str, symbol: str) -> Self | None:
        """Read the candles of ours of a symbol; None without any. Costs a look at every bar of the roots."""
        names = connection.execute(
            "SELECT DISTINCT timeframe FROM market_data WHERE exchange = %s AND symbol = %s AND origin = 'trades'"
            " AND closed AND first_trade_id IS NOT NULL",
            [exchange, symbol],
        ).fetchall()
        if not names:
            return None
        frames = parse_list([row[0] for row in names])
        roots = [frame for at, frame in enumerate(frames) if not any(frame.holds(small) for small in frames[:at])]
        found = [_bars(connection, exchange, symbol, frame) for frame in roots]
        return cls(exchange, symbol, frames, found, absent_ids(connection, exchange, symbol))

    @property
    def base(self) -> Bars:
        """The bars of the smallest timeframe."""
        return self.roots[0]

    def broken(self, bars: Bars) -> list[Link]:
        """Return the ids that should be between the bars of one of the roots and are not, absent ones left out.

        With the end of the bar before them, and the start of the one after, in ms.
        """
        return [
            Link(first, last, one.end, other.start)
            for one, other in pairwise(bars.links)
            for first, last in ledger.subtract([(one.last + 1, other.first - 1)], self.absent)
        ]

    def holes(self) -> Ranges:
        """Return the ids between the first and the last bar that no bar holds and that are not absent."""
        return [(one.first, one.last) for one in self.broken(self.base)]

    def proves(self, first: int, last: int) -> bool:
        """Whether every id of `first .. last` is known; ids below 1 do not exist."""
        at = bisect_right(self.known, (max(first, 1), 1 << 63)) - 1
        return at >= 0 and last <= self.known[at][1]

    def makes_whole(self, first: int, last: int) -> bool:
        """Whether a bar made of smaller ones with the ids `first .. last` is complete: those beside them are known."""
        beside = (first - 1 < 1 or ledger.holds(self._beside, first - 1)) and ledger.holds(self._beside, last + 1)
        return beside and self.proves(first, last)

    def ranges(self) -> list[IdRange]:
        """Return what is covered, absent and missing, by rising id."""
        book = RangeBook()
        book.absent = list(self.absent)
        for link in self.base.links:
            book.add(link.first, link.last, link.start, link.end - 1)
        return list(book.ranges())


def absent_ids(connection: Connection, exchange: str, symbol: str) -> Ranges:
    """Return the ids that are known to be absent at the exchange, of a symbol with or without a ledger."""
    rows = connection.execute(
        "SELECT absent FROM trade_ledger WHERE exchange = %s AND symbol = %s AND epoch = 0", [exchange, symbol]
    )
    noted = [(one.first, one.last) for one in doubts.load(connection, exchange, symbol) if one.noted]
    return ledger.union([*noted, *(part for (ranges,) in rows for part in ledger.read(ranges))])


def is_candles_only(connection: Connection, exchange: str, symbol: str) -> bool:
    """Whether candles of ours are stored of a symbol, and no fill ever was: neither ledger nor rows tell of one."""
    row = connection.execute(
        "SELECT NOT EXISTS (SELECT FROM trade_ledger WHERE exchange = %(e)s AND symbol = %(s)s AND epoch = 0)"
        " AND NOT EXISTS (SELECT FROM raw_trades WHERE exchange = %(e)s AND symbol = %(s)s AND epoch = 0)"
        " AND EXISTS (SELECT FROM market_data WHERE exchange = %(e)s AND symbol = %(s)s AND origin = 'trades'"
        " AND closed AND first_trade_id IS NOT NULL)",
        {"e": exchange, "s": symbol},
    ).fetchone()
    return row == (True,)


def resume_id(connection: Connection, exchange: str, symbol: str) -> int | None:
    """Return the id after which a stream is to begin, so that the bar that was open comes out whole; None: no bar.

    It lies a little before the end of the newest complete bar of the smallest timeframe: the fills from there on prove
    the bar that follows. With no complete bar it goes on with the first fill of the first one.
    """
    chain = Chain.load(connection, exchange, symbol)
    if chain is None:
        return None
    row = connection.execute(
        "SELECT first_trade_id, last_trade_id FROM market_data WHERE exchange = %s AND symbol = %s"
        " AND origin = 'trades' AND timeframe = %s AND closed AND complete AND first_trade_id IS NOT NULL"
        " ORDER BY timestamp DESC LIMIT 1",
        [exchange, symbol, chain.base.frame.name],
    ).fetchone()
    return chain.covered[0][0] - 1 if row is None else max(row[0] - 1, row[1] - _EARLY)


# ---- bars by their ids

_OURS = sql.SQL(
    "FROM market_data WHERE exchange = %s AND symbol = %s AND origin = 'trades' AND timeframe = %s AND closed"
    " AND first_trade_id IS NOT NULL AND start >= %s::timestamptz AND timestamp <= %s::timestamptz"
)

# Of a bar that is not whole only the ends are proven. Islands of ids that overlap or touch are one link each.
_LINKS = sql.SQL("""
WITH bars AS (
    SELECT first_trade_id AS first, last_trade_id AS last, (extract(epoch FROM start) * 1000)::bigint AS low,
        (extract(epoch FROM timestamp) * 1000)::bigint AS high,
        complete OR trade_count = last_trade_id - first_trade_id + 1 AS whole, complete::int AS more {}
), parts AS (
    SELECT first, CASE WHEN whole THEN last ELSE first END AS last, low, high, more FROM bars
    UNION ALL SELECT last, last, low, high, more FROM bars WHERE NOT whole
), cut AS (
    SELECT *, first > 1 + max(last) OVER (ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        AS opens FROM parts
), islands AS (
    SELECT *, count(*) FILTER (WHERE opens) OVER (ORDER BY first, last ROWS UNBOUNDED PRECEDING) AS island FROM cut
)
SELECT min(first), max(last), min(low), max(high), min(first - more), max(last + more) FROM islands GROUP BY island
ORDER BY 1
""").format(_OURS)
_NEWEST = sql.SQL("SELECT (extract(epoch FROM max(start)) * 1000)::bigint {}").format(_OURS)
_ENDS = sql.SQL("SELECT min(first_trade_id), max(last_trade_id) {}").format(_OURS)
_INCOMPLETE = sql.SQL(
    "SELECT first_trade_id, last_trade_id, (extract(epoch FROM start) * 1000)::bigint {}"
    " AND NOT complete ORDER BY start"
).format(_OURS)

# What the smaller bars inside of each larger one come to, where that is not what is stored of it. Grouped and not
# joined: of a table without statistics the planner takes one row to match, and compares each with each.
_LARGER = """
WITH parts AS (
    SELECT {start} AS at, sum(trade_count)::bigint AS held, min(first_trade_id) AS first, max(last_trade_id) AS last
    {ours} GROUP BY 1
), beside AS (
    SELECT at, held, first, last, NULL::bigint AS count, NULL::bigint AS low, NULL::bigint AS high,
        NULL::boolean AS complete FROM parts
    UNION ALL SELECT (extract(epoch FROM start) * 1000)::bigint, NULL, NULL, NULL, trade_count, first_trade_id,
        last_trade_id, complete {ours}
), told AS (
    SELECT at, max(held) AS held, max(first) AS first, max(last) AS last, max(count) AS count, max(low) AS low,
        max(high) AS high, bool_or(complete) AS complete FROM beside GROUP BY at
)
SELECT at, held, first, last, count, complete FROM told
WHERE held IS NOT NULL AND (count IS NULL OR NOT complete OR (held, first, last) <> (count, low, high))
ORDER BY at
"""
_START = sql.SQL(
    "(extract(epoch FROM start) * 1000)::bigint - mod((extract(epoch FROM start) * 1000)::bigint - {}, {})"
)
_MONTH = sql.SQL("(extract(epoch FROM date_trunc('month', start, {})) * 1000)::bigint")


def _bars(connection: Connection, exchange: str, symbol: str, frame: Timeframe) -> Bars:
    values = [exchange, symbol, frame.name, stamp(MIN_TIMESTAMP), stamp(MAX_TIMESTAMP)]
    links = [Link(*row) for row in connection.execute(_LINKS, values)]
    with reader.snapshot(connection):
        row = connection.execute(_NEWEST, values).fetchone()
        newest = MIN_TIMESTAMP if row is None else int(row[0])
        span = Span(newest, frame.end_of(newest))
        return Bars(frame, links, next(reader.candles(connection, Series(exchange, symbol, frame.name), span)))


def ids_between(connection: Connection, chain: Chain, since: int, until: int) -> tuple[int, int] | None:
    """Return the lowest and the highest id in the smallest bars that lie in `[since, until)`; None without a bar."""
    row = connection.execute(
        _ENDS,
        [chain.exchange, chain.symbol, chain.base.frame.name, stamp(since), stamp(until)],
    ).fetchone()
    return None if row is None or row[0] is None else (int(row[0]), int(row[1]))


# ---- bars that the chain knows better


def doubtful(connection: Connection, chain: Chain, frame: Timeframe, since: int, until: int) -> list[OHLCVCandle]:
    """Return the bars that are stored incomplete although all ids in and beside them are known, oldest first."""
    rows = connection.execute(
        _INCOMPLETE,
        [chain.exchange, chain.symbol, frame.name, stamp(max(since, MIN_TIMESTAMP)), stamp(min(until, MAX_TIMESTAMP))],
    ).fetchall()
    starts = [start for first, last, start in rows if chain.makes_whole(first, last)]
    found: list[OHLCVCandle] = []
    wanted = set(starts)
    with reader.snapshot(connection):
        for span in joined(frame, starts):
            bars = reader.candles(connection, Series(chain.exchange, chain.symbol, frame.name), span)
            found += [bar for bar in bars if bar.start in wanted]
    return found


def completed(chain: Chain, bars: list[OHLCVCandle]) -> list[OHLCVCandle]:
    """Return those `doubtful` bars that hold all their ids, as complete; the others may lack a fill."""
    found: list[OHLCVCandle] = []
    for bar in bars:
        first, last = bar.first_trade_id or 0, bar.last_trade_id or 0
        gone = sum(min(b, last) - max(a, first) + 1 for a, b in chain.absent if a <= last and b >= first)
        if (bar.trade_count or 0) + gone == last - first + 1:
            found.append(msgspec.structs.replace(bar, complete=True))
    return found


def stale_larger(connection: Connection, chain: Chain, frame: Timeframe, since: int, until: int) -> Starts:
    """Return the starts of the bars of a larger timeframe that its parts know better, rising."""
    source = _source(chain, frame)
    low = frame.start_of(max(since, source.links[0].start))
    high = min(until, source.sure_ms)
    if low >= high:
        return []
    if frame.months:
        start = _MONTH.format("Asia/Singapore" if frame.offset else "UTC")  # UTC+8 all year
    else:
        start = _START.format(frame.offset, frame.length)
    key, span = [chain.exchange, chain.symbol], [stamp(low), stamp(frame.end_of(frame.start_of(high)))]
    found: Starts = []
    for at, held, first, last, stored, complete in connection.execute(
        sql.SQL(_LARGER).format(start=start, ours=_OURS), [*key, source.frame.name, *span, *key, frame.name, *span]
    ):
        proven = chain.makes_whole(first, last)
        better = stored is None or (proven and not complete) or (held > stored and (proven or not complete))
        if better and frame.end_of(at) <= high:
            found.append(at)
    return found


def merge_larger(connection: Connection, chain: Chain, frame: Timeframe, starts: Starts, force: bool = False) -> int:
    """Make the bars with these starts of smaller ones, and store those that are better; return how many were.

    `force` as by `rebuild`.
    """
    source = _source(chain, frame).frame
    wanted = set(starts)
    stored = 0
    for span in joined(frame, starts):
        bars = list(_merged(connection, chain, frame, source, span))
        stored += store_bars(connection, [bar for bar in bars if bar.start in wanted], force)
    return stored


def _merged(
    connection: Connection, chain: Chain, frame: Timeframe, source: Timeframe, span: Span
) -> Iterator[OHLCVCandle]:
    """Yield the bars of a span, made of all the smaller bars in each."""
    wholes: dict[int, TimeframeBucket] = {}
    with reader.snapshot(connection):
        for part in reader.candles(connection, Series(chain.exchange, chain.symbol, source.name), span):
            if part.first_trade_id is not None:
                start = frame.start_of(part.start)
                whole = wholes.setdefault(start, TimeframeBucket(start, frame.end_of(start)))
                whole.merge(bucket_of(part))
    for whole in wholes.values():
        complete = chain.makes_whole(whole.first_id, whole.last_id)
        yield whole.candle(chain.exchange, chain.symbol, frame.name, closed=True, complete=complete)


def _source(chain: Chain, frame: Timeframe) -> Bars:
    return next(bars for bars in reversed(chain.roots) if frame.holds(bars.frame))
