"""The feed repairs its tape: against the local exchange with every fault that REST can or cannot mend."""

import functools
import json
import random
from itertools import pairwise

import pytest
from feeding import BTC, ETH, beyond, feed_of, ids, present, read, rows, traded

from okxcli.errors import UsageError
from okxcli.exchanges.okx.feed import gap_repair as repair_module
from okxcli.exchanges.okx.feed import live_feed as feed_module
from okxcli.exchanges.okx.feed.gap_tracker import GapTracker
from okxcli.exchanges.okx.feed.live_feed import Feed
from okxcli.local.network import engine as engine_module
from okxcli.local.network import rest_answers as rest_module


@pytest.fixture
def patient(monkeypatch):
    """Bounds of half the time and a proof of absence within two seconds."""
    monkeypatch.setattr(feed_module, "GapTracker", functools.partial(GapTracker, wait_ms=15_000, evidence_ms=2_000))


def pushed(lines, symbol):
    """Tell whether the newest fill came from the socket."""
    found = rows(lines, symbol)
    return bool(found) and found[-1][0] is None


def is_whole(exchange, lines, symbol=BTC):
    """Check that the lines are the exchange's fills from the first one on, each once, in order, field by field."""
    found = [(int(row["tradeId"]), row["px"], row["sz"], row["side"], int(row["ts"])) for _, row in rows(lines, symbol)]
    fills = [(f.trade_id, f.price, f.size, f.side, f.ts) for f in exchange.fills(symbol)]
    inside = [fill for fill in fills if found[0][0] <= fill[0] <= found[-1][0]]
    assert found == inside
    return len(found)


def test_cuts_leave_no_hole(exchange):
    """What was traded while the connection was away comes from REST, before what follows."""
    with feed_of(exchange, [BTC, ETH]) as feed:
        lines = read(feed, lambda lines: ids(lines) and ids(lines, ETH))
        for _ in range(3):
            exchange.fault("refuse=60s")
            exchange.cut()
            traded(exchange, BTC, ETH, count=20)
            exchange.fault("refuse=0s")
            lines += read(feed, present(exchange, BTC, ETH))
        feed.stop()
        assert feed.repairs()["repaired"] > 0
        assert feed.repairs()["left"] == 0
    assert is_whole(exchange, lines) > 60
    assert is_whole(exchange, lines, ETH) > 60
    assert {origin for origin, _ in rows(lines)} == {None, "rest"}


def test_dropped_fills_come_from_rest_stamped_like_the_others(exchange):
    """Fills that the socket left out, which REST has: exactly those are fetched."""
    with feed_of(exchange, stamp=True) as feed:
        lines = read(feed, lambda lines: len(lines) > 20)
        exchange.fault(f"drop=7:{BTC}")
        lines += read(feed, lambda lines: feed.repairs()["repaired"] == 7)
        lines += read(feed, present(exchange))
        assert feed.repairs()["repaired"] == 7
    is_whole(exchange, lines)
    assert [origin for origin, _ in rows(lines)].count("rest") == 7
    assert all(list(json.loads(line))[-1] == "received" for line in lines)


def test_only_that_symbol_waits(exchange):
    """While REST takes its time, the other symbol and the other channel flow."""
    with feed_of(exchange, [BTC, ETH], ["trades-all", "tickers"]) as feed:
        lines = read(feed, lambda lines: ids(lines) and ids(lines, ETH))
        exchange.fault("slow-rest=5s")
        exchange.fault(f"drop=3:{BTC}")
        lines += read(feed, lambda lines: feed.repairs()["holes"] == 1)
        ticker = b'"tickers","instId":"BTC-USDT"'
        held = read(feed, lambda lines: len(ids(lines, ETH)) > 20 and any(ticker in line for line in lines))
        assert ids(held) == []
        exchange.fault("slow-rest=0s")
        lines += held + read(feed, present(exchange, BTC, ETH))
    is_whole(exchange, lines)
    is_whole(exchange, lines, ETH)


def test_lost_fills_are_told_as_absent(exchange, patient):
    """Ids that the exchange itself lost: nobody waits for the proof, then it is told, exactly."""
    with feed_of(exchange) as feed:
        lines = read(feed, lambda lines: len(lines) > 20)
        exchange.fault(f"lose=4:{BTC}")
        lines += read(feed, lambda lines: any(b'"absent"' in line for line in lines))
    is_whole(exchange, lines)
    events = [json.loads(line) for line in lines if b'"event"' in line]
    told = [n for event in events for n in range(int(event["first"]), int(event["last"]) + 1)]
    assert told == exchange.absent(BTC)
    assert all(event["arg"] == {"channel": "trades-all", "instId": BTC} for event in events)
    (hole,) = [(a, b) for a, b in pairwise(ids(lines)) if b != a + 1]
    place = next(n for n, line in enumerate(lines) if str(hole[1]).encode() in line)
    assert place < lines.index(next(line for line in lines if b'"absent"' in line)) - 50


