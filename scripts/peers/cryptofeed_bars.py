"""cryptofeed 2.4.1: its parsing of OKX's trades and its OHLCV at one minute, fed with the pushes of a file.

Its window is one of the wall clock and ends for all symbols at once; here the clock is that of the trades.
"""

import asyncio
import sys

from cryptofeed.backends import aggregate
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import OKX
from cryptofeed.symbols import Symbols
from yapic import json


class Clock:
    """Stands for the module `time`: the trades' own."""

    now = 0.0

    def time(self) -> float:
        """Return the time of the trade at hand."""
        return self.now


clock = Clock()
aggregate.time = clock


async def main() -> None:
    """Feed every push to OKX's parser."""
    pushes = list(sys.stdin)
    names = {json.loads(line)["arg"]["instId"] for line in pushes}
    Symbols.set(OKX.id, {name: name for name in names}, {})

    async def show(data: dict) -> None:
        for symbol, bar in data.items():
            print(symbol, *(bar[key] for key in ("open", "high", "low", "close", "volume")))

    bars = aggregate.OHLCV(show, window=60)
    feed = OKX(symbols=[next(iter(names))], channels=[TRADES], callbacks={TRADES: bars})
    for line in pushes:
        message = json.loads(line, parse_float=str)
        clock.now = int(message["data"][0]["ts"]) / 1000
        await feed._trade(message, clock.now)
    await show(bars.data)


asyncio.run(main())
