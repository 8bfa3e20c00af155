"""OKX's rows of funding, mark and index prices, open interest, limits and liquidations, as okx-lines(5) has them."""

import json
from decimal import Decimal

import pytest

from okxcli.core.codec import encode
from okxcli.core.model import Instrument
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import PartlyInvalid
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

NOW = 1_795_000_000_000
#: Rows as OKX's documentation and recordings have them, and what they say.
ROWS = {
    "mark-price": {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "markPx": "77086.9", "ts": "1789470161241"},
    "index-tickers": {
        "instId": "LTC-USD", "idxPx": "83.79", "open24h": "81.74", "high24h": "84.15", "low24h": "79.93",
        "sodUtc0": "81.44", "sodUtc8": "81.65", "ts": "1765201257112",
    },
    "funding-rate": {
        "formulaType": "noRate", "fundingRate": "0.0001875391284828", "fundingTime": "1700726400000",
        "impactValue": "", "instId": "BTC-USD-SWAP", "instType": "SWAP", "interestRate": "",
        "method": "current_period", "maxFundingRate": "0.00375", "minFundingRate": "-0.00375",
        "nextFundingRate": "", "nextFundingTime": "1700755200000", "premium": "0.0001233824646391",
        "settFundingRate": "0.0001699799259033", "settState": "settled", "ts": "1700724675402",
    },
    "open-interest": {
        "instId": "BTC-USDT-SWAP", "instType": "SWAP", "oi": "2216113.01000000309", "oiCcy": "22161.1301000000309",
        "oiUsd": "1939251795.54769270396321", "ts": "1743041250440",
    },
    "price-limit": {
        "instId": "LTC-USD-190628", "buyLmt": "200", "sellLmt": "300", "ts": "1597026383085", "enabled": True,
    },
    "liquidation-orders": {
        "details": [
            {"bkLoss": "0", "bkPx": "0.007831", "ccy": "", "posSide": "short", "side": "buy", "sz": "13",
             "ts": "1692266434010"}
        ],
        "instFamily": "IOST-USDT", "instId": "IOST-USDT-SWAP", "instType": "SWAP", "uly": "IOST-USDT",
    },
}  # fmt: skip
SAID = {
    "mark-price": {"type": "mark", "symbol": "BTC-USDT-SWAP", "timestamp": 1789470161241, "price": "77086.9"},
    "index-tickers": {
        "type": "index", "symbol": "LTC-USD", "timestamp": 1765201257112, "price": "83.79", "open_24h": "81.74",
        "high_24h": "84.15", "low_24h": "79.93", "open_utc0": "81.44", "open_utc8": "81.65",
    },
    "funding-rate": {
        "type": "funding", "symbol": "BTC-USD-SWAP", "timestamp": 1700724675402, "rate": "0.0001875391284828",
        "funding_time": 1700726400000, "next_rate": None, "next_funding_time": 1700755200000, "min_rate": "-0.00375",
        "max_rate": "0.00375", "settled_rate": "0.0001699799259033", "premium": "0.0001233824646391",
        "interest_rate": None, "method": "current_period", "origin": "funding-rate",
    },
    "open-interest": {
        "type": "open_interest", "symbol": "BTC-USDT-SWAP", "timestamp": 1743041250440,
        "open_interest": "2216113.01000000309", "base_open_interest": "22161.1301000000309",
        "usd_open_interest": "1939251795.54769270396321",
    },
    "price-limit": {
        "type": "price_limit", "symbol": "LTC-USD-190628", "timestamp": 1597026383085, "buy_limit": "200",
        "sell_limit": "300", "enabled": True,
    },
    "liquidation-orders": {
        "type": "liquidation", "symbol": "IOST-USDT-SWAP", "timestamp": 1692266434010, "side": "buy",
        "position": "short", "size": "13", "base_size": None, "quote_size": None, "bankruptcy_price": "0.007831",
        "loss": "0", "currency": None,
    },
}  # fmt: skip
#: What a row must say: by channel.
NEEDED = {
    "mark-price": ("markPx", "ts", "instId"), "index-tickers": ("idxPx", "ts", "instId"), "open-interest": ("oi", "ts"),
    "funding-rate": ("ts",), "price-limit": ("ts",), "liquidation-orders": ("instId",),
}  # fmt: skip


def push(channel, *rows, symbol=None, **more):
    """Return a push as OKX makes it."""
    if channel == "liquidation-orders":
        arg = {"channel": channel, "instType": "SWAP"}
    else:
        arg = {"channel": channel, "instId": symbol or rows[0]["instId"]}
    return json.dumps({"arg": arg, "data": rows, **more}, separators=(",", ":")).encode()


def said(line, normalizer=None):
    """Return what a raw line says."""
    found = (normalizer or Normalizer(lambda: NOW)).feed(line)
    return [json.loads(encode(one)) for one in found]


def refusal(line):
    """Return why a raw line is refused, all of it."""
    with pytest.raises(InvalidLine) as caught:
        Normalizer(lambda: NOW).feed(line)
    assert not isinstance(caught.value, PartlyInvalid)
    return str(caught.value)


@pytest.mark.parametrize("channel", ROWS)
def test_each_row_says_what_it_says(channel):
    """To the last digit; what is empty is null; the time of receipt goes along."""
    head = {"exchange": "okx", "received": 1_794_999_999_999}
    assert said(push(channel, ROWS[channel], received=1_794_999_999_999)) == [SAID[channel] | head]


