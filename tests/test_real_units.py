"""Contracts, coins and money in what OKX itself recorded, and in the numbers of its documents."""

import gzip
import json
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pytest
import recordings
from recordings import DATA, SHARED, needs_shared

from okxcli.core.codec import encode
from okxcli.core.decimals import EXACT
from okxcli.core.model import Instrument, Ticker, amounts
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.local.venue.instruments import contract_of

NOW = 1_795_000_000_000


def listed(kind):
    """Return the rows of the recorded list of a kind."""
    path = SHARED / "rest" / f"okxapi-2026-04-27.production.public-instruments-{kind}.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))["data"]


def instruments_of(rows):
    """Return the instruments of rows, by symbol."""
    push = {"arg": {"channel": "instruments", "instType": "ANY"}, "data": rows}
    return {one.symbol: one for one in Normalizer().feed(json.dumps(push).encode())}


@needs_shared
def test_every_listed_instrument_is_read():
    """1,218 spot markets and 312 swaps, none lost: what a size of each means follows from its row."""
    found = {kind: instruments_of(listed(kind)) for kind in ("spot", "swap")}
    assert {kind: len(some) for kind, some in found.items()} == {"spot": 1218, "swap": 312}
    assert Counter(one.contract_type for one in found["swap"].values()) == Counter(
        row["ctType"] for row in listed("swap")
    )
    for row in listed("swap"):
        one = found["swap"][row["instId"]]
        size, price = Decimal(7) * Decimal(row["lotSz"]), Decimal(row["tickSz"]) * 123_457
        worth = Fraction(row["ctVal"]) * Fraction(row["ctMult"]) * Fraction(size)
        base, quote = amounts(one, one.symbol, price, size)
        if row["ctType"] == "linear":
            assert (Fraction(base), Fraction(quote)) == (worth, worth * Fraction(price))
            assert one.contract_currency == one.base
        else:
            assert quote == worth and abs(Fraction(base) - worth / Fraction(price)) <= Fraction(1, 2 * 10**18)
            assert one.contract_currency == one.quote == "USD" and one.settle == one.base
        assert contract_of(row).volumes(price, size) == (base, quote)
    for row in listed("spot"):
        one = found["spot"][row["instId"]]
        assert amounts(one, one.symbol, Decimal("1.5"), Decimal(3)) == (3, Decimal("4.5"))
        assert (one.base, one.quote) == (row["baseCcy"], row["quoteCcy"])


@needs_shared
@pytest.mark.parametrize("symbol", ["BTC-USDT-SWAP", "DOGE-USDT-SWAP"])
def test_coins_of_recorded_candles(symbol):
    """`volCcy` of every candle of OKX's follows from its `vol` by our conversion, to the last digit."""
    instrument = instruments_of([row for row in listed("swap") if row["instId"] == symbol])[symbol]
    seen = 0
    for bar in ("1m", "5m", "15m", "30m", "1H", "4H", "1D"):
        path = SHARED / "candles" / f"okx-klines.{symbol.lower()}.{bar}.csv.gz"
        normalizer = Normalizer()
        for raw in recordings.candles(path, symbol, bar):
            (candle,) = normalizer.feed(raw)
            assert candle.origin == "exchange" and candle.closed == candle.complete
            assert amounts(instrument, symbol, candle.close, candle.volume)[0] == candle.base_volume, raw
            seen += 1
    assert seen > 38_000


def contract(kind, contract_type, value, multiplier="1"):
    """Return an instrument of a worth."""
    worth = {"contract_value": Decimal(value), "contract_multiplier": Decimal(multiplier)}
    return Instrument("okx", "X-Y-Z", kind, "live", contract_type=contract_type, **worth)


