"""The bars of one symbol in one timeframe: when each is written, written again, and let go.

A bar is `running` until its symbol trades at or past its end; then it is final and written. It is kept for `lateness`
more, so that a trade that comes late is folded in, and written once more if that changed it. A final bar that the ids
do not prove complete is watched for a while longer: the missing ids may still be repaired or found absent.
"""

from collections.abc import Iterator
from decimal import Decimal

import msgspec

from okxcli.core.candles.bucket import TimeframeBucket, flat_candle
from okxcli.core.model import OHLCVCandle
from okxcli.core.tape import IdRanges, is_complete
from okxcli.core.timeframes import WEEK, Timeframe

#: How long an incomplete bar is watched, in the symbol's own time: an absent id is known after a minute or so.
WATCH_MS = 600_000
#: Incomplete bars watched at a time; the oldest goes first.
MAX_WATCHED = 256
#: Bars remembered that lack a fill which came too late for them; of older ones nothing is said any more.
MAX_LACKING = 4096


def longest_quiet(timeframe: Timeframe) -> int:
    """Return how long a quiet (ms) is filled with flat bars at most: a week, or seven bars where that is longer.

    So that one wrong time cannot make millions of them; a longer quiet is told and left open.
    """
    return max(WEEK, 7 * timeframe.length)


class _Bar:
    """A bucket with its history of writing. `sum` lacks what is still in the market's unsettled parts."""

    __slots__ = ("end", "final_at", "look", "revision", "start", "sum", "watched", "written")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.sum = TimeframeBucket(start, end)
        self.written: OHLCVCandle | None = None  # as last written, at revision 0
        self.revision = 0  # of the next closed line
        self.final_at: int | None = None  # the symbol's clock when it became final
        self.look = end  # when that clock makes it due
        self.watched = False


class _Gap:
    """The bars between two that hold trades; `flat` once the ids have proved the quiet and it was written.

    `above`: the price is that of a fill with this id, or of a higher one from before the quiet. One that came too late,
    or whose bar was let go, is not known any more.
    """

    __slots__ = ("above", "expires", "flat", "left", "price", "revision", "right")

    def __init__(self, left: _Bar, right: _Bar, expires: int) -> None:
        self.left = left
        self.right = right
        self.expires = expires
        self.flat = False
        self.price = left.sum.close
        self.revision = 0
        self.above = 0


