"""`okx read` as a process: lines out, ranges, --follow, words for what is not there."""

import json
import os
import signal
import subprocess
import sys

import msgspec
import pytest
from storage_samples import every_state, ticker

from okxcli.commands.read import STATES as READS
from okxcli.core.codec import encode
from okxcli.core.states import STATES

OKX = [sys.executable, "-m", "okxcli"]
T0 = 1747087200000


def fill(trade_id, symbol="BTC-USDT", timestamp=None):
    return (
        f'{{"type":"trade","exchange":"okx","symbol":"{symbol}","trade_id":{trade_id},"count":1,"side":"buy",'
        f'"price":"0.00000853","size":"12345678901.5","timestamp":{timestamp or T0 + trade_id * 1000},"received":null,'
        f'"source":null,"origin":"rest"}}\n'
    ).encode()


def bar(minute, timeframe="1m"):
    start = T0 + minute * 60_000
    return (
        f'{{"type":"candle","exchange":"okx","symbol":"BTC-USDT","timeframe":"{timeframe}","start":{start},'
        f'"timestamp":{start + 60_000},"open":"1","high":"2","low":"0.5","close":"1.5","volume":"3","base_volume":null,'
        f'"quote_volume":null,"buy_volume":"1","trade_count":2,"first_trade_id":{minute * 2 + 1},'
        f'"last_trade_id":{minute * 2 + 2},"closed":true,"complete":true,"revision":0,"origin":"trades"}}\n'
    ).encode()


