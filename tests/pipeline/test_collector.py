"""What the collector makes of raw lines, with a keeper that writes down what it is given."""

import itertools
import json
import os
import time
from types import SimpleNamespace

import pytest

from okxcli.core.codec import decode
from okxcli.core.model import BookSnapshot, OHLCVCandle, StandardizedTrade, Ticker
from okxcli.exchanges.okx.normalize.push_pattern import PushPattern
from okxcli.pipeline.collector import Collector
from okxcli.runtime.clock import SteadyClock
from okxcli.runtime.configuration.config import Config
from okxcli.runtime.signals import Lifecycle

NOW = 1_747_087_200_000


class Keeper:
    """Takes everything."""

    up, full, room = True, False, 1_000

    def __init__(self):
        self.lines, self.refused = [], []

    def add(self, line, raw=None):
        self.lines.append(line)

    def add_fills(self, block):
        self.lines += map(decode, block.lines.splitlines())

    def refuse(self, raw, reason):
        self.refused.append((raw, reason))

    def tick(self):
        pass

    def due_in(self, now):
        return None

    def finish(self):
        return 0

    def of(self, kind):
        return [line for line in self.lines if isinstance(line, kind)]


class Feed:
    """Always has a line more."""

    clock = SteadyClock()

    def __init__(self):
        self.polls = 0
        self.numbers = itertools.count(1)
        self._out, self._in = os.pipe()
        os.write(self._in, b"1")
        self._stopped = False

    def fileno(self):
        return self._out

    def poll(self):
        self.polls += 1
        return [] if self._stopped else [book("BTC-USDT", next(self.numbers) * 2000)]

    def stop(self):
        self._stopped = True


def message(channel, symbol, row):
    row = {"instId": symbol, "ts": str(NOW + row.pop("at"))} | row
    push = {"arg": {"channel": channel, "instId": symbol}, "data": [row]}
    return json.dumps(push, separators=(",", ":")).encode()


def book(symbol, at, channel="books5", price="10"):
    return message(channel, symbol, {"at": at, "asks": [[price, "1", "0", "1"]], "bids": [], "seqId": at})


def ticker(symbol, at):
    return message("tickers", symbol, {"at": at, "instType": "SPOT", "last": "10"})


def fill(symbol, at, number):
    return message("trades-all", symbol, {"at": at, "tradeId": str(number), "px": "10", "sz": "1", "side": "buy"})


@pytest.fixture(params=["kernel", "python"])
def collector(request):
    config = Config(symbols=("BTC-USDT", "ETH-USDT"), channels=("trades-all", "books5", "tickers"), timeframes=("1s",))
    found = Collector(config, SimpleNamespace(clock=lambda: NOW), Keeper(), None, lambda: NOW + 60_000)
    if request.param == "python":
        found._normalizer._pushes = PushPattern()
    return found


def test_one_book_of_each_symbol_channel_and_second(collector):
    """The first one of each; all tickers, all fills, in their order, and bars of them."""
    numbers = itertools.count(1)
    lines = [
        line
        for at in range(0, 3_000, 50)
        for symbol in ("BTC-USDT", "ETH-USDT")
        for line in (
            book(symbol, at),
            fill(symbol, at, 1 + at // 50),
            ticker(symbol, at),
            book(symbol, at, "bbo-tbt", str(next(numbers))),
        )
    ]
    for start in range(0, len(lines), 37):
        collector.take(lines[start : start + 37])
    kept = collector.keeper
    seen = [(one.symbol, one.origin, one.timestamp - NOW) for one in kept.of(BookSnapshot)]
    assert sorted(seen) == [
        (symbol, origin, at)
        for symbol in ("BTC-USDT", "ETH-USDT")
        for origin in ("bbo-tbt", "books5")
        for at in (0, 1_000, 2_000)
    ]
    assert len(kept.of(Ticker)) == 120
    for symbol in ("BTC-USDT", "ETH-USDT"):
        fills = [one.trade_id for one in kept.of(StandardizedTrade) if one.symbol == symbol]
        assert fills == list(range(1, 61))
        bars = [one.trade_count for one in kept.of(OHLCVCandle) if one.symbol == symbol]
        assert bars == [20, 20]
    assert (collector.messages, collector.rejected) == (480, 0)


def test_a_bad_book_is_told_also_where_none_is_wanted(collector):
    """A second book of a span is not stored; a crossed or senseless one is rejected all the same."""
    collector.take([book("BTC-USDT", 0), book("BTC-USDT", 10, price="-1"), book("BTC-USDT", 20)])
    assert collector.rejected == 1
    assert [reason for _, reason in collector.keeper.refused] == ["books5: book level out of range"]
    assert len(collector.keeper.of(BookSnapshot)) == 1


def test_every_book_where_all_are_wanted(collector):
    """With `books_every` of null each one is stored."""
    collector._books.configure(Config(symbols=("BTC-USDT",), channels=("books5",), books_every_ms=0))
    collector.take([book("BTC-USDT", at) for at in range(10)])
    assert [one.timestamp - NOW for one in collector.keeper.of(BookSnapshot)] == list(range(10))


def polling(feed):
    config = Config(symbols=("BTC-USDT",), channels=("books5",), timeframes=())
    return Collector(config, feed, Keeper(), None, lambda: NOW + 10**6)


def test_what_comes_together_is_taken_together():
    """A feed that always has something is polled some fifty times a second, not as often as can be."""
    feed = Feed()
    made = polling(feed)
    began = time.monotonic()
    with Lifecycle("source") as life:
        made.run(life, 0.5)
    took = time.monotonic() - began
    assert 3 <= feed.polls <= took / 0.02 + 3
    assert len(made.keeper.lines) == feed.polls - 1


@pytest.mark.parametrize("seconds", [0.05])
def test_an_end_is_not_waited_for(seconds):
    """The time given is kept, whatever there is to be taken."""
    feed = Feed()
    began = time.monotonic()
    with Lifecycle("source") as life:
        polling(feed).run(life, seconds)
    assert seconds <= time.monotonic() - began < seconds + 1


def test_bars_of_the_exchange_are_stored_once_they_are_over(collector):
    """What is pushed every second of a running bar is not; our own bars are made of trades alone, beside them."""

    def bar(confirm, start=NOW, volume="3"):
        row = [str(start), "1", "2", "0.5", "1.5", volume, "4", "4", confirm]
        push = {"arg": {"channel": "candle1m", "instId": "BTC-USDT"}, "data": [row]}
        return json.dumps(push, separators=(",", ":")).encode()

    collector.take([bar("0"), bar("0", volume="4"), bar("1", volume="5"), bar("0", NOW + 60_000), bar("1", volume="5")])
    stored = collector.keeper.of(OHLCVCandle)
    assert [(one.origin, one.timestamp, one.volume, one.closed) for one in stored] == [
        ("exchange", NOW + 60_000, 5, True)
    ] * 2
    assert collector.rejected == 0