class Series:
    """All bars of one symbol and timeframe that may still change. Yields candles to be written; writes nothing."""

    def __init__(
        self,
        exchange: str,
        symbol: str,
        timeframe: Timeframe,
        ids: IdRanges,
        parts: dict[int, TimeframeBucket],
        lateness_ms: int,
        fill: bool,
        partial: bool,
    ) -> None:
        self.timeframe = timeframe
        self.revised = 0
        self.long_quiets = 0  # proved, and too long for flat bars
        self.due: int | None = None  # when a retained bar wants its next look, in the symbol's time
        self._exchange = exchange
        self._symbol = symbol
        self._ids = ids
        self._lacking: dict[int, int] = {}  # starts of bars that lack fills for good, and the highest id of these
        self._lacking_until = 0  # any bar that starts before may lack one
        self._parts = parts
        self._lateness = lateness_ms
        self._fill = fill
        self._partial = partial
        self._bars: dict[int, _Bar] = {}
        self._look = 0  # when the symbol's clock makes anything due at the earliest
        self._gone_id = 0  # the highest id in a bar that was let go
        self._gaps: list[_Gap] = []

    # ---- taking in

    def open_bar(self, timestamp: int, clock: int) -> TimeframeBucket:
        """Return the settled sum of the bar that holds `timestamp`; the bar is made if there is none."""
        start = self.timeframe.start_of(timestamp)
        bar = self._bars.get(start)
        if bar is None:
            bar = self._bars[start] = _Bar(start, self.timeframe.end_of(start))
            self._look = min(self._look, bar.end)
            if self._fill:
                self._note_gap(bar, clock)
        return bar.sum

    def settle(self, part: TimeframeBucket) -> None:
        """Take over a part of a bar that no trade can come to any more."""
        self._bars[self.timeframe.start_of(part.start)].sum.merge(part)

    def lack(self, timestamp: int, number: int) -> None:
        """Note that a fill of that time is in no bar of this timeframe: it came too late, or is of unknown ids."""
        start = self.timeframe.start_of(timestamp)
        self._lacking[start] = max(self._lacking.pop(start, 0), number)
        for gap in self._gaps:
            self._look_above(gap)
        if len(self._lacking) > MAX_LACKING:
            oldest = next(iter(self._lacking))
            del self._lacking[oldest]
            self._lacking_until = max(self._lacking_until, oldest + 1)

    def _look_above(self, gap: _Gap) -> None:
        lacking = (number for start, number in self._lacking.items() if start < gap.right.start)
        gap.above = max(gap.above, self._gone_id, *lacking)

    def _note_gap(self, bar: _Bar, clock: int) -> None:
        """Remember the quiet that a new bar ends, or splits."""
        expires = max(clock, bar.end) + max(WATCH_MS, 3 * self._lateness)
        for gap in self._gaps:
            if gap.left.end <= bar.start < gap.right.start:
                if gap.flat:  # a flat bar stands there already: this one revises it
                    bar.written = self._flat(bar.start, bar.end, gap.price)
                    bar.revision = gap.revision + 1
                self._gaps.remove(gap)
                for left, right in ((gap.left, bar), (bar, gap.right)):
                    piece = _Gap(left, right, expires)
                    piece.above, piece.flat, piece.price, piece.revision = gap.above, gap.flat, gap.price, gap.revision
                    self._gaps.append(piece)
                return
        others = [other for other in self._bars.values() if other is not bar]
        before = max((o for o in others if o.start < bar.start), key=lambda o: o.start, default=None)
        after = min((o for o in others if o.start > bar.start), key=lambda o: o.start, default=None)
        pairs = [(before, bar), (bar, after)]
        new = [_Gap(a, b, expires) for a, b in pairs if a is not None and b is not None and a.end < b.start]
        for gap in new:
            self._look_above(gap)
        self._gaps += new

    # ---- writing

    def step(self, clock: int, mended: bool) -> Iterator[OHLCVCandle]:
        """Yield what is due at the symbol's `clock`, in time order; `mended`: ids came out of order since last time."""
        if clock < self._look and not (mended or self._gaps or self._partial):
            return
        quiet = self._prove_quiet(clock) if self._gaps else []
        every = mended or self._partial
        for bar in sorted((b for b in self._bars.values() if every or b.look <= clock), key=lambda b: b.start):
            yield from self._visit(bar, clock, mended)
        self._limit_watched()
        self.due = min((bar.look for bar in self._bars.values() if bar.final_at is not None), default=None)
        self._look = min((bar.look for bar in self._bars.values()), default=clock)
        yield from self._flats(quiet)

    def _visit(self, bar: _Bar, clock: int, mended: bool) -> Iterator[OHLCVCandle]:
        """Yield a bar if it is due, and note when to look at it again, or let it go."""
        if bar.final_at is None:
            if bar.end > clock:
                if self._partial:
                    yield from self._write(bar, closed=False, proven=False)
                return
            bar.final_at = clock
            yield from self._write(bar, closed=True, proven=True)
        elif bar.watched:
            reached = self._waits(bar) and bar.end + self._ids.step <= clock
            if (mended or reached) and self._proven(self._value(bar)):
                yield from self._write(bar, closed=True, proven=True)
                self._let_go(bar)
                return
        elif clock > bar.final_at + self._lateness:
            yield from self._write(bar, closed=True, proven=True)
            bar.watched = bar.written is not None and not bar.written.complete
            if not bar.watched:
                self._let_go(bar)
                return
        elif self._waits(bar) and bar.end + self._ids.step <= clock and self._proven(self._value(bar)):
            yield from self._write(bar, closed=True, proven=True)
        bar.look = bar.final_at + (max(WATCH_MS, 3 * self._lateness) if bar.watched else self._lateness) + 1
        if bar.watched and clock >= bar.look:
            self._let_go(bar)
        elif self._waits(bar) and clock < bar.end + self._ids.step:
            bar.look = min(bar.look, bar.end + self._ids.step)

    def _waits(self, bar: _Bar) -> bool:
        """Whether a final bar may be complete once the symbol trades further past its end, since time steps back."""
        return self._ids.step > 0 and bar.written is not None and not bar.written.complete

    def provisional(self, now_ms: int, grace_ms: int) -> Iterator[OHLCVCandle]:
        """Yield, as not complete, each bar not written yet that the wall clock passed by `grace_ms`."""
        for bar in self._sorted():
            if bar.final_at is None and not bar.revision and bar.end + grace_ms <= now_ms:
                yield from self._write(bar, closed=True, proven=False)

    def finish(self) -> Iterator[OHLCVCandle]:
        """Yield, at end of input, every final bar that differs from its last line, and running ones with `partial`."""
        for bar in self._sorted():
            if bar.final_at is not None:
                yield from self._write(bar, closed=True, proven=True)
            elif self._partial:
                yield from self._write(bar, closed=False, proven=False)
        yield from self._flats(self._prove_quiet(0))

    def next_end(self) -> int | None:
        """Return the end of the earliest bar that is neither final nor written provisionally; None without one."""
        return min((b.end for b in self._bars.values() if b.final_at is None and not b.revision), default=None)

    def running(self) -> int:
        """Return how many bars are not final yet."""
        return sum(bar.final_at is None for bar in self._bars.values())

    # ---- inside

    def _sorted(self) -> list[_Bar]:
        return sorted(self._bars.values(), key=lambda bar: bar.start)

    def _value(self, bar: _Bar) -> TimeframeBucket:
        """Return everything in a bar: its settled sum and the market's unsettled parts inside it."""
        inside = [part for part in self._parts.values() if bar.start <= part.start < bar.end]
        if len(inside) == 1 and not bar.sum.count and inside[0].start == bar.start and inside[0].end == bar.end:
            return inside[0]
        whole = bar.sum.copy()
        for part in inside:
            whole.merge(part)
        return whole

    def _proven(self, value: TimeframeBucket) -> bool:
        return self._holds_all(value.start, value.end, value.first_id, value.last_id)

    def _holds_all(self, start: int, end: int, first: int, last: int) -> bool:
        """Whether the ids prove that nothing is missing in `[start, end)`, and nothing that came was left out there."""
        if self._lacking_until > start or start in self._lacking:
            return False
        if end > self.timeframe.end_of(start) and any(start < at < end for at in self._lacking):
            return False
        return is_complete(self._ids.run_of(first), first, last, start, end, self._ids.step)

    def _write(self, bar: _Bar, closed: bool, proven: bool) -> Iterator[OHLCVCandle]:
        """Yield the bar if it differs from its last line, with the revision that line calls for."""
        value = self._value(bar)
        if not value.count:
            return
        candle = value.candle(self._exchange, self._symbol, self.timeframe.name, closed, proven and self._proven(value))
        if candle == bar.written:
            return
        bar.written = candle
        if not closed:
            yield candle
            return
        revision, bar.revision = bar.revision, bar.revision + 1
        if revision:
            self.revised += 1
            candle = msgspec.structs.replace(candle, revision=revision)
        yield candle

    def _limit_watched(self) -> None:
        watched = [bar for bar in self._bars.values() if bar.watched]
        for bar in sorted(watched, key=lambda b: b.start)[: max(0, len(watched) - MAX_WATCHED)]:
            self._let_go(bar)

    def _let_go(self, bar: _Bar) -> None:
        del self._bars[bar.start]
        self._gone_id = max(self._gone_id, bar.sum.last_id)
        for gap in self._gaps:
            if bar is not gap.left and bar.start < gap.right.start:
                gap.above = max(gap.above, bar.sum.last_id)

    def _prove_quiet(self, clock: int) -> list[_Gap]:
        """Return the gaps whose quiet the ids prove by now, oldest first; forget gaps that are old.

        The price is that of the highest id before the quiet. Since time can step back, it may lie in another bar than
        the one beside the quiet.
        """
        proven = []
        for gap in sorted(self._gaps, key=lambda g: g.left.start):
            bars = [self._value(bar) for bar in {gap.left, gap.right, *self._bars.values()}]
            before = [value for value in bars if value.count and value.start < gap.right.start]
            last = max(before, key=lambda value: value.last_id, default=None)
            if last is None or last.last_id < gap.above + gap.flat:
                continue
            if gap.flat or self._holds_all(gap.left.end, gap.right.start, last.last_id, last.last_id):
                if gap.flat and gap.price != last.close:
                    gap.revision += 1  # an id that was called absent has turned up, and is the last before it
                if not gap.flat or gap.price != last.close:
                    proven.append(gap)
                gap.flat, gap.price, gap.above = True, last.close, last.last_id
        self._gaps = [gap for gap in self._gaps if clock <= gap.expires]
        return proven

    def _flats(self, gaps: list[_Gap]) -> Iterator[OHLCVCandle]:
        for gap in gaps:
            start = gap.left.end
            if gap.right.start - start > longest_quiet(self.timeframe):
                self.long_quiets += 1
                continue
            while start < gap.right.start:
                end = self.timeframe.end_of(start)
                yield msgspec.structs.replace(self._flat(start, end, gap.price), revision=gap.revision)
                start = end

    def _flat(self, start: int, end: int, price: Decimal) -> OHLCVCandle:
        return flat_candle(self._exchange, self._symbol, self.timeframe.name, start, end, price)
