"""Which books are asked for anew, and how often: one request at a time, none for what is ignored, no storm."""

import json
import re
from itertools import pairwise

from okxcli.core.books.chain import Numbers
from okxcli.exchanges.okx.books.book_chains import (
    FETCH_MS,
    FORGET_MS,
    MAX_HELD,
    MAX_REST_MS,
    RENEW_MS,
    BookChains,
    Fetched,
)
from okxcli.exchanges.okx.books.book_pushes import snapshot_line
from okxcli.exchanges.okx.channels import Subscription

BTC = Subscription("books", "BTC-USDT")
TS = 1_765_201_257_000


def push(seq, before, symbol="BTC-USDT", channel="books", at=0, **more):
    action = "snapshot" if before == -1 else "update"
    row = {"asks": [], "bids": [["1.781", "14694.07509503", "0", "31"]], "ts": str(TS + at), "checksum": 0}
    data = [row | {"seqId": seq, "prevSeqId": before}]
    arg = {"channel": channel, "instId": symbol}
    return json.dumps({"arg": arg, "action": action, "data": data, **more}, separators=(",", ":")).encode()


def stands(seq=10, now=0):
    """Return chains with one good book."""
    chains = BookChains()
    assert chains.feed([push(seq, -1)], now) == [push(seq, -1)]
    assert chains.wishes() == ([], [])
    return chains


def test_a_chain_that_holds_asks_for_nothing():
    """Jumps, keep-alives and resets are no gaps; a stamp is not in the way; other lines pass."""
    chains = stands()
    other = b'{"arg":{"channel":"books5","instId":"BTC-USDT"},"data":[]}'
    lines = [push(15, 10), other, push(15, 15, received=5), push(3, 15), push(4, 3), push(90, 4)]
    assert chains.feed(lines, 1) == lines
    assert chains.wishes() == ([], [])
    assert not chains.counts


def test_a_gap_asks_once_and_updates_are_nothing_until_the_snapshot():
    """However many come; every line is written all the same."""
    chains = stands()
    lines = [push(n, n - 1) for n in range(12, 400)]
    assert chains.feed(lines, 100) == lines
    assert chains.wishes() == ([BTC], [])
    assert chains.feed([push(500, 499)], 200) == [push(500, 499)]
    assert chains.wishes() == ([], [])
    lines = [push(7, -1), push(8, 7)]  # lower than before: the new snapshot wins
    assert chains.feed(lines, 300) == lines
    assert chains.wishes() == ([], [])
    assert chains.counts == {"books_broken": 1, "books_resubscribed": 1}


def test_only_the_broken_book_is_asked_for():
    """Others go on; those that break together are asked for together."""
    chains = BookChains()
    symbols = [f"C{n}-USDT" for n in range(50)]
    chains.feed([push(10, -1, symbol) for symbol in symbols], 0)
    chains.feed([push(12, 10 if symbol != "C7-USDT" else 11, symbol) for symbol in symbols], 100)
    assert chains.wishes() == ([Subscription("books", "C7-USDT")], [])
    why = "an update that follows on 11, and the book is at 10"
    assert chains.told() == [(30, f"broken, and asked for anew: books C7-USDT ({why})")]
    chains.feed([push(20, 19, symbol) for symbol in symbols], 200)
    assert len(chains.wishes()[0]) == 49
    why = "an update that follows on 19, and the book is at 12"
    names = f"books C0-USDT ({why}), books C1-USDT, books C2-USDT and 46 more"
    assert chains.told() == [(30, f"broken, and asked for anew: {names}")]
    chains.feed([push(5, -1, symbol) for symbol in symbols[:2]], 300)
    assert chains.told() == [(20, "whole again: books C0-USDT, books C1-USDT")]


