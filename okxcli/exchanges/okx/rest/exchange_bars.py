"""OKX's own bars of a range of time, as candles of ours: the newest from one endpoint, the older from another."""

from okxcli.core.model import OHLCVCandle
from okxcli.core.timeframes import DAY, MINUTE, SECOND, Timeframe
from okxcli.errors import UsageError
from okxcli.exchanges.okx.normalize import converters
from okxcli.exchanges.okx.normalize.row_forms import TIMEFRAMES, Head
from okxcli.exchanges.okx.rest.endpoints import RECENT_BARS, RestClient

#: Names of OKX's bars by ours.
_BARS = {timeframe.name: channel.removeprefix("candle") for channel, timeframe in TIMEFRAMES.items()}


def bar_of(timeframe: str) -> str:
    """Return OKX's name of a timeframe: `1Dutc` for `1d`, `1D` for `1d+8`.

    Raises:
        UsageError: OKX has no such bar.
    """
    if timeframe not in _BARS:
        raise UsageError(f"OKX has no bars of {timeframe}. It has {', '.join(_BARS)}")
    return _BARS[timeframe]


class ExchangeBars:
    """Asks for bars, page by page. `now_ms` is OKX's clock when this was made."""

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest
        self.now_ms = rest.time_ms()

    def between(self, symbol: str, timeframe: Timeframe, since_ms: int, until_ms: int) -> dict[int, OHLCVCandle]:
        """Return the bars that start in `[since_ms, until_ms)` and are over, by their start.

        Raises:
            ExchangeUnavailable: OKX could not be asked, or has no such instrument.
            InvalidLine: a row that cannot be a bar.
        """
        edge = self.now_ms - RECENT_BARS * timeframe.length * (31 if timeframe.months else 1)
        found: dict[int, OHLCVCandle] = {}
        for low, high, recent in ((since_ms, min(until_ms, edge), False), (max(since_ms, edge), until_ms, True)):
            if low >= high:
                continue
            for page in self._rest.candle_pages(symbol, bar_of(timeframe.name), low, high, recent):
                for row in page:
                    candle = _candle(symbol, timeframe, row)
                    if candle.closed and low <= candle.start < high:
                        found[candle.start] = candle
        return found

    @staticmethod
    def other_day(timeframe: Timeframe) -> Timeframe | None:
        """Return the timeframe of the same length that is cut at the other midnight (UTC or UTC+8); None if none is."""
        name = timeframe.name.removesuffix("+8") if timeframe.name.endswith("+8") else f"{timeframe.name}+8"
        return Timeframe.parse(name) if name in _BARS else None

    @staticmethod
    def finer(timeframe: Timeframe) -> Timeframe | None:
        """Return the timeframe of OKX's from whose bars those of `timeframe` can be put together in a few pages."""
        if timeframe.length <= SECOND or timeframe.months or timeframe.length > DAY:
            return None
        return Timeframe.parse("1s" if timeframe.length <= 5 * MINUTE else "1m")

    @staticmethod
    def rounded_fields(symbol: str) -> frozenset[str]:
        """Return the fields that are quotients: the base volume of contracts that are worth an amount of dollars."""
        parts = symbol.split("-")
        return frozenset(["base_volume"]) if len(parts) > 2 and parts[1] == "USD" else frozenset()


def _candle(symbol: str, timeframe: Timeframe, row: list[str]) -> OHLCVCandle:
    converters.refuse_odd_numbers(row)
    head = Head("candle" + bar_of(timeframe.name), symbol, None, "exchange")
    return converters.candle(row, head, spot=symbol.count("-") == 1)
