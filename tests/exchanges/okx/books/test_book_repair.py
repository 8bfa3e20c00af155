"""Books of the local exchange through every fault: never wrong, healed each time, and no storm of requests."""

import time

import pytest
from feeding import BTC, ETH, SWAP, feed_of, read
from second_book import scaled

from okxcli.core.books.chain import Step
from okxcli.core.books.local_book import LocalBook, State
from okxcli.core.model import BookUpdate
from okxcli.errors import LoginRefused, UsageError
from okxcli.exchanges.okx.books import book_chains
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.local.exchange import LocalExchange
from okxcli.local.network import pushes
from okxcli.local.network.engine import Options

SYMBOLS = [BTC, ETH, SWAP]


class Kept:
    """Keeps the books of a feed, and holds each good one against what the exchange had at that number."""

    def __init__(self, exchange):
        self.exchange, self.truth = exchange, {symbol: {} for symbol in SYMBOLS}
        self.books = {symbol: LocalBook("okx", symbol, "books") for symbol in SYMBOLS}
        self.steps = {symbol: [] for symbol in SYMBOLS}
        self.reader, self.compared, self.last = Normalizer(), 0, {}
        exchange.call(self.log)

    def log(self):
        """Have every step of the exchange's own books written down."""
        for symbol in SYMBOLS:
            state = self.exchange._engine.venue.listings[symbol].books

            def step(now, state=state, symbol=symbol, advance=state.advance):
                update = advance(now)
                self.truth[symbol][state.seq] = state.sides(400)
                return update

            state.advance = step

    def take(self, lines):
        """Take the lines of the feed; a book that is known must be the exchange's."""
        for line in lines:
            for update in self.reader.feed(line):
                if not isinstance(update, BookUpdate):
                    continue
                book = self.books[update.symbol]
                self.steps[update.symbol].append(book.take(update))
                if book.state in (State.GOOD, State.CROSSED):
                    truth = self.truth[update.symbol][book.seq_id]
                    for side, levels in ((book.asks, truth.asks), (book.bids, truth.bids)):
                        assert [(scaled(str(p)), scaled(str(s))) for p, s in side.levels()] == [
                            (scaled(level[0]), scaled(level[1])) for level in levels
                        ]
                    self.compared += 1

    def until(self, feed, good, timeout_s=60):
        """Poll until `good()`."""
        end = time.monotonic() + timeout_s
        while not good():
            assert time.monotonic() < end, (self.steps, self.states())
            self.take(read(feed, bool))

    def states(self):
        return {symbol: book.state for symbol, book in self.books.items()}

    def all_good(self):
        return set(self.states().values()) == {State.GOOD}

    def forget_steps(self):
        for steps in self.steps.values():
            steps.clear()

    def more(self, feed, count=5):
        """Poll until each book has had so many updates from now on."""
        self.forget_steps()
        self.until(feed, lambda: all(steps.count(Step.UPDATE) >= count for steps in self.steps.values()))


@pytest.fixture
def kept(exchange):
    return Kept(exchange)


def requests(exchange):
    return exchange.counts().get("requests", 0)


def test_every_fault_is_healed_and_no_book_is_ever_wrong(exchange, kept):
    """One after the other on one feed: numbers that begin anew, a gap, a cut, a planned end, and all of it again."""
    with feed_of(exchange, SYMBOLS, ["books"]) as feed:
        kept.until(feed, kept.all_good)
        for _ in range(2):
            before = requests(exchange)
            kept.forget_steps()
            exchange.fault("book-reset")
            kept.until(feed, lambda: all(Step.RESET in steps for steps in kept.steps.values()))
            assert kept.all_good()
            assert requests(exchange) == before

            kept.forget_steps()
            exchange.fault(f"book-gap=3:{BTC}")
            kept.until(feed, lambda: Step.GAP in kept.steps[BTC] and kept.all_good())
            assert requests(exchange) == before + 2  # an end and a beginning
            assert all(set(kept.steps[symbol]) <= {Step.UPDATE, Step.KEEP_ALIVE} for symbol in (ETH, SWAP))

            kept.forget_steps()
            exchange.cut()
            kept.until(feed, lambda: all(Step.SNAPSHOT in steps for steps in kept.steps.values()))
            kept.more(feed)
            assert requests(exchange) == before + 3

            dialled = exchange.counts()["handshakes"]
            exchange.fault("notice=3s")
            kept.until(feed, lambda: exchange.counts()["handshakes"] > dialled)  # noqa: B023
            kept.until(feed, lambda: len(exchange.connections()) == 1)
            kept.more(feed, 20)
            assert requests(exchange) == before + 4
            assert kept.all_good()
        assert feed.repairs()["books_broken"] == 2
        assert feed.repairs()["books_resubscribed"] == 2
        assert "books_fetched" not in feed.repairs()
    assert kept.compared > 100


def test_without_snapshots_books_begin_and_heal_by_rest(exchange, kept, monkeypatch):
    """A start, a gap and a reconnect; the answer is joined by the update around its number."""
    monkeypatch.setattr(book_chains, "RENEW_MS", 300)
    exchange.fault("no-snapshot=10m")
    with feed_of(exchange, SYMBOLS, ["books"]) as feed:
        kept.until(feed, kept.all_good)
        assert requests(exchange) == 1
        assert exchange.counts()["GET market/books"] <= 3 * len(SYMBOLS)
        exchange.fault(f"book-gap=2:{ETH}")
        kept.until(feed, lambda: Step.GAP in kept.steps[ETH] and kept.all_good())
        assert requests(exchange) == 1  # it is known that another subscription would bring none
        kept.forget_steps()
        exchange.cut()
        kept.until(feed, lambda: all(Step.GAP in steps for steps in kept.steps.values()) and kept.all_good())
        kept.more(feed)
        assert requests(exchange) == 2
        assert exchange.counts()["GET market/books"] <= 20


