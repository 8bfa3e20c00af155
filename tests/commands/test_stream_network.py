"""`okx stream` when those on either side of it stop: a reader that is stopped, a name that nobody knows."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

BTC = "BTC-USDT"
#: Of a symbol that nobody asked for: it is passed on like any push, and fills what may wait.
PADDING = '{"arg":{"channel":"trades-all","instId":"PAD-DING"},"data":[{"x":"' + "x" * 1_000_000 + '"}]}'


def stream(exchange, *arguments, **options):
    env = {k: v for k, v in os.environ.items() if not k.startswith("OKX_")}
    env |= {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
    command = [sys.executable, "-m", "okxcli", "stream", BTC, *arguments]
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, **options)


def wait_for(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def ids(path):
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        if b'"instId":"BTC-USDT"' in line[:60] and b'"trades-all"' in line[:40]:
            found += [int(row["tradeId"]) for row in json.loads(line)["data"]]
    return found


def peak_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_a_reader_that_is_stopped(tmp_path):
    """What waits is bounded; OKX closes the connection (4005); when the reader goes on, so does the whole tape.

    The exchange's patience is a twentieth of OKX's, and padding fills up what may wait.
    """
    out, log = tmp_path / "lines.txt", tmp_path / "log.txt"
    options = Options(limits=0, max_backlog=1 << 20)
    with (
        LocalExchange([BTC], rate=100, seed=3, history_s=10, options=options) as exchange,
        out.open("wb") as file,
        log.open("wb") as errors,
    ):
        source = stream(exchange, stdout=subprocess.PIPE, stderr=errors)
        reader = subprocess.Popen(["cat"], stdin=source.stdout, stdout=file)
        source.stdout.close()
        try:
            wait_for(lambda: len(ids(out)) > 50)
            reader.send_signal(signal.SIGSTOP)
            for _ in range(120):
                exchange.send(PADDING)
                time.sleep(0.02)
                if not exchange.connections():
                    break
            assert exchange.connections() == []
            stopped_at = exchange.fills(BTC)[-1].trade_id
            wait_for(lambda: exchange.fills(BTC)[-1].trade_id > stopped_at + 300)
            assert "connecting again" not in log.read_text()
            assert peak_mib(source.pid) < 200
            reader.send_signal(signal.SIGCONT)
            goal = exchange.fills(BTC)[-1].trade_id
            wait_for(lambda: ids(out)[-1] > goal)
            source.send_signal(signal.SIGTERM)
            assert source.wait(20) == -signal.SIGTERM
            reader.wait(20)
        finally:
            for process in (source, reader):
                process.kill()
                process.wait()
        found = ids(out)
        assert found == list(range(found[0], found[-1] + 1))
    told = log.read_text()
    assert "nobody takes the data" in told
    assert "connecting again" in told


def test_a_name_that_nobody_knows():
    """Exit 69 and one line that says that there is no such host."""
    command = [sys.executable, "-m", "okxcli", "stream", BTC, "--connect-timeout", "1"]
    urls = ["--ws-url", "wss://no-such-host.invalid", "--rest-url", "https://no-such-host.invalid"]
    done = subprocess.run([*command, *urls], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 69
    assert "wss://no-such-host.invalid" in done.stderr.splitlines()[-1]
    assert "no such host" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
