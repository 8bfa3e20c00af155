"""The private channels of an account of the local exchange, through cuts and refusals."""

import json
import logging
import select
import time
from dataclasses import replace

import pytest
from local_account import own_fill, with_account

from okxcli.errors import LoginRefused, UsageError
from okxcli.exchanges.okx.account.account_feed import AccountFeed, subscriptions
from okxcli.exchanges.okx.channels import BUSINESS, PRIVATE
from okxcli.exchanges.okx.connection import client
from okxcli.exchanges.okx.connection.dialling import DialLimiter
from okxcli.local.venue.account import KEY


@pytest.fixture
def exchange():
    with with_account() as found:
        yield found


@pytest.fixture
def environment(monkeypatch):
    for name, value in KEY.items():
        monkeypatch.setenv(name, value)


def feed_of(exchange, channels=("orders", "account", "positions", "fills"), **more):
    return AccountFeed(channels, ws_url=exchange.ws_url, rest_url=exchange.rest_url, dials=DialLimiter(0.01), **more)


def take(feed, count, timeout_s=20.0):
    """Return that many pushes, as objects."""
    found = []
    end = time.monotonic() + timeout_s
    while len(found) < count:
        left = end - time.monotonic()
        assert left > 0, found
        select.select([feed.fileno()], [], [], left)
        found += map(json.loads, feed.poll())
    return found


def channels_of(pushes):
    return [push["arg"]["channel"] for push in pushes]


def test_orders_money_and_positions(exchange, environment):
    """What the account does is pushed, after how things are."""
    with feed_of(exchange, stamp=True) as feed:
        first = take(feed, 2)
        assert sorted(channels_of(first)) == ["account", "positions"]
        number = own_fill(exchange)
        spot = {push["arg"]["channel"]: push["data"][0] for push in take(feed, 3)}
        assert spot.keys() == {"orders", "fills", "account"}
        assert [spot["orders"][key] for key in ("tradeId", "fee", "feeCcy")] == [str(number), "-0.0005", "BTC"]
        money = {one["ccy"]: one["eq"] for one in spot["account"]["details"]}
        assert money == {"BTC": "1000000.4995", "USDT": "999950"}
        own_fill(exchange, "BTC-USDT-SWAP", side="sell")
        swap = take(feed, 3)
        assert sorted(channels_of(swap)) == ["fills", "orders", "positions"]
        assert next(p["data"][0]["pos"] for p in swap if p["arg"]["channel"] == "positions") == "-0.5"
        assert all(abs(push["received"] - time.time() * 1000) < 60_000 for push in first + swap)


def test_every_connection_logs_in_before_it_subscribes(exchange, environment):
    """Cut again and again: subscribed without a login it would be refused, for good."""
    with feed_of(exchange, ["orders"]) as feed:
        for _ in range(4):
            end = time.monotonic() + 20
            while not [one for one in exchange.connections() if one.channels]:
                assert time.monotonic() < end
                feed.poll()
                time.sleep(0.01)
            own_fill(exchange)
            assert channels_of(take(feed, 1)) == ["orders"]
            exchange.cut()


@pytest.mark.parametrize(
    ("part", "code"), [("OKX_API_KEY", "60032"), ("OKX_SECRET_KEY", "60007"), ("OKX_PASSPHRASE", "60024")]
)
def test_a_wrong_key_ends_it(exchange, environment, monkeypatch, part, code):
    """At once, with OKX's reason, and without the key."""
    monkeypatch.setenv(part, "wrong-one")
    refused = pytest.raises(LoginRefused, match=rf"OKX refuses the login \({code}\)")
    with feed_of(exchange) as feed, refused as raised:
        take(feed, 1)
    assert "wrong-one" not in str(raised.value) and not [v for v in KEY.values() if v in str(raised.value)]


def test_a_key_that_is_revoked_later_is_tried_again(exchange, environment, monkeypatch, caplog):
    """What has run for months does not end by an error of the exchange's; it says so, and goes on when it may."""
    monkeypatch.setattr(client, "SLOW_BACKOFF_S", 0.2)
    caplog.set_level(logging.INFO)
    engine = exchange._engine
    with feed_of(exchange, ["account"]) as feed:
        take(feed, 1)
        keys = engine.options.keys
        engine.options = replace(engine.options, keys={})
        exchange.cut()
        end = time.monotonic() + 20
        while "OKX refuses the login (60032" not in caplog.text:
            assert time.monotonic() < end
            assert feed.poll() == []
            time.sleep(0.01)
        engine.options = replace(engine.options, keys=keys)
        assert channels_of(take(feed, 1)) == ["account"]


def test_channels_by_endpoint():
    """Each where OKX serves it; a channel that is none of an account's is told."""
    found = subscriptions(["orders", "account", "orders-algo", "orders"])
    assert {path: [one.argument for one in some] for path, some in found.items()} == {
        PRIVATE: [{"channel": "orders", "instType": "ANY"}, {"channel": "account"}],
        BUSINESS: [{"channel": "orders-algo", "instType": "ANY"}],
    }
    for wrong in (["books5"], []):
        with pytest.raises(UsageError):
            subscriptions(wrong)


def test_what_okx_refuses_is_told(exchange, environment, caplog):
    """The other channels go on; with none left it is the end."""
    with feed_of(exchange, ["account", "orders-algo"]) as feed:
        assert channels_of(take(feed, 1)) == ["account"]
        end = time.monotonic() + 20
        while "OKX refuses orders-algo" not in caplog.text:
            assert time.monotonic() < end
            assert feed.poll() == []
            time.sleep(0.01)
    with feed_of(exchange, ["orders-algo"]) as feed, pytest.raises(UsageError, match="OKX refuses orders-algo"):
        take(feed, 1)
