"""Candles of the exchange and funding, filled in from its past."""

from contextlib import closing

import pytest
from storage_samples import rows

from okxcli.exchanges.okx.rest import endpoints
from okxcli.exchanges.registry import exchange
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.pipeline.backfill import PastChannels, Tools
from okxcli.runtime.proxy import Proxies
from okxcli.storage.database import open_database
from okxcli.storage.rows.row_format import stamp

#: 2025-05-13T04:00:00Z, in the middle of a period of funding.
START = 1747108800000
HOUR = 3_600_000
SWAP, SPOT = "BTC-USDT-SWAP", "BTC-USDT"
CHANNELS = ("trades-all", "candle1m", "candle1H", "candle1D", "funding-rate", "mark-price")


@pytest.fixture
def market():
    """Three hours of a market whose clock stands still."""
    options = Options(limits=0)
    with LocalExchange([SWAP, SPOT], rate=3, history_s=3 * 3600, start_ms=START, options=options) as found:
        found.stop_market()
        yield found


@pytest.fixture
def fill(database, market):
    """Fill in and return the rows that were told, as (symbol, channel, fetched)."""
    okx = exchange()
    asked = []

    def fill(symbols=(SWAP, SPOT), since=None, until=None, channels=CHANNELS):
        with (
            open_database(database, create=True) as opened,
            closing(okx.market(market.rest_url, Proxies(), sleep=lambda seconds: None)) as rest,
        ):
            clock = market.now_ms
            tools = Tools(opened.connect, rest.history(clock), okx, clock=clock, describe=lambda s: rest.describe([s]))
            with closing(tools.connection):

                def past(symbol, channel, span):
                    asked.append((symbol, channel, span))
                    return rest.past([symbol], channel, span, clock, lambda done, total: None)

                work = PastChannels(tools, past)
                return [tuple(row.values()) for row in work.run(symbols, channels, since, until)]

    fill.asked = asked
    return fill


def test_nothing_is_stored(fill, database):
    """Candles begin with what is collected; funding with all there is, and the instrument that it is of."""
    assert fill() == [(SWAP, "funding-rate", 276)]
    assert rows(database, "SELECT count(*), count(DISTINCT timestamp), min(origin) FROM funding_rates") == [
        (276, 276, "rest")
    ]
    assert rows(database, "SELECT symbol FROM instruments") == [(SWAP,)]
    assert rows(database, "SELECT bool_and(timestamp = funding_time AND settled_rate = rate) FROM funding_rates") == [
        (True,)
    ]
    assert fill() == []


def test_holes_of_candles(fill, database, market):
    """With --since from there on; later the holes, and what has come since: each bar as the exchange has it, once."""
    since = START - 2 * HOUR
    assert len(fill(channels=["funding-rate"])) == 1
    found = {(symbol, channel): count for symbol, channel, count in fill(since=since)}
    assert found[SWAP, "candle1m"] == found[SPOT, "candle1m"] == 120
    assert found[SWAP, "candle1H"] == 2 and (SWAP, "candle1D") not in found
    whole = rows(database, "SELECT symbol, timeframe, start, close, volume FROM market_data ORDER BY 1, 2, 3")
    assert {*rows(database, "SELECT timeframe, origin FROM market_data")} == {("1m", "exchange"), ("1h", "exchange")}
    fill.asked.clear()
    assert fill() == [] and {channel for _, channel, _ in fill.asked} == {"funding-rate"}
    for first, last in ((10, 12), (40, 40), (110, 119)):  # in the middle, and the newest
        gone = [[stamp(since + number * 60_000) for number in (first, last)]]
        rows(database, "DELETE FROM market_data WHERE start BETWEEN %s::timestamptz AND %s::timestamptz"
             " AND timeframe = '1m' RETURNING 1", *gone[0])  # fmt: skip
    market.set_time(START + 5 * 60_000 + 500)
    told = fill(channels=["candle1m"])
    assert told == [(SWAP, "candle1m", 3 + 1 + 10 + 5), (SPOT, "candle1m", 3 + 1 + 10 + 5)]
    after = rows(database, "SELECT symbol, timeframe, start, close, volume FROM market_data ORDER BY 1, 2, 3")
    assert [row for row in after if row in whole] == whole
    assert fill(channels=["candle1m"]) == []


def test_a_span(fill):
    """--until is kept to, and a symbol or channel without a past is none's business."""
    assert fill([SPOT], START - HOUR, START - HOUR + 600_000, ["candle1m"]) == [(SPOT, "candle1m", 10)]
    fill.asked.clear()
    assert fill([SPOT], channels=["funding-rate", "mark-price", "tickers"]) == [] and fill.asked == []


def test_what_is_stored_is_what_history_writes(fill, database, market):
    """Bar by bar, as `okx history` and `okx normalize` would have it."""
    fill([SWAP], START - HOUR, None, ["candle1m"])
    okx = exchange()
    with closing(okx.market(market.rest_url, Proxies())) as rest:
        past = rest.past([SWAP], "candle1m", (START - HOUR, START), market.now_ms, lambda done, total: None)
        normalizer = okx.normalizer(market.now_ms)
        for raw in rest.describe([SWAP]):
            normalizer.feed(raw)
        bars = [bar for raw in past.lines() for bar in normalizer.feed(raw)]
    stored = rows(database, "SELECT open, high, low, close, volume, base_volume, quote_volume, closed, complete"
                  " FROM market_data ORDER BY timestamp")  # fmt: skip
    assert stored == [
        (b.open, b.high, b.low, b.close, b.volume, b.base_volume, b.quote_volume, True, True) for b in bars
    ]
    assert len(bars) == 60 and all(bar.base_volume * 100 == bar.volume for bar in bars)


def test_settlements_come_in_pages(fill, database, monkeypatch):
    """However few an answer holds, each settlement once, and none before --since."""
    monkeypatch.setattr(endpoints, "SETTLEMENTS_PAGE", 7)
    since = START - 60 * 8 * HOUR
    assert fill([SWAP], since, None, ["funding-rate"]) == [(SWAP, "funding-rate", 60)]
    [(first, last)] = rows(database, "SELECT min(timestamp), max(timestamp) FROM funding_rates")
    assert (last - first).total_seconds() == 59 * 8 * 3600
