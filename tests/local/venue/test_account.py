"""The account of the local exchange, as a client of its own sees it."""

import base64
import hashlib
import hmac
import time
from decimal import Decimal

import pytest
from local_account import own_fill, with_account
from local_client import Client

from okxcli.local.venue.account import KEY, UID


@pytest.fixture
def exchange():
    with with_account() as found:
        yield found


@pytest.fixture
def client(exchange):
    found = Client(exchange, "private")
    key, secret, phrase = KEY.values()
    stamp = str(int(time.time()))
    signed = hmac.new(secret.encode(), f"{stamp}GET/users/self/verify".encode(), hashlib.sha256).digest()
    found.ask(
        "login", {"apiKey": key, "passphrase": phrase, "timestamp": stamp, "sign": base64.b64encode(signed).decode()}
    )
    assert found.next()["event"] == "login"
    yield found
    found.close()


def test_orders_and_positions_by_kind(exchange, client):
    """Who subscribes one kind of instrument hears of that kind alone, in the words of its subscription."""
    client.ask("subscribe", {"channel": "orders", "instType": "SPOT"}, {"channel": "positions", "instType": "SWAP"})
    begin = client.until(lambda message: "data" in message)
    assert begin[-1] == {"arg": {"channel": "positions", "instType": "SWAP", "uid": UID}, "data": []}
    own_fill(exchange, "BTC-USDT-SWAP", "100", "3", "buy")
    own_fill(exchange, "BTC-USDT", "100", "1", "buy")
    position, order = client.next(), client.next()
    assert (position["arg"], position["data"][0]["pos"]) == (
        {"channel": "positions", "instType": "SWAP", "uid": UID},
        "3",
    )
    assert (order["arg"]["instType"], order["data"][0]["instId"]) == ("SPOT", "BTC-USDT")
    assert client.heard() == []


def test_money_adds_up(exchange, client):
    """What is bought and sold, less a thousandth of what is got, to the last digit."""
    client.ask("subscribe", {"channel": "account"}, {"channel": "fills"})
    client.until(lambda message: "data" in message)
    for side, price, size in (("buy", "100", "0.3"), ("sell", "101.5", "0.1"), ("buy", "0.00000001", "7")):
        own_fill(exchange, "BTC-USDT", price, size, side)
    messages = client.heard()
    money = [m["data"][0]["details"] for m in messages if m.get("arg", {}).get("channel") == "account" and "data" in m][
        -1
    ]
    fills = [m["data"][0] for m in messages if m.get("arg", {}).get("channel") == "fills" and "data" in m]
    begin, kept = Decimal(1_000_000), Decimal("0.999")
    assert {one["ccy"]: Decimal(one["eq"]) for one in money} == {
        "BTC": begin + Decimal("0.3") * kept - Decimal("0.1") + 7 * kept,
        "USDT": begin - 30 + Decimal("10.15") * kept - Decimal("0.00000007"),
    }
    assert [(one["side"], one["fillSz"]) for one in fills] == [("buy", "0.3"), ("sell", "0.1"), ("buy", "7")]


def test_one_fill_a_second_is_ours(exchange, client):
    """More would be a flood: what comes within a second of ours is somebody else's."""
    client.ask("subscribe", {"channel": "fills"})
    client.until(lambda message: message.get("event") == "subscribe")
    exchange.set_time(exchange.now_ms() + 1_000)
    first = exchange.trade("BTC-USDT", "100", "1", "buy")
    exchange.trade("BTC-USDT", "100", "1", "buy", ts=exchange.now_ms() + 999)
    last = exchange.trade("BTC-USDT", "100", "1", "buy", ts=exchange.now_ms() + 1_000)
    assert [int(message["data"][0]["tradeId"]) for message in client.heard()] == [first, last]