@pytest.fixture
def environment(database, tmp_path):
    """The environment of a user with an empty home and the test's database."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    return clean | {"HOME": str(tmp_path), "OKX_DSN": database}


@pytest.fixture
def run(environment):
    """Run `okx`."""

    def run(*arguments, data=b"", **more):
        return subprocess.run(
            [*OKX, *arguments], input=data, capture_output=True, check=False, timeout=60, env=environment | more
        )

    return run


def test_stored_lines_come_back(run):
    """What went in comes out, byte for byte; ranges by ISO time, epoch ms; limits; files."""
    data = b"".join([*map(fill, range(1, 8)), *map(bar, range(5))])
    assert run("store", data=data).returncode == 0
    assert run("read", "trades", "BTC-USDT").stdout == b"".join(map(fill, range(1, 8)))
    assert run("read", "candles", "BTC-USDT").stdout == b"".join(map(bar, range(5)))
    some = run("read", "trades", "BTC-USDT", "--since", "2025-05-12T22:00:02Z", "--until", str(T0 + 5000))
    assert some.stdout == b"".join(map(fill, (2, 3, 4)))
    assert run("read", "candles", "BTC-USDT", "-n", "2").stdout == bar(3) + bar(4)
    assert run("read", "candles", "BTC-USDT", "-n", "2", "--since", str(T0)).stdout == bar(0) + bar(1)
    assert run("read", "books", "BTC-USDT").stdout == b""


def test_range_and_symbols_of_one_input_feed_candles(run):
    """A read of trades is input for okx candles, several symbols in one stream."""
    data = b"".join(fill(i, symbol) for i in range(1, 130) for symbol in ("BTC-USDT", "ETH-USDT"))
    run("store", data=data)
    lines = run("read", "trades", "ETH-USDT", "BTC-USDT", "--context").stdout
    assert sorted(lines.splitlines()) == sorted(data.splitlines())
    times = [json.loads(line)["timestamp"] for line in lines.splitlines()]
    assert times == sorted(times)
    bars = run("candles", "--tf", "1m", data=lines)
    found = [json.loads(line) for line in bars.stdout.splitlines()]
    assert sorted((one["symbol"], one["trade_count"]) for one in found if one["complete"]) == [
        ("BTC-USDT", 59),  # id 1 is the first there ever was, at the first second
        ("BTC-USDT", 60),
        ("ETH-USDT", 59),
        ("ETH-USDT", 60),
    ]


def test_follow_goes_on_until_it_is_interrupted(run, environment):
    """First what is there, then each new line soon after its commit; Ctrl-C ends it as a signal does."""
    run("store", data=fill(1))
    command = [*OKX, "read", "trades", "BTC-USDT", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == fill(1)
        for number in (2, 3):
            run("store", data=fill(number))
            assert process.stdout.readline() == fill(number)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
        assert process.stderr.read() == b""


def test_reader_that_leaves_ends_it_quietly(run, environment):
    """`okx read | head -1` ends as killed by SIGPIPE."""
    run("store", data=b"".join(map(fill, range(1, 20_000))))
    script = f"'{sys.executable}' -m okxcli read trades BTC-USDT | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=60, env=environment)
    assert done.stdout == fill(1) + b"141\n"
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trades", "BTC-USD"], 1, "nothing of BTC-USD is stored"),
        (["candles", "BTC-USDT", "--tf", "7x"], 2, "7x"),
        (["trades", "BTC-USDT", "--origin", "books5"], 2, "--origin trades"),
        (["trades", "BTC-USDT", "--since", "yore"], 2, "not a time"),
        (["trades", "BTC-USDT", "--follow", "--until", "today"], 2, "--until"),
    ],
)
def test_mistakes_are_one_line(run, arguments, code, words):
    """What is wrong and what to do; no traceback."""
    run("store", data=fill(1))
    done = run("read", *arguments)
    assert done.returncode == code
    assert words in done.stderr.decode() and done.stderr.count(b"\n") == 1


def test_no_data_is_69_and_makes_nothing(run, environment, tmp_path):
    """Neither an empty external database nor a missing embedded one is touched."""
    assert run("read", "trades", "BTC-USDT").returncode == 69
    done = run("read", "trades", "BTC-USDT", OKX_DSN="")
    assert done.returncode == 69
    assert done.stderr.startswith(
        b"okx read: no data at ~/.local/share/okx (embedded: no --dsn, OKX_DSN, config or PGHOST)"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("described", STATES, ids=lambda one: one.word)
def test_states_come_back(run, described):
    """Every type of state by its own word: byte for byte, once, by time whatever the order they came in; ranges."""
    first = next(one for one in (ticker(), *every_state()) if type(one) is described.kind)
    first = msgspec.structs.replace(first, symbol=described.subject(first.symbol) or first.symbol)
    all_of_it = [msgspec.structs.replace(first, timestamp=first.timestamp + n * 1000, received=None) for n in range(5)]
    lines = [encode(one) + b"\n" for one in all_of_it]
    done = run("store", data=b"".join([*lines[2:], *lines[:2], lines[3]]))
    counts = json.loads(done.stderr.splitlines()[-1].split(b": ", 1)[1])
    assert (done.returncode, counts[described.table], counts["duplicates"]) == (0, 5, 1)
    symbol, until = first.symbol, str(first.timestamp + 3000)
    assert run("read", described.word, symbol).stdout == b"".join(lines)
    assert run("read", described.word, symbol, "-n", "2").stdout == b"".join(lines[3:])
    some = run("read", described.word, symbol, "--since", str(first.timestamp + 1000), "--until", until, "-n", "1")
    assert some.stdout == lines[1]
    assert run("read", described.word, "ETH-USDT").returncode == 1
    if described.pairs:  # of a contract it is that of its pair
        assert run("read", described.word, f"{symbol}-SWAP", symbol).stdout == b"".join(lines)
    assert {READS[described.word][1]} == {described.tag}


def test_states_are_followed(environment, run):
    """What is stored later comes, each once, several of one moment too; what steps back behind the newest does not."""
    base = every_state()[-1]  # liquidations: several may share a millisecond
    made = [msgspec.structs.replace(base, timestamp=base.timestamp + ms, size=base.size + n)
            for n, ms in enumerate((0, 1000, 1000, 1000, 500, 2000))]  # fmt: skip
    lines = [encode(one) + b"\n" for one in made]
    assert run("store", data=b"".join(lines[:2])).returncode == 0
    command = [*OKX, "read", "liquidations", base.symbol, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as reading:
        assert [reading.stdout.readline() for _ in range(2)] == lines[:2]
        run("store", data=lines[2])
        assert reading.stdout.readline() == lines[2]
        run("store", data=lines[4] + lines[3])
        assert reading.stdout.readline() == lines[3]
        run("store", data=lines[5])
        assert reading.stdout.readline() == lines[5]
        reading.send_signal(signal.SIGINT)
    assert run("read", "liquidations", base.symbol).stdout == b"".join(
        sorted(lines, key=lambda x: json.loads(x)["timestamp"])
    )
