"""What one symbol lacks, and how it is to be had: ids, in as few pages as can be, and whole days from files. Pure."""

from dataclasses import dataclass, field
from typing import NamedTuple

from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.id_ledger import Ranges


class Stretch(NamedTuple):
    """The fills `first .. last`, of which the bars that lie whole in `[since_ms, until_ms)` are made."""

    first: int
    last: int
    since_ms: int
    until_ms: int


class Days(NamedTuple):
    """Whole days of UTC+8 that come from bulk files; they hold about so many wanted `fills`."""

    since_ms: int
    until_ms: int
    fills: int

    @property
    def number(self) -> int:
        """How many days they are."""
        return (self.until_ms - self.since_ms) // 86_400_000


@dataclass
class Plan:
    """What one symbol lacks. `wanted` are the ids to ask for, `runs` the requests: each run in pages of `page` ids.

    `note` says why nothing can be asked for. `ceiling` is an id that is known to exist, at or above all of `wanted`.
    `link` is the id before the first that is asked for, which need not exist; it is wanted and not counted. `begin_ms`
    and `end_ms` are the times of the lowest and the highest wanted id, where those lie outside of what is stored.

    Where only candles are stored, `stretches` are asked for and not stored: the fills of whole bars, the wanted among
    them. None: fills are stored. `anew`: what they make takes the place of whatever is stored in `[begin, end)`, ms.
    """

    symbol: str
    page: int
    wanted: Ranges = field(default_factory=list)
    ceiling: int = 0
    note: str | None = None
    link: int = 0
    begin_ms: int | None = None
    end_ms: int | None = None
    stretches: list[Stretch] | None = None
    anew: tuple[int, int] | None = None
    days: list[Days] = field(default_factory=list)

    @property
    def runs(self) -> Ranges:
        """The ids to ask for, so that every page holds as many wanted ones as possible."""
        if self.stretches is not None:
            return [(one.first, one.last) for one in self.stretches]
        return pages(self.wanted, self.page)

    @property
    def requests(self) -> int:
        """How many pages that is, about, without what the days from files hold."""
        every = sum(-(-(last - first + 1) // self.page) for first, last in self.runs)
        return max(every - sum(days.fills for days in self.days) // self.page, 0)

    @property
    def count(self) -> int:
        """How many ids are wanted, those counted that exist for certain."""
        return self.left([])

    def left(self, known: Ranges) -> int:
        """Return how many of the ids that exist for certain are not among those that are known."""
        return id_ledger.size(id_ledger.subtract(self.wanted, [(self.link, self.link), *known]))


def pages(wanted: Ranges, size: int) -> Ranges:
    """Return runs of ids that hold all of `wanted` and cost the fewest pages of `size` ids.

    Each page begins at a wanted id; a run is cut after the last wanted id in its last page.
    """
    runs: Ranges = []
    end = 0  # the last id that the page at hand can hold
    for first, last in wanted:
        start = first
        if start <= end:
            runs[-1] = (runs[-1][0], min(last, end))
            start = end + 1
        if start <= last:
            if runs and start == end + 1 and runs[-1][1] == end:
                runs[-1] = (runs[-1][0], last)
            else:
                runs.append((start, last))
            end = start + -(-(last - start + 1) // size) * size - 1
    return runs
