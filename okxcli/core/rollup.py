"""Larger candles from smaller ones: the same bars that the trades would have made.

A candle of the source timeframe is a part; a part that comes again with no lower revision replaces the first. A larger
bar is final when a part at or past its end arrives, or when its last part makes it complete; it is written again
whenever a part of it changes. Ours and the exchange's candles of one symbol are never mixed.
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

import msgspec

from okxcli.core.bucket import flat_candle
from okxcli.core.candles import GRACE_MS, LATENESS_MS, LIVE_MS, Emit
from okxcli.core.decimals import EXACT
from okxcli.core.model import Line, OHLCVCandle
from okxcli.core.series import WATCH_MS
from okxcli.core.tape import IdRanges
from okxcli.core.timeframes import Timeframe, parse_list
from okxcli.errors import InvalidLine


class _Whole:
    """A larger bar: recent parts by their start, older ones folded into `folded`."""

    __slots__ = ("count", "end", "final", "folded", "folded_until", "parts", "revision", "start", "written")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.parts: dict[int, OHLCVCandle] = {}
        self.folded: OHLCVCandle | None = None
        self.folded_until = start
        self.count = 0  # parts in `folded`
        self.final = False
        self.written: OHLCVCandle | None = None
        self.revision = 0

    def fold(self, before: int, seen: IdRanges) -> None:
        """Merge the parts that start before `before`; they cannot be replaced any more."""
        old = sorted(start for start in self.parts if start < before)
        if old:
            pieces = [] if self.folded is None else [self.folded]
            self.folded = combine([*pieces, *(self.parts.pop(start) for start in old)], seen)
            self.folded_until = before
            self.count += len(old)


def combine(parts: list[OHLCVCandle], seen: IdRanges) -> OHLCVCandle:
    """Merge candles, oldest first, into one that spans them; `complete` if all are and their ids follow on.

    An id between two parts may lie in a bar beside this one, since time can step back: `seen` are the ids of all
    parts that came in. Open comes from the part with the lowest first id, close from the one with the highest last
    id; where there are no ids, from the first and the last part. Parts in which nothing traded have no say beside
    others that have ids.
    """
    traded = [part for part in parts if part.first_trade_id is not None]
    if traded:
        opener = min(traded, key=_first_id)
        closer = max(traded, key=_last_id)
    else:
        traded = parts
        opener, closer = parts[0], parts[-1]
    return msgspec.structs.replace(
        parts[0],
        timestamp=parts[-1].timestamp,
        open=opener.open,
        high=max(part.high for part in traded),
        low=min(part.low for part in traded),
        close=closer.close,
        volume=_sum(part.volume for part in parts) or Decimal(0),
        base_volume=_sum(part.base_volume for part in parts),
        quote_volume=_sum(part.quote_volume for part in parts),
        buy_volume=_sum(part.buy_volume for part in parts),
        trade_count=_count(parts),
        first_trade_id=opener.first_trade_id,
        last_trade_id=closer.last_trade_id,
        complete=all(part.complete for part in parts) and _follow_on(traded, seen),
        revision=0,
    )


def _first_id(part: OHLCVCandle) -> int:
    return part.first_trade_id or 0


def _last_id(part: OHLCVCandle) -> int:
    return part.last_trade_id or 0


def _follow_on(traded: list[OHLCVCandle], seen: IdRanges) -> bool:
    """Whether every id between one part and the next is in some part that came in.

    Errs on the safe side: of a part whose ids lie interleaved with another's, only the outer two are known here.
    """
    if _count(traded) == max(map(_last_id, traded)) - min(map(_first_id, traded)) + 1:
        return True
    top = _last_id(traded[0])
    for part in traded[1:]:
        if not seen.covers(top + 1, _first_id(part) - 1):
            return False
        top = max(top, _last_id(part))
    return True


def _sum(values: Iterable[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for value in values:
        if value is None:
            return None
        total = EXACT.add(total, value)
    return total


def _count(parts: list[OHLCVCandle]) -> int | None:
    counts = [part.trade_count for part in parts]
    return None if None in counts else sum(count for count in counts if count is not None)


class _Rollup:
    """The larger bars of one symbol and origin in one timeframe."""

    def __init__(self, timeframe: Timeframe, owner: "CandleRollup", seen: IdRanges) -> None:
        self._timeframe = timeframe
        self._seen = seen
        self._owner = owner
        self._wholes: dict[int, _Whole] = {}
        self._newest: _Whole | None = None
        self._hold = max(WATCH_MS, 3 * owner.lateness_ms) + 2 * owner.source.length
        self._next_fold = 0

    def take(self, part: OHLCVCandle, clock: int, mended: bool) -> Iterator[OHLCVCandle]:
        """Fold one part in; yield what it changes or makes final at `clock`."""
        start = self._timeframe.start_of(part.start)
        whole = self._wholes.get(start)
        if whole is None:
            whole = _Whole(start, self._timeframe.end_of(start))
            if whole.end + self._hold < clock:
                self._owner.late += 1
                return
            self._wholes[start] = whole
            yield from self._quiet(whole, part)
        known = whole.parts.get(part.start)
        if part.start < whole.folded_until:
            self._owner.late += 1
            return
        if known is not None and (part.revision < known.revision or part == known):
            self._owner.duplicates += 1
            return
        whole.parts[part.start] = part
        for other in sorted(self._wholes.values(), key=lambda w: w.start):
            if other is whole and not other.final:
                other.final = self._proves_itself(whole, part)
            if (other.final and (other is whole or mended)) or (not other.final and other.end <= clock):
                other.final = True
                yield from self._write(other, closed=True)
            elif other is whole and self._owner.partial:
                yield from self._write(other, closed=False)
        if clock >= self._next_fold:
            self._next_fold = clock + self._hold // 4
            self._let_go(clock - self._hold)

    def _let_go(self, before: int) -> None:
        """Forget the bars that ended before a moment, and fold the parts of others that began before it."""
        for whole in list(self._wholes.values()):
            if whole.end < before:
                del self._wholes[whole.start]
            else:
                whole.fold(before, self._seen)

    def _proves_itself(self, whole: _Whole, part: OHLCVCandle) -> bool:
        """Whether the last part makes a bar final: complete bars are final, and so is what is made of nothing else."""
        if part.timestamp != whole.end or not part.complete:
            return False
        value = self._value(whole, closed=True)
        return value is not None and value.complete

    def _quiet(self, whole: _Whole, part: OHLCVCandle) -> Iterator[OHLCVCandle]:
        """Yield flat bars between the newest bar and a new one, if `fill` asks for them and the ids prove the quiet."""
        before, self._newest = self._newest, whole
        if before is None or whole.start <= before.start:
            self._newest = before or whole
            return
        if not self._owner.fill or before.end >= whole.start:
            return
        last = self._value(before, closed=True)
        if last is None or not last.complete or not part.complete or part.first_trade_id != _last_id(last) + 1:
            return
        values = [self._value(other, closed=True) for other in self._wholes.values() if other is not whole]
        price = max((value for value in values if value is not None), key=_last_id).close
        start = before.end
        while start < whole.start:
            end = self._timeframe.end_of(start)
            yield flat_candle(last.exchange, last.symbol, self._timeframe.name, start, end, price)
            start = end

    def provisional(self, now_ms: int, grace_ms: int) -> Iterator[OHLCVCandle]:
        """Yield, as not complete, each bar not written yet that the wall clock passed by `grace_ms`."""
        for whole in sorted(self._wholes.values(), key=lambda w: w.start):
            if not whole.final and not whole.revision and whole.end + grace_ms <= now_ms:
                yield from self._write(whole, closed=True, proven=False)

    def next_end(self) -> int | None:
        """Return the end of the earliest bar that is neither final nor written provisionally; None without one."""
        return min((w.end for w in self._wholes.values() if not w.final and not w.revision), default=None)

    def running(self) -> int:
        """Return how many bars are not final yet."""
        return sum(not whole.final for whole in self._wholes.values())

    def _value(self, whole: _Whole, closed: bool) -> OHLCVCandle | None:
        """Return the bar as it stands; None for one in which nothing traded and of which parts are missing."""
        pieces = [] if whole.folded is None else [whole.folded]
        pieces += [whole.parts[start] for start in sorted(whole.parts)]
        if not pieces:
            return None
        merged = combine(pieces, self._seen)
        all_there = (whole.count + len(whole.parts)) * self._owner.source.length == whole.end - whole.start
        if merged.first_trade_id is None and merged.origin == "trades" and not all_there:
            return None
        return msgspec.structs.replace(
            merged,
            timeframe=self._timeframe.name,
            start=whole.start,
            timestamp=whole.end,
            closed=closed,
            complete=closed and merged.complete and (merged.first_trade_id is not None or all_there),
        )

    def _write(self, whole: _Whole, closed: bool, proven: bool = True) -> Iterator[OHLCVCandle]:
        candle = self._value(whole, closed)
        if candle is not None and not proven:
            candle = msgspec.structs.replace(candle, complete=False)
        if candle is None or candle == whole.written:
            return
        whole.written = candle
        if closed:
            revision, whole.revision = whole.revision, whole.revision + 1
            self._owner.revised += revision > 0
            candle = msgspec.structs.replace(candle, revision=revision)
        yield candle


class _Market:
    """The larger bars of one symbol and origin, and the ids of the parts they are made of."""

    def __init__(self, owner: "CandleRollup") -> None:
        self.clock = 0
        self.mended = False  # the last part brought ids below others: they may be what an older bar lacks
        self._seen = IdRanges()
        self.rollups = [_Rollup(timeframe, owner, self._seen) for timeframe in owner.timeframes]

    def note(self, part: OHLCVCandle) -> None:
        """Advance the clock and remember the ids of a part; of a provisional one only the start is certain."""
        self.clock = max(self.clock, part.start)
        self.mended = False
        first, last = part.first_trade_id, part.last_trade_id
        if first is None or last is None:
            return
        self.mended = first < self._seen.top
        if part.trade_count == last - first + 1:
            self._seen.add(first, last)
        else:  # some ids between lie in other bars
            self._seen.add(first, first)
            self._seen.add(last, last)


class CandleRollup:
    """Makes larger candles from candles of one timeframe; the twin of `RealTimeCandleProcessor` for candle lines.

    Raises:
        InvalidLine: from the constructor, when a timeframe is none, or not made of bars of `source`.
    """

    def __init__(
        self,
        source: str,
        timeframes: str | Iterable[str],
        emit: Emit,
        lateness_ms: int = LATENESS_MS,
        grace_ms: int = GRACE_MS,
        fill: bool = False,
        partial: bool = False,
        live: bool | None = None,
    ) -> None:
        self.source = Timeframe.parse(source)
        self.timeframes = parse_list(timeframes)
        for timeframe in self.timeframes:
            if not timeframe.holds(self.source):
                raise InvalidLine(f"{timeframe.name} bars are not made of {source} bars")
        self.lateness_ms = lateness_ms
        self.fill = fill
        self.partial = partial
        self.late = self.duplicates = self.revised = self.candles = 0
        self._grace_ms = 2 * grace_ms  # the part that ends with the bar comes one grace after it
        self._live = live
        self._emit = emit
        self._hooks: list[Callable[[OHLCVCandle], None]] = []
        self._markets: dict[tuple[str, str, str], _Market] = {}

    def on_candle(self, hook: Emit) -> None:
        """Have `hook` called with every closed candle, provisional and revised ones too."""
        self._hooks.append(hook)

    def feed(self, line: Line) -> None:
        """Take one line: candles; others are ignored."""
        if type(line) is OHLCVCandle:
            self.candle(line)

    def candle(self, part: OHLCVCandle) -> None:
        """Fold one candle in; running ones and those of another timeframe are ignored."""
        if not part.closed or part.timeframe != self.source.name:
            return
        key = (part.exchange, part.symbol, part.origin)
        market = self._markets.get(key)
        if market is None:
            market = self._markets[key] = _Market(self)
        market.note(part)
        for rollup in market.rollups:
            self._write(rollup.take(part, market.clock, market.mended))

    def advance(self, now_ms: int) -> int | None:
        """Write the bars of live symbols that the wall clock says are over; return when to call again, or None."""
        due: int | None = None
        for market in self._markets.values():
            if self._live is False or (self._live is None and now_ms - market.clock >= LIVE_MS * 2):
                continue
            for rollup in market.rollups:
                self._write(rollup.provisional(now_ms, self._grace_ms))
                end = rollup.next_end()
                if end is not None and (due is None or end + self._grace_ms < due):
                    due = end + self._grace_ms
        return due

    def finish(self) -> None:
        """Nothing waits for the end of input: every change was written when it came."""

    def _write(self, candles: Iterator[OHLCVCandle]) -> None:
        for candle in candles:
            self.candles += 1
            if candle.closed:
                for hook in self._hooks:
                    hook(candle)
            self._emit(candle)

    def counts(self) -> dict[str, int]:
        """Return all counts; `open_bars` are those not final yet."""
        return {
            "candles": self.candles,
            "duplicates": self.duplicates,
            "late": self.late,
            "revised": self.revised,
            "open_bars": sum(rollup.running() for market in self._markets.values() for rollup in market.rollups),
            "symbols": len(self._markets),
        }
