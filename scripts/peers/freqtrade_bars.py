"""freqtrade: trades_to_ohlcv at one minute, on the pushes decoded by orjson; in floats."""

import sys

import orjson
import pandas as pd
from freqtrade.data.converter.trade_converter import trades_to_ohlcv

rows: dict[str, list] = {}
for line in sys.stdin.buffer:
    for row in orjson.loads(line)["data"]:
        price, amount = float(row["px"]), float(row["sz"])
        trade = (int(row["ts"]), row["tradeId"], None, row["side"], price, amount, price * amount)
        rows.setdefault(row["instId"], []).append(trade)
for symbol, some in rows.items():
    frame = pd.DataFrame(some, columns=["timestamp", "id", "type", "side", "price", "amount", "cost"])
    frame["date"] = pd.to_datetime(frame["timestamp"], unit="ms", utc=True)
    bars = trades_to_ohlcv(frame, "1m")
    bars.insert(0, "symbol", symbol)
    print(bars.to_csv(index=False, header=False), end="")
