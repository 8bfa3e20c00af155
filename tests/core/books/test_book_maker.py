"""When books are written and what is told of them: right-aligned, proved, never a bad one."""

from collections import Counter
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_local_book import T0, book, levels, snapshot, update

from okxcli.core.books import book_maker
from okxcli.core.books.book_maker import STALE_MS, BookMaker
from okxcli.core.books.chain import Step
from okxcli.core.books.measures import parse_measures
from okxcli.errors import InvalidLine


class Made:
    """A maker, and what it has written and told."""

    def __init__(self, **options):
        self.books, self.told, self.depth = [], [], options.get("depth")
        self.maker = BookMaker(self.write, lambda book, text: self.told.append(text), **options)

    def write(self, kept, at, known):
        self.books.append((at - T0, kept.seq_id, kept.bids.levels(1)[0][1]))

    def take(self, *updates):
        for one in updates:
            self.maker.take(one)
        return self


def bid(seq, at, size, before=None):
    return update(seq, seq - 1 if before is None else before, [("99", size)], at=at)


def test_a_book_is_written_as_it_was_at_the_end_of_its_interval():
    """A message exactly at the end belongs to the next one; where nothing came nothing is written."""
    made = Made(every_ms=1000).take(
        snapshot(10, at=100), bid(11, 900, "2"), bid(12, 1000, "3"), bid(13, 1999, "4"), bid(14, 4500, "5"),
        bid(15, 5000, "6"),
    )  # fmt: skip
    assert made.books == [(1000, 11, 2), (2000, 13, 4), (5000, 14, 5)]


def test_quiet_intervals_are_written_too_if_that_is_asked_for():
    """The next message proves that nothing came, as the keep-alive of the exchange does; for a minute and a half."""
    made = Made(every_ms=1000, fill=True).take(snapshot(10, at=100), update(10, 10, at=3100), bid(11, 200_000, "2"))
    assert made.books[:4] == [(1000, 10, 1), (2000, 10, 1), (3000, 10, 1), (4000, 10, 1)]
    assert made.books[-1][0] == 93_000
    assert len(made.books) == 93


def test_a_gap_takes_the_book_of_its_interval_with_it():
    """What is missing may have come before the end of that."""
    made = Made(every_ms=1000).take(snapshot(10, at=100), bid(12, 1100, "2", before=11), bid(13, 1200, "3"))
    made.take(snapshot(20, at=2500), bid(21, 2600, "4"), bid(22, 3100, "5"))
    assert made.books == [(3000, 21, 4)]
    assert made.told == ["invalid: an update that follows on 11, and the book is at 10", "good from here on"]
    counts = made.maker.counts()
    assert (counts["gaps"], counts["ignored"], counts["unproven"], counts["books"]) == (1, 1, 1, 1)


def test_a_new_snapshot_proves_nothing_unless_it_has_the_same_number():
    """Between two connections anything may have come."""
    assert Made(every_ms=1000).take(snapshot(10, at=100), snapshot(12, at=1100)).books == []
    assert Made(every_ms=1000).take(snapshot(10, at=100), snapshot(10, at=1100)).books == [(1000, 10, 1)]


def test_each_change_is_written_if_no_interval_is_named():
    """With a depth: of the levels that are written. A keep-alive is none."""
    steps = [snapshot(10), bid(11, 5, "2"), update(11, 11, at=9), update(12, 11, [("98", "7")], at=10)]
    assert [at for at, _, _ in Made().take(*steps).books] == [0, 5, 10]
    assert [at for at, _, _ in Made(depth=1).take(*steps).books] == [0, 5]


def test_bad_books_are_told_and_never_written():
    """Each state once a minute of the exchange's time."""
    made = Made().take(
        snapshot(10), update(11, 10, [("101", "1")], at=1), update(12, 11, [("101", "0")], at=2),
        update(13, 12, [("101", "1")], at=3), update(14, 13, [("101", "0")], at=4),
        update(15, 14, [("99", "0"), ("98", "0")], at=5), update(16, 15, [], [("101", "0"), ("102", "0")], at=6),
        snapshot(20, [("103", "1")], [("101", "1")], at=70_000),
    )  # fmt: skip
    assert [at for at, _, _ in made.books] == [0, 2, 4]
    assert made.told == [
        "crossed: it is not written", "good from here on", "one-sided: it is not written", "empty: it is not written",
        "crossed: it is not written",
    ]  # fmt: skip
    counts = made.maker.counts()
    assert (counts["crossed"], counts["one_sided"], counts["empty"]) == (3, 1, 1)


def test_a_book_without_a_snapshot_is_told_once():
    """And what comes before it is counted."""
    made = Made().take(update(5, 4), update(6, 5), snapshot(8))
    assert made.told == ["not known yet: its snapshot has not come", "good from here on"]
    assert made.maker.counts()["ignored"] == 2


