"""The bars of one symbol in one timeframe: when each is written, written again, and let go.

A bar is `running` until its symbol trades at or past its end; then it is final and written. It is kept for `lateness`
more, so that a trade that comes late is folded in, and written once more if that changed it. A final bar that the ids
do not prove complete is watched for a while longer: the missing ids may still be repaired or found absent.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal

import msgspec

from okxcli.core.bucket import TimeframeBucket, flat_candle
from okxcli.core.model import OHLCVCandle
from okxcli.core.tape import IdRanges
from okxcli.core.timeframes import Timeframe

#: How long an incomplete bar is watched, in the symbol's own time: an absent id is known after a minute or so.
WATCH_MS = 600_000
#: Incomplete bars watched at a time; the oldest goes first.
MAX_WATCHED = 256


class _Bar:
    """A bucket with its history of writing. `sum` lacks what is still in the market's unsettled parts."""

    __slots__ = ("end", "final_at", "revision", "start", "sum", "watched", "written")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.sum = TimeframeBucket(start, end)
        self.written: OHLCVCandle | None = None  # as last written, at revision 0
        self.revision = 0  # of the next closed line
        self.final_at: int | None = None  # the symbol's clock when it became final
        self.watched = False


class _Gap:
    """The bars between two that hold trades; `flat` once the ids have proved the quiet and it was written."""

    __slots__ = ("expires", "flat", "left", "price", "right")

    def __init__(self, left: _Bar, right: _Bar, expires: int) -> None:
        self.left = left
        self.right = right
        self.expires = expires
        self.flat = False
        self.price = left.sum.close


