"""The proof where only candles are stored: the ids of neighbouring bars follow on each other.

There are no rows and no ledger then. A bar that holds as many fills as there are ids from its first to its last holds
them all, and so do neighbours together whose ids lie between each other's; of any other only the ends are known. What a
bar says of the ids beside it proves nothing: they are held where they are stored. Larger bars are made of smaller ones,
which must be stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import msgspec
from psycopg import sql

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.model import MAX_TIMESTAMP, MIN_TIMESTAMP, OHLCVCandle
from okxcli.core.tape import IdRanges, is_complete
from okxcli.core.timeframes import Timeframe, parse_list
from okxcli.storage.candles.rebuild import Starts, bucket_of, joined, store_bars
from okxcli.storage.ledger import id_ledger, unsettled
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.ledger.id_ranges import IdRange, RangeBook
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import Series, Span
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.server.pooled_connection import Connection

#: A stream that goes on begins so many fills early, a page of REST, for times can step back across the edge of a bar.
_EARLY = 100


@dataclass(frozen=True)
class Link:
    """Ids that follow on each other, and the start of the first and the end of the last bar with them (ms)."""

    first: int
    last: int
    start: int
    end: int


@dataclass(frozen=True)
class Bars:
    """What is stored of one timeframe: its links by rising id, the same ids, and the newest bar with a fill in it."""

    frame: Timeframe
    links: list[Link]
    ids: IdRanges
    newest: OHLCVCandle

    @property
    def sure_ms(self) -> int:
        """The moment up to which bars are over for certain: the symbol has traded at or after it."""
        return self.newest.timestamp if self.newest.complete else self.newest.start

    def whole(self, start: int, end: int, first: int, last: int) -> bool:
        """Whether a bar over `[start, end)` (ms), made of all stored bars of its time, is proved complete."""
        return is_complete(self.ids.run_of(first), first, last, start, end, self.ids.step)


@dataclass(eq=False)
class Chain:
    """The stored candles of a symbol. `frames` are their timeframes, shortest first.

    `roots` has the bars of those timeframes whose bars are not made of smaller stored ones; the smallest is the first
    of them, and the proof. `absent` are ids that the exchange does not have.
    """

    exchange: str
    symbol: str
    frames: tuple[Timeframe, ...]
    roots: list[Bars]
    absent: Ranges

    def __post_init__(self) -> None:
        """Join the ids."""
        self.covered: Ranges = [(link.first, link.last) for link in self.base.links]
        self.known = id_ledger.union([*self.covered, *self.absent])

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
        absent = absent_ids(connection, exchange, symbol)
        found = [_bars(connection, exchange, symbol, frame, absent) for frame in roots]
        step = max(bars.ids.step for bars in found)
        for bars in found:
            bars.ids.step = step  # what one of them shows holds for all
        return cls(exchange, symbol, frames, found, absent)

    @property
    def step(self) -> int:
        """How far time can have stepped back between ids at most, as far as the bars show (ms)."""
        return self.base.ids.step

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
            for first, last in id_ledger.subtract([(one.last + 1, other.first - 1)], self.absent)
        ]

    def holes(self) -> Ranges:
        """Return the ids between the first and the last bar that no bar holds and that are not absent."""
        return [(one.first, one.last) for one in self.broken(self.base)]

    def whole(self, connection: Connection, start: int, end: int, first: int, last: int) -> bool:
        """Whether a bar over `[start, end)` (ms) with the ids `first .. last` is proved complete, as by `Proof`."""
        return self.base.whole(start, end, first, last)

    def time_above(self, connection: Connection, number: int) -> int | None:
        """Return None: no fill is stored that would have a time."""
        return None

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
    noted = [(one.first, one.last) for one in unsettled.load(connection, exchange, symbol) if one.noted]
    return id_ledger.union([*noted, *(part for (ranges,) in rows for part in id_ledger.read(ranges))])


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

# Bars as islands whose ids do not reach into another: those of neighbours may lie between each other's. An island holds
# all of its ids if there are as many fills in it, absent ones counted; if not, each of its bars stands for itself.
# Islands that hold all and follow on each other are one. Of each: first and last id, first start and last end, first
# end and last start, whether it holds all, the time over which bars overlap, how far a last moment lies behind a first
# one of lower ids, whether id 1 is proved to be the first.
_LINKS = sql.SQL("""
WITH bars AS (
    SELECT first_trade_id AS first, last_trade_id AS last, (extract(epoch FROM start) * 1000)::bigint AS low,
        (extract(epoch FROM timestamp) * 1000)::bigint AS high, trade_count AS held,
        first_trade_id = 1 AND complete AS begins {}
), cut AS (
    SELECT *, (first <= max(last) OVER (ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
        IS NOT TRUE AS opens FROM bars
), numbered AS (
    SELECT *, count(*) FILTER (WHERE opens) OVER (ORDER BY first, last ROWS UNBOUNDED PRECEDING) AS island FROM cut
), islands AS (
    SELECT *, min(first) OVER i AS i_first, max(last) OVER i AS i_last, min(low) OVER i AS i_low,
        max(high) OVER i AS i_high, min(high) OVER i AS i_early, max(low) OVER i AS i_late, bool_or(begins) OVER i AS
        i_begins, sum(held) OVER i AS i_held, count(*) OVER i AS several, row_number() OVER i AS number
    FROM numbered WINDOW i AS (PARTITION BY island)
), counted AS (
    SELECT *, CASE WHEN i_held = i_last - i_first + 1 THEN true ELSE i_held + coalesce((
        SELECT sum(upper(r) - lower(r)) FROM
        unnest(int8multirange(int8range(i_first, i_last, '[]')) * %s::int8multirange) AS r
    ), 0) = i_last - i_first + 1 END AS i_whole, CASE WHEN several > 1 THEN i_high - i_low ELSE 0 END AS mixed
    FROM islands
), parts AS (
    SELECT i_first AS first, i_last AS last, i_low AS low, i_high AS high, i_early AS early, i_late AS late,
        true AS whole, mixed, i_begins AS begins FROM counted WHERE i_whole AND number = 1
    UNION ALL SELECT first, last, low, high, high, low, held = last - first + 1, mixed, begins
    FROM counted WHERE NOT i_whole
), told AS (
    SELECT *, lag(whole) OVER w AND whole AND first = 1 + lag(last) OVER w AS goes_on,
        coalesce(max(late) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - (early - 1), 0) AS back
    FROM parts WINDOW w AS (ORDER BY first, last)
), joined AS (
    SELECT *, count(*) FILTER (WHERE goes_on IS NOT TRUE) OVER (ORDER BY first, last ROWS UNBOUNDED PRECEDING) AS link
    FROM told
)
SELECT min(first), max(last), min(low), max(high), min(early), max(late), bool_and(whole), max(mixed),
    max(back), bool_or(begins)
FROM joined GROUP BY link ORDER BY 1, 2
""").format(_OURS)
_NEWEST = sql.SQL("SELECT (extract(epoch FROM max(start)) * 1000)::bigint {}").format(_OURS)
_ENDS = sql.SQL("SELECT min(first_trade_id), max(last_trade_id) {}").format(_OURS)
_INCOMPLETE = sql.SQL(
    "SELECT (extract(epoch FROM start) * 1000)::bigint, (extract(epoch FROM timestamp) * 1000)::bigint,"
    " first_trade_id, last_trade_id {} AND NOT complete ORDER BY start"
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


def step_outside(connection: Connection, chain: Chain, since: int, until: int) -> int:
    """Return how far time can have stepped back (ms), as the bars outside of `[since, until)` show."""
    key, spans = (chain.exchange, chain.symbol), (Span(MIN_TIMESTAMP, since), Span(until, MAX_TIMESTAMP))
    sets = [_linked(connection, key, bars.frame, chain.absent, span)[1] for bars in chain.roots for span in spans]
    return max(ids.step for ids in sets)


def _linked(
    connection: Connection, key: tuple[str, str], frame: Timeframe, absent: Ranges, span: Span
) -> tuple[list[Link], IdRanges]:
    links: list[Link] = []
    ids = IdRanges(length=frame.length)
    rows = connection.execute(
        _LINKS, [*key, frame.name, stamp(span.since), stamp(span.until), id_ledger.written(absent)]
    )
    for first, last, start, end, early, late, whole, mixed, back, begins in rows:
        for a, b in [(first, last)] if whole or first == last else [(first, first), (last, last)]:
            links.append(Link(a, b, start, end))
            ids.add(a, b, early - 1, late, sure=begins)
        ids.step = max(ids.step, mixed)
        ids.stepped_back(back)
    for first, last in absent:
        ids.add(first, last)
    return links, ids


def _bars(connection: Connection, exchange: str, symbol: str, frame: Timeframe, absent: Ranges) -> Bars:
    span = Span(MIN_TIMESTAMP, MAX_TIMESTAMP)
    links, ids = _linked(connection, (exchange, symbol), frame, absent, span)
    with reader.snapshot(connection):
        row = connection.execute(
            _NEWEST, [exchange, symbol, frame.name, stamp(span.since), stamp(span.until)]
        ).fetchone()
        newest = MIN_TIMESTAMP if row is None else int(row[0])
        span = Span(newest, frame.end_of(newest))
        return Bars(frame, links, ids, next(reader.candles(connection, Series(exchange, symbol, frame.name), span)))


def ids_between(connection: Connection, chain: Chain, since: int, until: int) -> tuple[int, int] | None:
    """Return the lowest and the highest id in the smallest bars that lie in `[since, until)`; None without a bar."""
    key = [chain.exchange, chain.symbol, chain.base.frame.name]
    row = connection.execute(_ENDS, [*key, stamp(since), stamp(until)]).fetchone()
    return None if row is None or row[0] is None else (int(row[0]), int(row[1]))


# ---- bars that the chain knows better


def completed(connection: Connection, chain: Chain, frame: Timeframe, since: int, until: int) -> list[OHLCVCandle]:
    """Return, as complete, the bars of one of the roots that are stored incomplete and proved by now, oldest first."""
    rows = connection.execute(
        _INCOMPLETE,
        [chain.exchange, chain.symbol, frame.name, stamp(max(since, MIN_TIMESTAMP)), stamp(min(until, MAX_TIMESTAMP))],
    ).fetchall()
    root = next(bars for bars in chain.roots if bars.frame == frame)
    wanted = {row[0] for row in rows if root.whole(*row)}
    found: list[OHLCVCandle] = []
    with reader.snapshot(connection):
        for span in joined(frame, sorted(wanted)):
            bars = reader.candles(connection, Series(chain.exchange, chain.symbol, frame.name), span)
            found += [msgspec.structs.replace(bar, complete=True) for bar in bars if bar.start in wanted]
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
        proven = source.whole(at, frame.end_of(at), first, last)
        better = stored is None or (proven and not complete) or (held > stored and (proven or not complete))
        if better and frame.end_of(at) <= high:
            found.append(at)
    return found


def merge_larger(connection: Connection, chain: Chain, frame: Timeframe, starts: Starts, force: bool = False) -> int:
    """Make the bars with these starts of smaller ones, and store those that are better; return how many were.

    `force` as by `rebuild`.
    """
    source = _source(chain, frame)
    wanted = set(starts)
    stored = 0
    for span in joined(frame, starts):
        bars = list(_merged(connection, chain, frame, source, span))
        stored += store_bars(connection, [bar for bar in bars if bar.start in wanted], force)
    return stored


def _merged(connection: Connection, chain: Chain, frame: Timeframe, source: Bars, span: Span) -> Iterator[OHLCVCandle]:
    """Yield the bars of a span, made of all the smaller bars in each."""
    wholes: dict[int, TimeframeBucket] = {}
    with reader.snapshot(connection):
        for part in reader.candles(connection, Series(chain.exchange, chain.symbol, source.frame.name), span):
            if part.first_trade_id is not None:
                start = frame.start_of(part.start)
                whole = wholes.setdefault(start, TimeframeBucket(start, frame.end_of(start)))
                whole.merge(bucket_of(part))
    for whole in wholes.values():
        complete = source.whole(whole.start, whole.end, whole.first_id, whole.last_id)
        yield whole.candle(chain.exchange, chain.symbol, frame.name, closed=True, complete=complete)


def _source(chain: Chain, frame: Timeframe) -> Bars:
    return next(bars for bars in reversed(chain.roots) if frame.holds(bars.frame))
