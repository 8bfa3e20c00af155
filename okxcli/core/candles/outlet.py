"""Where the makers of candles hand them out."""

from collections.abc import Callable, Iterable
from typing import TypedDict

from okxcli.core.model import OHLCVCandle
from okxcli.core.timeframes import Timeframe, parse_list

Emit = Callable[[OHLCVCandle], None]


class Rules(TypedDict, total=False):
    """How late a trade may be and still change a bar, and after what grace a live one is closed (ms); which bars come.

    `fill`: flat ones too, where the ids prove that nothing traded. `partial`: running ones too, once a second. `live`:
    whether the wall clock closes bars; None: where trades are young.
    """

    lateness_ms: int
    grace_ms: int
    fill: bool
    partial: bool
    live: bool | None


class Outlet:
    """Counts candles and gives each to whoever wants to know of closed ones, and then to `emit`, if there is one.

    Raises:
        InvalidLine: from the constructor, when a timeframe is none.
    """

    def __init__(
        self,
        timeframes: str | Iterable[str],
        emit: Emit | None,
        lateness_ms: int = 10_000,
        grace_ms: int = 2_000,
        fill: bool = False,
        partial: bool = False,
        live: bool | None = None,
    ) -> None:
        self.timeframes: tuple[Timeframe, ...] = parse_list(timeframes)
        self.lateness_ms = lateness_ms
        self.grace_ms = grace_ms
        self.fill = fill
        self.partial = partial
        self.candles = 0
        self._live = live
        self._emit = emit
        self._hooks: list[Emit] = []

    def on_candle(self, hook: Emit) -> None:
        """Have `hook` called with every closed candle, provisional and revised ones too."""
        self._hooks.append(hook)

    def _hand_out(self, candles: Iterable[OHLCVCandle]) -> None:
        for candle in candles:
            self.candles += 1
            if candle.closed:
                for hook in self._hooks:
                    hook(candle)
            if self._emit is not None:
                self._emit(candle)