class Series:
    """All bars of one symbol and timeframe that may still change. Yields candles to be written; writes nothing."""

    def __init__(
        self,
        exchange: str,
        symbol: str,
        timeframe: Timeframe,
        ids: IdRanges,
        begun: Mapping[int, int],
        parts: dict[int, TimeframeBucket],
        lateness_ms: int,
        fill: bool,
        partial: bool,
    ) -> None:
        self.timeframe = timeframe
        self.dropped = IdRanges()  # ids seen that prove no bar: too late for this timeframe, or merged
        self.revised = 0
        self.due: int | None = None  # when a retained bar wants its next look, in the symbol's time
        self._exchange = exchange
        self._symbol = symbol
        self._ids = ids
        self._begun = begun
        self._parts = parts
        self._lateness = lateness_ms
        self._fill = fill
        self._partial = partial
        self._bars: dict[int, _Bar] = {}
        self._gaps: list[_Gap] = []

    # ---- taking in

    def open_bar(self, timestamp: int, clock: int) -> TimeframeBucket:
        """Return the settled sum of the bar that holds `timestamp`; the bar is made if there is none."""
        start = self.timeframe.start_of(timestamp)
        bar = self._bars.get(start)
        if bar is None:
            bar = self._bars[start] = _Bar(start, self.timeframe.end_of(start))
            if self._fill:
                self._note_gap(bar, clock)
        return bar.sum

    def settle(self, part: TimeframeBucket) -> None:
        """Take over a part of a bar that no trade can come to any more."""
        self._bars[self.timeframe.start_of(part.start)].sum.merge(part)

    def _note_gap(self, bar: _Bar, clock: int) -> None:
        """Remember the quiet that a new bar ends, or splits."""
        expires = clock + max(WATCH_MS, 3 * self._lateness)
        for gap in self._gaps:
            if gap.left.end <= bar.start < gap.right.start:
                if gap.flat:  # a flat bar stands there already: this one revises it
                    bar.written = self._flat(bar.start, bar.end, gap.price)
                    bar.revision = 1
                else:
                    self._gaps.remove(gap)
                    self._gaps += [_Gap(gap.left, bar, expires), _Gap(bar, gap.right, expires)]
                return
        others = [other for other in self._bars.values() if other is not bar]
        before = max((o for o in others if o.start < bar.start), key=lambda o: o.start, default=None)
        after = min((o for o in others if o.start > bar.start), key=lambda o: o.start, default=None)
        if before is not None and before.end < bar.start:
            self._gaps.append(_Gap(before, bar, expires))
        if after is not None and bar.end < after.start:
            self._gaps.append(_Gap(bar, after, expires))

    # ---- writing

    def step(self, clock: int, mended: bool) -> Iterator[OHLCVCandle]:
        """Yield what is due at the symbol's `clock`, in time order; `mended`: ids came out of order since last time."""
        due: int | None = None
        quiet = self._prove_quiet(clock) if self._gaps else []
        for bar in self._sorted():
            if bar.final_at is None:
                if bar.end <= clock:
                    bar.final_at = clock
                    yield from self._write(bar, closed=True, proven=True)
                elif self._partial:
                    yield from self._write(bar, closed=False, proven=False)
                    continue
                else:
                    continue
            elif bar.watched:
                if mended and self._proven(self._value(bar)):
                    yield from self._write(bar, closed=True, proven=True)
                    del self._bars[bar.start]
                    continue
            elif clock > bar.final_at + self._lateness:
                yield from self._write(bar, closed=True, proven=True)
                bar.watched = bar.written is not None and not bar.written.complete
                if not bar.watched:
                    del self._bars[bar.start]
                    continue
            when = bar.final_at + (max(WATCH_MS, 3 * self._lateness) if bar.watched else self._lateness) + 1
            if bar.watched and clock >= when:
                del self._bars[bar.start]
                continue
            due = when if due is None or when < due else due
        self.due = due
        self._limit_watched()
        yield from self._flats(quiet)

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
        """Whether the fill before, all between and the fill after are known, and none of them came too late.

        What is known below must reach back to before the bar: where time steps back over the edge of a bar just after
        the first known fill, the fill before is known, and the bar still lacks what traded earlier.
        """
        low = max(value.first_id - 1, 1)
        if not self._known(low, value.last_id + 1):
            return False
        begin = self._ids.begin_of(low)
        return begin == 1 or self._begun.get(begin, 0) < value.start

    def _known(self, low: int, high: int) -> bool:
        """Whether all ids of `low .. high` are known, and each of them proves something."""
        late = self.dropped
        return self._ids.covers(low, high) and low > late.floor and not (len(late) and late.touches(low, high))

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
            del self._bars[bar.start]

    def _prove_quiet(self, clock: int) -> list[_Gap]:
        """Return the gaps whose quiet the ids prove by now, oldest first; forget gaps that are old.

        The proof is that all ids from the highest before the quiet to the lowest after it are known, the price that of
        the highest before. Since time can step back, either may lie in another bar than the one beside the quiet.
        """
        proven = []
        for gap in sorted(self._gaps, key=lambda g: g.left.start):
            bars = [self._value(bar) for bar in {gap.left, gap.right, *self._bars.values()}]
            before = [value for value in bars if value.count and value.start < gap.right.start]
            after = [value for value in bars if value.count and value.start >= gap.right.start]
            if gap.flat or not before or not after:
                continue
            last = max(before, key=lambda value: value.last_id)
            low, high = sorted((last.last_id, min(value.first_id for value in after)))
            if self._known(low, high):
                gap.flat, gap.price = True, last.close
                proven.append(gap)
        self._gaps = [gap for gap in self._gaps if clock <= gap.expires]
        return proven

    def _flats(self, gaps: list[_Gap]) -> Iterator[OHLCVCandle]:
        for gap in gaps:
            start = gap.left.end
            while start < gap.right.start:
                end = self.timeframe.end_of(start)
                yield self._flat(start, end, gap.price)
                start = end

    def _flat(self, start: int, end: int, price: Decimal) -> OHLCVCandle:
        return flat_candle(self._exchange, self._symbol, self.timeframe.name, start, end, price)
