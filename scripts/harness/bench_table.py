"""Contestants by turns, the medians of what they take, and the table that tells of them."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: The roads that okx has.
C, PURE = "okx, C kernels", "okx, Python alone"
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


@dataclass(frozen=True)
class Gauge:
    """Something measured: one value or some of them, the unit, and what their median may be at most."""

    what: str
    values: Sequence[float]
    unit: str = ""
    most: float | None = None

    @property
    def median(self) -> float:
        """The value that counts."""
        return statistics.median(self.values)

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table: what, value and unit, spread, limit."""
        low, high = min(self.values), max(self.values)
        spread = f"{_short(low)} to {_short(high)}" if len(self.values) > 1 else ""
        return self.what, f"{_short(self.median)} {self.unit}".strip(), spread, _short(self.most)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass
class Report:
    """A row that is no race: gauges, as `measure` finds them in so many rounds; `says` tells what they are."""

    title: str
    measure: Callable[[int], list[Gauge]]
    says: str = ""
    gauges: list[Gauge] = field(default_factory=list)

    def run(self, rounds: int) -> None:
        """Measure."""
        self.gauges = self.measure(rounds)

    def met(self) -> bool:
        """Whether nothing is above its limit."""
        return all(gauge.most is None or gauge.median <= gauge.most for gauge in self.gauges)

    def markdown(self) -> str:
        """Return a table of its own."""
        says = f"\n\n{self.says}" if self.says else ""
        lines = [("measured", "median", "spread", "at most"), *(gauge.cells() for gauge in self.gauges)]
        return f"### {self.title}\n\n{_grid(lines)}{says}\n"


_HEADS = ("contestant", "seconds", "spread", "rows/s", "times as fast", "target")


def _grid(lines: Sequence[tuple[str, ...]]) -> str:
    rule = tuple("---" for _ in lines[0])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))


def markdown(contest: Contest | Report) -> str:
    """Return a row as a table of its own."""
    if isinstance(contest, Report):
        return contest.markdown()
    size = f" ({contest.rows:,} rows)" if contest.rows else ""
    lacks = f"\n\n{contest.rival}: {contest.lacks}" if contest.lacks else ""
    return f"### {contest.title}{size}\n\n{_grid([_HEADS, *contest.lines()])}{lacks}\n"


def machine() -> str:
    """Return what the times were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")), name
        )
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {platform.system()}, Python {platform.python_version()}"
