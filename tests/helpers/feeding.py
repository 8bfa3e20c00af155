"""How the tests of the feed read from it: as a command does, until a condition holds."""

import json
import select
import time

from okxcli.exchanges.okx.connection.dialling import DialLimiter
from okxcli.exchanges.okx.feed.live_feed import Feed

BTC, ETH, SWAP = "BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP"


def feed_of(exchange, symbols=(BTC,), channels=("trades-all",), **options):
    """Return a feed from the exchange that dials as often as it likes."""
    options = {"ws_url": exchange.ws_url, "rest_url": exchange.rest_url, "dials": DialLimiter(0.01)} | options
    return Feed(symbols, channels, **options)


def read(feed, until, timeout_s=30.0):
    """Poll as a command does until `until(lines)`; return the lines. The time-out is for what never comes."""
    lines = []
    end = time.monotonic() + timeout_s
    while not until(lines):
        assert time.monotonic() < end, f"waited in vain; {len(lines)} lines"
        if select.select([feed.fileno()], [], [], 0.1)[0]:
            lines += feed.poll()
    return lines


def rows(lines, symbol=BTC, channel="trades-all"):
    """Return (origin, row) of every trade of a symbol on a channel."""
    found = [json.loads(line) for line in lines if f'"{channel}","instId":"{symbol}"'.encode() in line]
    return [(message.get("origin"), row) for message in found if "data" in message for row in message["data"]]


def ids(lines, symbol=BTC, channel="trades-all"):
    """Return the ids of the trades, as they came."""
    return [int(row["tradeId"]) for _, row in rows(lines, symbol, channel)]


def beyond(newest, symbol=BTC):
    """Return a condition: a fill that is newer than this id has come."""
    return lambda lines: any(number > newest for number in ids(lines, symbol))


def present(exchange, *symbols):
    """Return a condition: of each symbol a fill has come that is newer than all that exist now."""
    conditions = [beyond(exchange.fills(symbol)[-1].trade_id, symbol) for symbol in symbols or (BTC,)]
    return lambda lines: all(condition(lines) for condition in conditions)


def traded(exchange, *symbols, count=1):
    """Wait until each symbol has traded so often from now on."""
    start = {symbol: exchange.fills(symbol)[-1].trade_id for symbol in symbols}
    end = time.monotonic() + 30
    while any(exchange.fills(symbol)[-1].trade_id < newest + count for symbol, newest in start.items()):
        assert time.monotonic() < end, "nobody trades"
        time.sleep(0.01)