@pytest.mark.parametrize(
    "fault", ["busy=1500ms", "html=1500ms", "stale-rest=3s", "slow-rest=300ms"], ids=["busy", "html", "stale", "slow"]
)
def test_rest_has_troubles_of_its_own(exchange, patient, fault):
    """429, HTML, caches that are behind, slowness: the tape is whole all the same, once REST is well again."""
    with feed_of(exchange) as feed:
        lines = read(feed, lambda lines: len(lines) > 20)
        exchange.fault(fault)
        for _ in range(2):
            exchange.fault(f"drop=5:{BTC}")
            exchange.cut()
            traded(exchange, BTC, count=50)
            lines += feed.poll()
        exchange.fault("stale-rest=0s")
        exchange.fault("slow-rest=0s")
        lines += read(feed, present(exchange))
        assert feed.repairs()["left"] == 0
        assert feed.repairs()["absent"] == 0
    is_whole(exchange, lines)


@pytest.mark.parametrize("seed", range(3))
def test_odd_pages_cost_nothing(exchange, patient, monkeypatch, seed):
    """Pages that are empty, cut short, repeat a row or overlap the one before: whole all the same, nothing absent."""
    dice, real = random.Random(seed), engine_module.answer

    def answer(venue, endpoint, parameters, age=0):
        given = dict(parameters)
        fault = (
            dice.choice(("", "empty", "short", "repeated", "overlap")) if endpoint == "market/history-trades" else ""
        )
        if fault == "overlap" and "after" in given and given.get("type") != "2":
            given["after"] = str(int(given["after"]) + 20)
        status, body, *_ = real(venue, endpoint, given, age)
        found = json.loads(body)
        rows = found.get("data", [])
        if fault == "empty":
            found["data"] = []
        elif fault == "short":
            found["data"] = rows[: dice.randint(0, len(rows))]
        elif fault == "repeated":
            found["data"] = [*rows[:1], *rows][:100]
        return rest_module.Answer(status, json.dumps(found).encode())

    monkeypatch.setattr(engine_module, "answer", answer)
    since = exchange.now_ms() - 5_000
    with feed_of(exchange, since_ms=since) as feed:
        lines = read(feed, present(exchange), 60)
        for _ in range(3):
            exchange.fault(f"drop=40:{BTC}")
            exchange.cut()
            traded(exchange, BTC, count=60)
            lines += feed.poll()
        monkeypatch.undo()
        lines += read(feed, present(exchange), 60)
        assert feed.repairs()["left"] == feed.repairs()["absent"] == 0
        assert feed.repairs()["repaired"] > 100
    is_whole(exchange, lines)


def test_past_the_bound_it_goes_on(exchange, monkeypatch, caplog):
    """REST never answers: the symbol waits as long as allowed, leaves the hole, and says so."""
    monkeypatch.setattr(feed_module, "GapTracker", functools.partial(GapTracker, wait_ms=1_000))
    with feed_of(exchange) as feed:
        lines = read(feed, lambda lines: len(lines) > 20)
        exchange.fault("busy=60s")
        exchange.fault(f"drop=5:{BTC}")
        lines += read(feed, lambda lines: feed.repairs()["left"] == 5)
        lines += read(feed, lambda lines: len(ids(lines)) > 50)
    assert [b - a for a, b in pairwise(ids(lines)) if b != a + 1] == [6]
    assert caplog.text.count("left to okx backfill") == 1


def test_duplicates_are_dropped(exchange):
    """A fill that is pushed twice is written once; without repair, everything is as it came."""
    for repair in (True, False):
        with feed_of(exchange, repair=repair) as feed:
            lines = read(feed, lambda lines: len(lines) > 20)
            exchange.fault(f"duplicate=5:{BTC}")
            exchange.fault(f"drop=5:{BTC}")
            lines += read(feed, beyond(exchange.fills(BTC)[-1].trade_id + 50))
        found = ids(lines)
        if repair:
            is_whole(exchange, lines)
        else:
            assert len(found) == len(set(found)) + 5
            assert sum(b > a + 1 for a, b in pairwise(found)) >= 1