def test_what_breaks_again_waits_ever_longer():
    """An hour of a book that breaks with every update makes some fifteen requests, not thirty-six thousand."""
    chains, now, asked, seq = stands(), 0, [], 10
    while now < 3_600_000:
        now, seq = now + 100, seq + 10
        chains.feed([push(seq, seq - 1)], now)
        if chains.wishes()[0]:
            asked.append(now)
            seq += 10
            chains.feed([push(seq, -1)], now + 50)
    waits = [later - before for before, later in pairwise(asked)]
    assert len(asked) < 25
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1100, MAX_REST_MS + 100)


def test_a_book_that_stood_for_long_is_as_good_as_new():
    """Its next gap is mended at once."""
    chains = stands()
    for now in (0, FORGET_MS + 10):
        chains.feed([push(30, 29)], now)
        assert chains.wishes()[0] == [BTC]
        chains.feed([push(10, -1)], now + 5)


def test_a_start_without_a_snapshot_asks_rest_and_holds_the_updates():
    """They are written around the answer: those that it has before it, the others behind it."""
    chains = BookChains()
    held = [push(11, 10), push(12, 11, at=50), push(14, 12, at=90)]
    assert chains.feed(held, 0) == []
    _, (fetch,) = chains.wishes()
    assert fetch[:2] == (BTC, 10)
    answer = Fetched(b"REST", Numbers(True, 12, None, TS + 60))
    assert chains.fetched(fetch, answer, 300) == [*held[:2], b"REST", held[2]]
    assert chains.feed([push(15, 14, at=100)], 400) == [push(15, 14, at=100)]
    assert chains.wishes() == ([], [])
    # It is known by now that there is no snapshot: the next gap is mended by REST, from the next update on.
    assert chains.feed([push(20, 19)], 500) == [push(20, 19)]
    assert chains.feed([push(21, 20)], 600) == []
    renewals, (fetch,) = chains.wishes()
    assert (renewals, fetch[:2]) == ([], (BTC, 20))


def test_an_answer_between_two_updates_or_behind_all_of_them():
    """The update that covers it joins; where none has come yet the next one does."""
    for number, split in ((13, 2), (14, 3)):
        chains = BookChains()
        held = [push(11, 10), push(12, 11), push(14, 12)]
        chains.feed(held, 0)
        answer = Fetched(b"REST", Numbers(True, number, None, TS))
        assert chains.fetched(chains.wishes()[1][0], answer, 1) == [*held[:split], b"REST", *held[split:]]
        chains.feed([push(15, 14)], 2)
        assert chains.wishes() == ([], [])


def test_no_answer_gives_the_updates_back_and_is_asked_again_later():
    """Nothing is lost, and it is no storm."""
    chains = BookChains()
    assert chains.feed([push(11, 10)], 0) == []
    (fetch,) = chains.wishes()[1]
    assert chains.fetched(fetch, None, 100) == [push(11, 10)]
    assert chains.feed([push(12, 11)], 200) == [push(12, 11)]
    assert chains.wishes() == ([], [])
    assert chains.feed([push(13, 12)], 1_200) == []
    (again,) = chains.wishes()[1]
    assert again.at_least == 12
    assert chains.fetched(fetch, Fetched(b"late", Numbers(True, 12, None, TS)), 1_300) == []


def test_what_is_held_has_an_end():
    """Of lines, and of time; and the end of the feed gives all back."""
    chains = BookChains()
    lines = [push(n, n - 1) for n in range(11, 11 + MAX_HELD + 1)]
    assert chains.feed(lines[:-1], 0) == []
    assert chains.feed(lines[-1:], 10) == lines
    chains = BookChains()
    assert chains.feed(lines[:1], 0) == []
    assert chains.feed(lines[1:2], FETCH_MS + 1) == lines[:2]
    chains = BookChains()
    assert chains.feed(lines[:3], 0) == []
    assert chains.release() == lines[:3]
    assert chains.release() == []


def test_no_snapshot_after_another_subscription_asks_rest():
    """As when the hourly number of requests is used up."""
    chains = stands()
    chains.feed([push(20, 19)], 0)
    assert chains.wishes() == ([BTC], [])
    chains.feed([push(21, 20)], RENEW_MS - 1)
    assert chains.wishes() == ([], [])
    assert chains.feed([push(22, 21)], RENEW_MS) == []
    assert [fetch.at_least for fetch in chains.wishes()[1]] == [21]


