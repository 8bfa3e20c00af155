"""`okx store` on both roads: what kernels take by the block is stored as it is line by line, whatever lies between."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from okxcli.runtime.road import kernel

pytestmark = pytest.mark.skipif(kernel("storage.rows._fill_rows") is None, reason="no kernels were built")

OKX = [sys.executable, "-m", "okxcli"]
NOON = 1_747_051_200_000
#: All that is stored, but for when it was written.
TABLES = {
    "raw_trades": "SELECT * FROM raw_trades ORDER BY exchange, symbol, trade_id",
    "merged_trades": "SELECT * FROM merged_trades ORDER BY exchange, symbol, trade_id",
    "ledger": "SELECT exchange, symbol, day, covered, absent, first_id, last_id, first_time, last_time, fills,"
    " trim_scale(checksum) FROM trade_ledger ORDER BY 1, 2, 3",
    "symbols": "SELECT exchange, symbol, step FROM symbols ORDER BY 1, 2",
    "candles": "SELECT exchange, symbol, timeframe, timestamp, close, complete, revision FROM market_data"
    " ORDER BY exchange, symbol, timeframe, timestamp",
    "quarantine": "SELECT type, exchange, symbol, reason, line, stored FROM quarantine ORDER BY line, reason",
}


def fill(symbol, number, at, **changed):
    row = {
        "type": "trade", "exchange": "okx", "symbol": symbol, "trade_id": number, "count": 1,
        "side": "buy" if number % 3 else "sell", "price": f"{100 + number % 17}.5", "size": f"0.{1 + number % 9}",
        "timestamp": at, "received": at + 40, "source": 0, "origin": "trades-all",
    } | changed  # fmt: skip
    return json.dumps(row, separators=(",", ":")).encode()


def bar(symbol, at, close):
    return json.dumps(
        {
            "type": "candle", "exchange": "okx", "symbol": symbol, "timeframe": "1m", "start": at,
            "timestamp": at + 60_000, "open": "1", "high": "9", "low": "1", "close": close, "volume": "1",
            "base_volume": None, "quote_volume": None, "buy_volume": None, "trade_count": 2, "first_trade_id": 1,
            "last_trade_id": 9, "closed": True, "complete": True, "revision": 0, "origin": "trades",
        }, separators=(",", ":"),
    ).encode()  # fmt: skip


def mixed(seed, size, odd=0.01):
    """Return lines of four symbols: mostly everyday fills that rise, and everything else that can come."""
    rng = random.Random(seed)
    names = ["BTC-USDT", "ETH-USDT", "SOL-USDT", "PEPE-USDT"]
    ids, clock, lines = dict.fromkeys(names, 1000), NOON - 30_000, []
    while len(lines) < size:
        symbol = rng.choice(names)
        ids[symbol] += rng.choice([1] * 60 + [3])
        clock += rng.choice([0, 0, 5, 70]) if len(lines) != size // 2 else 12 * 3_600_000  # into the next day
        lines.append(fill(symbol, ids[symbol], clock - rng.choice([0] * 40 + [90])))
        if rng.random() < odd:
            old = ids[symbol] - rng.randrange(1, 60)
            lines.append(
                rng.choice(
                    [
                        lines[rng.randrange(len(lines))],
                        fill(symbol, ids[symbol] + 1, clock, price="7", side="sell"),
                        fill(symbol, max(old, 1), clock - 2_000),
                        fill(symbol, ids[symbol] + 30_000_000, clock),
                        fill(symbol, ids[symbol] + 2, clock, origin="trades", count=2),
                        fill(symbol, ids[symbol] + 5, clock + 10**9),
                        bar(symbol, NOON - NOON % 60_000, str(rng.randrange(2, 8))),
                        b'{"type":"absent","exchange":"okx","symbol":"%s","first":%d,"last":%d}'
                        % (symbol.encode(), ids[symbol] + 1, ids[symbol] + 2),
                        b"{",
                        b'{"type":"mystery"}',
                    ]
                )
            )
    return lines


@pytest.fixture
def store(tmp_path):
    """Run `okx store` on one of the roads."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}

    def store(dsn, data, pure, *more):
        env = clean | {"HOME": str(tmp_path), "OKX_DSN": dsn, "OKX_PURE": str(pure)}
        return subprocess.run(
            [*OKX, "store", *more], input=data, capture_output=True, check=False, timeout=120, env=env
        )

    return store


@pytest.fixture
def databases(database):
    """Two databases, one for each road."""
    other = f"{psycopg.conninfo.conninfo_to_dict(database)['dbname']}_pure"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {other}")
    yield database, make_conninfo(database, dbname=other)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {other} WITH (FORCE)")


def dump(dsn):
    with psycopg.connect(dsn) as connection:
        return {name: connection.execute(query).fetchall() for name, query in TABLES.items()}


def told(done):
    counts = json.loads(done.stderr.decode().splitlines()[-1].removeprefix("okx store: "))
    return done.returncode, counts


