"""Trade lines as they came in, and the rows and ids that they stand for, without a look at each.

The kernel beside this module knows the lines that come every day; on a machine without it no block is ever taken.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from okxcli.core.codec import decode
from okxcli.core.model import StandardizedTrade
from okxcli.runtime.road import kernel


class FillBlock(NamedTuple):
    """Whole lines of fills, each with its newline, and how many."""

    lines: bytes
    size: int

    def trades(self) -> list[tuple[StandardizedTrade, bytes]]:
        """Return each fill with its line.

        Raises:
            TypeError: a line is of another type, which `FillScanner` does not take.
        """
        found = []
        for line in self.lines[:-1].split(b"\n"):
            trade = decode(line)
            if not isinstance(trade, StandardizedTrade):
                raise TypeError("a block of fills holds another line")
            found.append((trade, line))
        return found


class FillRows(NamedTuple):
    """Fills of one symbol and one UTC day (a number since 1970) whose ids follow on each other, as rows for COPY.

    `low` and `high` are the ends of their times, `step` is how far time steps back among them (ms).
    """

    exchange: str
    symbol: str
    first: int
    last: int
    low: int
    high: int
    step: int
    day: int
    checksum: Decimal
    rows: bytes


class FillScanner:
    """Finds the everyday lines of fills in a block."""

    def __init__(self) -> None:
        self._kernel: Any = kernel("storage.rows._fill_rows")

    @property
    def built(self) -> bool:
        """Whether there is a kernel."""
        return self._kernel is not None

    def take(self, block: bytes, at: int, now_ms: int, most: int) -> tuple[int, int]:
        """Return the offset behind the everyday lines of fills from an offset on, at most so many, and how many."""
        return (at, 0) if self._kernel is None else self._kernel.scan(block, at, now_ms, most)


def rows_of(blocks: Iterable[FillBlock]) -> list[FillRows]:
    """Return the rows of blocks, in the order of their first lines.

    Raises:
        OverflowError: a checksum is too long.
    """
    runs: Any = kernel("storage.rows._fill_rows")
    found = runs.rows(b"".join(block.lines for block in blocks))
    return [FillRows._make((*run[:8], Decimal(run[8]), run[9])) for run in found]
