"""OKX's candles, computed from fills alone: left-aligned rows `[ts,o,h,l,c,vol,volCcy,volCcyQuote,confirm]`.

Fills are summed into bars of one second and of one minute; every longer bar is the union of its minutes. Periods
without fills are flat bars at the last close, as OKX has them. This is the oracle of the candle tests: it shares no
rule with the code that it judges.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from typing import NamedTuple

import msgspec

from okxcli.core.decimals import EXACT, plain
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.instruments import Contract

SECOND = 1_000
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

#: Base bars kept for each symbol: a month of minutes, six hours of seconds.
KEEP_BARS = {SECOND: 21_600, MINUTE: 44_640}


class Period(NamedTuple):
    """The length of a bar and where it begins: `length` in ms from the Unix epoch plus `phase`, or calendar months."""

    length: int
    phase: int
    months: int = 0


def _periods() -> dict[str, Period]:
    table = {"1s": Period(SECOND, 0)}
    table |= {f"{n}m": Period(n * MINUTE, 0) for n in (1, 3, 5, 15, 30)}
    table |= {f"{n}H": Period(n * HOUR, 0) for n in (1, 2, 4)}
    for suffix, shift in (("", -8 * HOUR), ("utc", 0)):  # without a suffix the day begins at midnight in Hong Kong
        table |= {f"{n}H{suffix}": Period(n * HOUR, shift) for n in (6, 12)}
        table |= {f"{n}D{suffix}": Period(n * DAY, shift) for n in (1, 2, 3, 5)}
        table[f"1W{suffix}"] = Period(7 * DAY, 4 * DAY + shift)  # 1970-01-05 was a Monday
        table |= {f"{n}M{suffix}": Period(0, shift, n) for n in (1, 3)}
    return table


PERIODS = _periods()


def bar_start(name: str, ts: int) -> int:
    """Return the open time (ms) of the bar `name` that holds the time `ts`."""
    period = PERIODS[name]
    if not period.months:
        return (ts - period.phase) // period.length * period.length + period.phase
    local = datetime.fromtimestamp((ts - period.phase) // 1000, UTC)
    month = (local.month - 1) // period.months * period.months + 1
    return int(datetime(local.year, month, 1, tzinfo=UTC).timestamp()) * 1000 + period.phase


def bar_end(name: str, start: int) -> int:
    """Return the time (ms) at which the bar `name` that opens at `start` is over."""
    period = PERIODS[name]
    if not period.months:
        return start + period.length
    return bar_start(name, start + (31 * period.months + 1) * DAY)


class Bar(msgspec.Struct):
    """Fills taken together; open and close go by id (`first`, `last`), since times may step back."""

    first: int
    last: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    vol: Decimal
    ccy: Decimal
    quote: Decimal

    def plus(self, other: "Bar") -> "Bar":
        """Return the bar of the fills of both."""
        first = self if self.first < other.first else other
        last = self if self.last > other.last else other
        return Bar(
            first.first,
            last.last,
            first.open,
            max(self.high, other.high),
            min(self.low, other.low),
            last.close,
            EXACT.add(self.vol, other.vol),
            EXACT.add(self.ccy, other.ccy),
            EXACT.add(self.quote, other.quote),
        )


class Bars:
    """All candles of one instrument."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.minutes = _Base(MINUTE)
        self._seconds = _Base(SECOND)

    def add(self, fill: Fill) -> None:
        """Add a fill; its place is decided by its time, in whatever order fills come."""
        price, size = Decimal(fill.price), Decimal(fill.size)
        volumes = self.contract.volumes(price, size)
        for base in (self.minutes, self._seconds):
            base.add(fill.ts, Bar(fill.trade_id, fill.trade_id, price, price, price, price, size, *volumes))

    def row(self, name: str, start: int, now: int, stale: bool = False) -> list[str] | None:
        """Return the candle of the bar `name` that opens at `start`; None before the first fill.

        `now` (ms) decides `confirm`. With `stale` it is the age of the cache that answers: what came after the last
        whole minute (second, for `1s`) before it is left out.
        """
        base = self._seconds if name == "1s" else self.minutes
        end = bar_end(name, start)
        confirm = "1" if end <= now else "0"
        parts = base.between(start, min(end, now - now % base.length) if stale else end)
        if parts:
            bar = reduce(Bar.plus, parts)
            numbers = (bar.open, bar.high, bar.low, bar.close, bar.vol, bar.ccy, bar.quote)
            return [str(start), *map(plain, numbers), confirm]
        before = base.before(start)
        return None if before is None else [str(start), *[plain(before.close)] * 4, "0", "0", "0", confirm]

    def rows(
        self, name: str, now: int, after: int | None = None, before: int | None = None, stale: bool = False
    ) -> Iterator[list[str]]:
        """Yield candles newest first, from the running one (or the last that opens before `after`) back.

        Ends with the first bar that opens after `before`, or with the bar of the first fill.
        """
        base = self._seconds if name == "1s" else self.minutes
        if not base.starts:
            return
        start = bar_start(name, now if after is None else min(now, after - 1))
        while (before is None or start > before) and bar_end(name, start) > base.starts[0]:
            row = self.row(name, start, now, stale)
            if row is None:
                return
            yield row
            start = bar_start(name, start - 1)


class _Base:
    """Bars of one short length, by open time; bounded, the oldest go first."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._bars: dict[int, Bar] = {}
        self.starts: list[int] = []
        self.revisions = 0  # fills that landed in another bar than the newest

    def add(self, ts: int, one: Bar) -> None:
        start = ts - ts % self.length
        if self.starts and start < self.starts[-1]:
            self.revisions += 1
        if start in self._bars:
            self._bars[start] = self._bars[start].plus(one)
            return
        self._bars[start] = one
        insort(self.starts, start)
        excess = len(self.starts) - KEEP_BARS[self.length]
        if excess > 1_000:
            for old in self.starts[:excess]:
                del self._bars[old]
            del self.starts[:excess]

    def between(self, start: int, end: int) -> list[Bar]:
        if end - start == self.length:
            return [self._bars[start]] if start in self._bars else []
        low, high = bisect_left(self.starts, start), bisect_left(self.starts, end)
        return [self._bars[at] for at in self.starts[low:high]]

    def before(self, start: int) -> Bar | None:
        place = bisect_left(self.starts, start)
        return self._bars[self.starts[place - 1]] if place else None
