"""Every push of the local exchange, whatever the state of its symbol: normalize takes it, and its shape is OKX's."""

import json
import time

import pytest
from recordings import SHARED, captured, collected, needs_shared

from okxcli.core.model import BookSnapshot, BookUpdate, Instrument, OHLCVCandle, StandardizedTrade, Ticker
from okxcli.core.states import STATES
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.local.exchange import LocalExchange
from okxcli.local.network import pushes as channels_module
from okxcli.local.network.engine import Options

START = 1_774_000_020_000
SYMBOLS = ("BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP")
NEVER = "ETH-USDT"
PUBLIC = ("trades", "tickers", "books5", "bbo-tbt", "books")
BUSINESS = ("trades-all", "candle1s", "candle1m", "candle1Dutc", "candle1D")
KINDS = ("SPOT", "SWAP")
OF_SWAPS = ("funding-rate", "open-interest")
OF_ALL = ("mark-price", "price-limit")
#: What a push holds (okx-v5.md, recorded): keys of an element, of the push itself where there are more than two.
BOOK = {"asks", "bids", "ts", "seqId"}
SHAPES = {
    "trades": {"instId", "tradeId", "px", "sz", "side", "ts", "count", "source", "seqId"},
    "trades-all": {"instId", "tradeId", "px", "sz", "side", "ts", "source"},
    "books5": BOOK | {"instId"},
    "bbo-tbt": BOOK,
    "books": BOOK | {"checksum", "prevSeqId"},
    "tickers": {
        "instType", "instId", "last", "lastSz", "askPx", "askSz", "bidPx", "bidSz", "open24h", "high24h", "low24h",
        "volCcy24h", "vol24h", "sodUtc0", "sodUtc8", "ts",
    },
    "funding-rate": {
        "formulaType", "fundingRate", "fundingTime", "impactValue", "instId", "instType", "interestRate", "method",
        "maxFundingRate", "minFundingRate", "nextFundingRate", "nextFundingTime", "premium", "prevFundingTime",
        "settFundingRate", "settState", "ts",
    },
    "mark-price": {"instType", "instId", "markPx", "ts"},
    "index-tickers": {"instId", "idxPx", "open24h", "high24h", "low24h", "sodUtc0", "sodUtc8", "ts"},
    "open-interest": {"instType", "instId", "oi", "oiCcy", "oiUsd", "ts"},
    "price-limit": {"instId", "instType", "buyLmt", "sellLmt", "ts", "enabled"},
    "liquidation-orders": {"details", "instFamily", "instId", "instType", "uly"},
    "status": {
        "begin", "end", "env", "href", "maintType", "preOpenBegin", "scheDesc", "serviceType", "state", "system",
        "title", "ts",
    },
}  # fmt: skip
MADE = {
    "trades": StandardizedTrade,
    "trades-all": StandardizedTrade,
    "books5": BookSnapshot,
    "bbo-tbt": BookSnapshot,
    "books": BookUpdate,
    "tickers": Ticker,
    "candle": OHLCVCandle,
    "instruments": Instrument,
    **{one.channel: one.kind for one in STATES},
}


def subscribe(exchange, client):
    """Return two connections that have all there is of all symbols."""
    public, business = client(exchange), client(exchange, "business")
    public.ask("subscribe", *(f"{channel}:{symbol}" for channel in PUBLIC for symbol in (*SYMBOLS, NEVER)))
    public.ask("subscribe", *(f"{channel}:{symbol}" for channel in OF_SWAPS for symbol in SYMBOLS[1:]))
    public.ask(
        "subscribe", *(f"{channel}:{symbol}" for channel in OF_ALL for symbol in SYMBOLS[:2]), "index-tickers:BTC-USD"
    )
    public.ask("subscribe", {"channel": "liquidation-orders", "instType": "SWAP"})
    public.ask("subscribe", {"channel": "status"}, *({"channel": "instruments", "instType": kind} for kind in KINDS))
    business.ask("subscribe", *(f"{channel}:{symbol}" for channel in BUSINESS for symbol in (*SYMBOLS, NEVER)))
    return public, business


def heard(clients):
    """Return all pushes that have come by now."""
    return [m for one in clients for m in one.heard() if isinstance(m, dict) and "data" in m]


