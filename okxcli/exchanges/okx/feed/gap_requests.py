"""What is asked of REST for a symbol, and what waits for the answer."""

import bisect
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from okxcli.core.tape import IdRanges
from okxcli.exchanges.okx.rest.absence_proof import Doubts


class Overflow(Protocol):
    """Lines that wait outside of memory, first in, first out."""

    def put(self, line: bytes) -> bool:
        """Add a line; False: there is no room."""

    def take(self, size: int) -> list[bytes]:
        """Return the first lines, `size` bytes or a little more, and forget them; none: it is empty."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask REST for the fills `first .. last` of a symbol; the page's ends go to `GapTracker.page` in their order.

    `last` None: up to the newest. `first` None: from one fill before the time `since_ms` on. `known` is an id above
    `last` that exists. `doubt`: asked only to see whether they are there by now. `limited`: what takes minutes is to be
    refused, for the present is more urgent.
    """

    symbol: str
    first: int | None
    last: int | None
    known: int | None = None
    doubt: bool = False
    limited: bool = False


class Held(NamedTuple):
    """A line that waits, by the ids that it covers."""

    first: int
    last: int
    line: bytes
    came: int


@dataclass(slots=True)
class Tape:
    """The tape of one symbol. `last`: all up to there is written or given up; None before the first line."""

    name: str
    last: int | None = None
    lowest: int | None = None  # the lowest id that is written, or known from before
    past: bool = False  # what was before the first live line is being fetched: nothing is given up for time
    resumed: bool = False
    abandoned: int | None = None  # what follows on this id could not be fetched: a hole there is not asked for
    progress_ms: int = 0
    held: list[Held] = field(default_factory=list)  # by id
    size: int = 0
    waiting: Overflow | None = None  # what came after all that is held
    refused: bool = False  # it had no room for some
    stray: int = -2  # the last id that was far off
    written: IdRanges = field(default_factory=IdRanges)
    fetching: Fetch | None = None
    ask_ms: int = 0
    doubts: Doubts = field(default_factory=Doubts)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is to be done for it before another line comes."""
        return not (self.held or self.past or self.waiting is not None or self.fetching is not None or self.doubts)

    def hold(self, held: Held) -> None:
        """Have a line wait, in its place."""
        if self.held and held < self.held[-1]:
            bisect.insort(self.held, held)
        else:
            self.held.append(held)
        self.size += len(held.line)

    def full(self, lines: int, size: int) -> bool:
        """Whether more is held than that."""
        return len(self.held) > lines or self.size > size

    def write(self, held: Held, out: list[bytes], counts: bool = True) -> None:
        """Write a line; if it `counts`, what follows on it is the next one."""
        out.append(held.line)
        self.written.add(held.first, held.last)
        if counts:
            self.lowest = held.first if self.lowest is None else min(self.lowest, held.first)
            self.last = held.last if self.last is None else max(self.last, held.last)
