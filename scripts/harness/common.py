"""What every kind of chaos needs: `okx` as a process with a home of its own, and the table that is printed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HEADS = ("fault", "state it hit", "rounds", "rows in", "stored", "lost", "duplicated", "recovered in s")

#: The end of a program that runs `okx`: without its repair unless the variable `repair` says so.
RUN = """
from okxcli.exchanges.okx.feed import live_feed
if not repair:
    made = live_feed.Feed.__init__
    def without(self, *arguments, **options):
        made(self, *arguments, **{**options, "repair": False, "resume": None})
    live_feed.Feed.__init__ = without
from okxcli.cli import main
main()
"""


@dataclass(frozen=True)
class Row:
    """A line of the table: what was broken, in which state it met the program, and what came of it.

    `recovered_s` is the longest of the rounds: from the end of the fault until everything was stored.
    """

    fault: str
    state: str
    rounds: int
    rows_in: int
    stored: int
    lost: int
    duplicated: int
    recovered_s: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, a cell for each of HEADS."""
        numbers = (self.rounds, self.rows_in, self.stored, self.lost, self.duplicated)
        recovered = "" if self.recovered_s is None else f"{self.recovered_s:.1f}"
        return (self.fault, self.state, *(f"{number:,}" for number in numbers), recovered)


def table(rows: Sequence[Row]) -> str:
    """Return the rows under their heads, texts to the left and numbers to the right."""
    grid = [HEADS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in grid) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in grid)
    )


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return this process's environment without anything of okx, Postgres or XDG, and with `home` for all of them."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env |= {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("DATA", "STATE", "CONFIG", "CACHE")}
    return env | {"XDG_RUNTIME_DIR": str(home), "HOME": str(home)} | more


def start(
    arguments: Sequence[str], home: Path, env: dict[str, str], program: Sequence[str] = ("-m", "okxcli")
) -> subprocess.Popen[bytes]:
    """Start `okx` with these arguments; both its outputs are appended to `log.txt` in `home`, under a line naming it.

    `program` is what Python is told to run in place of the `okx` that is installed.
    """
    with (home / "log.txt").open("ab") as log:
        log.write(f"--- {' '.join(arguments)}\n".encode())
        log.flush()
        command = [sys.executable, *program, *arguments]
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
