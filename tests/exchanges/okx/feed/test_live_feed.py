"""The feed against the local exchange: many symbols and channels as one stream, through every fault."""

import functools
import json
import os
import select
import threading
import time
from collections import Counter

import pytest
from feeding import BTC, ETH, SWAP, feed_of, ids, present, read, traded

from okxcli.errors import ExchangeUnavailable, UsageError
from okxcli.exchanges.okx.connection.dialling import DialLimiter
from okxcli.exchanges.okx.connection.message_queue import MessageQueue
from okxcli.exchanges.okx.feed import live_feed as feed_module
from okxcli.exchanges.okx.feed.live_feed import Feed, plan
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options


def arguments(lines):
    return [tuple(json.loads(line)["arg"].values()) for line in lines]


def test_subscriptions_are_planned_by_endpoint_and_spread_evenly():
    """Channels go to their endpoints, no connection has more than fifty, none is much fuller than another."""
    symbols = [f"C{n}-USDT" for n in range(60)]
    planned = plan(symbols, ["trades-all", "tickers", "books5", "instruments", "tickers"])
    assert [len(part) for part in planned["/ws/v5/business"]] == [30, 30]
    assert [len(part) for part in planned["/ws/v5/public"]] == [41, 41, 39]
    assert len({s for parts in planned.values() for part in parts for s in part}) == 60 * 3 + 1


def test_channels_that_a_symbol_does_not_have():
    """One list of channels does for spot and contracts: who has none of one is left out; nobody at all is a mistake."""
    symbols = ["BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-241220"]
    (public,) = plan(symbols, ["tickers", "funding-rate", "index-tickers", "liquidation-orders"])["/ws/v5/public"]
    assert {(s.channel, s.value) for s in public} == {
        *(("tickers", symbol) for symbol in symbols), *(("funding-rate", symbol) for symbol in symbols[1:]),
        ("index-tickers", "BTC-USDT"), ("index-tickers", "BTC-USD"), ("liquidation-orders", "SWAP"),
        ("liquidation-orders", "FUTURES"),
    }  # fmt: skip
    with pytest.raises(UsageError, match="there is no funding-rate of BTC-USDT: only contracts have that"):
        plan(["BTC-USDT"], ["funding-rate"])


def test_liquidations_are_those_of_the_symbols():
    """OKX sends those of all contracts of a kind; what is streamed is about the symbols that were named."""
    symbols = [SWAP, "BTC-USDT", "ETH-USD-SWAP"]
    with (
        LocalExchange(symbols, rate=0, history_s=0, options=Options(limits=0)) as exchange,
        feed_of(exchange, symbols[:2], ["liquidation-orders", "trades-all"]) as feed,
    ):
        assert exchange.wait_subscribed("liquidation-orders", "SWAP")
        for _ in range(100):
            exchange.trade(SWAP, "100", "1")
            exchange.trade("ETH-USD-SWAP", "100", "1")
        exchange.trade("BTC-USDT", "100", "2.5")
        lines = read(feed, lambda lines: any(b'"2.5"' in line for line in lines))
        lines += read(feed, lambda more: any(b"liquidation" in line for line in lines + more))
    rows = [row for line in lines if b"liquidation" in line for row in json.loads(line)["data"]]
    assert rows and {row["instId"] for row in rows} == {SWAP}


def test_instruments_come_first_then_data_of_all_channels(exchange):
    """The first lines say what the symbols are, in their order; all that was asked for follows."""
    channels = ["trades-all", "trades", "books5", "bbo-tbt", "tickers", "candle1s"]
    wanted = {(c, s) for c in channels for s in (SWAP, "BTC-USDT")}
    with feed_of(exchange, [SWAP, "BTC-USDT"], channels) as feed:
        lines = read(feed, lambda lines: wanted <= set(arguments(lines)))
        assert {state.up for state in feed.state()} == {True}
    assert arguments(lines)[:2] == [("instruments", "SWAP"), ("instruments", "SPOT")]
    assert "instruments" not in Counter(name for name, _ in arguments(lines[2:]))
    normalizer = Normalizer()
    assert all(normalizer.feed(line) for line in lines)


