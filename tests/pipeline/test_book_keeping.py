"""Books that a collector keeps from updates: what it stores, and what it has mended."""

import json

import pytest
from test_collector import NOW, Keeper

from okxcli.core.model import BookSnapshot
from okxcli.pipeline.collector import Collector
from okxcli.runtime.clock import SteadyClock
from okxcli.runtime.configuration.config import Config


class Feed:
    """Writes down what it is to mend."""

    clock = SteadyClock()

    def __init__(self):
        self.mended = []

    def mend_book(self, symbol, channel):
        self.mended.append((symbol, channel))


def push(seq, before, at, bids=(), asks=(), symbol="BTC-USDT"):
    row = {"bids": bids, "asks": asks, "ts": str(NOW + at), "checksum": 0, "seqId": seq, "prevSeqId": before}
    head = {"arg": {"channel": "books", "instId": symbol}, "action": "snapshot" if before == -1 else "update"}
    return json.dumps(head | {"data": [row], "received": NOW + at + 20}, separators=(",", ":")).encode()


def snapshot(seq=10, at=100, **more):
    levels = [[[str(price), "1", "0", "1"] for price in prices] for prices in (range(99, 9, -1), range(101, 191))]
    return push(seq, -1, at, *levels, **more)


def better(seq, before, at, size, **more):
    return push(seq, before, at, [["99", size, "0", "1"]], **more)


@pytest.fixture
def collector():
    config = Config(symbols=("BTC-USDT", "ETH-USDT"), channels=("books",), timeframes=(), books_depth=3)
    return Collector(config, Feed(), Keeper(), None, lambda: NOW + 60_000)


def test_the_book_at_the_end_of_each_span_is_stored(collector):
    """Of so many levels, each symbol by its own time; the updates themselves are not stored."""
    collector.take([snapshot(), better(11, 10, 900, "2"), snapshot(symbol="ETH-USDT"), better(12, 11, 1000, "3")])
    collector.take([better(13, 12, 2500, "4")])
    books = collector.keeper.lines
    assert [(type(one), one.symbol, one.timestamp - NOW, one.seq_id, one.origin) for one in books] == [
        (BookSnapshot, "BTC-USDT", 1000, 11, "books"),
        (BookSnapshot, "BTC-USDT", 2000, 12, "books"),
    ]
    assert [(len(one.bids), len(one.asks), one.bids[0][1]) for one in books] == [(3, 3, 2), (3, 3, 3)]
    assert [one.received - NOW for one in books] == [1020, 2520]
    assert collector._books.counts() == {"book_snapshots": 2, "book_updates": 3, "book_books": 2}


def test_a_gap_is_mended_once_and_one_that_has_healed_is_not(collector):
    """What has come by the end of a batch counts: the feed has seen as much."""
    collector.take([snapshot(), better(12, 11, 200, "2"), better(13, 12, 300, "2")])
    assert collector.feed.mended == [("BTC-USDT", "books")]
    collector.take([better(14, 13, 400, "2")])
    collector.take([snapshot(20, 500), better(22, 21, 600, "2"), snapshot(30, 700), better(31, 30, 1100, "5")])
    assert collector.feed.mended == [("BTC-USDT", "books")]
    assert [(one.timestamp - NOW, one.seq_id) for one in collector.keeper.lines] == [(1000, 30)]


def test_a_bad_message_is_rejected_and_its_book_mended(collector):
    """The next one does not follow on what was taken; the other symbol's book goes on."""
    collector.take([snapshot(), snapshot(symbol="ETH-USDT"), better(11, 10, 200, "-2"), better(12, 11, 300, "2")])
    collector.take([better(11, 10, 1500, "7", symbol="ETH-USDT")])
    assert collector.rejected == 1
    assert collector.feed.mended == [("BTC-USDT", "books")]
    assert [one.symbol for one in collector.keeper.lines] == ["ETH-USDT"]


def test_another_configuration_goes_on_with_the_books_there_are(collector):
    """No snapshot comes for that; a symbol that is gone is forgotten."""
    collector.take([snapshot(), better(11, 10, 200, "2")])
    collector._books.configure(Config(channels=("books",), books_every_ms=0, books_depth=None))
    collector.take([better(12, 11, 300, "3")])
    (book,) = collector.keeper.lines
    assert (book.timestamp - NOW, len(book.bids), book.bids[0][1]) == (300, 90, 3)
    collector._books.forget("okx", "BTC-USDT")
    collector.take([better(13, 12, 400, "3")])
    assert len(collector.keeper.lines) == 1
    assert collector.feed.mended == []


def test_a_channel_that_is_given_up_is_forgotten(collector, caplog):
    """What was under way is nothing to tell of, and nothing is stale."""
    collector.take([snapshot(), better(11, 10, 200, "2")])
    collector._books.configure(Config(channels=("trades-all",)))
    collector.take([better(13, 12, 1300, "3")])
    collector._books._maker.advance(0)
    collector._books._maker.advance(10**9)
    assert (collector.keeper.lines, collector.feed.mended, caplog.text) == ([], [], "")
    collector._books.configure(collector.config)
    collector.take([snapshot(20, 1400), better(21, 20, 2100, "4")])
    assert [(one.timestamp - NOW, one.seq_id) for one in collector.keeper.lines] == [(2000, 20)]


def test_many_books_that_break_together_are_told_in_one_line(collector, caplog):
    """As after an outage; one alone with its numbers."""
    symbols = [f"C{n}-USDT" for n in range(40)]
    collector.take([snapshot(symbol=symbol) for symbol in symbols])
    collector.take([better(12, 11, 200, "2", symbol=symbol) for symbol in symbols])
    collector.take([snapshot(), better(12, 11, 200, "2")])
    assert [record.getMessage() for record in caplog.records] == [
        "C0-USDT books, C1-USDT books, C2-USDT books, C3-USDT books, C4-USDT books and 35 more: invalid",
        "BTC-USDT books: invalid: an update that follows on 11, and the book is at 10",
    ]
    assert len(collector.feed.mended) == 41
