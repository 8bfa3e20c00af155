"""Larger candles from smaller ones: the same bars that the trades would have made.

A candle of the source timeframe is a part; of two versions of a part the better one counts, as in the store. A larger
bar is final when a part at or past its end arrives, or when its last part makes it complete; it is written again
whenever a part of it changes. Ours and the exchange's candles of one symbol are never mixed.

Parts prove their own edges, not those of the whole: it is complete when every piece of its time has a complete part, or
when the ids prove it, as they do for bars made of trades. A part that lacks none of the ids from its first to its last
is as good as its fills, held within its time.
"""

from collections.abc import Iterable, Iterator
from typing import Unpack

import msgspec

from okxcli.core.candles.bucket import flat_candle
from okxcli.core.candles.compare import beats
from okxcli.core.candles.larger_bar import Whole, combine, last_id
from okxcli.core.candles.outlet import Emit, Outlet, Rules
from okxcli.core.candles.processor import LIVE_MS
from okxcli.core.candles.series import WATCH_MS, longest_quiet
from okxcli.core.model import Absent, Line, OHLCVCandle
from okxcli.core.tape import IdRanges, is_complete
from okxcli.core.timeframes import Timeframe
from okxcli.errors import InvalidLine


class _Rollup:
    """The larger bars of one symbol and origin in one timeframe."""

    def __init__(self, timeframe: Timeframe, owner: "CandleRollup", seen: IdRanges) -> None:
        self._timeframe = timeframe
        self._seen = seen
        self._owner = owner
        self._wholes: dict[int, Whole] = {}
        self._newest: Whole | None = None
        self._flats: dict[int, OHLCVCandle] = {}  # flat bars that were written, as long as others are remembered
        self._hold = max(WATCH_MS, 3 * owner.lateness_ms) + 2 * owner.source.length
        self._next_fold = 0

    def take(self, part: OHLCVCandle, clock: int, mended: bool) -> Iterator[OHLCVCandle]:
        """Fold one part in; yield what it changes or makes final at `clock`."""
        start = self._timeframe.start_of(part.start)
        whole = self._wholes.get(start)
        if whole is None:
            whole = Whole(start, self._timeframe.end_of(start))
            if whole.end + self._hold < clock:
                self._owner.late += 1
                return
            self._wholes[start] = whole
            whole.written = self._flats.pop(start, None)
            whole.revision = int(whole.written is not None)
            yield from self._quiet(whole, part)
        known = whole.parts.get(part.start)
        if part.start < whole.folded_until:
            whole.short = True
            self._owner.late += 1
            return
        whole.note(part)
        if known is not None and not beats(part, known):
            self._owner.duplicates += 1
            return
        whole.parts[part.start] = part
        for other in sorted(self._wholes.values(), key=lambda w: w.start):
            if other is whole and not other.final:
                other.final = self._proves_itself(whole, part)
            again = other is whole or mended or self._waits(other)
            if (other.final and again) or (not other.final and other.end <= clock):
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
                whole.fold(before)
        self._flats = {start: flat for start, flat in self._flats.items() if flat.timestamp >= before}

    def _waits(self, whole: Whole) -> bool:
        """Whether a bar that was written as not complete may be by now, for ids that came only since."""
        old = whole.written
        if old is None or old.complete or old.first_trade_id is None or old.last_trade_id is None:
            return False
        first, last = old.first_trade_id, old.last_trade_id
        return is_complete(self._seen.run_of(first), first, last, whole.start, whole.end, self._seen.step)

    def look_again(self) -> Iterator[OHLCVCandle]:
        """Yield the final bars that ids which came prove by now."""
        for whole in sorted(self._wholes.values(), key=lambda w: w.start):
            if whole.final:
                yield from self._write(whole, closed=True)

    def _proves_itself(self, whole: Whole, part: OHLCVCandle) -> bool:
        """Whether the last part makes a bar final: complete bars are final, and so is what is made of nothing else."""
        if part.timestamp != whole.end or not part.complete:
            return False
        value = self._value(whole, closed=True)
        return value is not None and value.complete

    def _quiet(self, whole: Whole, part: OHLCVCandle) -> Iterator[OHLCVCandle]:
        """Yield flat bars between the newest bar and a new one, if `fill` asks for them and the ids prove the quiet."""
        before, self._newest = self._newest, whole
        if before is None or whole.start <= before.start:
            self._newest = before or whole
            return
        if not self._owner.fill or before.end >= whole.start:
            return
        values = [self._value(other, closed=True) for other in self._wholes.values() if other is not whole]
        last = max((value for value in values if value is not None), key=last_id, default=None)
        if last is None or not self._quiet_between(last, before.end, part):
            return
        if whole.start - before.end > longest_quiet(self._timeframe):
            self._owner.long_quiets += 1
            return
        start = before.end
        while start < whole.start:
            end = self._timeframe.end_of(start)
            flat = flat_candle(last.exchange, last.symbol, self._timeframe.name, start, end, last.close)
            self._flats[start] = flat
            yield flat
            start = end

    def _quiet_between(self, last: OHLCVCandle, since: int, part: OHLCVCandle) -> bool:
        """Whether nothing traded from `since` until a part; `last` has the highest id before that."""
        number = last.last_trade_id
        if number is None:  # candles of the exchange, which has flat ones of its own
            return False
        return is_complete(self._seen.run_of(number), number, number, since, part.start, self._seen.step)

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

    def _value(self, whole: Whole, closed: bool) -> OHLCVCandle | None:
        """Return the bar as it stands; None for one in which nothing traded and of which parts are missing."""
        pieces = [] if whole.folded is None else [whole.folded]
        pieces += [whole.parts[start] for start in sorted(whole.parts)]
        if not pieces:
            return None
        merged = combine(pieces)
        all_there = (whole.count + len(whole.parts)) * self._owner.source.length == whole.end - whole.start
        first, last = merged.first_trade_id, merged.last_trade_id
        if first is None and merged.origin == "trades" and not all_there:
            return None
        return msgspec.structs.replace(
            merged,
            timeframe=self._timeframe.name,
            start=whole.start,
            timestamp=whole.end,
            closed=closed,
            complete=closed
            and ((all_there and merged.complete) or self._proven(whole, first, last, merged.trade_count)),
        )

    def _proven(self, whole: Whole, first: int | None, last: int | None, count: int | None) -> bool:
        """Whether the ids prove that no fill of a bar is missing."""
        if first is None or last is None or whole.lacks_ids():
            return False
        if count == last - first + 1:  # parts whose ids lie between those of others are whole together
            self._seen.add(first, last, sure=False)
        return is_complete(self._seen.run_of(first), first, last, whole.start, whole.end, self._seen.step)

    def _write(self, whole: Whole, closed: bool, proven: bool = True) -> Iterator[OHLCVCandle]:
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
        self._seen = IdRanges(length=owner.source.length)
        self._sure_until = self._sure_id = 0  # up to where complete parts follow on each other, and their last id
        self.rollups = [_Rollup(timeframe, owner, self._seen) for timeframe in owner.timeframes]

    def note(self, part: OHLCVCandle) -> None:
        """Advance the clock and remember the ids of a part: all of them, or the ends where some between are not in it.

        Some ids between lie in other bars then, or are absent. That its first id is the first of all is the word of who
        proved it complete, and of nobody else.
        """
        self.clock = max(self.clock, part.start)
        self.mended = False
        first, last = part.first_trade_id, part.last_trade_id
        if part.complete and (last is not None or part.start == self._sure_until):
            self._sure_until, self._sure_id = part.timestamp, last or self._sure_id
        if first is None or last is None:
            # Proved flat, after bars that are proved as well: who did that knows of a fill at its end or after it.
            if part.timestamp == self._sure_until and not self._seen.step:
                self._seen.reach(self._sure_id, part.timestamp)
            return
        self.mended = first < self._seen.top
        whole = part.trade_count == last - first + 1
        for low, high in ((first, last),) if whole else ((first, first), (last, last)):
            self._seen.add(low, high, part.timestamp - 1, part.start, sure=part.complete)

    def absent(self, first: int, last: int) -> Iterator[OHLCVCandle]:
        """Count ids that the exchange does not have as known; bars that waited for them are written again."""
        if self._seen.add(first, last):
            for rollup in self.rollups:
                yield from rollup.look_again()


