"""ccxt.pro: handle_trades of OKX on each push, and build_ohlcvc at one minute; in floats, of the last trades."""

import asyncio
import json
import sys

import ccxt.pro


async def main() -> None:
    """Feed each push, and build the bars of each thousand trades of a symbol."""
    exchange = ccxt.pro.okx({"options": {"tradesLimit": 1000}})
    client = exchange.client("wss://127.0.0.1:1")
    made: dict[str, list] = {}
    seen: dict[str, int] = {}
    for line in sys.stdin:
        message = json.loads(line)
        exchange.handle_trades(client, message)
        symbol = exchange.safe_symbol(message["arg"]["instId"])
        seen[symbol] = seen.get(symbol, 0) + 1
        if seen[symbol] % 1000 == 0:
            made.setdefault(symbol, []).extend(exchange.build_ohlcvc(list(exchange.trades[symbol]), "1m"))
    for symbol, bars in made.items():
        for bar in bars:
            print(symbol, *bar)
    await exchange.close()


asyncio.run(main())
