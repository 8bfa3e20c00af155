"""The repair of holes as a pure machine: any faults in, the whole tape out, in order; bounded; absent ids by proof."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.exchanges.interface import Page
from okxcli.exchanges.okx.feed import gap_tracker as module
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

SYMBOL = "BTC-USDT"


class Lines(list):
    """An overflow in memory; each take gives a line."""

    def put(self, line):
        self.append(line)
        return True

    def take(self, size):
        return [self.pop(0)] if self else []


GapTracker = functools.partial(module.GapTracker, overflow=Lines)


def line(number, symbol=SYMBOL, origin=""):
    row = {"instId": symbol, "tradeId": str(number), "px": "1", "sz": "1", "side": "buy", "ts": "1747087163557"}
    text = json.dumps({"arg": {"channel": "trades-all", "instId": symbol}, "data": [row]}, separators=(",", ":"))
    return (text[:-1] + f',"origin":"{origin}"' + "}" if origin else text).encode()


def ids(lines, symbol=SYMBOL):
    found = [json.loads(text) for text in lines]
    return [int(m["data"][0]["tradeId"]) for m in found if "data" in m and m["arg"].get("instId") == symbol]


def page(first, last, absent=(), evidence=True):
    there = [n for n in range(first, last + 1) if n not in absent]
    missing = []
    at = first
    for n in [*there, last + 1]:
        if n > at:
            missing.append((at, n - 1))
        at = n + 1
    return Page([line(n, origin="rest") for n in there], first, last, missing, evidence)


def answer(holes, fetch, now, absent=(), newest=0, evidence=True):
    """Answer a question as REST does, in pages of 100, and end it."""
    last = fetch.last if fetch.last is not None else newest
    out = []
    for low in range(fetch.first, last + 1, 100):
        out += holes.page(fetch, page(low, min(low + 99, last), absent, evidence), now)
    return out + holes.ended(fetch, now)


def test_what_follows_passes_and_what_is_not_a_fill_too():
    """Lines in order, other channels, control messages and damaged pushes come out as they went in, at once."""
    holes = GapTracker([SYMBOL])
    odd = [b'{"event":"subscribe"}', b'{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[]}', b"pong"]
    bad = [line(3).replace(b'"3"', b'"x"'), line(4)[:60], line(9, "ETH-USDT"), line(99, "ETH-USDT")]
    lines = [line(1), *odd, line(2), *bad, line(3), line(4)]
    assert holes.feed(lines, 0) == lines
    assert list(holes.fetches(0)) == []
    assert holes.due() is None


def test_a_hole_is_fetched_and_comes_before_what_follows():
    """Exactly the missing ids are asked for; what came after waits, other symbols do not; then all is in order."""
    holes = GapTracker([SYMBOL, "ETH-USDT"])
    assert ids(holes.feed([line(1), line(4), line(5), line(7, "ETH-USDT"), line(8, "ETH-USDT")], 0)) == [1]
    (fetch,) = holes.fetches(0)
    assert (fetch.first, fetch.last, fetch.known) == (2, 3, 4)
    assert list(holes.fetches(0)) == []
    out = holes.feed([line(6), line(9, "ETH-USDT")], 10)
    assert ids(out, "ETH-USDT") == [9]
    out = answer(holes, fetch, 20)
    assert ids(out) == [2, 3, 4, 5, 6]
    assert [b'"rest"' in text for text in out] == [True, True, False, False, False]
    assert ids(holes.feed([line(7)], 30)) == [7]
    assert holes.counts == {"holes": 1, "repaired": 2, "left": 0, "absent": 0, "old": 0}


def test_what_came_before_is_dropped_and_what_did_not_is_written():
    """An old first push after a reconnect is dropped by its id; a late line that was never written is written."""
    holes = GapTracker([SYMBOL], wait_ms=100)
    assert ids(holes.feed([line(5), line(6), line(5), line(6), line(3)], 0)) == [5, 6, 3]
    holes.feed([line(9)], 0)
    assert ids(holes.tick(100)) == [9]  # given up
    assert ids(holes.feed([line(7), line(8), line(7), line(10)], 110)) == [7, 8, 10]
    assert holes.counts["old"] == 3


def test_two_sockets_fill_each_others_holes():
    """While two sockets are up nothing is asked for half a second; what one lacks the other brings."""
    holes = GapTracker([SYMBOL])
    holes.feed([line(1)], 0)
    assert holes.feed([line(4)], 1000, overlap=True) == []
    assert list(holes.fetches(1499)) == []
    assert holes.due() == 1500
    assert ids(holes.feed([line(2), line(3), line(4)], 1400, overlap=True)) == [2, 3, 4]
    assert list(holes.fetches(1500)) == []
    holes.feed([line(7)], 2000, overlap=True)
    assert len(list(holes.fetches(2500))) == 1


@pytest.mark.parametrize(
    "bounds", [{"wait_ms": 50}, {"max_lines": 20}, {"max_bytes": 20 * len(line(100))}], ids=["time", "lines", "bytes"]
)
def test_waiting_is_bounded(bounds, caplog):
    """Past the bound the symbol goes on with the hole, says so once, and does not hold what follows."""
    holes = GapTracker([SYMBOL], **bounds)
    holes.feed([line(100)], 0)
    out = []
    for now in range(1, 60):
        out += holes.feed([line(103 + now)], now)
        assert sum(1 for _ in holes.fetches(now)) <= 1
    assert ids(out) == list(range(104, 163))
    assert caplog.text.count("fills 101 to 103 are missing") == 1
    assert holes.counts["left"] == 3


def test_what_waits_behind_several_holes_waits_once():
    """Each line waits at most as long as the bound, however many holes are before it."""
    holes = GapTracker([SYMBOL], wait_ms=1000)
    holes.feed([line(1), line(3), line(5)], 0)
    holes.feed([line(7)], 500)
    assert ids(holes.tick(1000)) == [3, 5]
    assert holes.due() <= 1500
    assert ids(holes.tick(1500)) == [7]


def test_failures_are_tried_again_until_the_bound():
    """A failed question is asked again after a second; an answer that comes in time repairs all."""
    holes = GapTracker([SYMBOL])
    holes.feed([line(1), line(3)], 0)
    now = 0
    for _ in range(5):
        (fetch,) = holes.fetches(now)
        assert holes.failed(fetch, now, "busy") == []
        assert list(holes.fetches(now + 999)) == []
        now += 1000
    (fetch,) = holes.fetches(now)
    assert ids(answer(holes, fetch, now)) == [2, 3]


def test_an_answer_without_evidence_is_asked_again():
    """A node that is behind proves nothing: the ids are neither given up nor doubted."""
    holes = GapTracker([SYMBOL])
    holes.feed([line(1), line(4)], 0)
    (fetch,) = holes.fetches(0)
    assert holes.page(fetch, Page([], 2, 3, [(2, 3)], False), 10) + holes.ended(fetch, 10) == []
    (fetch,) = holes.fetches(1010)
    assert ids(answer(holes, fetch, 1020)) == [2, 3, 4]
    assert holes.due() is None


def test_absent_ids_are_told_after_three_answers_over_a_minute():
    """Nobody waits for the proof; the event is one that normalize understands; then nothing is asked any more."""
    holes = GapTracker([SYMBOL])
    holes.feed([line(104), line(108)], 0)
    (fetch,) = holes.fetches(0)
    assert ids(answer(holes, fetch, 100, absent=(105, 106))) == [107, 108]
    asked = []
    out = []
    for now in range(0, 200_000, 500):
        for fetch in holes.fetches(now):
            asked.append(now)
            assert (fetch.first, fetch.last, fetch.doubt) == (105, 106, True)
            out += answer(holes, fetch, now, absent=(105, 106))
    assert len(asked) == 2
    assert asked[-1] >= 60_000
    assert out == [b'{"event":"absent","arg":{"channel":"trades-all","instId":"BTC-USDT"},"first":"105","last":"106"}']
    (found,) = Normalizer().feed(out[0])
    assert (found.first, found.last) == (105, 106)
    assert holes.counts["absent"] == 2


def test_ids_that_turn_up_after_all():
    """A fill that a later answer shows is written late; only the rest is absent."""
    holes = GapTracker([SYMBOL])
    holes.feed([line(104), line(108)], 0)
    (fetch,) = holes.fetches(0)
    answer(holes, fetch, 0, absent=(105, 106, 107))
    (fetch,) = holes.fetches(30_000)
    assert ids(answer(holes, fetch, 30_000, absent=(105, 107))) == [106]
    told = []
    for now in range(30_500, 120_000, 500):
        for fetch in holes.fetches(now):
            told += answer(holes, fetch, now, absent=(105, 107))
    assert [(m["first"], m["last"]) for m in map(json.loads, told)] == [("105", "105"), ("107", "107")]


def test_doubts_without_evidence_end():
    """What REST never answers well is not asked for ever."""
    holes = GapTracker([SYMBOL])
    holes.feed([line(104), line(106)], 0)
    (fetch,) = holes.fetches(0)
    answer(holes, fetch, 0, absent=(105,))
    asked = 0
    for now in range(0, 3_600_000, 1000):
        for fetch in holes.fetches(now):
            asked += 1
            assert holes.failed(fetch, now, "busy") == []
    assert 3 < asked < 20
    assert holes.due() is None


def test_the_past_joins_the_present():
    """With a first id, all from there to the first live fill is fetched; live fills wait, without bound of time."""
    holes = GapTracker([SYMBOL], resume={SYMBOL: 50})
    (fetch,) = holes.fetches(0)
    assert (fetch.first, fetch.last) == (51, None)
    assert holes.feed([line(300), line(301)], 10) == []
    assert holes.tick(100_000) == []
    out = answer(holes, fetch, 100_000, newest=310)
    assert ids(out) == list(range(51, 311))
    assert ids(holes.feed([line(n) for n in (310, 311)], 100_001)) == [311]
    assert list(holes.fetches(200_000)) == []


def test_the_past_of_a_quiet_symbol():
    """It does not take a live fill to see the past."""
    holes = GapTracker([SYMBOL], since=True)
    (fetch,) = holes.fetches(0)
    assert (fetch.first, fetch.last) == (None, None)
    assert ids(holes.page(fetch, page(7, 9), 5) + holes.ended(fetch, 5)) == [7, 8, 9]
    assert ids(holes.feed([line(9), line(10)], 10)) == [10]


def settled(holes, now, absent=(), newest=0):
    """Answer all that is asked until nothing is due; return the lines."""
    out = []
    while holes.due() is not None:
        now = max(now, holes.due())
        out += holes.tick(now)
        for fetch in list(holes.fetches(now)):
            out += answer(holes, fetch, now, absent, newest)
    return out


def test_a_long_past_in_bounded_memory():
    """Live lines that do not fit wait in the overflow while the past is fetched, and are not fetched again."""
    holes = GapTracker([SYMBOL], resume={SYMBOL: 0}, max_lines=10)
    (fetch,) = holes.fetches(0)
    out = []
    for number in range(1000, 1100):
        out += holes.feed([line(number)], 1)
    out += answer(holes, fetch, 2, newest=999)
    out += holes.feed([line(1100), line(1103)], 3)
    out += settled(holes, 3)
    assert ids(out) == list(range(1, 1104))
    pushed = [number for number, text in zip(ids(out), out, strict=True) if b"rest" not in text]
    assert pushed == [*range(1000, 1101), 1103]
    assert ids(holes.feed([line(1104)], 9_000)) == [1104]
    assert list(holes.fetches(9_000)) == []


@pytest.mark.parametrize("works", [True, False])
def test_a_past_longer_than_the_overflow(works, caplog):
    """That it has no room for more is told at once; what came then is fetched when its turn is, or told by its ids."""

    class Two(Lines):
        def put(self, text):
            return len(self) < 2 and super().put(text)

    holes = GapTracker([SYMBOL], overflow=Two, resume={SYMBOL: 0}, max_lines=3)
    (fetch,) = holes.fetches(0)
    assert holes.feed([line(number) for number in range(100, 120)], 1) == []
    assert "no room for more that waits" in caplog.text
    out = answer(holes, fetch, 2, newest=99)
    for _ in range(3):
        out += holes.tick(3)
    out += holes.feed([line(120)], 4)
    out += settled(holes, 5) if works else holes.release()
    assert ids(out) == (list(range(1, 121)) if works else [*range(1, 106), 120])
    assert ("fills 106 to 119 are missing" in caplog.text) != works


def test_the_end_of_a_stream_tells_what_is_missing(caplog):
    """Ended while a hole is open, while the past is fetched, while ids are in doubt: each is told by its ids."""
    holes = GapTracker([SYMBOL], resume={SYMBOL: 50})
    (fetch,) = holes.fetches(0)
    holes.page(fetch, page(51, 60, absent=(55,)), 1)
    holes.feed([line(100), line(101), line(105)], 2)
    out = []
    while lines := holes.release():
        out += lines
    assert ids(out) == [100, 101, 105]
    for text in ("fills 61 to 99 are", "fills 102 to 104 are", "fills 55 to 55 are"):
        assert text in caplog.text
    assert holes.counts["left"] == 39 + 3 + 1


def test_an_old_first_push(caplog):
    """What lies between it and the next one is asked for, and written late, or proved absent."""
    holes = GapTracker([SYMBOL])
    assert ids(holes.feed([line(107), line(104), line(108)], 0)) == [107, 104, 108]
    (fetch,) = holes.fetches(0)
    assert (fetch.first, fetch.last, fetch.known, fetch.doubt) == (105, 106, 107, True)
    out = answer(holes, fetch, 1, absent=(106,)) + settled(holes, 1, absent=(106,))
    assert ids(out) == [105]
    assert [(one["first"], one["last"]) for one in map(json.loads, out) if "event" in one] == [("106", "106")]
    holes = GapTracker([SYMBOL])
    holes.feed([line(90_000), line(5)], 0)
    assert list(holes.fetches(0)) == []
    assert "fills 6 to 89999 are missing" in caplog.text


def test_a_short_page_is_no_answer(caplog):
    """Cut short above the hole, it fills what it has; the rest is asked again, and told when it never comes."""
    holes = GapTracker([SYMBOL], wait_ms=10_000)
    holes.feed([line(100), line(161)], 0)
    for now in range(0, 9_000, 1_000):
        (fetch,) = holes.fetches(now)
        assert (fetch.first, fetch.last) == (101, 131 if now else 160)
        short = [line(n, origin="rest") for n in range(132, fetch.last + 1)]
        out = holes.page(fetch, Page(short, 101, fetch.last, [(101, 131)], False), now) + holes.ended(fetch, now)
        assert out == []
    (fetch,) = holes.fetches(9_000)
    assert ids(answer(holes, fetch, 9_000)) == list(range(101, 162))
    assert holes.counts["left"] == 0
    holes.feed([line(164)], 20_000)
    assert ids(holes.tick(30_000)) == [164]
    assert "fills 162 to 163 are missing" in caplog.text


def test_a_past_that_cannot_be_had():
    """After half a minute without any progress the present goes on, and it is told."""
    holes = GapTracker([SYMBOL], resume={SYMBOL: 5})
    out = []
    for now in range(0, 40_000, 100):
        out += holes.feed([line(100 + now // 100)], now)
        for fetch in holes.fetches(now):
            out += holes.failed(fetch, now, "unreachable")
        out += holes.tick(now)
    assert ids(out) == list(range(100, 500))


def test_older_than_the_history_of_the_exchange(caplog):
    """What is beyond OKX's horizon is asked for as long as a hole is, then told, and the rest of the past comes."""
    holes = GapTracker([SYMBOL], resume={SYMBOL: 5})
    out = []
    for now in range(0, 33_000, 1_000):
        for fetch in holes.fetches(now):
            last = fetch.last or 59
            lines = [line(n) for n in range(50, last + 1)]
            out += holes.page(fetch, Page(lines, 6, last, [(6, 49)], False), now) + holes.ended(fetch, now)
        assert now > 29_000 or not out
    assert ids(out) == list(range(50, 60))
    assert "fills 6 to 49 are missing" in caplog.text
    assert ids(holes.feed([line(60)], 33_000)) == [60]


