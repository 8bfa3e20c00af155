"""OKX's candles, computed from fills alone: left-aligned rows `[ts,o,h,l,c,vol,volCcy,volCcyQuote,confirm]`.

Fills are summed into bars of one second and of one minute; every longer bar is the union of its minutes. Periods
without fills are flat bars at the last close, as OKX has them. This is the oracle of the candle tests: it shares no
rule with the code that it judges.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

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


class Bar:
    """One base bar under construction; open and close go by id, since times may step back."""

    __slots__ = ("ccy", "close", "first", "high", "last", "low", "open", "quote", "start", "vol")

    def __init__(self, start: int, fill: Fill, contract: Contract) -> None:
        self.start = start
        self.open = self.high = self.low = self.close = Decimal(fill.price)
        self.vol = Decimal(fill.size)
        self.ccy, self.quote = contract.volumes(self.open, self.vol)
        self.first = self.last = fill.trade_id

    def add(self, fill: Fill, contract: Contract) -> None:
        """Add a fill that lies in this bar."""
        price, size = Decimal(fill.price), Decimal(fill.size)
        self.high, self.low = max(self.high, price), min(self.low, price)
        if fill.trade_id < self.first:
            self.first, self.open = fill.trade_id, price
        if fill.trade_id > self.last:
            self.last, self.close = fill.trade_id, price
        ccy, quote = contract.volumes(price, size)
        self.vol = EXACT.add(self.vol, size)
        self.ccy = EXACT.add(self.ccy, ccy)
        self.quote = EXACT.add(self.quote, quote)


class Bars:
    """All candles of one instrument."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.minutes = _Base(MINUTE)
        self._seconds = _Base(SECOND)

    def add(self, fill: Fill) -> None:
        """Add a fill; its place is decided by its time, in whatever order fills come."""
        self.minutes.add(fill, self.contract)
        self._seconds.add(fill, self.contract)

    def row(self, name: str, start: int, now: int, stale: bool = False) -> list[str] | None:
        """Return the candle of the bar `name` that opens at `start`; None before the first fill.

        `now` (ms) decides `confirm`. With `stale` it is the age of the cache that answers: what came after the last
        whole minute (second, for `1s`) before it is left out.
        """
        base = self._seconds if name == "1s" else self.minutes
        end = bar_end(name, start)
        confirm = "1" if end <= now else "0"
        parts = base.between(start, min(end, now - now % base.length) if stale else end)
        if not parts:
            before = base.before(start)
            if before is None:
                return None
            return [str(start), *[plain(before.close)] * 4, "0", "0", "0", confirm]
        low = min(part.low for part in parts)
        high = max(part.high for part in parts)
        opening = min(parts, key=lambda part: part.first).open
        closing = max(parts, key=lambda part: part.last).close
        vol, ccy, quote = parts[0].vol, parts[0].ccy, parts[0].quote
        for part in parts[1:]:
            vol, ccy, quote = EXACT.add(vol, part.vol), EXACT.add(ccy, part.ccy), EXACT.add(quote, part.quote)
        return [str(start), *map(plain, (opening, high, low, closing, vol, ccy, quote)), confirm]

    def rows(
        self, name: str, now: int, after: int | None = None, before: int | None = None, stale: bool = False
    ) -> Iterator[list[str]]:
        """Yield candles newest first, from the running one (or the last that opens before `after`) back.

        Ends with the first bar that opens after `before`, or with the bar of the first fill.
        """
        base = self._seconds if name == "1s" else self.minutes
        oldest = base.first_start()
        if oldest is None:
            return
        start = bar_start(name, now if after is None else min(now, after - 1))
        while (before is None or start > before) and bar_end(name, start) > oldest:
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
        self._starts: list[int] = []
        self.revisions = 0  # fills that landed in another bar than the newest

    def add(self, fill: Fill, contract: Contract) -> None:
        start = fill.ts - fill.ts % self.length
        bar = self._bars.get(start)
        if self._starts and start < self._starts[-1]:
            self.revisions += 1
        if bar is not None:
            bar.add(fill, contract)
            return
        self._bars[start] = Bar(start, fill, contract)
        insort(self._starts, start)
        excess = len(self._starts) - KEEP_BARS[self.length]
        if excess > 1_000:
            for old in self._starts[:excess]:
                del self._bars[old]
            del self._starts[:excess]

    def between(self, start: int, end: int) -> list[Bar]:
        if end - start == self.length:
            bar = self._bars.get(start)
            return [] if bar is None else [bar]
        low, high = bisect_left(self._starts, start), bisect_left(self._starts, end)
        return [self._bars[at] for at in self._starts[low:high]]

    def last_start(self) -> int:
        return self._starts[-1]

    def before(self, start: int) -> Bar | None:
        place = bisect_left(self._starts, start)
        return self._bars[self._starts[place - 1]] if place else None

    def first_start(self) -> int | None:
        return self._starts[0] if self._starts else None