def test_a_snapshot_that_comes_after_all_ends_the_wait():
    """What was held goes before it; the answer of REST is not wanted any more."""
    chains = BookChains()
    chains.feed([push(11, 10)], 0)
    (fetch,) = chains.wishes()[1]
    assert chains.feed([push(12, -1)], 5) == [push(11, 10), push(12, -1)]
    assert chains.fetched(fetch, Fetched(b"REST", Numbers(True, 11, None, TS)), 9) == []


def test_books_whose_numbers_rest_does_not_have_are_subscribed_again():
    """Numbers of different channels must not be mixed."""
    chains = BookChains()
    line = push(11, 10, channel="books50-l2-tbt")
    assert chains.feed([line], 0) == [line]
    assert chains.wishes() == ([Subscription("books50-l2-tbt", "BTC-USDT")], [])


def test_two_connections_bring_the_same_and_it_is_written_once():
    """One is ahead of the other, whose snapshot may be older or younger than what has come."""
    old = [push(n, n - 1) for n in range(11, 30)]
    new = [push(15, -1), *(push(n, n - 1) for n in range(16, 30))]
    for mixed in (
        [*old[:8], *new[:3], *old[8:12], *new[3:], *old[12:]],
        [*old[:3], *new[:6], *old[3:14], *new[6:], *old[14:]],
    ):
        chains = stands()
        out = chains.feed(mixed, 0, overlap=True)
        chains.feed([push(30, 29)], 100)
        assert chains.wishes() == ([], [])
        numbers = [json.loads(line)["data"][0]["seqId"] for line in out]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == 29


def test_an_update_without_a_number_and_a_bad_book_are_gaps():
    """What cannot be followed is broken; whoever keeps the book may say so, too."""
    chains = stands()
    bad = push(11, 10).replace(b'"seqId":11', b'"seqId":null')
    assert chains.feed([bad], 0) == [bad]
    assert chains.wishes() == ([BTC], [])
    chains = stands()
    for _ in range(3):
        chains.mend(BTC, 50)
    assert chains.wishes() == ([BTC], [])
    chains.mend(Subscription("books", "X-USDT"), 50)
    assert chains.wishes() == ([], [])


def test_several_rows_and_another_order_of_keys():
    """Read the slow way, to the same end."""
    chains = stands()
    one, two = (json.loads(push(*numbers))["data"][0] for numbers in ((11, 10), (13, 11)))
    whole = {"arg": BTC.argument, "action": "update", "data": [one, dict(sorted(two.items()))]}
    chains.feed([json.dumps(whole, separators=(",", ":")).encode(), push(14, 13)], 0)
    assert chains.wishes() == ([], [])


def test_a_recording_with_a_fetched_snapshot_and_one_of_2022_ask_for_nothing():
    """Played again: the first is joined as it was, and the second has no numbers that could be followed."""
    chains = BookChains()
    row = {"asks": [], "bids": [], "ts": str(TS), "seqId": 12}
    chains.feed([snapshot_line("BTC-USDT", row), push(13, 11), push(14, 13)], 0)
    assert chains.wishes() == ([], [])
    old = [re.sub(rb',"seqId":.*?}', b"}", push(n, n - 1)) for n in (-1, 0, 1, 2)]
    assert b"SeqId" not in old[0]
    chains = BookChains()
    assert [line for now, one in enumerate(old) for line in chains.feed([one], now * 10_000)] == old
    assert chains.wishes() == ([], [])


def test_books_that_nobody_wants_are_forgotten():
    """With what was held of them."""
    chains = BookChains()
    chains.feed([push(11, 10), push(10, -1, "ETH-USDT")], 0)
    assert chains.forget([BTC]) == [push(11, 10)]
    chains.feed([push(11, 10, "ETH-USDT")], 0)
    assert chains.wishes()[0] == []
