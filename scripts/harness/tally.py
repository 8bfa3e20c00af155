"""What came of many inputs: counts for the table, and the first few inputs that went wrong."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

HEADS = ("target", "inputs", "accepted", "rejected", "disagreements", "crashes", "slowest ms")
_SHOWN = 200


class Hang(BaseException):
    """An input took too long; raised by an alarm, so no handler of errors may catch it."""


@dataclass
class Tally:
    """The counts of one target; `findings` tells the first few that are wrong, with their input."""

    target: str
    inputs: int = 0
    accepted: int = 0
    rejected: int = 0
    disagreements: int = 0
    crashes: int = 0
    slowest_ms: float = 0.0
    findings: list[str] = field(default_factory=list)

    def disagree(self, what: str, data: bytes) -> None:
        """Count an input about which the other decoder thinks otherwise."""
        self.disagreements += 1
        self._tell(what, data)

    def crash(self, error: BaseException, data: bytes) -> None:
        """Count an input that raised what no input may raise."""
        self.crashes += 1
        self._tell("".join(traceback.format_exception(error)[-4:]), data)

    def try_one(self, act: Callable[[bytes], bool], data: bytes) -> None:
        """Give one input to `act`, which returns whether it was taken."""
        self.inputs += 1
        began = time.process_time()
        try:
            taken = act(data)
        except (Hang, Exception) as error:
            self.crash(error, data)
            taken = False
        self.slowest_ms = max(self.slowest_ms, (time.process_time() - began) * 1000)
        self.accepted += taken
        self.rejected += not taken

    @property
    def wrong(self) -> bool:
        """Whether anything is."""
        return bool(self.disagreements or self.crashes)

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        counts = (self.inputs, self.accepted, self.rejected, self.disagreements, self.crashes)
        return (self.target, *(f"{count:,}" for count in counts), f"{self.slowest_ms:.1f}")

    def _tell(self, what: str, data: bytes) -> None:
        if len(self.findings) < _SHOWN:
            shown = data if len(data) <= 1500 else data[:700] + b" ... " + data[-700:]
            self.findings.append(f"{self.target}: {what}\n    {shown!r}")


def table(tallies: list[Tally]) -> str:
    """Return the counts under their heads."""
    grid = [HEADS, *(tally.cells() for tally in tallies)]
    widths = [max(len(line[column]) for line in grid) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in grid)
    )