@pytest.mark.parametrize(
    ("instrument", "size", "price", "base", "quote"),
    [
        (contract("swap", "linear", "0.01"), "3", "91467.1", "0.03", "2744.013"),
        (contract("swap", "linear", "0.01"), "0.01", "91467.1", "0.0001", "9.14671"),
        (contract("swap", "linear", "0.1"), "1", "2498.89", "0.1", "249.889"),
        (contract("swap", "linear", "1000"), "0.1", "0.22622", "100", "22.622"),
        (contract("futures", "linear", "0.01", "2"), "5", "100", "0.1", "10"),
        (contract("swap", "inverse", "100"), "1", "102561.3", "0.000975026642603009", "100"),
        (contract("futures", "inverse", "100"), "779573", "29751.43", "2620.287495424589675185", "77957300"),
        (contract("swap", "inverse", "10"), "3", "6.582", "4.557885141294439380", "30"),
        (contract("swap", "inverse", "10"), "0.1", "3", "0.333333333333333333", "1"),
        (contract("swap", "inverse", "10"), "0.2", "3", "0.666666666666666667", "2"),
        (contract("option", None, "1", "0.01"), "2", "0.045", "0.02", None),
        (contract("option", None, "0.1", "1"), "1.5", "0.0005", "0.15", None),
        (contract("swap", None, "1"), "1", "1", None, None),
        (Instrument("okx", "X-Y-Z", "swap", "preopen"), "1", "1", None, None),
    ],
)  # fmt: skip
def test_contracts_in_coins_and_money(instrument, size, price, base, quote):
    """Linear and options exactly, inverse to 18 places; unknown stays unknown."""
    found = amounts(instrument, instrument.symbol, Decimal(price), Decimal(size))
    exact = None if base is None else Decimal(base)
    assert found == (exact, None if quote is None else Decimal(quote))


def test_turnover_of_recorded_tickers():
    """Money for coins is about the price: `volCcy24h` is money for spot, and coins of 100 dollars a contract else."""
    normalizer, seen = Normalizer(), Counter()
    for raw in recordings.captured(DATA / "okx-2022-05-13.ws.txt.gz"):
        for line in normalizer.feed(raw):
            if not isinstance(line, Ticker):
                continue
            seen[line.symbol] += 1
            if line.symbol.count("-") == 1:
                price = line.quote_volume_24h / line.base_volume_24h
                assert line.base_volume_24h == line.volume_24h
            else:
                worth = {"BTC": 100, "UNI": 10}[line.symbol[:3]]
                price = EXACT.multiply(line.volume_24h, Decimal(worth)) / line.base_volume_24h
                assert line.quote_volume_24h is None
            assert line.low_24h * Decimal("0.99") < price < line.high_24h * Decimal("1.01"), encode(line)
    assert len(seen) == 3 and seen.total() == 28


def test_the_numbers_of_the_document():
    """BTC-USDT 525802090.6 for 17602.13 coins, and BTC-USD-220527 779573 contracts for 2620.289 coins, in May 2022."""
    rows = {
        "BTC-USDT": ("SPOT", "17602.13", "525802090.6"),
        "BTC-USD-220527": ("FUTURES", "779573", "2620.289"),
    }
    prices = {}
    for symbol, (kind, volume, turnover) in rows.items():
        row = {"instType": kind, "instId": symbol, "vol24h": volume, "volCcy24h": turnover, "ts": "1652459224818"}
        push = {"arg": {"channel": "tickers", "instId": symbol}, "data": [row]}
        (ticker,) = Normalizer(lambda: NOW).feed(json.dumps(push).encode())
        money = ticker.quote_volume_24h if kind == "SPOT" else ticker.volume_24h * 100
        prices[symbol] = int(money / ticker.base_volume_24h)
    assert prices == {"BTC-USDT": 29871, "BTC-USD-220527": 29751}


@pytest.mark.parametrize(("volume", "coins"), [("8656891", "86568.91"), ("24120722", "241207.22")])
def test_tickers_that_others_have_misread(volume, coins):
    """BTC-USDT-SWAP in March 2022 and July 2023: `volCcy24h` is coins, never money, and what our conversion gives."""
    row = {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "vol24h": volume, "volCcy24h": coins, "ts": "1689327738425"}
    push = {"arg": {"channel": "tickers", "instId": "BTC-USDT-SWAP"}, "data": [row]}
    normalizer = Normalizer(lambda: NOW)
    by_kernel = normalizer.take(json.dumps(push, separators=(",", ":")).encode() + b"\n", 0)
    (ticker,) = normalizer.feed(json.dumps(push).encode())
    assert by_kernel.lines in (encode(ticker), b"")  # there may be no kernel
    assert (ticker.volume_24h, ticker.base_volume_24h, ticker.quote_volume_24h) == (
        Decimal(volume),
        Decimal(coins),
        None,
    )
    assert (
        amounts(contract("swap", "linear", "0.01"), "X-Y-Z", Decimal(1), ticker.volume_24h)[0] == ticker.base_volume_24h
    )
