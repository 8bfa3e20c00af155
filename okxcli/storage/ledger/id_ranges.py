"""Ranges of ids with what is known of them and their times, and how they are made from ids as they come."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.id_ledger import Ranges

#: ahead: stored with a time that has not come, which proves nothing.
Kind = Literal["covered", "missing", "absent", "unknown", "ahead", "differing", "forgotten"]


@dataclass(frozen=True)
class IdRange:
    """The ids `first .. last`, both included; None where nobody knows how far they go.

    Times are milliseconds: of a covered range those of its first and last fill, of any other those of the covered
    fills before and after it, or of the end of what was asked.
    """

    kind: Kind
    first: int | None
    last: int | None
    first_time: int | None
    last_time: int | None

    @property
    def count(self) -> int | None:
        """How many ids there are; None where the range is open."""
        return None if self.first is None or self.last is None else self.last - self.first + 1


class RangeBook:
    """Ids as they come, with the times of the edges: the ranges of a tape that is not in the database."""

    def __init__(self) -> None:
        self.absent: Ranges = []
        self._parts: list[tuple[int, int, int, int]] = []
        self._fresh: list[tuple[int, int, int, int]] = []

    def add(self, first: int, last: int, first_time: int, last_time: int) -> None:
        """Add the ids `first .. last`, whose fills were between two moments (ms)."""
        if self._fresh and first == self._fresh[-1][1] + 1:
            begin, _, low, high = self._fresh[-1]
            self._fresh[-1] = (begin, last, min(low, first_time), max(high, last_time))
            return
        self._fresh.append((first, last, first_time, last_time))
        if len(self._fresh) > max(10_000, len(self._parts)):
            self._merge()

    def _merge(self) -> None:
        joined: list[tuple[int, int, int, int]] = []
        for first, last, low, high in sorted(self._parts + self._fresh):
            if joined and first <= joined[-1][1] + 1:
                begin, end, lowest, highest = joined[-1]
                joined[-1] = (begin, max(end, last), min(lowest, low), max(highest, high))
            else:
                joined.append((first, last, low, high))
        self._parts, self._fresh = joined, []

    def ranges(self) -> Iterator[IdRange]:
        """Yield covered ranges and what lies between them, by rising id."""
        self._merge()
        noted = id_ledger.union(self.absent)
        before: tuple[int, int] | None = None  # the last id and its time
        for first, last, low, high in self._parts:
            if before is not None:
                hole = [(before[0] + 1, first - 1)]
                gone = id_ledger.common(hole, noted)
                parts: list[tuple[int, int, Kind]] = [(a, b, "absent") for a, b in gone]
                parts += [(a, b, "missing") for a, b in id_ledger.subtract(hole, noted)]
                for a, b, kind in sorted(parts):
                    yield IdRange(kind, a, b, before[1], low)
            yield IdRange("covered", first, last, low, high)
            before = (last, high)
