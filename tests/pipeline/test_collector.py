"""The collector's own decisions: what it takes together, and which books it need not read."""

import itertools
import os
import time

import pytest

from okxcli.pipeline.collector import Collector
from okxcli.runtime.clock import SteadyClock
from okxcli.runtime.configuration.config import Config
from okxcli.runtime.signals import Lifecycle

T0 = 1_747_087_200_000
BOOK = (
    '{"arg":{"channel":"books5","instId":"%s"},"data":[{"asks":[["%s","1","0","1"]],"bids":[["1","1","0","1"]],'
    '"instId":"%s","ts":"%d","seqId":7}]}'
)


def book(at, ask="2", symbol="BTC-USDT"):
    return (BOOK % (symbol, ask, symbol, T0 + at)).encode()


class Keeper:
    """Remembers what it is given."""

    up, full, room = True, False, 5000

    def __init__(self):
        self.lines = []
        self.refused = []

    def add(self, line):
        self.lines.append(line)

    def refuse(self, raw, reason):
        self.refused.append(raw)

    def tick(self):
        pass

    def due_in(self, now):
        return None

    def finish(self):
        return 0


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
        return [] if self._stopped else [book(next(self.numbers) * 2000)]

    def stop(self):
        self._stopped = True


def collector(feed=None, **config):
    settings = {"symbols": ("BTC-USDT", "ETH-USDT"), "channels": ("books5",), "timeframes": (), **config}
    return Collector(Config(**settings), feed, Keeper(), None, lambda: T0)


def times(made):
    return [line.timestamp - T0 for line in made.keeper.lines]


def test_a_book_of_each_slot_is_read_and_stored():
    """The first of a second; the others of that second are not even decoded. Another symbol has slots of its own."""
    made = collector()
    for at in (0, 500, 999, 1000, 1700, 3999, 4000):
        made.take([book(at)])
    assert times(made) == [0, 1000, 3999, 4000]
    made.take([book(4100, symbol="ETH-USDT"), book(4200, symbol="ETH-USDT"), book(4300)])
    assert times(made)[4:] == [4100]


def test_a_wrong_book_takes_no_slot():
    """It is refused, and the next one of its second is stored; after that a wrong one is passed over like any."""
    made = collector()
    made.take([book(0, ask="0")])
    made.take([book(1)])
    made.take([book(2, ask="0")])
    assert times(made) == [1] and made.keeper.refused == [book(0, ask="0")] and made.messages == 3


def test_every_book_where_all_are_wanted():
    """`books_every` null stores each, and reads each."""
    made = collector(books_every_ms=0)
    for at in (0, 1, 2):
        made.take([book(at)])
    made.take([book(3, ask="0")])
    assert times(made) == [0, 1, 2] and made.rejected == 1


def test_what_comes_together_is_taken_together():
    """A feed that always has something is polled some fifty times a second, not as often as can be."""
    feed = Feed()
    made = collector(feed)
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
        collector(feed).run(life, seconds)
    assert seconds <= time.monotonic() - began < seconds + 1
