"""What the commands do, for Python: okxcli(3) is its manual.

Owns the functions that `import okxcli as okx` promises, and no rule: each composes what the commands compose. They
print nothing, take no signal and read no option; errors are `OkxError`, in one line. In come lines or names, out go the
objects of `core.model`, or raw lines as bytes.
"""

import logging

from okxcli.api.live import astream, stream
from okxcli.api.past import history
from okxcli.api.rows import Rows
from okxcli.api.simulation import Simulation, simulate
from okxcli.api.stored import Gap, aread, gaps, read, store
from okxcli.api.through import Lines, Moment, books, candles, normalize
from okxcli.core.model import (
    Absent,
    BookSnapshot,
    BookUpdate,
    Instrument,
    Line,
    OHLCVCandle,
    StandardizedTrade,
    Ticker,
)
from okxcli.errors import InvalidLine, OkxError

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

# What is worth a word goes to the logger `okxcli`, and nowhere else unless the program says where.
logging.getLogger("okxcli").addHandler(logging.NullHandler())