@pytest.mark.parametrize("poison", [9_000_000_000_000_000_000, 50_000_000])
def test_one_damaged_id_does_no_harm(poison):
    """A line whose id is far off passes alone: nothing waits for it, and holes are seen as before."""
    holes = GapTracker([SYMBOL])
    assert ids(holes.feed([line(1), line(2), line(poison), line(3), line(5)], 0)) == [1, 2, poison, 3]
    (fetch,) = holes.fetches(0)
    assert (fetch.first, fetch.last) == (4, 4)
    assert ids(answer(holes, fetch, 1)) == [4, 5]


def test_a_damaged_id_while_the_past_is_fetched():
    """It comes out by itself when its time is over, and the symbol goes on where it is."""
    holes = GapTracker([SYMBOL], resume={SYMBOL: 5}, wait_ms=1000)
    (fetch,) = holes.fetches(0)
    holes.feed([line(9), line(1 << 62)], 0)
    assert ids(answer(holes, fetch, 1, newest=9)) == [6, 7, 8, 9]
    out = []
    for now in range(2, 3000):
        for fetch in holes.fetches(now):
            out += holes.failed(fetch, now, "nothing there")
        out += holes.tick(now)
    assert ids(out) == [1 << 62]
    assert ids(holes.feed([line(10), line(11)], 3000)) == [10, 11]


