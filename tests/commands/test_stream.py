"""`okx stream` as a process, against the local exchange."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options


@pytest.fixture(scope="module")
def exchange():
    symbols = ["BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP"]
    with LocalExchange(symbols, rate=200, seed=9, history_s=10, options=Options(limits=0)) as exchange:
        yield exchange


@pytest.fixture
def env(exchange, tmp_path):
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    return {**os.environ, **home, "OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}


def command(*arguments):
    return [sys.executable, "-m", "okxcli", "stream", *map(str, arguments)]


def run(env, *arguments):
    return subprocess.run(command(*arguments), env=env, capture_output=True, check=False, timeout=60)


def started(env, *arguments):
    # Unbuffered: what is read line by line must not keep back what `communicate` reads.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    return subprocess.Popen(command(*arguments), env=env, **pipes)


def kinds(output):
    return [json.loads(line)["arg"]["channel"] for line in output.splitlines()]


def ids(output):
    messages = [json.loads(line) for line in output.splitlines()]
    return [int(m["data"][0]["tradeId"]) for m in messages if m["arg"]["channel"] == "trades-all"]


def test_count_is_that_of_data_messages(exchange, env):
    """-n ends after N pushes; the line that says what the symbol is comes first and does not count."""
    done = run(env, "BTC-USDT", "-n", 25)
    assert done.returncode == 0
    assert kinds(done.stdout) == ["site", "instruments"] + ["trades-all"] * 25
    found = ids(done.stdout)
    assert found == list(range(found[0], found[0] + 25))
    assert set(found) <= {fill.trade_id for fill in exchange.fills("BTC-USDT")}
    (told,) = done.stderr.decode().splitlines()
    assert told == f"okx stream: connected to {exchange.ws_url}/ws/v5/business, 1 subscriptions"


def test_channels_stamp_and_file(env, tmp_path):
    """--channel takes a list, --stamp adds the arrival, -o writes a packed file, -q is quiet."""
    out = tmp_path / "raw.gz"
    began = time.time_ns() // 1_000_000
    done = run(env, "BTC-USDT", "ETH-USDT", "-c", "trades-all, tickers", "--stamp", "-n", "400", "-o", out, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    lines = [json.loads(line) for line in gzip.decompress(out.read_bytes()).splitlines()[1:]]
    assert {line["arg"]["channel"] for line in lines} == {"instruments", "trades-all", "tickers"}
    assert all(line["received"] >= began for line in lines)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, -15)])
def test_signals_end_it_with_whole_lines(env, signum, code):
    """Ctrl-C and TERM stop intake; what was taken in is written whole; the process dies by the signal."""
    with started(env, "BTC-USDT") as process:
        output = b"".join(process.stdout.readline() for _ in range(30))
        process.send_signal(signum)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == code
    output += rest
    found = ids(output)
    assert output.endswith(b"}\n")
    assert len(found) >= 28
    assert found == list(range(found[0], found[0] + len(found)))
    assert b"Traceback" not in errors


def test_a_reader_that_leaves_ends_it_quietly(env):
    """`okx stream ... | head -3` prints three lines and no complaint; the status is that of SIGPIPE."""
    script = f'"{sys.executable}" -m okxcli stream BTC-USDT | head -3 | wc -l; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, check=False, timeout=60)
    assert done.stdout.split() == [b"3", b"141"]
    assert done.stderr.count(b"\n") == 1  # connected


def test_pipe_to_normalize_loses_nothing(exchange, env):
    """What stream writes, normalize takes, line for line, after a Ctrl-C as well."""
    script = f'"{sys.executable}" -m okxcli stream BTC-USDT BTC-USDT-SWAP -c trades-all,books5,tickers -n 500'
    script = f'set -o pipefail; {script} | tee raw | "{sys.executable}" -m okxcli normalize'
    done = subprocess.run(
        ["bash", "-c", script], env=env, cwd=env["HOME"], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0
    with open(os.path.join(env["HOME"], "raw"), "rb") as raw:
        assert len(raw.readlines()) == len(done.stdout.splitlines()) > 100


def test_wrong_symbol(env):
    """One line: what OKX does not have, on which channel, and what was probably meant; exit 2."""
    done = run(env, "BTC-USTD")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        "okx stream: OKX has no BTC-USTD on trades-all (60018). Did you mean BTC-USDT? "
        "All names: okx instruments --symbols\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["BTC-USDT", "-c", "candel1m"], 2, "Did you mean candle1m?"),
        (["BTC-USDT", "-c", ","], 2, "no channel"),
        (["BTC USDT"], 2, "not a symbol: 'BTC USDT'"),
        (["BTC-USDT", "--duration", "soon"], 2, "not a duration"),
        (["BTC-USDT", "-n", "0"], 2, "-n"),
        (["BTC-USDT", "--ws-url", "http://x"], 2, "not a WebSocket base"),
        (["BTC-USDT", "-o", "/no/such/folder/x"], 74, "cannot write /no/such/folder/x"),
        (
            "BTC-USDT --ws-url ws://127.0.0.1:9 --rest-url http://127.0.0.1:9 --connect-timeout 0.5".split(),
            69,
            "connection refused",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(env, arguments, code, told):
    """Each with its exit code, and no traceback."""
    done = run(env, *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("okx stream: ")
    assert told in last
    assert b"Traceback" not in done.stderr


def test_killed_sockets_do_not_end_it(exchange, env):
    """The connection is cut again and again; the stream goes on and tells it, a line each way."""
    with started(env, "ETH-USDT") as process:
        output = b"".join(process.stdout.readline() for _ in range(3))
        for _ in range(3):
            exchange.cut()
            assert exchange.wait_subscribed("trades-all", "ETH-USDT", 60)
            output += process.stdout.readline()
        process.terminate()
        rest, errors = process.communicate(timeout=60)
    found = ids(output + rest)
    assert found == sorted(found)
    assert errors.count(b"connected to") == 4
    assert errors.count(b"connecting again") == 3
