"""What cannot be meant: options that contradict each other are told in one line, exit 2, before anything is done."""

import json
import os
import subprocess
import sys

import pytest

OKX = [sys.executable, "-m", "okxcli"]


@pytest.fixture
def okx(tmp_path, database):
    """Run `okx ...` on a database that has tables; return status, output and standard error."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    clean |= {
        "HOME": str(tmp_path),
        "OKX_DSN": database,
        "OKX_REST_URL": "http://127.0.0.1:9",
        "OKX_WS_URL": "ws://[::1]:9",
    }

    def run(*arguments, data=""):
        done = subprocess.run(
            [*OKX, *arguments], input=data, capture_output=True, text=True, timeout=60, check=False, env=clean
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    fill = {"type": "trade", "exchange": "okx", "symbol": "BTC-USDT", "trade_id": 7, "side": "buy", "price": "5"}
    assert run("store", "-q", data=json.dumps(fill | {"size": "1", "timestamp": 1_747_006_590_500}))[0] == 0
    return run


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("read trades BTC-USDT --since 2h --until 3h", "--since is not before --until"),
        ("read candles BTC-USDT --tf 1m --since 2h --until 2h", "--since is not before --until"),
        ("backfill -", "- reads the lines of okx verify: it goes alone, with --rebuild"),
        ("backfill - BTC-USDT --rebuild --since 1d", "- reads the lines of okx verify"),
        ("stream BTC-USDT --since 2099-01-01", "--since is in the future"),
        ("store --drain lines.jsonl", "--drain reads no input"),
        ("db run ;", "an empty statement"),
    ],
)
def test_it_is_told(okx, command, words):
    """One line, and nothing on standard output."""
    code, out, told = okx(*command.split())
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert words in told


def test_a_symbol_of_another_exchange(okx):
    """What is stored of it is told."""
    code, _, told = okx("db", "forget", "BTC-USDT", "--ids", "7", "--exchange", "nowhere")
    assert (code, told) == (1, "okx db: nothing of BTC-USDT is stored of nowhere, only of okx\n")


def test_resume_on_nothing(okx):
    """Where --since is given the stream begins with that, and not with the present."""
    for more, begin in (((), "the present"), (("--since", "1m"), "--since")):
        told = okx("stream", "ETH-USDT", "--resume", "--connect-timeout", "0.2", *more)[2]
        assert f"ETH-USDT: nothing is stored yet, so it begins with {begin}\n" in told