@pytest.mark.parametrize("anew", [1, 900_000_000])
def test_ids_that_begin_anew(anew, caplog):
    """Two lines in a row far off, above or below: there holes are repaired as before; what waited goes first."""
    holes = GapTracker([SYMBOL])
    out = holes.feed([line(100_000_000), line(100_000_003), line(anew), line(anew + 1), line(anew + 3)], 0)
    assert ids(out) == [100_000_000, anew, 100_000_003, anew + 1]
    assert "its ids go on" in caplog.text
    (fetch,) = list(holes.fetches(0))
    assert (fetch.first, fetch.last) == (anew + 2, anew + 2)
    assert ids(answer(holes, fetch, 1)) == [anew + 2, anew + 3]


def test_the_end_lets_everything_go():
    """What is held when the stream ends comes out, in order."""
    holes = GapTracker([SYMBOL])
    holes.feed([line(1), line(9), line(5), line(7)], 0)
    assert ids(holes.release()) == [5, 7, 9]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_faults_give_the_whole_tape(data):
    """Dropped, doubled, swapped lines, absent ids, REST that fails or is behind: every id once, in order.

    Only lines older than the last one written may come later, and only after something was given up.
    """
    count = data.draw(st.integers(2, 120))
    absent = data.draw(st.sets(st.integers(2, count)))
    numbers = [n for n in range(1, count + 1) if n not in absent]
    pushed = []
    for n in numbers:
        copies = 1 if n in (numbers[0], numbers[-1]) else data.draw(st.sampled_from([0, 1, 1, 1, 2]))
        pushed += [n] * copies
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, max(0, len(pushed) - 2)))
        if 0 < at < len(pushed) - 2:
            pushed[at], pushed[at + 1] = pushed[at + 1], pushed[at]
    holes = GapTracker([SYMBOL])
    out, now = [], 0
    while pushed or holes.due() is not None:
        size = data.draw(st.integers(1, 8))
        batch, pushed = pushed[:size], pushed[size:]
        out += holes.feed([line(n) for n in batch], now, overlap=data.draw(st.booleans()))
        for fetch in list(holes.fetches(now)):
            fault = data.draw(st.sampled_from(["", "", "", "fails", "behind"]))
            if fault == "fails":
                out += holes.failed(fetch, now, "busy")
            elif fault == "behind":
                nothing = Page([], fetch.first, fetch.last, [(fetch.first, fetch.last)], False)
                out += holes.page(fetch, nothing, now) + holes.ended(fetch, now)
            else:
                out += answer(holes, fetch, now, absent=absent)
        out += holes.tick(now)
        due = holes.due()
        now = now + 10 if pushed or due is None else max(now + 1, due)
        assert now < 10_000_000
    first = ids(out)[0]
    wanted = [n for n in numbers if n >= first]
    if not holes.counts["left"]:
        assert ids(out) == wanted
    assert sorted(ids(out)) == sorted(set(ids(out)))
    assert set(ids(out)) <= set(numbers)
    told = {
        n
        for text in out
        if b"absent" in text
        for n in range(int(json.loads(text)["first"]), int(json.loads(text)["last"]) + 1)
    }
    assert told <= absent


