"""Everything that uses the database, through PgBouncer: the pool is smaller than the number of connections."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from decimal import Decimal
from functools import partial

import pooler
import psycopg
import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.storage.database import open_database
from okxcli.storage.schema import partitions
from okxcli.storage.upkeep import retention
from okxcli.storage.upkeep.housekeeping import session

pytestmark = pooler.needed
T0 = 1747087163557
OKX = [sys.executable, "-m", "okxcli"]


def clean(home, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "PYTHON"))}
    return env | {"HOME": str(home)} | more


@pytest.fixture
def bouncer(database, tmp_path_factory):
    with pooler.Pooler(tmp_path_factory.mktemp("pooler"), database, default_pool_size=2) as bouncer:
        yield bouncer


@pytest.fixture
def okx(bouncer, tmp_path):
    """Start `okx` with the pooler as its database."""
    started = []

    def okx(*arguments, dsn=bouncer.dsn, **variables):
        process = subprocess.Popen(
            [*OKX, *map(str, arguments)], env=clean(tmp_path, OKX_DSN=dsn, **variables), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield okx
    for process in started:
        process.kill()
        process.communicate()


def end(process, timeout=100):
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err
    return process.returncode, out, err


def stored(dsn, query="SELECT symbol, trade_id, price, size, side FROM raw_trades ORDER BY 1, 2"):
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def trade(symbol, number, size="1"):
    return {
        "type": "trade", "exchange": "okx", "symbol": symbol, "trade_id": number, "count": 1, "side": "sell",
        "price": "5", "size": size, "timestamp": T0 + number * 10, "origin": "trades-all",
    }  # fmt: skip


def test_three_writers_at_once(okx, database, tmp_path):
    """Trades, books and tickers of three processes, half of them the same: every row once, nothing spooled."""
    for at in range(3):
        rows = [trade(f"S{at}-USDT", number) for number in range(1, 30_001)]
        rows += [trade("BTC-USDT", number) for number in range(1 + at * 1_000, 2_001 + at * 1_000)]
        rows += [
            {"type": "ticker", "exchange": "okx", "symbol": "BTC-USDT", "timestamp": T0 + n, "last": "5"}
            for n in range(at * 500, at * 500 + 1_000)
        ]
        rows += [
            {"type": "book", "exchange": "okx", "symbol": "BTC-USDT", "timestamp": T0 + n, "seq_id": n,
             "bids": [["5", "1"]], "asks": [], "origin": "books5"}
            for n in range(at * 500, at * 500 + 1_000)
        ]  # fmt: skip
        (tmp_path / f"{at}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    writers = [okx("store", tmp_path / f"{at}.jsonl") for at in range(3)]
    for writer in writers:
        status, _, err = end(writer)
        assert (status, "spool" in err.replace('"spooled": 0', "")) == (0, False), err
    ids = stored(
        database, "SELECT symbol, count(*), min(trade_id), max(trade_id) FROM raw_trades GROUP BY 1 ORDER BY 1"
    )
    assert ids == [("BTC-USDT", 4_000, 1, 4_000), *((f"S{at}-USDT", 30_000, 1, 30_000) for at in range(3))]
    assert stored(database, "SELECT count(*), count(DISTINCT timestamp) FROM tickers") == [(2_000, 2_000)]
    assert stored(database, "SELECT count(*), count(DISTINCT seq_id) FROM order_books") == [(2_000, 2_000)]
    assert end(okx("gaps", "--recount", "BTC-USDT", "--until", T0 + 10 * 4_000 + 1))[0] == 0


SYMBOLS = ["BTC-USDT", "ETH-USDT"]


@pytest.fixture
def exchange():
    options = Options(limits=0)
    with LocalExchange(SYMBOLS, rate=40, seed=3, history_s=300, options=options) as exchange:
        yield exchange


@pytest.fixture
def user(okx, exchange, tmp_path):
    """Start `okx` with the pooler, the exchange and a configuration."""
    config = {"symbols": SYMBOLS, "channels": ["trades-all", "tickers", "books5"], "timeframes": ["1s", "5s"]}
    (tmp_path / "okx.json").write_text(json.dumps(config))
    urls = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
    return partial(okx, OKX_CONFIG=str(tmp_path / "okx.json"), **urls)


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def newest(database):
    try:
        return dict(stored(database, "SELECT symbol, max(trade_id) FROM raw_trades GROUP BY 1"))
    except psycopg.Error:
        return {}


def reached(database, exchange):
    """Return a condition: everything that has been traded by now is stored."""
    come = {symbol: exchange.fills(symbol)[-1].trade_id for symbol in SYMBOLS}
    return lambda: all(newest(database).get(symbol, 0) >= number for symbol, number in come.items())


def truth(exchange, database):
    """Return the exchange's fills between the first and the last stored one of each symbol, as rows."""
    bounds = stored(database, "SELECT symbol, min(trade_id), max(trade_id) FROM raw_trades GROUP BY 1 ORDER BY 1")
    return [
        (symbol, f.trade_id, Decimal(f.price), Decimal(f.size), f.side)
        for symbol, first, last in bounds
        for f in exchange.fills(symbol)
        if first <= f.trade_id <= last
    ]