def test_lines_are_verbatim_unless_stamped(exchange):
    """Without a stamp there is nothing of ours in a line; with it, one last key."""
    with feed_of(exchange) as feed:
        plain = read(feed, lambda lines: len(lines) > 20)
    assert not any(b"received" in line for line in plain)
    before = time.time_ns() // 1_000_000
    with feed_of(exchange, stamp=True) as feed:
        stamped = read(feed, lambda lines: len(lines) > 20)
    after = time.time_ns() // 1_000_000
    for line in stamped:
        message = json.loads(line)
        assert list(message)[-1] == "received"
        assert before <= message["received"] <= after


def test_every_fill_arrives_in_order(exchange):
    """Ids are consecutive, and the fills are those of the exchange."""
    with feed_of(exchange) as feed:
        found = ids(read(feed, lambda lines: len(lines) > 150))
    truth = {fill.trade_id: fill.price for fill in exchange.fills("BTC-USDT")}
    assert found == list(range(found[0], found[0] + len(found)))
    assert set(found) <= set(truth)


def test_ten_cuts_in_a_row(exchange):
    """The stream goes on by itself, and every subscription is back each time."""
    wanted = {(c, s) for c in ("trades-all", "tickers") for s in ("BTC-USDT", "ETH-USDT")}
    with feed_of(exchange, [BTC, ETH], ["trades-all", "tickers"]) as feed:
        lines = read(feed, lambda lines: wanted <= set(arguments(lines)))
        for cuts in range(1, 11):
            exchange.cut()
            feed.poll()

            def is_back(lines, connects=cuts + 1):
                there = [state.connects for state in feed.state()] == [connects, connects]
                return there and wanted <= set(arguments(lines))

            lines += read(feed, is_back)
    found = ids(lines)
    assert found == sorted(found)


def test_planned_end_loses_nothing(exchange):
    """After the notice of an upgrade the new connection overlaps the old one: no fill is missing."""
    with feed_of(exchange, channels=["trades"]) as feed:
        lines = read(feed, lambda lines: len(lines) > 10)
        exchange.fault("notice=3s")
        lines += read(feed, lambda lines: feed.state()[0].connects == 2 and len(exchange.connections()) == 1)
        newest = exchange.fills(BTC)[-1].trade_id
        lines += read(feed, lambda lines: any(number > newest for number in ids(lines, BTC, "trades")))
        assert feed.state()[0].connects == 2
    rows = [json.loads(line)["data"][0] for line in lines if b'"trades"' in line]
    known = {n for row in rows for n in range(int(row["tradeId"]) - int(row["count"]) + 1, int(row["tradeId"]) + 1)}
    assert max(known) - min(known) + 1 == len(known)


def test_one_wrong_symbol_spares_the_others(exchange, caplog):
    """It is told once, with its nearest name; the rest streams."""
    with feed_of(exchange, ["BTC-USTD", "ETH-USDT"], ["trades-all", "tickers"]) as feed:
        lines = read(feed, lambda lines: ids(lines, "ETH-USDT") and "BTC-USTD" in caplog.text)
    assert all(b"USTD" not in line for line in lines)
    told = [r.getMessage() for r in caplog.records if "BTC-USTD" in r.getMessage()]
    assert all("(60018). Did you mean BTC-USDT? All names: okx instruments --symbols" in text for text in told)
    assert len(told) <= 2


def test_wrong_symbols_alone_end_the_feed(exchange):
    """When nothing is left, one error says what OKX does not have and what was probably meant."""
    with feed_of(exchange, ["BTC-USTD"]) as feed, pytest.raises(UsageError) as told:
        read(feed, lambda lines: False)
    assert str(told.value) == (
        "OKX has no BTC-USTD on trades-all (60018). Did you mean BTC-USDT? All names: okx instruments --symbols"
    )


def test_streams_without_rest(exchange, caplog):
    """When REST cannot be reached, that is told and the data comes all the same."""
    with feed_of(exchange, rest_url="http://127.0.0.1:9") as feed:
        lines = read(feed, lambda lines: len(lines) > 5)
    assert {name for name, _ in arguments(lines)} == {"trades-all"}
    assert "streaming without instruments" in caplog.text


def test_slow_rest_does_not_hold_the_data(exchange, monkeypatch):
    """Data waits for the instruments, but not for long; they follow when they come."""
    monkeypatch.setattr(feed_module, "_INSTRUMENTS_WAIT_S", 0.2)
    exchange.fault("slow-rest=3s")
    with feed_of(exchange) as feed:
        lines = read(feed, lambda lines: any(b'"instruments"' in line for line in lines))
    names = [name for name, _ in arguments(lines)]
    assert names[0] == "trades-all"
    assert names.count("instruments") == 1


