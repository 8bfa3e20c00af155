"""`okx candles` as a process in a pipe."""

import json
import random
import subprocess
import sys

import pytest

T0 = 1_747_087_200_000
TRADE = (
    '{"type":"trade","exchange":"okx","symbol":"%s","trade_id":%d,"count":1,"side":"buy","price":"%s","size":"0.5",'
    '"timestamp":%d,"received":null,"source":0,"origin":"trades-all"}'
)


def trade(i, at, price="100", symbol="BTC-USDT"):
    return TRADE % (symbol, i, price, T0 + at)


def run(*arguments, data="", **options):
    command = [sys.executable, "-m", "okxcli", "candles", *map(str, arguments)]
    data = data.encode() if isinstance(data, str) else data
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60, **options)


def lines(output):
    return [json.loads(line) for line in output.splitlines()]


def tape(count=400, seed=1):
    rng = random.Random(seed)
    at, made = 0, []
    for i in range(1, count + 1):
        at += rng.choice([0, 0, 200, 900, 4000])
        made.append(
            trade(i if rng.random() < 0.99 else i + 1, at, rng.randrange(90, 110), rng.choice(["A-USDT", "B-USDT"]))
        )
    return "\n".join(made) + "\n"


def test_candle_lines_as_documented():
    """The keys of a candle line, in their order, and the counts at the end."""
    done = run("--tf", "1s", data="\n".join([trade(1, 0), trade(2, 500, "101.50"), trade(3, 1000)]))
    assert done.returncode == 0
    assert done.stdout == (
        b'{"type":"candle","exchange":"okx","symbol":"BTC-USDT","timeframe":"1s","start":1747087200000,'
        b'"timestamp":1747087201000,"open":"100","high":"101.5","low":"100","close":"101.5","volume":"1",'
        b'"base_volume":"1","quote_volume":"100.75","buy_volume":"1","trade_count":2,"first_trade_id":1,'
        b'"last_trade_id":2,"closed":true,"complete":true,"revision":0,"origin":"trades"}\n'
    )
    counts = json.loads(done.stderr.decode().removeprefix("okx candles: "))
    assert counts["lines_in"] == 3
    assert counts["open_bars"] == 1
    assert counts["candles"] == counts["lines_out"] == 1


def test_pass_keeps_every_line_a_bar_before_the_one_that_closed_it():
    """Lines of types that candles does not know pass too, as they came; without --pass they are dropped."""
    other = '{"type":"note","text":"keep me"}'
    ticker = '{"type":"ticker","exchange":"okx","symbol":"BTC-USDT","timestamp":1747087200000}'
    data = [trade(1, 0), other, trade(2, 1000), ticker]
    done = run("--tf", "1s", "--pass", data="\n".join(data))
    assert done.returncode == 0
    out = done.stdout.decode().splitlines()
    assert [line for line in out if '"candle"' not in line] == data
    assert '"candle"' in out[2]
    assert out[3] == data[2]
    plain = run("--tf", "1s", data="\n".join(data))
    assert [line["type"] for line in lines(plain.stdout)] == ["candle"]