class CandleRollup(Outlet):
    """Makes larger candles from candles of one timeframe; the twin of `RealTimeCandleProcessor` for candle lines.

    Raises:
        InvalidLine: from the constructor, when a timeframe is none, or not made of bars of `source`.
    """

    def __init__(self, source: str, timeframes: str | Iterable[str], emit: Emit, **rules: Unpack[Rules]) -> None:
        self.source = Timeframe.parse(source)
        super().__init__(timeframes, emit, **rules)
        for timeframe in self.timeframes:
            if not timeframe.holds(self.source):
                raise InvalidLine(f"{timeframe.name} bars are not made of {source} bars")
        self.late = self.duplicates = self.revised = self.long_quiets = 0
        self._grace_ms = 2 * self.grace_ms  # the part that ends with the bar comes one grace after it
        self._markets: dict[tuple[str, ...], _Market] = {}

    def feed(self, line: Line) -> None:
        """Take one line: candles and absent ids; others are ignored."""
        if type(line) is OHLCVCandle:
            self.candle(line)
        elif type(line) is Absent:
            market = self._market(line.exchange, line.symbol, "trades")
            self._hand_out(market.absent(line.first, line.last))

    def candle(self, part: OHLCVCandle) -> None:
        """Fold one candle in; running ones and those of another timeframe are ignored."""
        if not part.closed or part.timeframe != self.source.name:
            return
        market = self._market(part.exchange, part.symbol, part.origin)
        market.note(part)
        for rollup in market.rollups:
            self._hand_out(rollup.take(part, market.clock, market.mended))

    def _market(self, *key: str) -> _Market:
        if key not in self._markets:
            self._markets[key] = _Market(self)
        return self._markets[key]

    def advance(self, now_ms: int) -> int | None:
        """Write the bars of live symbols that the wall clock says are over; return when to call again, or None."""
        due: int | None = None
        for market in self._markets.values():
            if self._live is False or (self._live is None and now_ms - market.clock >= LIVE_MS * 2):
                continue
            for rollup in market.rollups:
                self._hand_out(rollup.provisional(now_ms, self._grace_ms))
                end = rollup.next_end()
                if end is not None and (due is None or end + self._grace_ms < due):
                    due = end + self._grace_ms
        return due

    def finish(self) -> None:
        """Nothing waits for the end of input: every change was written when it came."""

    def counts(self) -> dict[str, int]:
        """Return all counts; `open_bars` are those not final yet."""
        return {
            "candles": self.candles,
            "duplicates": self.duplicates,
            "late": self.late,
            "revised": self.revised,
            "long_quiets": self.long_quiets,
            "open_bars": sum(rollup.running() for market in self._markets.values() for rollup in market.rollups),
            "symbols": sum(market.clock > 0 for market in self._markets.values()),
        }