def test_two_sockets_need_no_rest(exchange):
    """Before a planned end the new connection overlaps: nothing is missing, nothing comes twice, REST is not asked."""
    with feed_of(exchange) as feed:
        lines = read(feed, lambda lines: len(lines) > 20)
        exchange.send('{"event":"notice","code":"64008","msg":"soon","connId":"0"}', path="business")
        lines += read(feed, lambda lines: feed.state()[0].connects == 2 and len(exchange.connections()) == 1)
        lines += read(feed, present(exchange))
        assert feed.state()[0].connects == 2
    is_whole(exchange, lines)
    assert "GET market/history-trades" not in exchange.counts()


def test_since_joins_the_present(exchange):
    """The past comes first, one fill early, and the live fills follow without a seam."""
    since = exchange.now_ms() - 10_000
    with feed_of(exchange, [BTC, ETH], since_ms=since) as feed:
        lines = read(feed, present(exchange, BTC, ETH))
        lines += read(feed, lambda more: all(pushed(more, symbol) for symbol in (BTC, ETH)))
    assert json.loads(lines[0])["arg"]["channel"] == "instruments"
    for symbol in (BTC, ETH):
        is_whole(exchange, lines, symbol)
        times = [int(row["ts"]) for _, row in rows(lines, symbol)]
        assert times[0] < since <= times[1]


def test_a_past_that_takes_longer_than_memory_lasts(exchange, monkeypatch):
    """Live fills that are too many to be held wait on disk: all comes, in order, and none of them from REST."""
    monkeypatch.setattr(feed_module, "GapTracker", functools.partial(GapTracker, max_lines=5))
    exchange.fault("slow-rest=400ms")
    newest = exchange.fills(BTC)[-1].trade_id
    with feed_of(exchange, since_ms=exchange.now_ms() - 8_000) as feed:
        lines = read(feed, lambda lines: any(int(row["tradeId"]) > newest + 60 for _, row in rows(lines)))
        exchange.fault("slow-rest=0s")
        lines += read(feed, present(exchange))
        assert feed.repairs()["left"] == 0
    is_whole(exchange, lines)
    origins = [origin for origin, _ in rows(lines)]
    assert origins.count("rest") - origins.index(None) < 100


def test_resume_begins_after_what_is_known(exchange):
    """From the id after the given one on; a symbol without one begins with the present."""
    known, newest = exchange.fills(BTC)[-700].trade_id, exchange.fills(ETH)[-1].trade_id
    with feed_of(exchange, [BTC, ETH], resume={BTC: known}) as feed:
        lines = read(feed, present(exchange, BTC, ETH))
        lines += read(feed, lambda more: all(pushed(more, symbol) for symbol in (BTC, ETH)))
    is_whole(exchange, lines)
    assert ids(lines)[0] == known + 1
    assert len(ids(lines)) > 700
    assert ids(lines, ETH)[0] >= newest


def test_too_far_behind(exchange, monkeypatch, caplog):
    """What would take minutes is left to backfill: the present is not held up for it."""
    monkeypatch.setattr(repair_module, "RESUME_IDS", 100)
    known = exchange.fills(BTC)[-1000].trade_id
    with feed_of(exchange, resume={BTC: known}) as feed:
        lines = read(feed, lambda lines: len(ids(lines)) > 50)
    assert ids(lines)[0] > known + 500
    assert "okx backfill will fetch them" in caplog.text


def test_a_past_without_rest(exchange, monkeypatch, caplog):
    """When REST cannot be had, the present comes, and it is told that the past does not."""
    monkeypatch.setattr(feed_module, "GapTracker", functools.partial(GapTracker, wait_ms=1_000))
    monkeypatch.setattr(feed_module, "_INSTRUMENTS_WAIT_S", 0.2)
    with feed_of(exchange, since_ms=1, rest_url="http://127.0.0.1:9") as feed:
        lines = read(feed, lambda lines: len(ids(lines)) > 50)
    assert ids(lines) == list(range(ids(lines)[0], ids(lines)[0] + len(ids(lines))))
    assert "the past cannot be fetched" in caplog.text


@pytest.mark.parametrize("wrong", [{"channels": ["tickers"]}, {"repair": False}])
def test_the_past_wants_the_tape(wrong):
    """--since without repaired trades-all is told at once."""
    options = {
        "channels": ["trades-all"],
        "ws_url": "ws://127.0.0.1:9",
        "rest_url": "http://127.0.0.1:9",
        "since_ms": 1,
    }
    with pytest.raises(UsageError, match="can begin with the past"):
        Feed([BTC], **(options | wrong))