def checked(messages, now):
    """Check every push against the normalizer and the shapes; return how many each channel gave."""
    normalizer, counts = Normalizer(), {}
    for message in messages:
        channel = message["arg"]["channel"]
        kind = "candle" if channel.startswith("candle") else channel
        counts[kind] = counts.get(kind, 0) + 1
        found = normalizer.feed(json.dumps(message, separators=(",", ":")).encode())
        assert all(isinstance(line, MADE[kind]) for line in found), message
        assert bool(found) == (kind in MADE), message
        assert set(message) == {"arg", "data"} | ({"action"} if channel == "books" else set())
        for row in message["data"]:
            if kind == "candle":
                assert len(row) == 9 and int(row[0]) <= now
            elif kind != "instruments":
                assert set(row) == SHAPES[channel]
                assert 0 < int((row["details"][0] if "details" in row else row)["ts"]) <= now
            if kind in ("books5", "bbo-tbt", "books"):
                assert type(row["seqId"]) is int and row["seqId"] > 0
                assert all(len(level) == 4 for side in (row["asks"], row["bids"]) for level in side)
    return counts


@pytest.fixture
def exchange(monkeypatch):
    monkeypatch.setattr(channels_module, "REPEAT_S", 0.3)
    options = Options(limits=0)
    with LocalExchange([*SYMBOLS, NEVER], rate=0, history_s=0, start_ms=START, options=options) as exchange:
        yield exchange


def test_every_state_of_a_symbol(exchange, client):
    """Before, at and after the first fill, when bars end, in the quiet, at a delisting and a listing anew."""
    clients = subscribe(exchange, client)
    seen = {}

    def look(state, *wanted):
        counts, until = {}, time.monotonic() + 20
        while True:  # everything is due within 0.3 s, on a machine that has the time
            time.sleep(0.5)
            for kind, number in checked(heard(clients), exchange.now_ms() + 1).items():
                counts[kind] = counts.get(kind, 0) + number
            if counts.keys() >= set(wanted) or time.monotonic() > until:
                break
        seen[state] = counts
        assert counts.keys() >= set(wanted), (state, counts)

    look("before", "tickers", "books5", "bbo-tbt", "books", "status")
    late = subscribe(exchange, client)
    assert checked(heard(late), exchange.now_ms() + 1).keys() >= {"books5", "tickers"}
    for symbol in SYMBOLS:
        exchange.trade(symbol, "100", "1")
    look("first fill", "trades", "trades-all", "tickers", "books5", "candle")
    for number in range(20):
        for symbol in SYMBOLS:
            exchange.order(symbol, "sell" if number % 2 else "buy", [("100", "2"), (f"10{number % 7}.5", "3")])
    for _ in range(97):  # one of them closes a position by force
        exchange.trade(SYMBOLS[1], "101", "1")
    look("after", "trades", "trades-all", "candle", "mark-price", "price-limit", "liquidation-orders", "index-tickers")
    exchange.trade(SYMBOLS[2], "102", "1")
    look("later", "mark-price")
    exchange.set_time(START + 200_000)
    look("quiet", "candle", "books5", "bbo-tbt", "books")
    for state in ("suspend", "expired"):
        for symbol in (*SYMBOLS, NEVER):
            exchange.set_state(symbol, state)
        look(state, "instruments")
    look("gone")
    assert seen["gone"] == {}
    for symbol in (*SYMBOLS, NEVER):
        exchange.set_state(symbol, "live")
    exchange.trade(SYMBOLS[0], "100", "1")
    look("live", "instruments", "trades-all")


def test_the_rest_of_a_market_without_a_fill(exchange, client):
    """Book and ticker have a time; there is no trade and no bar."""
    from local_client import rest

    for path in ("books?sz=5&", "ticker?"):
        status, body = rest(exchange, f"market/{path}instId={NEVER}")
        assert (status, body["code"]) == (200, "0")
        assert START <= int(body["data"][0]["ts"]) <= exchange.now_ms()
    for path in ("trades", "history-trades", "candles", "history-candles"):
        assert rest(exchange, f"market/{path}?instId={NEVER}")[1] == {"code": "0", "msg": "", "data": []}


@needs_shared
def test_the_shapes_are_those_of_recordings():
    """The keys that are checked here are keys that OKX's own pushes have, in the newest recordings of each channel."""
    recorded = {}
    for path in sorted((SHARED / "ws").iterdir()):
        read = {"gz": captured}.get(path.suffix[1:]) if path.name.endswith(".txt.gz") else collected
        if read is collected and not path.name.endswith(".json.gz"):
            continue
        for line in read(path):
            try:
                message = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(message, dict) and "data" in message and message.get("arg", {}).get("channel") in SHAPES:
                for row in message["data"]:
                    recorded.setdefault(message["arg"]["channel"], set()).update(row)
    assert recorded.keys() >= {"tickers", "books", "trades"}
    newer = {"source", "seqId", "count"}  # than these recordings
    for channel, keys in recorded.items():
        assert SHAPES[channel] <= keys | newer, channel
