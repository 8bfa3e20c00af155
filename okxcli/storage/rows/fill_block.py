"""Trade lines as they came in, and the rows and ids that they stand for, without a look at each.

The kernel beside this module knows the lines that come every day; `fill_lines` does the same in Python.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from okxcli.core.codec import decode
from okxcli.core.model import MAX_TIMESTAMP, StandardizedTrade
from okxcli.runtime.road import kernel
from okxcli.storage.rows.fill_lines import FillLines, FillRows

__all__ = ["FillBlock", "FillRows", "FillScanner", "rows_of"]

_KERNEL = "storage.rows._fill_rows"


class FillBlock(NamedTuple):
    """Whole lines of fills, each with its newline, and how many; `rows` if they are made already."""

    lines: bytes
    size: int
    rows: list[FillRows] | None = None

    def pieces(self, most: int) -> Iterator["FillBlock"]:
        """Yield it in blocks of at most so many lines."""
        start = 0
        for done in range(0, self.size, most):
            size = min(most, self.size - done)
            end = start
            for _ in range(size):
                end = self.lines.index(b"\n", end) + 1
            yield FillBlock(self.lines[start:end], size)
            start = end

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


class FillScanner:
    """Finds the everyday lines of fills in a block."""

    def __init__(self) -> None:
        self._kernel: Any = kernel(_KERNEL)
        self._lines = FillLines()

    @property
    def built(self) -> bool:
        """Whether there is a kernel."""
        return self._kernel is not None

    def take(self, block: bytes, at: int, now_ms: int, most: int) -> tuple[int, int]:
        """Return the offset behind the everyday lines of fills from an offset on, at most so many, and how many.

        Without the kernel there are none: to find them costs as much as to make their rows.
        """
        return (at, 0) if self._kernel is None else self._kernel.scan(block, at, now_ms, most)

    def fills(self, block: bytes, at: int, now_ms: int, most: int) -> FillBlock:
        """Return the everyday lines of fills from an offset on, at most so many, with their rows."""
        if self._kernel is None:
            end, size, rows = self._lines.take(block, at, now_ms, most)
            return FillBlock(block[at:end], size, rows)
        end, size = self._kernel.scan(block, at, now_ms, most)
        found = FillBlock(block[at:end], size)
        try:
            return found._replace(rows=rows_of([found]))
        except OverflowError:  # whoever stores them takes them apart
            return found


def rows_of(blocks: Iterable[FillBlock]) -> list[FillRows]:
    """Return the rows of blocks, those of each symbol in the order of their lines.

    Raises:
        OverflowError: a checksum is too long.
        ValueError: a line is not of an everyday form.
    """
    made: list[FillRows] = []
    rest = []
    for block in blocks:
        if block.rows is None:
            rest.append(block.lines)
        else:
            made += block.rows
    return made + (_made(b"".join(rest)) if rest else [])


def _made(lines: bytes) -> list[FillRows]:
    runs: Any = kernel(_KERNEL)
    if runs is not None:
        return [FillRows._make((*run[:8], Decimal(run[8]), run[9])) for run in runs.rows(lines)]
    end, _, rows = FillLines().take(lines, 0, MAX_TIMESTAMP, len(lines))
    if end < len(lines):
        raise ValueError("a line that is no everyday fill")
    return rows
