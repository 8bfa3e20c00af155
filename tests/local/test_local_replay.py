"""Recordings played back: bytes, order, pace, and what REST makes of them."""

import gzip
import json
import random
import time
from itertools import pairwise

import pytest
import zstandard
from local_client import rest
from recordings import DATA, SHARED, captured, collected, needs_shared

from okxcli.errors import UsageError
from okxcli.local.network.engine import Options
from okxcli.local.recording import read_pushes, survey
from okxcli.local.replay import LocalReplay

FREE = Options(limits=0)
BTC = "BTC-USDT"
START = 1_747_087_140_000


def push(number, shift, channel="trades-all", **more):
    """Return a push of one fill `shift` ms after START, as bytes."""
    fill = {
        "instId": BTC,
        "tradeId": str(number),
        "px": f"{number}.5",
        "sz": "2",
        "side": "buy",
        "ts": str(START + shift),
    }
    message = {"arg": {"channel": channel, "instId": BTC}, "data": [fill], **more}
    return json.dumps(message, separators=(",", ":")).encode()


def write(path, lines):
    """Write `lines`, packed by name."""
    raw = b"\n".join(lines) + b"\n"
    if path.suffix == ".gz":
        raw = gzip.compress(raw)
    elif path.suffix == ".zst":
        raw = zstandard.compress(raw)
    path.write_bytes(raw)
    return path


def listen(client, exchange, *args, path="business"):
    """Return a client that is subscribed to `args`."""
    one = client(exchange, path)
    one.ask("subscribe", *args)
    assert [one.next()["event"] for _ in args] == ["subscribe"] * len(args)
    return one


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_pushes_come_as_recorded(tmp_path, client, name):
    """Every push comes in its order with the recorded bytes, without the keys that okx stream added."""
    lines = [push(1, 0), push(2, 10, received=START + 20), push(3, 20, origin="rest", received=START + 30)]
    file = write(tmp_path / name, lines)
    with LocalReplay([file], speed=0, options=FREE) as exchange:
        one = listen(client, exchange, f"trades-all:{BTC}")
        heard = [one.socket.recv(timeout=5).encode() for _ in range(3)]
        assert heard == [push(1, 0), push(2, 10), push(3, 20)]
        assert exchange.feed.over
        assert exchange.feed.played == 3


def test_nothing_is_played_before_somebody_subscribes(tmp_path, client):
    """The first subscriber gets the recording from its beginning, however late it comes."""
    file = write(tmp_path / "a", [push(n, n) for n in range(1, 50)])
    with LocalReplay([file], speed=0, options=FREE) as exchange:
        time.sleep(0.3)
        assert exchange.feed.played == 0
        one = listen(client, exchange, f"trades-all:{BTC}")
        assert [int(row["tradeId"]) for row in one.pushes("trades-all", 49)] == list(range(1, 50))


def test_pace_is_that_of_receipt_times_speed(tmp_path, client):
    """Pushes keep their distances, divided by the speed; `received` counts where it is there, else the data's time."""
    lines = [push(1, 0), push(2, 2_000), push(3, 2_000, received=START + 8_000)]
    with LocalReplay([write(tmp_path / "a", lines)], speed=10, options=FREE) as exchange:
        begun = time.monotonic()
        one = listen(client, exchange, f"trades-all:{BTC}")
        times = []
        for _ in range(3):
            one.next()
            times.append(time.monotonic() - begun)
    assert times[1] >= 0.2
    assert 0.8 <= times[2] < 8


def test_several_files_are_one_recording(tmp_path, client):
    """Files are merged by time; within each the order is kept even where times step back."""
    one = write(tmp_path / "a", [push(n, n * 10) for n in (1, 4, 3, 9)])
    other = write(tmp_path / "b", [push(n, n * 10 + 5) for n in (2, 6)])
    with LocalReplay([other, one], speed=0, options=FREE) as exchange:
        listener = listen(client, exchange, f"trades-all:{BTC}")
        assert [int(row["tradeId"]) for row in listener.pushes("trades-all", 6)] == [1, 2, 4, 3, 6, 9]


def test_loop_begins_again_with_the_same_ids(tmp_path, client):
    """After the last message comes the first; REST holds each fill once."""
    with LocalReplay(
        [write(tmp_path / "a", [push(n, n) for n in (1, 2)])], speed=1, loop=True, options=FREE
    ) as exchange:
        one = listen(client, exchange, f"trades-all:{BTC}")
        assert [int(row["tradeId"]) for row in one.pushes("trades-all", 5)] == [1, 2, 1, 2, 1]
        assert [row["tradeId"] for row in rest(exchange, f"market/trades?instId={BTC}")[1]["data"]] == ["2", "1"]


def test_rest_and_candles_come_from_the_recorded_fills(tmp_path, client):
    """Trades and candles are there by REST, and candles by subscription, once their fills were played."""
    lines = [push(n, n * 1_000) for n in range(1, 200)]
    with LocalReplay([write(tmp_path / "a", lines)], speed=200, options=FREE) as exchange:
        one = listen(client, exchange, f"trades-all:{BTC}", f"candle1m:{BTC}")
        one.pushes("trades-all", 199)
        _, page = rest(exchange, f"market/history-trades?instId={BTC}")
        assert [int(row["tradeId"]) for row in page["data"]] == list(range(199, 99, -1))
        _, page = rest(exchange, f"market/candles?instId={BTC}")
        assert [row[5] for row in page["data"]] == ["40", "120", "120", "118"]
        assert page["data"][-1][1:5] == ["1.5", "59.5", "1.5", "59.5"]


