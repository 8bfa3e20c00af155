"""Timeframes: their names, their edges, and the largest common piece that several are made of.

Seconds, minutes and hours must divide a day. Days count from 1970-01-01, weeks from Monday 1970-01-05, months are
those of the calendar, all in UTC. The suffix `+8` (`1d+8`, `1w+8`, `1M+8`) cuts days at midnight of UTC+8, which is
16:00 UTC; it is part of the name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

from okxcli.errors import InvalidLine

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}
_NAME = re.compile(r"([1-9][0-9]{0,5})([smhdwM])(\+8)?", re.ASCII)
_EAST = -8 * HOUR  # a UTC+8 day starts eight hours before the UTC day of the same date
_MONDAY = 4 * DAY  # 1970-01-05


@dataclass(frozen=True, slots=True)
class Timeframe:
    """A rule that cuts time into bars `[start, end)`.

    `length` is in milliseconds; for a calendar month it is one day, the piece that months are made of, and `months`
    is True. Every start is `offset` modulo `length`.
    """

    name: str
    length: int
    offset: int = 0
    months: bool = False

    @staticmethod
    def parse(name: str) -> "Timeframe":
        """Return the timeframe that `name` spells: `1s`, `15m`, `4h`, `1d`, `1w`, `1M`, `1d+8`.

        Raises:
            InvalidLine: with what is allowed.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise InvalidLine(f"not a timeframe: {name[:20]!r}. Write 30s, 1m, 4h, 1d, 1w or 1M, or 1d+8 for UTC+8")
        count, unit, east = int(found[1]), found[2], found[3] is not None
        shift = _EAST if east else 0
        if unit == "M":
            if count != 1:
                raise InvalidLine(f"{name}: months come one at a time, as 1M or 1M+8")
            return Timeframe(name, DAY, shift % DAY, months=True)
        length = count * _UNITS[unit]
        if unit in "smh":
            if east:
                raise InvalidLine(f"{name}: only days, weeks and months have a +8 form")
            if DAY % length:
                raise InvalidLine(f"{name}: seconds, minutes and hours must divide a day")
            return Timeframe(name, length)
        if length > 1000 * DAY:
            raise InvalidLine(f"{name}: longer than 1000 days")
        return Timeframe(name, length, (shift + (_MONDAY if unit == "w" else 0)) % length)

    def start_of(self, timestamp: int) -> int:
        """Return the start of the bar that holds `timestamp` (milliseconds)."""
        if not self.months:
            return timestamp - (timestamp - self.offset) % self.length
        shift = self.offset - DAY if self.offset else 0
        year, month = _civil((timestamp - shift) // DAY)
        return _days(year, month) * DAY + shift

    def end_of(self, start: int) -> int:
        """Return the end of the bar that starts at `start`."""
        if not self.months:
            return start + self.length
        shift = self.offset - DAY if self.offset else 0
        year, month = _civil((start - shift) // DAY)
        return _days(year + month // 12, month % 12 + 1) * DAY + shift

    def holds(self, part: "Timeframe") -> bool:
        """Whether every bar of `part` lies inside one bar of this timeframe."""
        if part.months:
            return self.months and self.offset == part.offset
        return self.length % part.length == 0 and (self.offset - part.offset) % part.length == 0


def parse_list(names: str | Iterable[str]) -> tuple[Timeframe, ...]:
    """Return the timeframes of a comma-separated list, shortest first, each once.

    Raises:
        InvalidLine: one of them is none, or the list is empty.
    """
    words = names.split(",") if isinstance(names, str) else list(names)
    found = {word.strip(): Timeframe.parse(word.strip()) for word in words if word.strip()}
    if not found:
        raise InvalidLine("no timeframe given")
    return tuple(sorted(found.values(), key=lambda t: (t.months, t.length, t.name)))


def common(timeframes: Iterable[Timeframe]) -> Timeframe:
    """Return the longest timeframe whose bars all `timeframes` are made of: 1h for 2h and 3h, 8h for 1d and 1d+8."""
    chosen = list(timeframes)
    if len(chosen) == 1 and not chosen[0].months:
        return chosen[0]
    length, offset = chosen[0].length, chosen[0].offset
    for timeframe in chosen[1:]:
        length = gcd(length, timeframe.length, timeframe.offset - offset)
    return Timeframe("", length, offset % length)


def _civil(day: int) -> tuple[int, int]:
    """Return (year, month) of a day counted from 1970-01-01, by Howard Hinnant's civil_from_days."""
    shifted = day + 719_468  # days from 0000-03-01
    era, of_era = divmod(shifted, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    month = month + 3 if month < 10 else month - 9
    return year + era * 400 + (month <= 2), month


def _days(year: int, month: int) -> int:
    """Return the day, counted from 1970-01-01, on which a month begins (Hinnant's days_from_civil)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