def test_time_that_steps_back_changes_nothing_that_was_written():
    """The chain decides what follows; by far, and the book's time follows too."""
    made = Made(every_ms=1000).take(
        snapshot(10, at=1500), bid(11, 900, "2"), bid(12, 2100, "3"), bid(13, 600_000, "4"), bid(14, 3_100, "5"),
        bid(15, 4000, "6"),
    )  # fmt: skip
    assert made.books == [(2000, 11, 2), (3000, 12, 3), (4000, 14, 5)]
    assert made.maker.counts()["stepped_back"] == 2


def test_a_flood_of_books_has_an_end(monkeypatch):
    """The first ones are kept, others refused."""
    monkeypatch.setattr(book_maker, "MAX_BOOKS", 3)
    made = Made().take(*(msgspec.structs.replace(snapshot(10), symbol=f"S{n}") for n in range(3)))
    with pytest.raises(InvalidLine, match="more than 3 books"):
        made.take(msgspec.structs.replace(snapshot(10), symbol="S3"))
    made.take(msgspec.structs.replace(bid(11, 5, "2"), symbol="S2"))
    assert len(made.books) == 4


def test_silence_is_stale():
    """The exchange says once a minute that nothing has changed; without that word the line may be dead."""
    made = Made().take(snapshot(10))
    made.maker.advance(1_000)
    made.maker.advance(1_000 + STALE_MS - 1)
    assert made.told == []
    made.maker.advance(1_000 + STALE_MS)
    made.maker.advance(1_000 + 9 * STALE_MS)
    assert made.told == ["stale: nothing has come for 90 s"]
    made.take(update(10, 10, at=5)).maker.advance(10 * STALE_MS)
    assert len(made.told) == 1


def test_a_message_that_was_no_good_breaks_its_book():
    """Whoever reads the messages says so; of a book that is not known there is nothing to break."""
    made = Made(every_ms=1000)
    made.maker.drop("okx", "BTC-USDT", "books", "a bad message")
    made.take(snapshot(10))
    made.maker.drop("okx", "BTC-USDT", "books", "a bad message")
    assert made.maker.take(update(11, 10, at=1500)) is Step.IGNORED
    assert (made.told, made.books) == (["invalid: a bad message"], [])


steps = st.lists(st.tuples(st.sampled_from([0, 1, 40, 99, 100, 250, 730]), st.integers(0, 9)), min_size=1, max_size=40)


@given(steps, st.sampled_from([100, 250, 1000]), st.integers(1, 40))
def test_an_interval_knows_nothing_of_what_comes_later(times, every, cut):
    """Each book is the one that a look back would give, and a part of the input gives the first part of the books."""
    at, updates = 0, [snapshot(10)]
    for number, (more, size) in enumerate(times):
        at += more
        updates.append(bid(11 + number, at, str(size + 1)))
    made = Made(every_ms=every).take(*updates).books
    for end, seq, size in made:
        before = [one for one in updates if one.timestamp < T0 + end]
        assert (before[-1].seq_id, before[-1].bids[0][1]) == (seq, size)
        assert end % every == 0 and end - every <= before[-1].timestamp - T0
    known = {end for end, _, _ in made}
    assert known == {
        (one.timestamp - T0) // every * every + every
        for one in updates
        if (one.timestamp - T0) // every * every + every <= at
    }
    part = Made(every_ms=every).take(*updates[:cut]).books
    assert part == made[: len(part)]


def test_measures_are_exact():
    """Against fractions; what lies beyond the levels that the channel has is not known."""
    kept = book(
        snapshot(1, [("99.9", "3"), ("99.8", "1.5"), ("90", "7")], [("100.1", "1"), ("100.15", "2"), ("120", "1")])
    )
    found = "".join(one(kept) for one in parse_measures("spread, microprice,imbalance,depth=10,depth=15,depth=3000"))
    micro = (Fraction("99.9") * 1 + Fraction("100.1") * 3) / 4
    assert found == (
        f',"spread":"0.2","microprice":"{Decimal(micro.numerator) / micro.denominator}","imbalance":"0.5",'
        '"bid_depth_10bp":"3","ask_depth_10bp":"1","bid_depth_15bp":"3","ask_depth_15bp":"3",'
        '"bid_depth_3000bp":"11.5","ask_depth_3000bp":"4"'
    )
    deep = book(snapshot(1, [(str(1000 - n), "1") for n in range(400)], [("1001", "1")]))
    (depth,) = parse_measures("depth=9999")
    assert depth(deep) == ',"bid_depth_9999bp":null,"ask_depth_9999bp":"1"'


@pytest.mark.parametrize("text", ["", "depth", "depth=0", "depth=1.5", "spread,middle", "depth=-1"])
def test_a_measure_that_there_is_not(text):
    """The names are told."""
    with pytest.raises(InvalidLine, match="There are spread, microprice, imbalance and depth=10"):
        parse_measures(text)


def test_counts_have_a_name_for_everything():
    """As the closing line of the filter has them."""
    made = Made().take(snapshot(10), bid(11, 5, "2"))
    assert Counter(made.maker.counts()) == Counter(snapshots=1, updates=1, books=2)
    assert set(made.maker.counts()) >= {"gaps", "resets", "keep_alives", "duplicates", "ignored", "crossed", "stale"}
    assert levels(("1", "2"))
