"""Fills that follow on each other by id and lie in one bar, folded into one."""

from decimal import Decimal
from typing import NamedTuple

from okxcli.core.candles.bucket import TimeframeBucket


class FillRun(NamedTuple):
    """What the fills of one symbol with the ids `first .. last` come to, all of them in one bar, in so many `trades`.

    `low` and `high` are the ends of their times, `step` the most that time steps back among them (ms). `quote` is the
    exact sum of price times size.
    """

    trades: int
    fills: int
    first: int
    last: int
    low: int
    high: int
    step: int
    open: Decimal
    highest: Decimal
    lowest: Decimal
    close: Decimal
    volume: Decimal
    buy: Decimal
    quote: Decimal

    def bucket(self, start: int, end: int, base: Decimal | None, quote: Decimal | None) -> TimeframeBucket:
        """Return the run as a bar over `[start, end)`, with its amounts in the two currencies; None: not known."""
        found = TimeframeBucket(start, end)
        found.count, found.first_id, found.last_id = self.fills, self.first, self.last
        found.open, found.high, found.low, found.close = self.open, self.highest, self.lowest, self.close
        found.volume, found.buy, found.base, found.quote = self.volume, self.buy, base, quote
        return found
