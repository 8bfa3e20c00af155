"""A book from its updates: equal to one that is kept another way, and not known as soon as the chain breaks."""

import json
from decimal import Decimal

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from recordings import SHARED, captured, needs_shared
from second_book import SecondBook, in_order, scaled

from okxcli.core.books.chain import Step
from okxcli.core.books.local_book import LocalBook, State
from okxcli.core.codec import encode
from okxcli.core.model import BookUpdate
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

T0 = 1_747_087_200_000


def levels(*pairs):
    return tuple((Decimal(price), Decimal(size)) for price, size in pairs)


def update(seq, before, bids=(), asks=(), action="update", at=0):
    return BookUpdate("okx", "BTC-USDT", T0 + at, action, levels(*bids), levels(*asks), seq, before)


def snapshot(seq, bids=(("99", "1"), ("98", "2")), asks=(("101", "1"), ("102", "2")), before=-1, at=0):
    return update(seq, before, bids, asks, "snapshot", at)


def book(*updates):
    made = LocalBook("okx", "BTC-USDT", "books")
    for one in updates:
        made.take(one)
    return made


def same(ours, theirs):
    """Whether both sides of the two books are the same, at every level."""
    return all(
        [(scaled(str(price)), scaled(str(size))) for price, size in side.levels()] == theirs.exact(name)
        for name, side in (("bids", ours.bids), ("asks", ours.asks))
    )


@needs_shared
def test_a_recorded_book_is_the_second_one_and_the_exchanges_own_at_every_message():
    """Of 2024, in the order of the chain: 380 messages, each with a checksum that OKX made of its own book."""
    ours, theirs, reader = LocalBook("okx", "BTC-USDT-SWAP", "books"), SecondBook(), Normalizer()
    for message in in_order(SHARED / "ws" / "fastmoon-2024-06-01.btc-usdt-swap.books.json.gz"):
        theirs.take(message)
        (line,) = reader.feed(json.dumps(message).encode())
        assert ours.take(line) in (Step.SNAPSHOT, Step.UPDATE)
        assert ours.state is State.GOOD
        assert same(ours, theirs)
    assert theirs.checked == 380


@needs_shared
def test_books_of_2022_had_no_numbers_and_are_kept_all_the_same():
    """Three instruments, 290 messages in the order of their receipt, all with checksums."""
    ours, theirs, reader = {}, {}, Normalizer()
    for line in captured(SHARED / "ws" / "cryptofeed-okx-2022-05-13.ws.txt.gz"):
        message = json.loads(line)
        if message.get("arg", {}).get("channel") != "books" or "data" not in message:
            continue
        symbol = message["arg"]["instId"]
        theirs.setdefault(symbol, SecondBook()).take(message)
        (found,) = reader.feed(line)
        assert (found.seq_id, found.prev_seq_id) == (None, None)
        one = ours.setdefault(symbol, LocalBook("okx", symbol, "books"))
        assert one.take(found) in (Step.SNAPSHOT, Step.UPDATE)
        assert same(one, theirs[symbol])
    assert {symbol: one.checked for symbol, one in theirs.items()} == {
        "BTC-USD-220527": 99, "BTC-USDT": 98, "UNI-USD-SWAP": 93,
    }  # fmt: skip


prices, sizes = st.integers(1, 30), st.integers(0, 3)
sides = st.dictionaries(prices, sizes, max_size=8)


@given(st.lists(st.tuples(sides, sides, st.sampled_from([0, 0, 0, 2, 5, -40])), max_size=30), sides, sides)
def test_any_updates_give_the_second_book(steps, bids, asks):
    """Levels that come, go, come again and go twice, with keep-alives and numbers that begin anew."""
    ours, theirs, seq = LocalBook("okx", "BTC-USDT", "books"), SecondBook(), 100
    rows = [("snapshot", -1, seq, bids, asks)]
    for bids_, asks_, more in steps:
        before, seq = seq, max(0, seq + more)
        rows.append(("update", before, seq, bids_, asks_) if more else ("update", before, seq, {}, {}))
    for action, before, number, some_bids, some_asks in rows:
        named = {"bids": some_bids, "asks": some_asks}
        row = {name: [[f"0.{price:02}", str(size)] for price, size in side.items()] for name, side in named.items()}
        theirs.take({"action": action, "data": [row]})
        step = ours.take(update(number, before, row["bids"], row["asks"], action))
        assert step in (Step.SNAPSHOT, Step.UPDATE, Step.KEEP_ALIVE, Step.RESET)
        assert same(ours, theirs)
        assert ours.line(T0, None, 3) == encode(ours.snapshot(T0, None, 3))
        assert ours.line(T0, 7) == encode(ours.snapshot(T0, 7))


fates = st.sampled_from(["kept"] * 12 + ["lost", "twice", "late", "again", "fetched"])