def test_unreachable_exchange():
    """Never connected within the time-out: one error."""
    feed = Feed(
        ["BTC-USDT"],
        ["trades-all"],
        ws_url="ws://127.0.0.1:9",
        rest_url="http://127.0.0.1:9",
        connect_timeout_s=0.3,
        dials=DialLimiter(0.01),
    )
    with feed, pytest.raises(ExchangeUnavailable, match="connection refused"):
        read(feed, lambda lines: False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"symbols": ["BTC USDT"]}, "not a symbol"),
        ({"symbols": ['"; DROP TABLE x']}, "not a symbol"),
        ({"channels": ["candel1m"]}, "Did you mean candle1m"),
        ({"ws_url": "https://ws.okx.com"}, "not a WebSocket base"),
        ({"rest_url": "okx"}, "not a REST base"),
    ],
)
def test_wrong_use(options, told):
    """A name or address that cannot be is told before anything is dialled."""
    given = {"symbols": ["BTC-USDT"], "channels": ["trades-all"], "ws_url": "ws://127.0.0.1:9"}
    with pytest.raises(UsageError, match=told):
        Feed(**({**given, "rest_url": "http://127.0.0.1:9"} | options))


def test_nobody_takes_the_data(exchange, monkeypatch, caplog):
    """What waits is bounded; when it is taken, the stream goes on, without a hole."""
    monkeypatch.setattr(feed_module, "MessageQueue", functools.partial(MessageQueue, max_messages=50))
    with feed_of(exchange) as feed:
        lines = read(feed, lambda lines: len(lines) > 5)
        end = time.monotonic() + 30
        while "nobody takes the data" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        traded(exchange, BTC, count=200)
        waiting = feed.poll()
        assert 50 <= len(waiting) < 600
        lines += waiting + read(feed, lambda lines: len(lines) > 60)
        assert feed.state()[0].connects == 1
    found = ids(lines)
    assert found == list(range(found[0], found[0] + len(found)))
    assert "nobody takes the data" in caplog.text


def test_stop_keeps_what_has_come_and_gives_everything_back(exchange):
    """After a stop the rest can be polled; threads and descriptors are gone."""
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with feed_of(exchange, channels=["trades-all", "tickers"]) as feed:
            assert select.select([feed.fileno()], [], [], 30)[0]
            feed.stop()
            assert feed.poll()
            assert feed.poll() == []
    end = time.monotonic() + 30
    while time.monotonic() < end:  # the exchange's own ends of the connections take a moment
        left = threading.active_count() - threads, len(os.listdir("/proc/self/fd")) - descriptors
        if max(left) <= 0:
            break
        time.sleep(0.02)
    assert max(left) <= 0


def test_line_breaks_within_a_message_do_not_break_lines(exchange):
    """A pretty-printed push is still one line."""
    with feed_of(exchange) as feed:
        read(feed, lambda lines: len(lines) > 2)
        exchange.send('{"arg":{"channel":"trades-all","instId":"X-Y"},\n"data":[\r\n]}')
        lines = read(feed, lambda lines: any(b"X-Y" in line for line in lines))
    (found,) = [line for line in lines if b"X-Y" in line]
    assert found == b'{"arg":{"channel":"trades-all","instId":"X-Y"}, "data":[  ]}'


def test_another_wish_before_the_first_is_done(exchange):
    """Two changes in a row while REST is slow: what the second one wants is subscribed, and nothing else."""
    with feed_of(exchange, [BTC]) as feed:
        lines = read(feed, present(exchange))
        exchange.fault("slow-rest=500ms")
        lines += feed.change([BTC, ETH], ["trades-all", "tickers"])
        lines += feed.change([BTC, SWAP], ["trades-all"])
        exchange.fault("slow-rest=0s")
        lines += read(feed, present(exchange, BTC, SWAP))
        time.sleep(1)
        assert [one.channels for one in exchange.connections()] == [(("trades-all", BTC), ("trades-all", SWAP))]
        assert [state.connects for state in feed.state()] == [1]
    found = ids(lines)
    assert found == list(range(found[0], found[-1] + 1))
    assert any(b'"instruments"' in line and SWAP.encode() in line for line in lines)
