"""`okx simulate` as a process: what it prints, what its command gets, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

OKX = [sys.executable, "-m", "okxcli"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OKX_", "PG"))}


def run(*arguments, timeout=60, **more):
    """Run `okx` and return its result, output as text."""
    return subprocess.run(
        [*OKX, *arguments], capture_output=True, text=True, timeout=timeout, env={**ENVIRONMENT, **more}, check=False
    )


def python(text):
    """Return a command that runs a line of Python."""
    return [sys.executable, "-c", text]


@pytest.fixture
def start():
    """A function that starts `okx`; what still runs after the test is ended."""
    started = []

    def begin(*arguments, **more):
        pipe = subprocess.PIPE
        process = subprocess.Popen([*OKX, *arguments], stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, **more)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def urls(process):
    """Return the two exported variables of a server that has just started."""
    lines = [process.stdout.readline().strip() for _ in range(2)]
    assert all(line.startswith("export ") for line in lines), lines
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def test_its_database_is_there_from_the_start():
    """Every command can use it at once: backfill fills it, and the one before says where to begin."""
    okx = " ".join(OKX)
    script = f"{okx} backfill BTC-USDT; {okx} backfill BTC-USDT --since 5m && {okx} read trades BTC-USDT"
    done = run("simulate", "BTC-USDT", "--", "bash", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "Say where to begin" in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) > 100


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, -2), (signal.SIGTERM, -15)])
def test_without_a_command_it_serves_until_a_signal(start, signum, status):
    """It prints two export lines for the shell, answers on both, and dies by the signal that stops it."""
    process = start("simulate", "BTC-USDT")
    found = urls(process)
    assert list(found) == ["OKX_WS_URL", "OKX_REST_URL"]
    with urllib.request.urlopen(f"{found['OKX_REST_URL']}/api/v5/market/trades?instId=BTC-USDT") as answer:
        assert len(json.load(answer)["data"]) == 100
    process.send_signal(signum)
    assert process.wait(60) == status
    assert process.stderr.read() == ""


def test_command_gets_the_environment_and_gives_its_status():
    """The command sees both URLs, and the exit status is its own."""
    text = "import os, sys; print(os.environ['OKX_WS_URL'], os.environ['OKX_REST_URL']); sys.exit(7)"
    done = run("simulate", "BTC-USDT", "--no-database", "--", *python(text))
    ws, rest = done.stdout.split()
    assert (done.returncode, done.stderr) == (7, "")
    assert ws.startswith("ws://127.0.0.1:")
    assert rest == ws.replace("ws", "http", 1)


def test_options_of_the_command_are_its_own():
    """What follows -- is not read by okx, not even --help or another --."""
    done = run("simulate", "BTC-USDT", "--no-database", "--", "printf", "%s.", "--rate", "--", "--help", "-x")
    assert (done.returncode, done.stdout) == (0, "--rate.--.--help.-x.")


def test_no_database_leaves_the_users_own():
    """With --no-database OKX_DSN is what it was."""
    text = "import os; print(os.environ.get('OKX_DSN'))"
    for given in ({}, {"OKX_DSN": "host=elsewhere"}):
        done = run("simulate", "BTC-USDT", "--no-database", "--", *python(text), **given)
        assert done.stdout.strip() == given.get("OKX_DSN", "None")


_USE = (
    "import os, psycopg; c = psycopg.connect(os.environ['OKX_DSN'], autocommit=True);"
    "c.execute('CREATE TABLE IF NOT EXISTS t (x int)'); c.execute('INSERT INTO t VALUES (1)');"
    "print(c.execute('SELECT count(*) FROM t').fetchone()[0], os.environ['OKX_DSN'])"
)


def test_command_gets_a_database_that_is_thrown_away(tmp_path):
    """OKX_DSN names a working Postgres, and nothing of it is left at the end."""
    done = run("simulate", "BTC-USDT", "--", *python(_USE), TMPDIR=str(tmp_path))
    count, dsn = done.stdout.split(" ", 1)
    assert (done.returncode, count) == (0, "1"), done.stderr
    place = Path(dsn.split("host='")[1].split("'")[0])
    assert not place.exists()
    assert list(tmp_path.iterdir()) == []


def test_database_can_be_kept(tmp_path):
    """With --data the same database is there the next time."""
    counts = [run("simulate", "BTC-USDT", "--data", str(tmp_path / "db"), "--", *python(_USE)).stdout[0] for _ in "12"]
    assert counts == ["1", "2"]


def test_fills_file_holds_every_fill(tmp_path):
    """--fills gets the past and the present, with consecutive ids, the past marked as such."""
    file = tmp_path / "fills.jsonl"
    arguments = ["simulate", "BTC-USDT", "--rate", "50", "--history", "1m", "--fills", str(file), "--no-database"]
    arguments += ["--start", "2025-05-12T21:59:00Z", "--speed", "60", "--seed", "5", "--quiet-minutes", "0"]
    rows = []
    for _ in range(2):
        assert run(*arguments, "--", "sleep", "1.5").returncode == 0
        rows.append([json.loads(line) for line in file.read_text().splitlines()])
    first = rows[0]
    assert list(first[0]) == ["instId", "tradeId", "px", "sz", "side", "source", "ts", "history"]
    assert all(int(b["tradeId"]) == int(a["tradeId"]) + 1 for a, b in pairwise(first))
    start = 1_747_087_140_000
    assert all(row["history"] is (int(row["ts"]) < start) for row in first)
    assert len({row["history"] for row in first}) == 2
    assert int(first[-1]["ts"]) > start + 60_000
    shorter = min(map(len, rows))
    assert rows[0][:shorter] == rows[1][:shorter]


def test_interrupt_is_the_commands_affair(start, tmp_path):
    """A signal goes to the command; okx waits for it and ends with its status."""
    text = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), sys.exit(9)));"
        "print('ready', flush=True); time.sleep(30)"
    )
    process = start("simulate", "BTC-USDT", "--no-database", "--", *python(text), start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 9


def test_a_command_killed_by_a_signal_gives_128_and_more(start):
    """TERM reaches the command, which dies of it: 143."""
    process = start("simulate", "BTC-USDT", "--no-database", "--", "sh", "-c", "echo ready; exec sleep 30")
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(60) == 143


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_pipe_of_the_command_ends_with_it(start, tmp_path, signum):
    """A shell that is ended leaves its pipe behind: what it had started gets the signal too."""
    inner = f"(echo $$ > {tmp_path}/a; exec sleep 50) | (sh -c 'echo $$; exec sleep 50' > {tmp_path}/b; cat)"
    process = start("simulate", "BTC-USDT", "--no-database", "--", "sh", "-c", inner, start_new_session=True)
    end = time.monotonic() + 60
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signum)
    assert process.wait(30) in (128 + signum, 0)
    below = [int((tmp_path / "b").read_text())]
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_signal_before_the_command_cleans_up(start, tmp_path):
    """TERM while the database starts leaves no folder and no server behind."""
    file = tmp_path / "tmp"
    file.mkdir()
    environment = {**ENVIRONMENT, "TMPDIR": str(file)}
    process = subprocess.Popen([*OKX, "simulate", "BTC-USDT", "--", "sleep", "30"], env=environment)
    end = time.monotonic() + 60
    while not list(file.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == 143
    assert list(file.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["BTCUSDT"], 2, "not an instrument"),
        (["BTC-USDT", "--fault", "nonsense"], 2, "not a fault"),
        (["BTC-USDT", "--start", "soon"], 2, "not a time"),
        (["BTC-USDT", "--history", "x"], 2, "not a duration"),
        (["BTC-USDT", "--speed", "0"], 2, "speed"),
        (["BTC-USDT", "--fills", "/nowhere/f"], 74, "/nowhere/f"),
        (["BTC-USDT", "--cert", "/nowhere/c"], 2, "/nowhere/c"),
        (["BTC-USDT", "--data", "/tmp/x"], 2, "--data"),
        (["BTC-USDT", "--data", "/dev/null/x", "--", "true"], 69, "Name another place by --data\n"),
        (["BTC-USDT", "--"], 2, "no command"),
        (["BTC-USDT", "--no-database", "--", "/nowhere/x"], 2, "/nowhere/x"),
        ([], 2, "SYMBOL"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, status, words):
    """A wrong option, name or file gives one line that names it, and exit status 2."""
    done = run("simulate", *arguments)
    assert done.returncode == status
    assert done.stderr.startswith("okx simulate: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_taken_port_is_one_clear_line(start):
    """The second server on a port says so."""
    process = start("simulate", "BTC-USDT")
    port = urls(process)["OKX_REST_URL"].rsplit(":", 1)[1]
    done = run("simulate", "BTC-USDT", "--port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert done.stderr.count("\n") == 1
