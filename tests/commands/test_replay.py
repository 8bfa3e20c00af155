"""`okx replay` as a process: a recording in, an OKX out."""

import json
import subprocess
from pathlib import Path

from test_simulate import python, run, start, urls  # noqa: F401  (start is a fixture)

BTC = "BTC-USDT"
START = 1_747_087_140_000
_LISTEN = """
import json, os
from websockets.sync.client import connect
with connect(os.environ["OKX_WS_URL"] + "/ws/v5/business") as ws:
    ws.send(json.dumps({"op": "subscribe", "args": [{"channel": "trades-all", "instId": "BTC-USDT"}]}))
    assert json.loads(ws.recv(timeout=30))["event"] == "subscribe"
    for _ in range(%d):
        print(ws.recv(timeout=30))
"""


def recording(path, count):
    """Write a recording of `count` fills, a second apart."""
    lines = []
    for number in range(1, count + 1):
        fill = {"instId": BTC, "tradeId": str(number), "px": "10", "sz": "1", "side": "buy", "source": "0"}
        fill["ts"] = str(START + number * 1000)
        message = {"arg": {"channel": "trades-all", "instId": BTC}, "data": [fill]}
        lines.append(json.dumps(message, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n")
    return lines


def test_a_command_gets_the_recording_back(tmp_path):
    """What a client hears is what was recorded, byte for byte."""
    file = tmp_path / "a.jsonl"
    lines = recording(file, 100)
    done = run("replay", str(file), "--speed", "0", "--no-database", "--", *python(_LISTEN % 100))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == lines
    assert done.stderr == "okx replay: the recording is over: 100 messages played\n"


def test_loop_plays_on(tmp_path):
    """With --loop more messages come than there are."""
    file = tmp_path / "a.jsonl"
    lines = recording(file, 3)
    done = run("replay", str(file), "--speed", "0", "--loop", "--no-database", "--", *python(_LISTEN % 8))
    assert done.stdout.splitlines() == (lines * 3)[:8]


def test_bad_lines_are_reported_with_their_number(tmp_path):
    """A line that is no push is told and passed over."""
    file = tmp_path / "a.jsonl"
    recording(file, 2)
    file.write_text("nonsense\n" + file.read_text())
    done = run("replay", str(file), "--speed", "0", "--no-database", "--", *python(_LISTEN % 2))
    assert done.returncode == 0
    assert f"{file}: line 1: not JSON" in done.stderr


def test_unusable_recordings_are_one_clear_line(tmp_path):
    """A missing and an empty file are named."""
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        done = run("replay", str(tmp_path / name))
        assert done.returncode == 2
        assert name in done.stderr
        assert done.stderr.count("\n") == 1


def test_without_a_command_it_serves(tmp_path, start):  # noqa: F811
    """It prints the two URLs, and a client gets the recording."""
    file = tmp_path / "a.jsonl"
    lines = recording(file, 5)
    process = start("replay", str(file), "--speed", "0")
    environment = urls(process)
    done = subprocess.run(
        python(_LISTEN % 5), env=environment, capture_output=True, text=True, timeout=60, check=True, cwd=Path.cwd()
    )
    assert done.stdout.splitlines() == lines
    process.terminate()
    assert process.wait(60) == -15