@given(st.lists(st.tuples(fates, sides, sides, st.booleans()), min_size=5, max_size=60), st.integers(0, 10**6))
def test_whatever_happens_on_the_way_a_known_book_is_the_right_one(steps, salt):
    """Messages that are lost, doubled, swapped, played again from the start, and snapshots that come late or fetched.

    Numbers jump and begin anew. A book may become unknown; it is never wrong.
    """
    truth, way, seq, bids, asks = {}, [], 10**7 + salt, {}, {}
    for n, (fate, new_bids, new_asks, reset) in enumerate(steps):
        bids, asks = ({p: z for p, z in (old | new).items() if z} for old, new in ((bids, new_bids), (asks, new_asks)))
        before, seq = seq, (seq - 10**4 + n if reset and fate == "kept" and n % 7 == 0 else seq + 1 + n % 3)
        truth[seq] = [{Decimal(p): Decimal(z) for p, z in side.items()} for side in (bids, asks)]
        message = update(seq, before, new_bids.items(), new_asks.items(), at=100 * n)
        if fate == "again":
            way.append(snapshot(seq, bids.items(), asks.items(), at=100 * n))
        elif fate == "fetched":
            way += [message, snapshot(seq, bids.items(), asks.items(), before=None, at=100 * n)]
        elif fate == "late" and way:
            way.insert(len(way) - 1, message)
        elif fate != "lost":
            way += [message] * (1 + (fate == "twice"))
    kept, known = LocalBook("okx", "BTC-USDT", "books"), 0
    for message in way:
        kept.take(message)
        if kept.state not in (State.INVALID, State.WAITING):
            assert [dict(side.levels()) for side in (kept.bids, kept.asks)] == truth[kept.seq_id]
            known += 1
    event(f"known {10 * known // len(way) if way else 0}0 %")


def test_numbers_jump_repeat_and_begin_anew():
    """What follows on the last message is taken, whatever its own number."""
    kept = book(snapshot(10))
    assert kept.take(update(12, 10, [("99", "0")])) is Step.UPDATE
    assert kept.take(update(12, 12)) is Step.KEEP_ALIVE
    assert kept.take(update(3, 12, [("97", "5")])) is Step.RESET
    assert kept.take(update(4, 3, [], [("101", "7")])) is Step.UPDATE
    assert kept.bids.levels() == levels(("98", "2"), ("97", "5"))
    assert kept.asks.levels() == levels(("101", "7"), ("102", "2"))
    assert kept.seq_id == 4


@pytest.mark.parametrize(
    "bad", [update(14, 12), update(9, 8), update(12, 11), update(11, 11), update(None, None), update(5, 4)]
)
def test_a_gap_makes_the_book_unknown_until_its_next_snapshot(bad):
    """Updates are ignored meanwhile, those too that would have followed."""
    kept = book(snapshot(10))
    assert kept.take(bad) is Step.GAP
    assert kept.state is State.INVALID
    assert kept.take(update(11, 10, [("99", "3")])) is Step.IGNORED
    assert (len(kept.bids), len(kept.asks)) == (0, 0)
    assert kept.take(snapshot(7)) is Step.SNAPSHOT  # its number may be lower: the new one wins
    assert kept.take(update(8, 7)) is Step.UPDATE
    assert kept.state is State.GOOD


def test_updates_before_the_first_snapshot_are_no_gap():
    """There is no book to be wrong."""
    kept = book()
    assert kept.take(update(11, 10, [("99", "3")])) is Step.IGNORED
    assert kept.state is State.WAITING


def test_a_message_that_comes_twice_is_no_gap():
    """Two connections may bring the same; but a lower number that was never there is one."""
    kept = book(snapshot(10), update(11, 10, [("99", "3")]), update(13, 11, [("99", "4")]))
    assert kept.take(update(11, 10, [("99", "3")])) is Step.OLD
    assert kept.bids.levels(1) == levels(("99", "4"))
    assert kept.take(update(12, 10, [("99", "3")])) is Step.GAP


def test_a_fetched_snapshot_is_joined_by_the_update_around_its_number():
    """Those that are in it already are passed over, and the first that is not may have begun before it."""
    kept = book(snapshot(10, before=None, at=500))
    assert kept.take(update(8, 7, [("99", "9")], at=300)) is Step.OLD
    assert kept.take(update(10, 8, [("99", "9")], at=400)) is Step.OLD
    assert kept.take(update(12, 9, [("99", "8")], at=600)) is Step.UPDATE
    assert kept.take(update(13, 12, at=700)) is Step.UPDATE
    assert kept.bids.levels(1) == levels(("99", "8"))


@pytest.mark.parametrize("late", [update(13, 11, at=600), update(5, 4, at=9_000), update(5, 9, at=600)])
def test_a_fetched_snapshot_that_nothing_joins_is_worth_nothing(late):
    """Something is missing between the two, or the numbers have begun anew meanwhile."""
    kept = book(snapshot(10, before=None, at=500))
    assert kept.take(late) is Step.GAP
    assert kept.state is State.INVALID


@pytest.mark.parametrize(
    ("bids", "asks", "state"),
    [
        ([("99", "1")], [("100", "1")], State.GOOD),
        ([("100", "1")], [("100", "1")], State.CROSSED),
        ([("101", "1")], [("100", "1")], State.CROSSED),
        ([], [("100", "1")], State.ONE_SIDED),
        ([("99", "0")], [("100", "1")], State.ONE_SIDED),
        ([("99", "1")], [], State.ONE_SIDED),
        ([], [], State.EMPTY),
    ],
)
def test_what_a_book_is_worth(bids, asks, state):
    """By its best prices."""
    assert book(snapshot(1, bids, asks)).state is state


def test_a_side_without_end_is_no_book():
    """Memory is bounded, whatever comes."""
    kept = book(snapshot(0))
    for at in range(60):
        step = kept.take(update(at + 1, at, [(str(1 + at * 100 + n), "1") for n in range(100)]))
        if step is Step.GAP:
            break
    assert at == 50
    assert kept.state is State.INVALID
