"""One bar while it grows: open by the lowest id, close by the highest, sums that lose no digit."""

from decimal import Decimal

from okxcli.core.decimals import EXACT, ZERO
from okxcli.core.model import OHLCVCandle, StandardizedTrade

_add = EXACT.add


class TimeframeBucket:
    """What the trades of `[start, end)` come to.

    The order inside is that of the ids; the order of arrival does not matter. `base` and `quote` turn None for good
    with the first trade whose amounts are not known. An empty bucket has `count` 0 and no prices.
    """

    __slots__ = ("base", "buy", "close", "count", "end", "first_id", "high", "last_id", "low", "open", "quote",
                 "start", "volume")  # fmt: skip

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.count = 0
        self.first_id = 0
        self.last_id = 0
        self.open = self.high = self.low = self.close = ZERO
        self.volume = self.buy = ZERO
        self.base: Decimal | None = ZERO
        self.quote: Decimal | None = ZERO

    def add(self, trade: StandardizedTrade, base: Decimal | None, quote: Decimal | None) -> None:
        """Fold one trade in; `base` and `quote` are its amounts in the two currencies, None where unknown."""
        price = trade.price
        last = trade.trade_id
        first = last - trade.count + 1
        if not self.count:
            self.open = self.high = self.low = self.close = price
            self.first_id = first
            self.last_id = last
        else:
            if price > self.high:
                self.high = price
            elif price < self.low:
                self.low = price
            if last > self.last_id:
                self.last_id = last
                self.close = price
            if first < self.first_id:
                self.first_id = first
                self.open = price
        self.count += trade.count
        self.volume = _add(self.volume, trade.size)
        if trade.side == "buy":
            self.buy = _add(self.buy, trade.size)
        self.base = None if base is None or self.base is None else _add(self.base, base)
        self.quote = None if quote is None or self.quote is None else _add(self.quote, quote)

    def merge(self, other: "TimeframeBucket") -> None:
        """Fold another bucket in, whose trades are others than these."""
        if not other.count:
            return
        if not self.count:
            self.open, self.high, self.low, self.close = other.open, other.high, other.low, other.close
            self.first_id, self.last_id = other.first_id, other.last_id
        else:
            self.high = max(self.high, other.high)
            self.low = min(self.low, other.low)
            if other.first_id < self.first_id:
                self.first_id, self.open = other.first_id, other.open
            if other.last_id > self.last_id:
                self.last_id, self.close = other.last_id, other.close
        self.count += other.count
        self.volume = _add(self.volume, other.volume)
        self.buy = _add(self.buy, other.buy)
        self.base = None if self.base is None or other.base is None else _add(self.base, other.base)
        self.quote = None if self.quote is None or other.quote is None else _add(self.quote, other.quote)

    def copy(self) -> "TimeframeBucket":
        """Return another bucket with the same trades in it."""
        twin = TimeframeBucket(self.start, self.end)
        twin.merge(self)
        return twin

    def candle(self, exchange: str, symbol: str, timeframe: str, closed: bool, complete: bool) -> OHLCVCandle:
        """Return the bar at revision 0. The bucket must hold a trade."""
        return OHLCVCandle(
            exchange, symbol, timeframe, self.start, self.end, self.open, self.high, self.low, self.close, self.volume,
            self.base, self.quote, self.buy, self.count, self.first_id, self.last_id, closed, complete,
        )  # fmt: skip


def flat_candle(exchange: str, symbol: str, timeframe: str, start: int, end: int, price: Decimal) -> OHLCVCandle:
    """Return the bar of a proven quiet: every price the last one, nothing traded, no ids."""
    return OHLCVCandle(
        exchange, symbol, timeframe, start, end, price, price, price, price, ZERO, ZERO, ZERO, ZERO, 0, None, None,
        closed=True, complete=True,
    )  # fmt: skip
