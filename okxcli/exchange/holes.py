"""Holes in the ids of symbols."""

from typing import NamedTuple


class Page(NamedTuple):
    """What REST shows of the ids `first .. last` of a symbol: raw lines of one fill each, by rising id.

    `missing` are the ranges of ids that it did not show; `evidence` tells whether the answers say anything about
    them: they held an id above and one at or below. Without it, some node of OKX may just be behind.
    """

    lines: list[bytes]
    first: int
    last: int
    missing: list[tuple[int, int]]
    evidence: bool

    def ids(self) -> list[int]:
        """Return the ids of `lines`, in their order."""
        found: list[int] = []
        at = self.first
        for low, high in [*self.missing, (self.last + 1, self.last)]:
            found += range(at, low)
            at = high + 1
        return found
