"""`okx history` as a process, against the local exchange, and `okx stream` where it begins with the past."""

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options


@pytest.fixture(scope="module")
def exchange():
    symbols = ["BTC-USDT", "ETH-USDT"]
    with LocalExchange(symbols, rate=60, seed=33, history_s=120, options=Options(limits=0)) as exchange:
        yield exchange


@pytest.fixture
def env(exchange, tmp_path):
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    return {**os.environ, **home, "OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}


def command(*arguments):
    return [sys.executable, "-m", "okxcli", *map(str, arguments)]


def run(env, *arguments, **options):
    return subprocess.run(command(*arguments), env=env, capture_output=True, check=False, timeout=60, **options)


def ids(output, symbol="BTC-USDT"):
    messages = [json.loads(line) for line in output.splitlines()]
    return [int(m["data"][0]["tradeId"]) for m in messages if m["arg"] == {"channel": "trades-all", "instId": symbol}]


def test_fills_of_a_span(exchange, env, tmp_path):
    """Instruments, then every fill between two moments, one early, in the shape of a push; packed by name."""
    until = exchange.now_ms() - 1000
    since = until - 20_000
    out = tmp_path / "past.gz"
    done = run(env, "history", "BTC-USDT", "--since", since, "--until", until, "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    lines = gzip.decompress(out.read_bytes()).splitlines()
    assert [json.loads(line)["arg"]["channel"] for line in lines[:3]] == ["site", "instruments", "trades-all"]
    fills = exchange.fills("BTC-USDT")
    first = min(fill.trade_id for fill in fills if fill.ts >= since)
    last = max(fill.trade_id for fill in fills if fill.ts < until)
    inside = [fill for fill in fills if first - 1 <= fill.trade_id <= last]
    assert ids(b"\n".join(lines)) == [fill.trade_id for fill in inside]
    fill = inside[-1]
    row = {"instId": "BTC-USDT", "tradeId": str(fill.trade_id), "px": fill.price, "sz": fill.size, "side": fill.side}
    assert list(json.loads(lines[-1])) == ["arg", "data", "origin"]
    assert json.loads(lines[-1])["data"] == [row | {"ts": str(fill.ts), "source": str(fill.source)}]


def test_several_symbols_through_the_pipe(exchange, env):
    """The lines of two symbols are merged by time; candles of them begin complete, thanks to the fill before."""
    until = exchange.now_ms() // 5000 * 5000
    script = (
        f'"{sys.executable}" -m okxcli history BTC-USDT ETH-USDT --since {until - 15_000} --until {until}'
        f' | "{sys.executable}" -m okxcli normalize -q | "{sys.executable}" -m okxcli candles --tf 5s --no-live -q'
    )
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, check=False, timeout=60)
    assert done.stderr == b""
    candles = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    for symbol in ("BTC-USDT", "ETH-USDT"):
        found = [c for c in candles if c["symbol"] == symbol and c["start"] >= until - 15_000]
        assert [c["start"] for c in found[:2]] == [until - 15_000, until - 10_000]
        assert all(c["complete"] for c in found[:2])


def test_candles_of_the_exchange(exchange, env):
    """OKX's own bars, confirmed alone, that normalize takes for final ones."""
    done = run(env, "history", "ETH-USDT", "--channel", "candle1s", "--since", "30s")
    lines = [json.loads(line) for line in done.stdout.splitlines()][2:]
    assert 25 <= len(lines) <= 30
    starts = [int(line["data"][0][0]) for line in lines]
    assert all(b - a == 1000 for a, b in pairwise(starts))
    normalized = run(env, "normalize", input=done.stdout)
    assert [json.loads(line)["complete"] for line in normalized.stdout.splitlines()[2:]] == [True] * len(lines)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["BTC-USTD", "--since", "1m"], 2, "OKX has no BTC-USTD. Did you mean BTC-USDT?"),
        (["BTC-USDT"], 2, "--since"),
        (["BTC-USDT", "--since", "1m", "--until", "2m"], 2, "not before --until"),
        (["BTC-USDT", "--since", "soon"], 2, "not a time"),
        (["BTC-USDT", "--since", "1m", "-c", "books5"], 2, "keeps no past of books5"),
        (["BTC-USDT", "--since", "1m", "-c", "candle6H"], 2, "candle6Hutc"),
        (["BTC-USDT", "--since", "1m", "-c", "candel1m"], 2, "Did you mean candle1m?"),
        (["BTC-USDT", "--files", "/no/such/file.zip"], 2, "/no/such/file.zip"),
    ],
)
def test_mistakes_are_told_in_one_line(env, arguments, code, told):
    """Each with its exit code, no line of data, and no traceback."""
    done = run(env, "history", *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("okx history: ")
    assert told in line


def test_ids_that_rest_does_not_show_are_told(exchange, env):
    """The exchange lost some: the rest comes, and stderr says how many and which."""
    since = exchange.now_ms()
    exchange.fault("lose=3:BTC-USDT")
    deadline = time.monotonic() + 60
    while not exchange.absent("BTC-USDT") or exchange.fills("BTC-USDT")[-1].trade_id <= exchange.absent("BTC-USDT")[-1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    absent = exchange.absent("BTC-USDT")
    done = run(env, "history", "BTC-USDT", "--since", since)
    assert done.returncode == 0
    assert not set(ids(done.stdout)) & set(absent)
    assert f"BTC-USDT: OKX does not show 3 fills: {absent[0]} to {absent[-1]}" in done.stderr.decode()


def test_signals_and_readers_that_leave(env):
    """Ctrl-C ends it at once with whole lines; `| head` quietly."""
    with subprocess.Popen(
        command("history", "BTC-USDT", "--since", "100s"), env=env, stdout=subprocess.PIPE
    ) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == -signal.SIGINT
    assert (first + rest).endswith(b"}\n")
    script = f'"{sys.executable}" -m okxcli history BTC-USDT --since 100s | head -2 | wc -l; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, check=False, timeout=60)
    assert (done.stdout.split(), done.stderr) == ([b"2", b"141"], b"")


def test_progress_on_a_terminal(env, tmp_path):
    """With stderr on a terminal and stdout elsewhere there is a bar; in a pipe there is none."""
    master, slave = pty.openpty()
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(
            command("history", "BTC-USDT", "--since", "100s"),
            env=env | {"TERM": "xterm", "COLUMNS": "100"}, stdin=slave, stdout=out, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # how Linux says that nobody has the other end any more
            pass
        finally:
            os.close(master)
        assert process.wait(60) == 0
    assert b"okx history" in shown
    assert b"okx history" not in (tmp_path / "out").read_bytes()


def test_resume_begins_where_postgres_ends(exchange, env, database):
    """stream | store, a pause, stream --resume | store: one tape without a hole. A symbol without any is told."""
    script = f'"{sys.executable}" -m okxcli stream BTC-USDT {{}} | "{sys.executable}" -m okxcli normalize -q'
    script += f' | "{sys.executable}" -m okxcli store -q'
    env = env | {"OKX_DSN": database}
    for options in ("-n 20 -q", "-n 100 --resume"):
        done = subprocess.run(
            ["bash", "-c", script.format(options)], env=env, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
    read = run(env, "read", "trades", "BTC-USDT")
    found = [json.loads(line)["trade_id"] for line in read.stdout.splitlines()]
    assert found == list(range(found[0], found[0] + len(found)))
    assert len(found) == 120
    other = run(env, "stream", "ETH-USDT", "--resume", "-n", 2)
    assert "ETH-USDT: nothing is stored yet" in other.stderr.decode()
    assert len(ids(other.stdout, "ETH-USDT")) == 2
    wrong = run(env, "stream", "BTC-USDT", "--resume", "--ws-url", "wss://ws.okx.com")
    assert wrong.returncode == 78
    assert "its ids say nothing here" in wrong.stderr.decode()
