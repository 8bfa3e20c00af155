"""How far this machine's clock is from OKX's. Pure: moments are arguments, in milliseconds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

#: A clock that is further off is worth a word: bars are closed two seconds after their end.
WARN_MS = 1_000


class Sample(NamedTuple):
    """One question for OKX's time: when it was asked and answered by a steady clock, and the answer."""

    asked_ms: int
    answered_ms: int
    server_ms: int


class Measured(NamedTuple):
    """What must be added to a clock to have OKX's, give or take `error_ms`."""

    offset_ms: int
    error_ms: int


def measure(samples: Iterable[Sample]) -> Measured | None:
    """Return the offset by the quickest answer, which was the least held up on its way; None without any."""
    best = min(samples, key=lambda s: s.answered_ms - s.asked_ms, default=None)
    if best is None:
        return None
    half = (best.answered_ms - best.asked_ms) // 2
    return Measured(best.server_ms - best.asked_ms - half, half + 1)


@dataclass(slots=True)
class ClockJudge:
    """Decides when people are told that the wall clock is off: once, and again when it has changed much."""

    told_ms: int | None = None

    def say(self, wall: Measured) -> str | None:
        """Return what to tell about the wall clock's offset, None for nothing new."""
        sure = max(0, abs(wall.offset_ms) - wall.error_ms)
        if sure <= WARN_MS:
            if self.told_ms is None:
                return None
            self.told_ms = None
            return "this machine's clock agrees with OKX's again"
        change = None if self.told_ms is None else abs(wall.offset_ms - self.told_ms)
        if change is not None and change - wall.error_ms <= max(WARN_MS, abs(self.told_ms or 0) // 4):
            return None
        self.told_ms = wall.offset_ms
        word = "behind" if wall.offset_ms > 0 else "ahead of"
        off = abs(wall.offset_ms)
        return (
            f"this machine's clock is {off // 1000}.{off % 1000 // 100} s {word} OKX's, give or take"
            f" {wall.error_ms} ms. Set it by NTP: the times of arrival in the data are wrong"
        )
