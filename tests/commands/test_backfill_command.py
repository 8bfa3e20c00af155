"""`okx backfill` as a process: silence, one line a symbol, the lock, kill -9, what it refuses."""

import json
import os
import struct
import subprocess
import sys
import time

import psycopg
import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.runtime.clock import iso, now_ms
from okxcli.storage.schema import versions

OKX = [sys.executable, "-m", "okxcli"]


@pytest.fixture
def exchange():
    """Two minutes of trading of two symbols, over an hour ago, and a clock that stands still."""
    start = now_ms() - 3_600_000
    symbols = ["BTC-USDT", "ETH-USDT"]
    with LocalExchange(symbols, rate=30, history_s=150, start_ms=start, options=Options(limits=0)) as found:
        found.stop_market()
        yield found


@pytest.fixture
def start(tmp_path, database, exchange):
    """Start `okx ...` on the fresh database and the exchange, with a configuration of its symbols."""
    settings = {"symbols": ["BTC-USDT", "ETH-USDT"], "timeframes": ["1s", "1m"]}
    (tmp_path / "okx.json").write_text(json.dumps(settings))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env = clean | {
        "OKX_DSN": database,
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "OKX_CONFIG": str(tmp_path / "okx.json"),
        "OKX_WS_URL": exchange.ws_url,
        "OKX_REST_URL": exchange.rest_url,
    }
    processes = []

    def start(*arguments, **more):
        process = subprocess.Popen(
            [*OKX, *map(str, arguments)], env=env | more, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """Run `okx ...` to its end; return status, rows, stderr."""

    def run(*arguments, **more):
        process = start(*arguments, **more)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        return process.returncode, [json.loads(line) for line in out.splitlines()], err

    return run


def ids(exchange, symbol="BTC-USDT"):
    return [fill.trade_id for fill in exchange.fills(symbol)]


def stored(database, symbol="BTC-USDT"):
    with psycopg.connect(database) as connection:
        query = "SELECT trade_id FROM raw_trades WHERE symbol = %s ORDER BY 1"
        return [row[0] for row in connection.execute(query, [symbol])]


@pytest.fixture
def tables(database):
    """A database with tables and nothing in them, which belongs to the local exchange."""
    from okxcli.storage.database import open_database

    with open_database(database, create=True, origin="local"):
        pass


def test_without_a_database(run):
    """Only a collector makes one."""
    status, rows, err = run("backfill")
    assert (status, rows) == (69, [])
    assert "no data" in err


@pytest.mark.usefixtures("tables")
def test_fill_and_then_silence(run, exchange, database):
    """A line for each symbol that had something missing; nothing at all the next time; then gaps is content."""
    since = iso(exchange.fills("BTC-USDT")[0].ts)
    status, rows, err = run("backfill", "--since", since)
    assert (status, err) == (0, "")
    assert [(row["symbol"], row["left"]) for row in rows] == [("BTC-USDT", 0), ("ETH-USDT", 0)]
    assert stored(database) == ids(exchange)
    assert run("backfill") == (0, [], "")
    assert run("backfill", "--since", since) == (0, [], "")
    assert run("gaps", "--online")[0] == 0
    with psycopg.connect(database) as connection:
        counts = connection.execute(
            "SELECT symbol, timeframe, count(*) FILTER (WHERE NOT complete) FROM candles GROUP BY 1, 2"
        ).fetchall()
    assert len(counts) == 4
    assert all(incomplete <= 1 for _, _, incomplete in counts)


@pytest.mark.usefixtures("tables")
def test_a_dry_run(run, exchange, database):
    """Tells how much, how many requests and how long, and changes nothing."""
    since = iso(exchange.fills("BTC-USDT")[0].ts)
    status, rows, _ = run("backfill", "BTC-USDT", "--since", since, "--dry-run")
    assert status == 0
    (row,) = rows
    assert row["missing"] == len(ids(exchange))
    assert row["requests"] == -(-row["missing"] // 100)
    assert row["seconds"] == round(row["requests"] / 5)
    assert stored(database) == []


@pytest.mark.usefixtures("tables")
def test_never_stored_and_no_since(run):
    """Is told on stderr what to say; that is no failure, as cron would repeat it for ever."""
    status, rows, err = run("backfill")
    assert (status, rows) == (0, [])
    assert err.count("--since") == 2


@pytest.mark.usefixtures("tables")
def test_something_is_left(run, exchange, database):
    """Exit 1 as long as an id is neither here nor proven absent."""
    since = iso(exchange.fills("BTC-USDT")[0].ts)
    assert run("backfill", "BTC-USDT", "--since", since)[0] == 0
    exchange.skip_ids("BTC-USDT", 3)
    exchange.trade("BTC-USDT", "5", "1")
    status, rows, _ = run("backfill", "BTC-USDT", "--no-wait")
    assert (status, [row["left"] for row in rows]) == (1, [3])


@pytest.mark.usefixtures("tables")
def test_a_second_run(run, database):
    """Ends at once with 75, in one line, while another holds the lock."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [versions.BACKFILL_LOCK])
        status, rows, err = run("backfill")
    assert (status, rows) == (75, [])
    assert err.count("\n") == 1 and "another okx backfill" in err
    assert run("backfill")[0] == 0


@pytest.mark.usefixtures("tables")
def test_killed_again_and_again(start, run, exchange, database):
    """kill -9 at any moment costs at most what was not committed; the last run leaves a whole tape and its bars."""
    since = iso(exchange.fills("BTC-USDT")[0].ts)
    seen = 0
    for _ in range(5):
        process = start("backfill", "BTC-USDT", "--since", since)
        until = time.monotonic() + 20
        while len(stored(database)) <= seen and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        process.wait()
        now = len(stored(database))
        assert now >= seen
        seen = now
    assert run("backfill", "BTC-USDT", "--since", since)[0] == 0
    assert stored(database) == ids(exchange)
    assert run("gaps", "BTC-USDT", "--online")[0] == 0
    assert run("backfill", "BTC-USDT") == (0, [], "")
    with psycopg.connect(database) as connection:
        (volume,) = connection.execute("SELECT sum(size) FROM raw_trades").fetchone()
        last = max(fill.ts for fill in exchange.fills("BTC-USDT"))
        (open_second,) = connection.execute(
            "SELECT sum(size) FROM raw_trades WHERE timestamp >= %s::timestamptz", [iso(last - last % 1000)]
        ).fetchone()
        (bars,) = connection.execute("SELECT sum(volume) FROM candles WHERE timeframe = '1s'").fetchone()
    assert bars == volume - open_second


@pytest.mark.usefixtures("tables")
def test_half_of_the_budget(run, exchange, tmp_path, monkeypatch):
    """Its turns in the account that all processes share are those of a part, nine in each window of OKX's at most,
    while the other half is free for a collector."""
    from okxcli.exchanges.okx.rest.rate_limits import Budget

    since = iso(exchange.fills("BTC-USDT")[0].ts)
    assert run("backfill", "BTC-USDT", "--since", since)[0] == 0
    (path,) = (tmp_path / "okx").glob("budget-*history-trades")
    data = path.read_bytes()
    turns = struct.unpack(f"<{len(data) // 8}q", data)
    assert turns and all(turn & 1 for turn in turns)
    assert all(later - turn >= 2 * 10**9 for turn, later in zip(turns, turns[9:], strict=False))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    own, backfill = Budget(exchange.rest_url), Budget(exchange.rest_url, share=0.5)
    path.write_bytes(struct.pack("<9q", *[time.monotonic_ns() | 1] * 9))
    assert own.turn("/api/v5/market/history-trades") == 0
    assert backfill.turn("/api/v5/market/history-trades") > 1


@pytest.mark.usefixtures("tables")
def test_what_is_refused(run):
    """A range that ends before it begins, days to restore without a word from when on: exit 2 in one line."""
    for arguments in (["--since", "1h", "--until", "2h"], ["--restore"]):
        status, _, err = run("backfill", *arguments)
        assert status == 2
        assert err.count("\n") == 1


@pytest.mark.usefixtures("tables")
def test_another_exchange(run, database):
    """A database of local data is not filled from OKX, nor the other way round: exit 78."""
    with psycopg.connect(database) as connection:  # one of nothing is anybody's
        connection.execute("INSERT INTO symbols (exchange, symbol) VALUES ('okx', 'BTC-USDT')")
    status, _, err = run("backfill", OKX_WS_URL="wss://ws.okx.com")
    assert status == 78
    assert "holds data from local" in err


@pytest.mark.usefixtures("tables")
def test_okx_is_away(run):
    """Exit 69 and one line."""
    status, _, err = run("backfill", "BTC-USDT", "--since", "2h", OKX_REST_URL="http://127.0.0.1:9")
    assert status == 69
    assert "127.0.0.1:9" in err