def test_a_settlement_of_the_past():
    """REST tells no time but that of the settlement."""
    row = {
        "instType": "SWAP", "instId": "BTC-USD-SWAP", "formulaType": "noRate", "fundingRate": "0.0000746604960499",
        "realizedRate": "0.0000746572360545", "fundingTime": "1703059200000", "method": "current_period",
    }  # fmt: skip
    (found,) = said(push("funding-rate", row, origin="rest"))
    assert (found["timestamp"], found["funding_time"], found["origin"]) == (1703059200000, 1703059200000, "rest")
    assert (found["rate"], found["settled_rate"]) == ("0.0000746604960499", "0.0000746572360545")
    assert "ts" in refusal(push("funding-rate", row))


@pytest.mark.parametrize("channel", ROWS)
def test_bad_rows_are_refused_one_at_a_time(channel):
    """Missing, empty, null, negative, huge, no text: that row alone, named by its place, between good ones."""
    good = ROWS[channel]
    other = dict(good)
    bad = [{k: v for k, v in good.items() if k != key} for key in NEEDED[channel] if key != "instId"]
    bad += [good | {key: ""} for key in NEEDED[channel] if key != "instId"]
    bad += [good | {key: value} for key in NEEDED[channel] for value in (None, 7, [], {})]
    number = {"mark-price": "markPx", "index-tickers": "idxPx", "open-interest": "oiCcy", "price-limit": "buyLmt"}
    if channel in number:
        bad += [good | {number[channel]: text} for text in ("-1", "1e77", "NaN", "1_0", "０", "9" * 80)]
    bad += [good | {"instId": "ETH-USDT-SWAP"}] if channel != "liquidation-orders" else [good | {"instId": "A B"}]
    bad += [7, "row", [], {}, None]
    for row in bad:
        normalizer = Normalizer(lambda: NOW)
        with pytest.raises(PartlyInvalid) as caught:
            normalizer.feed(push(channel, good, row, other))
        assert len(caught.value.lines) == 2, row
        assert str(caught.value).startswith(f"{channel}, row 2: "), row


def test_events_of_a_row_of_liquidations():
    """Several events of one instrument are lines of their own; a bad one costs itself alone."""
    first = ROWS["liquidation-orders"]["details"][0]
    events = [first, first | {"ts": "1692266434000", "posSide": "long", "side": "sell"}]  # not in the order of time
    row = ROWS["liquidation-orders"] | {"details": events}
    assert [one["timestamp"] for one in said(push("liquidation-orders", row))] == [1692266434010, 1692266434000]
    for bad in (
        {"sz": "-1"}, {"sz": "0"}, {"sz": ""}, {"bkPx": ""}, {"bkPx": None}, {"side": "up"}, {"side": ""}, {"ts": ""},
        {"posSide": "x"}, {"ts": "0"}, {"sz": "1e40"},
    ):  # fmt: skip
        with pytest.raises(PartlyInvalid) as caught:
            Normalizer(lambda: NOW).feed(push("liquidation-orders", row | {"details": [*events, first | bad]}))
        assert len(caught.value.lines) == 2 and "row 3" in str(caught.value), bad
    for details in ([], None, "x", [7], {}):
        assert refusal(push("liquidation-orders", row | {"details": details}))


def test_liquidations_are_measured_by_their_instrument():
    """Contracts to coin and money: as the instrument was when it came; unknown without one."""
    normalizer = Normalizer(lambda: NOW)
    line = push("liquidation-orders", ROWS["liquidation-orders"])
    assert said(line, normalizer)[0]["base_size"] is None
    for value, kind, base, quote in (("1000", "linear", "13000", "101.803"), ("10", "inverse", None, "130")):
        row = {"instId": "IOST-USDT-SWAP", "instType": "SWAP", "state": "live", "ctVal": value, "ctType": kind}
        argument = {"channel": "instruments", "instType": "SWAP"}
        (known,) = normalizer.feed(json.dumps({"arg": argument, "data": [row]}).encode())
        assert isinstance(known, Instrument)
        (found,) = said(line, normalizer)
        assert found["quote_size"] == quote
        assert found["base_size"] == (base or str(round(Decimal(130) / Decimal("0.007831"), 18)))


def test_limits_that_are_off():
    """Empty limits are null, not zero; a recording from before `enabled` says nothing of it."""
    row = ROWS["price-limit"] | {"buyLmt": "", "sellLmt": "", "enabled": False}
    (found,) = said(push("price-limit", row))
    assert (found["buy_limit"], found["sell_limit"], found["enabled"]) == (None, None, False)
    del row["enabled"]
    assert said(push("price-limit", row))[0]["enabled"] is None
    assert "enabled" in refusal(push("price-limit", row | {"enabled": "yes"}))
    assert "enabled" in refusal(push("price-limit", row | {"enabled": None}))


def test_old_recordings_lack_some():
    """Pushes of 2023 without a rate, of 2022 without a method."""
    row = {"instId": "BTC-USD-SWAP", "fundingTime": "1700726400000", "ts": "1700724675402"}
    (found,) = said(push("funding-rate", row))
    assert found["rate"] is None and found["method"] is None


def test_times_that_step_back_within_a_row():
    """The settlement after the next cannot be before it."""
    row = ROWS["funding-rate"] | {"nextFundingTime": "1700726399999"}
    assert "next_funding_time is below funding_time" in refusal(push("funding-rate", row))


def test_a_row_from_the_future():
    """More than an hour after it came: no state of the market."""
    row = ROWS["mark-price"]
    assert "ahead of received" in refusal(push("mark-price", row, received=int(row["ts"]) - 3_700_000))
