"""Trade identity: which ids are known, which are missing, what is a duplicate, and what that proves of a bar.

By id, never by time: times say only on which side of a bar a fill lies.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

#: An id further off than this (a week of the busiest market) is one damaged message, or, if another one follows on it,
#: the ids have begun anew: no hole to be filled.
FAR = 10_000_000
#: Ranges kept before the oldest are forgotten: 16,384 holes in one symbol's ids, about 1 MiB.
MAX_RANGES = 16_384
#: An exchange answers from caches that know nothing of each other: so many answers, spread over so long, prove that it
#: lacks an id; and the next one is asked for so long after the one before.
ANSWERS = 3
SPREAD_MS = 60_000
#: Later and earlier than any time: what a range without a present fill reaches from and to.
_NEVER, _ALWAYS = 1 << 62, -1


class Run(NamedTuple):
    """Ids that follow on each other, all of them known: present, or absent at the exchange.

    A present fill among them is at `low` (ms) or before it, and one at `high` or after it; absent ids have no time.
    `begins`: the first is the first id that there is.
    """

    first: int
    last: int
    low: int = _NEVER
    high: int = _ALWAYS
    begins: bool = False


def is_complete(run: Run | None, first: int, last: int, start: int, end: int, step: int = 0) -> bool:
    """Whether a bar over `[start, end)` (ms) that holds the ids `first .. last` lacks no fill: the one rule for it.

    All ids are known from a present fill before the bar to a present fill after it, both held outside of it by their
    own time. `step` (ms) is the most that time has stepped back from one id to a higher one: a fill that nobody has
    seen lies no further back behind those beside it, so that what is known must reach so much further on both sides.
    The bar must hold all fills of the run that lie in its time. For a quiet, `first` and `last` may be any id of it.
    """
    if run is None or not run.first <= first <= last <= run.last:
        return False
    return (run.begins or run.low < start - step) and run.high >= end + step


def is_absent(answers: int, first_ms: int, last_ms: int, spread_ms: int = SPREAD_MS) -> bool:
    """Whether so many answers that lack an id, the first and the last at two moments, prove that there is none.

    Only answers count that are evidence: those that hold an id above and one at or below it.
    """
    return answers >= ANSWERS and last_ms - first_ms >= spread_ms


def pause_ms(spread_ms: int = SPREAD_MS) -> int:
    """Return how long to wait between two answers, so that they are spread far enough."""
    return spread_ms // (ANSWERS - 1)


class IdRanges:
    """A set of positive ids kept as ranges, in bounded memory, each with the times that its present fills reach to.

    Ids come mostly in order, so adding at the top is the fast path. Past `limit` ranges the lowest is forgotten: from
    then on ids up to `floor` count as unknown, which can make a bar incomplete but never complete. `step` is the
    largest step back of time over ids that was seen (ms); where ids come with the span of a bar of `length` ms instead
    of a time of their own, it is the largest that can have been.
    """

    __slots__ = ("_firsts", "_forgotten", "_from_one", "_highs", "_lasts", "_limit", "_lows", "_newest", "_slack",
                 "floor", "step", "top")  # fmt: skip

    def __init__(self, limit: int = MAX_RANGES, length: int = 1) -> None:
        self.floor = 0
        self.top = 0  # the highest id known
        self.step = 0
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._lows: list[int] = []
        self._highs: list[int] = []
        self._newest = _ALWAYS  # the highest of `_highs`
        self._from_one = False
        self._forgotten = 0
        self._limit = limit
        self._slack = 2 * length - 2

    def add(self, first: int, last: int, time: int | None = None, begin: int | None = None, sure: bool = True) -> int:
        """Add the ids `first .. last` (both included); return how many of them were not known before.

        `time` is that of their fill (ms), None for absent ids. Of the fills of a bar it is the last moment of it, and
        `begin` the first. Unless `sure`, the ids do not prove that id 1 is the first of all, should it be among them.
        """
        lasts = self._lasts
        if lasts and first == lasts[-1] + 1:
            lasts[-1] = self.top = last
            if time is not None:
                high = time if begin is None else begin
                if time < self._newest:
                    self.step = max(self.step, self._newest - time + self._slack)
                elif high > self._newest:
                    self._newest = high
                if high > self._highs[-1]:  # noqa: PLR1730 -- max() costs a call on the hot path
                    self._highs[-1] = high
                if time < self._lows[-1]:  # noqa: PLR1730
                    self._lows[-1] = time
            return last - first + 1
        first = max(first, self.floor + 1)
        if first > last:
            return 0
        if first == 1 and sure:
            self._from_one = True
        if time is None:
            return self._insert(first, last, _NEVER, _ALWAYS)
        high = time if begin is None else begin
        self._note_step(first, last, time, high)
        return self._insert(first, last, time, high)

    def extend(self, last: int, low: int, high: int, step: int) -> None:
        """Add the ids above the highest known one up to `last`: those of fills from `low` to `high` (ms).

        `step` is the most that time steps back among them.
        """
        self.stepped_back(max(step, self._newest - low))
        self._newest = max(self._newest, high)
        self._lasts[-1] = self.top = last
        self._highs[-1] = max(self._highs[-1], high)
        self._lows[-1] = min(self._lows[-1], low)

    def _note_step(self, first: int, last: int, low: int, high: int) -> None:
        """Measure the step back of time between ids that come and those below and above them."""
        below, above = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        before = self._newest if below == len(self._lasts) else max(self._highs[:below], default=_ALWAYS)
        step = max(before - low, high - min(self._lows[above:], default=_NEVER))
        self.stepped_back(step)
        self._newest = max(self._newest, high)

    def stepped_back(self, by: int) -> None:
        """Take note that time steps back over ids by so much (ms), between the times that they come with."""
        if by > 0:
            self.step = max(self.step, by + self._slack)

    def _insert(self, first: int, last: int, low: int, high: int) -> int:
        firsts, lasts, lows, highs = self._firsts, self._lasts, self._lows, self._highs
        a = bisect_left(lasts, first - 1)  # the first range that touches [first, last] or follows it
        b = bisect_right(firsts, last + 1)  # past the last range that touches it
        known = sum(max(0, min(lasts[i], last) - max(firsts[i], first) + 1) for i in range(a, b))
        count = last - first + 1
        if a < b:
            first, last = min(first, firsts[a]), max(last, lasts[b - 1])
        lows[a:b], highs[a:b] = [min([low, *lows[a:b]])], [max([high, *highs[a:b]])]
        firsts[a:b], lasts[a:b] = [first], [last]
        self.top = lasts[-1]
        if len(firsts) > self._limit:
            self._forgotten += firsts[1] - lasts[0] - 1
            self.floor = firsts[1] - 1
            del firsts[0], lasts[0], lows[0], highs[0]
        return count - known

    def reach(self, number: int, high: int) -> None:
        """Note that the ids that follow on a number are known to somebody up to a fill at `high` (ms) or after it."""
        at = bisect_right(self._firsts, number) - 1
        if at >= 0 and number <= self._lasts[at]:
            self._highs[at] = max(self._highs[at], high)

    def discard(self, first: int, last: int) -> int:
        """Take the ids `first .. last` out of a set without times; return how many of them were in it."""
        a, b = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        if a >= b:
            return 0
        low, high = self._firsts[a], self._lasts[b - 1]
        known = self.overlap(first, last)
        left = [(low, first - 1)] * (low < first) + [(last + 1, high)] * (last < high)
        self._firsts[a:b], self._lasts[a:b] = [one for one, _ in left], [one for _, one in left]
        self._lows[a:b], self._highs[a:b] = [_NEVER] * len(left), [_ALWAYS] * len(left)
        self.top = self._lasts[-1] if self._lasts else 0
        return known

    def overlap(self, first: int, last: int) -> int:
        """Return how many ids of `first .. last` are known."""
        a, b = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        return sum(min(self._lasts[i], last) - max(self._firsts[i], first) + 1 for i in range(a, b))

    def unknown(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of `first .. last` that are not known; the set must not change meanwhile."""
        first = max(first, self.floor + 1)
        a, b = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        for i in range(a, b):
            if first < self._firsts[i]:
                yield first, self._firsts[i] - 1
            first = self._lasts[i] + 1
        if first <= last:
            yield first, last

    def run_of(self, number: int) -> Run | None:
        """Return the known ids around a number; None if it is not known itself."""
        at = bisect_right(self._firsts, number) - 1
        if at < 0 or number > self._lasts[at]:
            return None
        first = self._firsts[at]
        return Run(first, self._lasts[at], self._lows[at], self._highs[at], first == 1 and self._from_one)

    def covers(self, first: int, last: int) -> bool:
        """Whether every id of `first .. last` is known; True for an empty range."""
        if first > last:
            return True
        at = bisect_right(self._firsts, first) - 1
        return at >= 0 and last <= self._lasts[at]

    def touches(self, first: int, last: int) -> bool:
        """Whether any id of `first .. last` is known."""
        at = bisect_right(self._firsts, last) - 1
        return at >= 0 and first <= self._lasts[at]

    def holes(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges of ids (first, last) between the lowest and the highest known one that are not known."""
        for i in range(1, len(self._firsts)):
            yield self._lasts[i - 1] + 1, self._firsts[i] - 1

    def missing(self) -> int:
        """Return how many ids between the lowest and the highest known one are not known."""
        return self._forgotten + sum(last - first + 1 for first, last in self.holes())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the known ranges (first, last), lowest first."""
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        """Return the number of ranges."""
        return len(self._firsts)