@pytest.mark.parametrize("seed", range(6))
def test_cutting_the_input_at_any_byte_changes_no_byte(seed):
    """However the input is cut into writes, the output is the same; a shorter input gives a prefix of it."""
    data = tape(120, seed).encode()
    options = ["--tf", "1s,5s,1m", "--pass", "--fill", "--partial", "-q"]
    whole = run(*options, data=data)
    assert whole.returncode == 0
    rng = random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, "-m", "okxcli", "candles", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    at = 0
    while at < len(data):
        size = rng.choice([1, 7, 100, 3000])
        process.stdin.write(data[at : at + size])
        process.stdin.flush()
        at += size
    out, _ = process.communicate()
    assert out == whole.stdout
    # Up to a cut between two lines nothing is known of what follows; only what the end of input writes may differ.
    cut = data.index(b"\n", rng.randrange(len(data) // 2)) + 1
    part = run("--tf", "1s,5s,1m", "-q", data=data[:cut]).stdout.splitlines()
    full = run("--tf", "1s,5s,1m", "-q", data=data).stdout.splitlines()
    first_revisions = [line for line in part if b'"revision":0' in line]
    assert [line for line in full if b'"revision":0' in line][: len(first_revisions)] == first_revisions


def test_a_torn_last_line_costs_itself_alone():
    """Input cut off in the middle of a line: what is before it counts, and the reject is told."""
    data = tape(50)
    torn = data[: len(data) - 30]
    done = run("--tf", "1s", data=torn)
    assert done.returncode == 65
    assert b"okx candles: line 50: not JSON" in done.stderr
    assert done.stdout == run("--tf", "1s", data=torn[: torn.rindex("\n") + 1]).stdout


def test_a_time_that_cannot_be_ends_no_bar():
    """One fill of 2096 among others is told and passed over, with or without a stamp; the bars are those without it."""
    good = [trade(n, n * 500) for n in range(1, 9)]
    wild = trade(9, 4_000_000_000_000 - T0)
    stamped = wild.replace('"received":null', f'"received":{T0 + 5_000}')
    rest = [trade(n, n * 500) for n in range(9, 20)]
    clean = run("--tf", "1s", "--fill", data="\n".join(good + rest))
    for bad in (wild, stamped):
        done = run("--tf", "1s", "--fill", data="\n".join([*good, bad, *rest]))
        assert (done.returncode, done.stdout) == (65, clean.stdout)
        assert b"line 9: timestamp 4000000000000 is" in done.stderr and b"h ahead of" in done.stderr
    bars = [line.replace(b"1747087", b"4000000") for line in clean.stdout.splitlines()]
    done = run("--from", "1s", "--tf", "5s", data=b"\n".join([*clean.stdout.splitlines(), bars[0]]))
    assert done.returncode == 65 and b"start 4000000" in done.stderr


def test_a_clock_that_is_behind_is_told():
    """Every fill refused: one line says whose fault that is, and how they come back."""
    ahead = 4_000_000_000_000 - T0
    done = run("--tf", "1s", "-q", data="\n".join(trade(n, ahead + n) for n in range(1, 41)))
    assert done.returncode == 65
    (line,) = [line for line in done.stderr.decode().splitlines() if "in a row" in line]
    assert "it must be this machine's clock that is behind" in line and "NTP" in line


def test_candles_from_candles():
    """--from takes candle lines and leaves trades alone."""
    data = tape(600, 3)
    small = run("--tf", "1s", data=data).stdout
    direct = {(c["symbol"], c["timestamp"]): c for c in lines(run("--tf", "5s", data=data).stdout)}
    rolled = {(c["symbol"], c["timestamp"]): c for c in lines(run("--from", "1s", "--tf", "5s", data=small).stdout)}
    assert len(rolled) > 50
    assert {key: c | {"revision": 0} for key, c in rolled.items()} == {
        key: direct[key] | {"revision": 0} for key in rolled
    }
    assert len(direct) - len(rolled) <= 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tf", "7m"], "7m: seconds, minutes and hours must divide a day"),
        (["--tf", "1d", "--from", "1d+8"], "1d bars are not made of 1d+8 bars"),
        (["--tf", "1m", "--lateness", "soon"], "not a duration"),
        (["--tf", "1m", "--frm", "1s"], "No such option"),
        ([], "Missing option '--tf'"),
        (["--tf", "1m", "/nowhere/at/all"], "cannot read /nowhere/at/all"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told):
    """Exit 2, one line that names what is wrong, no traceback."""
    done = run(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()[:1]
    assert line.startswith("okx candles: ")
    assert told in line
    assert b"Traceback" not in done.stderr


def test_live_bars_are_closed_by_the_wall_clock():
    """With fresh trades a bar comes when the clock has passed it, although no further trade does."""
    import time

    process = subprocess.Popen(
        [sys.executable, "-m", "okxcli", "candles", "--tf", "1s", "--grace", "300ms", "--pass", "-q"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    for symbol, at in (("ETH-USDT", lambda: 1_747_087_163_557), ("BTC-USDT", lambda: time.time_ns() // 1_000_000)):
        line = (TRADE % (symbol, 7, "100", at())).encode() + b"\n"
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line  # from the first one on it is at work
    bar = json.loads(process.stdout.readline())
    came = time.time_ns() // 1_000_000
    assert (bar["closed"], bar["complete"], bar["revision"]) == (True, False, 0)
    assert bar["timestamp"] + 300 <= came < bar["timestamp"] + 10_000
    out, _ = process.communicate()
    assert out == b""
