"""Trade identity: which ids are known, which are missing, what is a duplicate. By id, never by time."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

#: Ranges kept before the oldest are forgotten: 16,384 holes in one symbol's ids, about 1 MiB.
MAX_RANGES = 16_384


class IdRanges:
    """A set of positive ids kept as ranges, in bounded memory.

    Ids come mostly in order, so adding at the top is the fast path. Past `limit` ranges the lowest is forgotten: from
    then on ids up to `floor` count as unknown, which can make a bar incomplete but never complete.
    """

    __slots__ = ("_firsts", "_forgotten", "_lasts", "_limit", "begun", "floor", "top")

    def __init__(self, limit: int = MAX_RANGES) -> None:
        self.floor = 0
        self.top = 0  # the highest id known
        self.begun = 0  # the lowest id of the range that was last begun, or extended downwards
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._forgotten = 0
        self._limit = limit

    def add(self, first: int, last: int) -> int:
        """Add the ids `first .. last` (both included); return how many of them were not known before."""
        lasts = self._lasts
        if lasts and first == lasts[-1] + 1:
            lasts[-1] = self.top = last
            return last - first + 1
        return self._insert(max(first, self.floor + 1), last)

    def _insert(self, first: int, last: int) -> int:
        if first > last:
            return 0
        firsts, lasts = self._firsts, self._lasts
        low = bisect_left(lasts, first - 1)  # the first range that touches [first, last] or follows it
        high = bisect_right(firsts, last + 1)  # past the last range that touches it
        known = sum(max(0, min(lasts[i], last) - max(firsts[i], first) + 1) for i in range(low, high))
        joined = (min(first, firsts[low]), max(last, lasts[high - 1])) if low < high else (first, last)
        if joined[0] == first:
            self.begun = first
        firsts[low:high] = [joined[0]]
        lasts[low:high] = [joined[1]]
        self.top = lasts[-1]
        if len(firsts) > self._limit:
            self._forgotten += firsts[1] - lasts[0] - 1
            self.floor = firsts[1] - 1
            del firsts[0], lasts[0]
        return last - first + 1 - known

    def covers(self, first: int, last: int) -> bool:
        """Whether every id of `first .. last` is known; True for an empty range."""
        if first > last:
            return True
        at = bisect_right(self._firsts, first) - 1
        return at >= 0 and last <= self._lasts[at]

    def begin_of(self, number: int) -> int:
        """Return the lowest id of the range that holds a known id."""
        return self._firsts[bisect_right(self._firsts, number) - 1]

    def touches(self, first: int, last: int) -> bool:
        """Whether any id of `first .. last` is known."""
        at = bisect_right(self._firsts, last) - 1
        return at >= 0 and first <= self._lasts[at]

    def drop_below(self, first: int) -> None:
        """Forget every whole range below `first`, without counting holes."""
        at = bisect_left(self._lasts, first)
        del self._firsts[:at], self._lasts[:at]

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