def test_only_what_was_recorded_can_be_subscribed(tmp_path, client):
    """Other channels and symbols get 60018; the wrong path too."""
    with LocalReplay([write(tmp_path / "a", [push(1, 0)])], options=FREE) as exchange:
        for path, argument in (
            ("business", "trades-all:ETH-USDT"),
            ("public", f"trades:{BTC}"),
            ("public", f"books5:{BTC}"),
        ):
            one = client(exchange, path)
            one.ask("subscribe", argument)
            assert one.next()["code"] == "60018"


def test_bad_lines_and_control_events_are_passed_over(tmp_path, caplog):
    """Each bad line is told once with its number and reason; events are no matter; neighbours are unharmed."""
    lines = [
        b'{"event":"subscribe","arg":{"channel":"trades"}}',
        push(1, 0),
        b"{torn",
        b"",
        b"[]",
        b'{"arg":{}}',
        push(2, 5),
    ]
    file = write(tmp_path / "a", lines)
    contents = survey([file])
    assert (contents.pushes, contents.start_ms) == (2, START)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["line 3", "line 5", "line 6"]
    assert [p.data[0]["tradeId"] for p in read_pushes(file)] == ["1", "2"]


def test_damaged_fills_do_no_harm(tmp_path, client):
    """A push whose trade is damaged is played as it is and left out of REST."""
    broken = push(2, 5).replace(b'"2.5"', b'"NaN"')
    strange = push(3, 6).replace(b'"data":[{', b'"data":[7,{')
    with LocalReplay([write(tmp_path / "a", [push(1, 0), broken, strange])], speed=0, options=FREE) as exchange:
        one = listen(client, exchange, f"trades-all:{BTC}")
        assert len([one.next() for _ in range(3)]) == 3
        assert [row["tradeId"] for row in rest(exchange, f"market/trades?instId={BTC}")[1]["data"]] == ["3", "1"]


@pytest.mark.parametrize("name", ["missing", "empty", "noise.gz", "noise.zst"])
def test_unusable_files_are_one_clear_error(tmp_path, name):
    """A file that is not there, or holds no push, is named with the reason."""
    path = tmp_path / name
    if name != "missing":
        path.write_bytes(b"noise" if "noise" in name else b"")
    with pytest.raises(UsageError, match=name):
        LocalReplay([path])


@pytest.mark.parametrize("name", ["torn.gz", "torn.zst"])
def test_torn_files_are_played_up_to_the_tear(tmp_path, name, caplog):
    """What is before the tear is there, and the tear is told."""
    lines = [push(random.randrange(10**9), n) for n in range(5_000)]
    path = write(tmp_path / name, lines)
    path.write_bytes(path.read_bytes()[:-2_000])
    contents = survey([path])
    assert 1_000 < contents.pushes < 5_000
    assert f"line {contents.pushes + 1}: " in caplog.text


def test_the_capture_of_2022_plays_whole(tmp_path, client):
    """The 74 recorded fills and 28 tickers come out as they went in, futures and swaps among them."""
    lines = list(captured(DATA / "okx-2022-05-13.ws.txt.gz"))
    file = write(tmp_path / "a", lines)
    with LocalReplay([file], speed=0, options=FREE) as exchange:
        symbols = ("BTC-USDT", "BTC-USD-220527", "UNI-USD-SWAP")
        one = listen(client, exchange, *(f"{c}:{s}" for c in ("trades", "tickers") for s in symbols), path="public")
        heard = [one.socket.recv(timeout=5).encode() for _ in range(74 + 28)]
        wanted = [line for line in lines if b'"data"' in line and (b'"trades"' in line or b'"tickers"' in line)]
        assert sorted(heard) == sorted(wanted)
        ids = [f.trade_id for f in exchange.fills("BTC-USDT")]
        assert len(ids) == 69
        assert all(b == a + 1 for a, b in pairwise(ids))


@needs_shared
def test_merged_trades_of_2024_play_with_their_holes(tmp_path, client):
    """A recording that lost every other message keeps exactly its 380 missing fills."""
    lines = list(collected(SHARED / "ws" / "moon-2024-01-25.btc-usdt-swap.trades.json.gz"))
    with LocalReplay([write(tmp_path / "a.gz", lines)], speed=0, options=FREE) as exchange:
        one = listen(client, exchange, "trades:BTC-USDT-SWAP", path="public")
        rows = one.pushes("trades", len(lines))
        holes = sum(int(b["tradeId"]) - int(b["count"]) - int(a["tradeId"]) for a, b in pairwise(rows))
        assert holes == 380


def test_slow_clients_hold_the_recording_up_and_lose_nothing(tmp_path, client):
    """At full speed every message arrives, also at a client that takes its time."""
    file = write(tmp_path / "a.gz", [push(n, n) for n in range(1, 30_001)])
    with LocalReplay([file], speed=0, options=FREE) as exchange:
        one = listen(client, exchange, f"trades-all:{BTC}")
        time.sleep(1)
        ids = [int(row["tradeId"]) for row in one.pushes("trades-all", 30_000)]
        assert ids == list(range(1, 30_001))
