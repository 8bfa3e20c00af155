"""`okx db forget` as a process: what it tells, and that it changes nothing without a word."""

import json
import os
import subprocess
import sys

import pytest

OKX = [sys.executable, "-m", "okxcli"]


@pytest.fixture
def run(tmp_path, database):
    """Run `okx ...` on the fresh database; return status, rows, stderr."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env = clean | {"OKX_DSN": database, "HOME": str(tmp_path)}

    def run(*arguments, data=b""):
        done = subprocess.run([*OKX, *arguments], input=data, capture_output=True, check=False, timeout=60, env=env)
        assert b"Traceback" not in done.stderr, done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()

    return run


def fill(number, at=1_747_087_163_557):
    """Return a trade line."""
    line = {
        "type": "trade", "exchange": "okx", "symbol": "BTC-USDT", "trade_id": number, "side": "buy", "price": "5",
        "size": "1", "timestamp": at,
    }  # fmt: skip
    return json.dumps(line).encode() + b"\n"


def test_told_then_done_then_taken_back(run):
    """Without --yes nothing is changed; with it the fill is in quarantine, and stored again if somebody asks for it."""
    assert run("store", data=b"".join(map(fill, range(1, 9))))[0] == 0
    status, (row,), err = run("db", "forget", "BTC-USDT", "--ids", "3-4")
    assert (status, row["fills"], row["done"]) == (0, 2, False) and "--yes" in err
    assert [row["kind"] for row in run("gaps", "--until", "2025-05-13")[1]] == ["covered", "unknown"]
    status, (row,), err = run("db", "forget", "BTC-USDT", "--ids", "3-4", "--yes")
    assert (status, row["fills"], row["done"], err) == (0, 2, True, "")
    kinds = [(row["kind"], row["first"]) for row in run("gaps", "--until", "2025-05-13")[1]]
    assert ("missing", 3) in kinds
    assert run("db", "quarantine", "--retry")[1][0]["raw_trades"] == 0
    assert run("db", "quarantine", "--retry", "--reason", "forgotten")[1][0]["raw_trades"] == 2
    assert [row["kind"] for row in run("gaps", "--until", "2025-05-13")[1]] == ["covered", "unknown"]


def test_what_is_refused(run):
    """No ids, and a symbol of which nothing is stored."""
    assert run("store", data=fill(1))[0] == 0
    for ids in ("x", "5-4", "0", "1-2-3", "99999999999999999999"):
        status, _, err = run("db", "forget", "BTC-USDT", "--ids", ids)
        assert status == 2 and err.count("\n") == 1
    assert run("db", "forget", "ETH-USDT", "--ids", "1")[0] == 1
