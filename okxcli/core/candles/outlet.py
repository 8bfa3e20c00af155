"""Where the makers of candles hand them out."""

from collections.abc import Callable, Iterable

from okxcli.core.model import OHLCVCandle

Emit = Callable[[OHLCVCandle], None]


class Outlet:
    """Counts candles and gives each to whoever wants to know of closed ones, and then to `emit`, if there is one."""

    def __init__(self, emit: Emit | None) -> None:
        self.candles = 0
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
