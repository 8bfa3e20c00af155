"""OKX market data as composable commands: a tape that can prove it is complete, candles that never leak the future.

`import okxcli as okx` gives Python what the commands do: okxcli(3). Nothing of it is loaded before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from okxcli.api import *  # noqa: F403 - the same names, for type checkers

#: All that is promised, beside `__version__`; `okxcli.api` has the same list. Whoever looks for a name here, as each
#: import of a room of this package does, must not load that.
_PROMISED = {
    "Absent", "BookSnapshot", "BookUpdate", "Gap", "Instrument", "InvalidLine", "Line", "Lines", "Moment",
    "OHLCVCandle", "OkxError", "Rows", "Simulation", "StandardizedTrade", "Ticker", "aread", "astream", "books",
    "candles", "gaps", "history", "normalize", "read", "simulate", "store", "stream",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PROMISED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("okxcli.api"), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *_PROMISED])