@pytest.mark.parametrize(("seed", "odd"), [(1, 0.01), (2, 0.0005)])
def test_both_roads_store_the_same(store, databases, seed, odd):
    """Rows, ledger with its checksums, steps back, quarantine and counts; once more too, when nothing is new."""
    lines = mixed(seed, 9_000 if odd > 0.005 else 45_000, odd)
    data = b"\n".join(lines) + b"\n"
    for again in (False, True):
        runs = [store(dsn, data, pure) for pure, dsn in enumerate(databases)]
        assert told(runs[0]) == told(runs[1]), runs[0].stderr.decode()[-2000:]
        found = [dump(dsn) for dsn in databases]
        for name in TABLES:
            assert found[0][name] == found[1][name], (again, name)
    assert len(found[0]["raw_trades"]) > 8_000 and found[0]["quarantine"]


@pytest.mark.parametrize("pure", [0, 1])
def test_everyday_fills_go_by_the_block(store, database, pure):
    """On both roads: the ledger has every id, and the checksum of the rows."""
    lines = [fill("BTC-USDT", number, NOON + number * 3) for number in range(1, 60_001)]
    done = store(database, b"\n".join(lines) + b"\n", pure)
    assert told(done)[1]["raw_trades"] == 60_000
    found = dump(database)
    assert [(row[3].__str__(), row[9]) for row in found["ledger"]] == [("{[1, 60001)}", 60_000)]
    with psycopg.connect(database) as connection:
        from okxcli.storage.ledger.checksum import SUM

        summed = connection.execute(b"SELECT trim_scale(" + SUM.as_bytes(connection) + b") FROM raw_trades").fetchone()
    assert summed == (found["ledger"][0][10],)


@pytest.mark.parametrize("pure", [0, 1])
def test_tee_passes_on_every_line_in_its_order(store, database, pure):
    """What is stored, or was, in the order in which it came; what is refused is not."""
    lines = mixed(9, 6_000)
    done = store(database, b"\n".join(lines) + b"\n", pure, "--tee")
    passed = done.stdout.split(b"\n")[:-1]
    places = {line: at for at, line in reversed(list(enumerate(lines)))}
    assert len(passed) > 5_900
    order = [places[line] for line in passed]
    assert sum(b < a for a, b in pairwise(order)) < 60  # lines that came twice stand at their first place


def test_an_outage_amid_blocks_loses_nothing(store, database, tmp_path):
    """While the database refuses, blocks go to the spool as lines; afterwards every fill is there once."""
    lines = [fill("BTC-USDT", number, NOON + number * 3) for number in range(1, 30_001)]
    assert store(database, b"\n".join(lines[:100]) + b"\n", 0).returncode == 0
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    env |= {"HOME": str(tmp_path), "OKX_DSN": database}
    with psycopg.connect(database, autocommit=True) as holder:
        process = subprocess.Popen([*OKX, "store"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        try:
            with holder.transaction():
                holder.execute("LOCK TABLE raw_trades IN ACCESS EXCLUSIVE MODE")
                process.stdin.write(b"\n".join(lines) + b"\n")
                process.stdin.flush()
                time.sleep(7)  # longer than a statement waits for a lock
            process.stdin.close()
            said = process.stderr.read().decode()
            assert process.wait(60) in (0, 75), said
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
    assert "spooling" in said
    if process.returncode == 75:
        assert store(database, b"", 0, "--drain").returncode == 0
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*), count(DISTINCT trade_id), max(trade_id) FROM raw_trades").fetchone()
    assert row == (30_000, 30_000, 30_000)


@pytest.mark.parametrize("pure", [0, 1])
def test_sessions_and_processes_that_are_killed_amid_blocks(store, database, tmp_path, pure):
    """What was being committed, what came after it, what was spooled: in the end every fill is there once."""
    lines = [fill(f"S{number % 3}-USDT", number, NOON + number * 3) for number in range(1, 90_001)]
    data, rng = b"\n".join(lines) + b"\n", random.Random(pure)
    source = tmp_path / "lines"
    source.write_bytes(data)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    env |= {"HOME": str(tmp_path), "OKX_DSN": database, "OKX_PURE": str(pure)}
    assert store(database, b"".join(data.splitlines(keepends=True)[:9]), pure).returncode == 0
    killed = 0
    for again in range(6):
        process = subprocess.Popen([*OKX, "store", str(source)], stderr=subprocess.PIPE, env=env)
        until = time.monotonic() + (10 if again % 2 else 0.6 + rng.random() * 2)
        with psycopg.connect(database, autocommit=True) as connection:
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.2 + rng.random() / 5)
                killed += connection.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'okx store'"
                ).fetchone()[0]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = store(database, data, pure)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found = dump(database)
    assert [row[9] for row in found["ledger"]] == [30_000] * 3 and killed > 5
    with psycopg.connect(database) as connection:
        from okxcli.storage.ledger.checksum import SUM

        query = (
            b"SELECT count(*), trim_scale(" + SUM.as_bytes(connection) + b") FROM raw_trades GROUP BY symbol ORDER BY 1"
        )
        summed = connection.execute(query).fetchall()
    assert sorted(summed) == sorted((30_000, row[10]) for row in found["ledger"])
    assert not found["quarantine"]