def test_symbols_at_rest_are_not_looked_at(monkeypatch):
    """Among a thousand symbols only the one with a hole is asked for, and only it has a due."""
    symbols = [f"S{n}-USDT" for n in range(1000)]
    holes = GapTracker(symbols)
    for number in (5, 6):
        holes.feed([line(number, symbol) for symbol in symbols], 0)
    assert list(holes.fetches(1)) == [] and holes.due() is None
    looked = []
    bound = holes._bound
    monkeypatch.setattr(holes, "_bound", lambda tape, *rest: (looked.append(tape.name), bound(tape, *rest)))
    assert holes.feed([line(9, "S3-USDT"), line(7, "S4-USDT")], 10) == [line(7, "S4-USDT")]
    looked.clear()
    assert holes.tick(11) == [] and looked == ["S3-USDT"]
    (fetch,) = holes.fetches(11)
    assert (fetch.symbol, fetch.first, fetch.last) == ("S3-USDT", 7, 8)
    out = holes.page(fetch, Page([line(n, "S3-USDT") for n in (7, 8)], 7, 8, [], True), 12) + holes.ended(fetch, 12)
    assert ids(out, "S3-USDT") == [7, 8, 9]
    assert holes.due() is None
    looked.clear()
    assert holes.tick(13) == [] and looked == []