def test_a_life_through_the_pooler(user, bouncer, database, exchange, tmp_path):
    """Collect over an outage of the pooler and one of the server, fill the past, and ask everything: every fill once,
    every bar right.
    """
    collect = user("collect")
    wait_for(lambda: len(newest(database)) == 2)
    bouncer.stop()
    wait_for(lambda: list(tmp_path.glob(".local/state/okx/spool/*/*.jsonl")))
    bouncer.start()
    wait_for(reached(database, exchange))
    with bouncer.without_server():
        wait_for(lambda: list(tmp_path.glob(".local/state/okx/spool/*/*.jsonl")), 90)
    wait_for(reached(database, exchange))
    wait_for(lambda: not list(tmp_path.glob(".local/state/okx/spool/*/*.jsonl")))
    collect.send_signal(signal.SIGTERM)
    status, _, err = end(collect)
    assert status == -signal.SIGTERM, err
    assert stored(database) == truth(exchange, database)
    since = exchange.fills(SYMBOLS[0])[0].ts
    runs = [user("backfill", "--since", since, "-q") for _ in range(2)]
    ended = sorted(end(run)[::2] for run in runs)
    assert [status for status, _ in ended] == [0, 75], ended
    assert "another okx backfill is at work on 127.0.0.1:" in ended[1][1]
    exchange.stop_market()
    status, _, err = end(user("backfill", "-q", "--since", since))
    assert status == 0, err
    assert stored(database) == truth(exchange, database)
    for symbol in SYMBOLS:
        first = next(fill for fill in exchange.fills(symbol) if fill.ts >= since)
        assert stored(database, f"SELECT min(trade_id) FROM raw_trades WHERE symbol = '{symbol}'") <= [
            (first.trade_id,)
        ]
    ends = "SELECT (extract(epoch FROM max(timestamp)) * 1000)::bigint FROM raw_trades GROUP BY symbol"
    newest_ms = min(stored(database, ends))[0]
    status, out, _ = end(user("gaps", "--recount", "--until", newest_ms))
    assert (status, {json.loads(line)["kind"] for line in out.splitlines()}) == (0, {"covered"}), out
    status, out, err = end(user("verify", "--tf", "1s", "--until", newest_ms))
    assert (status, out) == (0, ""), err
    assert end(user("status", "--max-age", "1h"))[0] == 0
    read = end(user("read", "trades", *SYMBOLS))[1].splitlines()
    assert len(read) == len(stored(database))
    bars = end(user("read", "candles", SYMBOLS[0], "--tf", "1s"))[1].splitlines()
    assert all(json.loads(bar)["complete"] for bar in bars[1:-1])


def test_the_ledger_is_mended(okx, bouncer, database, tmp_path):
    """A row that is lost behind the ledger is found by a recount, and the ledger mended."""
    rows = "".join(json.dumps(trade("BTC-USDT", number)) + "\n" for number in range(1, 101))
    (tmp_path / "in.jsonl").write_text(rows)
    assert end(okx("store", tmp_path / "in.jsonl"))[0] == 0
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM raw_trades WHERE trade_id = 50")
    until = ("--until", T0 + 1_000)
    status, out, _ = end(okx("gaps", "--recount", *until))
    assert (status, json.loads(out.splitlines()[0])["kind"]) == (1, "lost")
    end(okx("gaps", "--recount", "--repair", *until))
    found = [json.loads(line)["kind"] for line in end(okx("gaps", "--recount", *until))[1].splitlines()]
    assert found == ["covered", "missing", "covered"]


