"""What is archived is what was stored: `okx collect` killed twice, and its archive played back."""

import json
import os
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

SYMBOLS = ("BTC-USDT", "ETH-USDT")
OKX = [sys.executable, "-m", "okxcli"]


@pytest.fixture
def exchange():
    with LocalExchange(SYMBOLS, rate=150, history_s=5, options=Options(limits=0)) as found:
        yield found


@pytest.fixture
def env(tmp_path, database, exchange):
    settings = {
        "symbols": SYMBOLS,
        "channels": ["trades-all", "books5"],
        "timeframes": ["1s", "5s"],
        "archive": {"path": f"{tmp_path}/raw/%Y-%m-%d/%H-%M.jsonl.zst", "min_free": "1MiB"},
    }
    (tmp_path / "okx.json").write_text(json.dumps(settings))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    return clean | {
        "OKX_DSN": database, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path),
        "OKX_CONFIG": str(tmp_path / "okx.json"), "OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url,
    }  # fmt: skip


def newest(dsn):
    with psycopg.connect(dsn) as connection:
        try:
            return connection.execute("SELECT coalesce(max(trade_id), 0) FROM raw_trades").fetchone()[0]
        except psycopg.errors.UndefinedTable:
            return 0


def collect(env, count):
    """Start `okx collect` and wait until so many more fills are stored."""
    begin = newest(env["OKX_DSN"])
    process = subprocess.Popen([*OKX, "collect", "-q"], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 90
    while newest(env["OKX_DSN"]) < max(begin, 1) + count:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return process


def piped(env, *commands):
    """Return what comes out of the last command, which reads what the one before writes."""
    data = b""
    for command in commands:
        done = subprocess.run([*OKX, *command], env=env, input=data, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        data = done.stdout
    return data


def bars(lines):
    """Return the last version of each complete bar, by its key."""
    found = {}
    for line in lines.splitlines():
        bar = json.loads(line)
        if bar["type"] == "candle" and bar["complete"]:
            del bar["revision"]
            found[bar["symbol"], bar["timeframe"], bar["start"]] = bar
    return found


def test_an_archive_gives_the_candles_that_are_stored(env, tmp_path):
    """Nothing is stored that is not in the archive before, whenever a collector is killed."""
    for _ in range(2):
        process = collect(env, 400)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        time.sleep(1)
    process = collect(env, 400)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    files = sorted(map(str, (tmp_path / "raw").glob("*/*")))
    assert len(files) >= 3 and all(path.endswith(".jsonl.zst") for path in files)
    stored = bars(piped(env, ["read", "candles", *SYMBOLS, "--tf", "1s,5s"]))
    archived = bars(piped(env, ["normalize", "-q", *files], ["candles", "--tf", "1s,5s", "-q"]))
    assert len(stored) > 10
    assert {key: archived.get(key) for key in stored} == stored
    ids = "SELECT symbol, trade_id FROM raw_trades"
    with psycopg.connect(env["OKX_DSN"]) as connection:
        fills = set(connection.execute(ids).fetchall())
    trades = map(json.loads, piped(env, ["normalize", "-q", *files]).splitlines())
    assert fills <= {(one["symbol"], one["trade_id"]) for one in trades if one["type"] == "trade"}
    settings = json.loads((tmp_path / "okx.json").read_text())
    del settings["archive"]
    (tmp_path / "replayed.json").write_text(json.dumps(settings))
    script = '"$@" collect -q --duration 15s && "$@" read candles BTC-USDT ETH-USDT --tf 1s,5s'
    played = ["replay", "--speed", "0", *files, "--", "sh", "-c", script, "sh", *OKX]
    replayed = bars(piped(env | {"OKX_CONFIG": str(tmp_path / "replayed.json")}, played))
    assert {key: replayed.get(key) for key in stored} == stored


def test_collect_stops_where_the_disk_is_nearly_full(env, tmp_path):
    """If the configuration says `stop`: what came is stored, the reason is told, exit 74."""
    settings = json.loads((tmp_path / "okx.json").read_text())
    settings["archive"] |= {"min_free": "9000TiB", "when_low": "stop"}
    (tmp_path / "okx.json").write_text(json.dumps(settings))
    done = subprocess.run([*OKX, "collect", "-q"], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 74
    assert "less than 9000TiB free at" in done.stderr and len(done.stderr.splitlines()) <= 2


def test_collect_goes_on_without_room_for_its_archive(env, tmp_path):
    """By default it is told once, and everything is stored."""
    settings = json.loads((tmp_path / "okx.json").read_text())
    settings["archive"] |= {"min_free": "9000TiB"}
    (tmp_path / "okx.json").write_text(json.dumps(settings))
    process = collect(env, 300)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert err.count(b"nothing goes into the archive until that is over") == 1
    assert b"lines are not in the archive" in err
