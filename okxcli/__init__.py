"""OKX market data as composable commands: a tape that can prove it is complete, candles that never leak the future.

`import okxcli as okx` gives Python what the commands do: okxcli(3). Nothing of it is loaded before it is used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from okxcli.api import (
        Absent,
        BookSnapshot,
        BookUpdate,
        Gap,
        Instrument,
        InvalidLine,
        Line,
        Lines,
        Moment,
        OHLCVCandle,
        OkxError,
        Rows,
        Simulation,
        StandardizedTrade,
        Ticker,
        aread,
        astream,
        books,
        candles,
        gaps,
        history,
        normalize,
        read,
        simulate,
        store,
        stream,
    )

#: All that is promised; what is not here may change with any version.
__all__ = [
    "Absent",
    "BookSnapshot",
    "BookUpdate",
    "Gap",
    "Instrument",
    "InvalidLine",
    "Line",
    "Lines",
    "Moment",
    "OHLCVCandle",
    "OkxError",
    "Rows",
    "Simulation",
    "StandardizedTrade",
    "Ticker",
    "__version__",
    "aread",
    "astream",
    "books",
    "candles",
    "gaps",
    "history",
    "normalize",
    "read",
    "simulate",
    "store",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from okxcli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