def test_following_and_retention(okx, bouncer, database, tmp_path):
    """`read --follow` needs no session, and old partitions go while somebody reads another."""
    (tmp_path / "1.jsonl").write_text(json.dumps(trade("BTC-USDT", 1)) + "\n")
    (tmp_path / "2.jsonl").write_text(json.dumps(trade("BTC-USDT", 2) | {"timestamp": T0 + 3 * 86_400_000}))
    assert end(okx("store", tmp_path / "1.jsonl"))[0] == 0
    reader = okx("read", "trades", "BTC-USDT", "--follow")
    assert json.loads(reader.stdout.readline())["trade_id"] == 1
    assert end(okx("store", tmp_path / "2.jsonl"))[0] == 0
    assert json.loads(reader.stdout.readline())["trade_id"] == 2
    with open_database(bouncer.dsn, create=False) as opened, session(opened) as connection:
        with opened.connect() as other, other.transaction():
            other.execute("SELECT * FROM raw_trades_20250515")
            retention.apply(connection, {"trades": 1}, T0 + 4 * 86_400_000)
        assert partitions.existing(connection, "raw_trades")[0] == date(2025, 5, 15)
    assert stored(database, "SELECT trade_id FROM raw_trades") == [(2,)]


def test_several_make_the_tables(okx, database):
    """One migrates, the others find it done; nobody fails."""
    ended = [end(run) for run in [okx("db", "migrate") for _ in range(4)]]
    assert [status for status, *_ in ended] == [0] * 4
    assert len({out for _, out, _ in ended if out}) == 1


def test_nothing_stays_in_a_session(okx, database, bouncer, tmp_path):
    """What one client sets, makes or locks is no other's: a pooled session is as it was."""
    (tmp_path / "in.jsonl").write_text(json.dumps(trade("BTC-USDT", 1)) + "\n")
    assert end(okx("store", tmp_path / "in.jsonl"))[0] == 0
    with psycopg.connect(bouncer.dsn, autocommit=True, prepare_threshold=None) as connection:
        left = connection.execute(
            "SELECT (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_class WHERE relpersistence"
            " = 't'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), (SELECT count(*) FROM pg_settings"
            " WHERE source = 'session' AND name NOT IN ('client_encoding', 'application_name'))"
        ).fetchone()
    assert left == (0, 0, 0, 0)


def test_statement_mode_is_refused(database, okx, tmp_path):
    """A pooler that knows no transactions cannot be used; one line says so, and how to do without."""
    with pooler.Pooler(tmp_path, database, pool_mode="statement") as bouncer:
        status, _, err = end(okx("db", "migrate", dsn=bouncer.dsn))
    assert (status, err.count("\n")) == (69, 1), err
    assert "statement mode" in err and "transaction" in err


def test_a_pool_that_is_too_small(database, okx, tmp_path):
    """A backfill holds its lock in one connection and works in another: with a pool of one that is told."""
    with pooler.Pooler(tmp_path, database, default_pool_size=1, query_wait_timeout=1) as bouncer:
        assert end(okx("db", "migrate", dsn=bouncer.dsn))[0] == 0
        status, _, err = end(okx("backfill", "BTC-USDT", "-q", dsn=bouncer.dsn, OKX_WS_URL="ws://127.0.0.1:1"))
    assert (status, err.count("\n")) == (69, 1) and "make its pool larger" in err, err


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_options_hold_where_the_pooler_refuses_them(okx, database, tmp_path, mode):
    """A schema named by libpq's options is that of every statement, whatever another client did to its session."""
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA market")
    (tmp_path / "in.jsonl").write_text(json.dumps(trade("BTC-USDT", 1)) + "\n")
    with pooler.Pooler(tmp_path, database, default_pool_size=1, pool_mode=mode) as bouncer:
        if mode == "transaction":
            with psycopg.connect(bouncer.dsn, autocommit=True) as rude:
                rude.execute("SET search_path = ''; SET datestyle = 'German'; SET array_nulls = off")
        dsn = f"{bouncer.dsn} options='-c search_path=market'"
        assert end(okx("store", tmp_path / "in.jsonl", dsn=dsn))[0] == 0
        assert len(end(okx("read", "trades", "BTC-USDT", dsn=dsn))[1].splitlines()) == 1
    assert stored(database, "SELECT trade_id FROM market.raw_trades") == [(1,)]
    assert stored(database, "SELECT to_regclass('public.raw_trades')") == [(None,)]
