"""Contestants by turns, the medians of what they take, and the table that tells of them."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Does a contestant's work once; returns the seconds that it took, where the call takes longer than the work.
Act = Callable[[], float | None]


@dataclass
class Contest:
    """One row: `okx` on its two roads beside `rival`, whose time is divided by ours.

    `targets` are what the ratio of each of ours is to reach, `lacks` what the rival does not do.
    """

    title: str
    rows: int
    ours: Mapping[str, Act]
    rival: str
    act: Act
    targets: Mapping[str, float]
    lacks: str = ""
    taken: dict[str, list[float]] = field(default_factory=dict)

    def run(self, rounds: int) -> None:
        """Let all of them run by turns, so often."""
        everybody = {**self.ours, self.rival: self.act}
        self.taken = {name: [] for name in everybody}
        for _ in range(rounds):
            for name, act in everybody.items():
                began = time.perf_counter()
                took = act()
                self.taken[name].append(time.perf_counter() - began if took is None else took)

    def ratio(self, name: str) -> float:
        """Return how many times as fast as the rival one of ours is."""
        return statistics.median(self.taken[self.rival]) / statistics.median(self.taken[name])

    def met(self) -> bool:
        """Whether every target is reached."""
        return all(self.ratio(name) >= target for name, target in self.targets.items())

    def lines(self) -> list[tuple[str, ...]]:
        """Return the rows of the table: who, seconds and their spread, rows a second, ratio, target."""
        found = []
        for name, some in self.taken.items():
            median = statistics.median(some)
            rate = f"{self.rows / median:,.0f}" if self.rows else ""
            ratio = "" if name == self.rival else f"{self.ratio(name):.2f}"
            target = f"{self.targets[name]:.3g}" if name in self.targets else ""
            found.append((name, f"{median:.3f}", f"{min(some):.2f} to {max(some):.2f}", rate, ratio, target))
        return found


_HEADS = ("contestant", "seconds", "spread", "rows/s", "times as fast", "target")


def markdown(contest: Contest) -> str:
    """Return a row as a table of its own."""
    lines = [_HEADS, tuple("---" for _ in _HEADS), *contest.lines()]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    size = f" ({contest.rows:,} rows)" if contest.rows else ""
    lacks = f"\n\n{contest.rival}: {contest.lacks}" if contest.lacks else ""
    return f"### {contest.title}{size}\n\n{table}{lacks}\n"


def machine() -> str:
    """Return what the times were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")), name
        )
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {platform.system()}, Python {platform.python_version()}"