def test_a_snapshot_that_stays_away_after_a_gap_is_fetched(exchange, kept, monkeypatch):
    """It is subscribed anew first, once."""
    monkeypatch.setattr(book_chains, "RENEW_MS", 300)
    with feed_of(exchange, SYMBOLS, ["books"]) as feed:
        kept.until(feed, kept.all_good)
        exchange.fault("no-snapshot=10m")
        exchange.fault(f"book-gap=1:{BTC}")
        kept.until(feed, lambda: Step.GAP in kept.steps[BTC] and kept.all_good())
        assert requests(exchange) == 3
        assert {name: feed.repairs()[name] for name in ("books_resubscribed", "books_fetched")} == {
            "books_resubscribed": 1, "books_fetched": 1,
        }  # fmt: skip


def test_a_book_that_breaks_all_the_time_makes_no_storm(exchange, kept):
    """Six seconds in which every few updates one is missing: at once, then after 1, 2 and 4 s."""
    with feed_of(exchange, SYMBOLS, ["books"]) as feed:
        kept.until(feed, kept.all_good)
        before, end = requests(exchange), time.monotonic() + 6
        while time.monotonic() < end:
            exchange.fault(f"book-gap=1:{BTC}")
            kept.take(read(feed, bool))
            time.sleep(0.15)
        exchange.heal()
        assert 2 <= requests(exchange) - before <= 8
        kept.until(feed, kept.all_good)
        assert feed.repairs()["books_broken"] >= 2
        assert set(kept.steps[ETH]) <= {Step.SNAPSHOT, Step.UPDATE, Step.KEEP_ALIVE}


def test_crossed_books_and_keep_alives_are_what_they_are(exchange, kept, monkeypatch):
    """A crossed book is no reason to ask for it anew; an unchanged one repeats its number."""
    monkeypatch.setattr(pushes, "REPEAT_S", 0.5)
    with feed_of(exchange, SYMBOLS, ["books"]) as feed:
        kept.until(feed, kept.all_good)
        exchange.fault(f"book-cross=2s:{BTC}")
        kept.until(feed, lambda: kept.books[BTC].state is State.CROSSED)
        kept.until(feed, kept.all_good)
        exchange.stop_market()
        kept.forget_steps()
        kept.until(feed, lambda: all(steps.count(Step.KEEP_ALIVE) > 2 for steps in kept.steps.values()))
        assert kept.all_good()
        assert requests(exchange) == 1


def test_a_book_is_mended_for_who_keeps_it(exchange, kept):
    """Whoever found a message to be no good; twice is once."""
    with feed_of(exchange, SYMBOLS, ["books"]) as feed:
        kept.until(feed, kept.all_good)
        kept.forget_steps()
        for _ in range(5):
            feed.mend_book(ETH, "books")
        kept.until(feed, lambda: Step.SNAPSHOT in kept.steps[ETH])
        assert requests(exchange) == 3


@pytest.mark.parametrize(("channel", "depth"), [("books50-l2-tbt", 50), ("books-l2-tbt", 400)])
def test_fast_books_are_had_by_a_login_and_heal(channel, depth, monkeypatch):
    """On each connection anew; a gap is mended as that of any book, by another subscription alone."""
    with LocalExchange([BTC], rate=50, history_s=60, account=True, options=Options(limits=0)) as exchange:
        for name, value in exchange.environment.items():
            monkeypatch.setenv(name, value)
        book, reader, steps = LocalBook("okx", BTC, channel), Normalizer(), []

        def until(feed, step, count):
            steps.clear()
            while steps.count(step) < count:
                for line in read(feed, bool):
                    for update in reader.feed(line):
                        if isinstance(update, BookUpdate):
                            steps.append(book.take(update))
            assert book.state is State.GOOD
            assert len(book.bids) == len(book.asks) == depth

        with feed_of(exchange, [BTC], [channel]) as feed:
            until(feed, Step.UPDATE, 5)
            exchange.fault("book-gap=1")
            until(feed, Step.SNAPSHOT, 1)
            exchange.cut()
            until(feed, Step.SNAPSHOT, 1)
            until(feed, Step.UPDATE, 5)
            assert feed.repairs() == {"books_broken": 1, "books_resubscribed": 1}
            with pytest.raises(UsageError, match="only repaired"):
                feed_of(exchange, [BTC], [channel], since_ms=1)


def test_fast_books_without_a_key_or_with_another_one(exchange, monkeypatch):
    """No login is tried without one; what OKX refuses is the end."""
    for name in ("OKX_API_KEY", "OKX_SECRET_KEY", "OKX_PASSPHRASE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LoginRefused, match="no key of OKX's API"):
        feed_of(exchange, [BTC], ["books-l2-tbt"])
    with feed_of(exchange, [BTC], ["books"]) as feed, pytest.raises(UsageError, match="wants a login"):
        feed.change([BTC], ["books-l2-tbt"])
    for name in ("OKX_API_KEY", "OKX_SECRET_KEY", "OKX_PASSPHRASE"):
        monkeypatch.setenv(name, "wrong")
    with feed_of(exchange, [BTC], ["books-l2-tbt"]) as feed, pytest.raises(LoginRefused, match="60032"):
        read(feed, lambda lines: False)


def test_without_repair_everything_is_as_it_came(exchange):
    """Nothing is asked for, nothing held, nothing dropped."""
    with feed_of(exchange, SYMBOLS, ["books"], repair=False) as feed:
        read(feed, lambda lines: len(lines) > 10)
        exchange.fault("book-gap=3")
        read(feed, lambda lines: len(lines) > 30)
        assert requests(exchange) == 1
        assert feed.repairs() == {}
