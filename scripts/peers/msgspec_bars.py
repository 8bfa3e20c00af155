"""Six updates a trade in Decimal, decoded by msgspec: no check, no duplicates, no gaps, no late trades."""

import sys
from decimal import Decimal

import msgspec


class Trade(msgspec.Struct):
    """What of a trade line goes into a bar."""

    symbol: str
    trade_id: int
    side: str
    price: Decimal
    size: Decimal
    timestamp: int


decode = msgspec.json.Decoder(Trade).decode
LENGTHS = [60_000, 300_000, 900_000, 3_600_000, 14_400_000, 86_400_000]
bars: dict[tuple[str, int], list] = {}
for line in sys.stdin.buffer:
    trade = decode(line)
    price, size, at = trade.price, trade.size, trade.timestamp
    for length in LENGTHS:
        key, start = (trade.symbol, length), at - at % length
        bar = bars.get(key)
        if bar is None or bar[0] != start:
            if bar is not None:
                print(*key, *bar)
            bars[key] = [start, price, price, price, price, size, price * size, 1]
        else:
            if price > bar[2]:
                bar[2] = price
            elif price < bar[3]:
                bar[3] = price
            bar[4] = price
            bar[5] += size
            bar[6] += price * size
            bar[7] += 1
for key, bar in bars.items():
    print(*key, *bar)
