"""The whole pipe, and `collect`, as real processes on a simulated OKX and a real Postgres.

The oracle is the simulator's own list of fills: DuckDB makes bars of it, in SQL, without a line of our candle code.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psycopg
import pytest

from okxcli.local.exchange import LocalExchange

BIN = Path(sys.executable).parent
#: A market in the past, sixty times as fast as ours: ten minutes of bars in ten seconds.
MARKET = ["--start", "2026-01-05T00:00:30Z", "--speed", "60", "--history", "0s"]

# Sizes of at most 8 places, prices of at most 10: the products fit DuckDB's 38 digits exactly.
BARS = """
SELECT symbol, epoch_ms(start) AS start, arg_min(price, id), max(price), min(price), arg_max(price, id), sum(size),
       sum(price * size), sum(CASE WHEN side = 'buy' THEN size ELSE 0 END), count(*), min(id), max(id)
FROM (SELECT instId AS symbol, tradeId::BIGINT AS id, px::DECIMAL(19, 10) AS price, sz::DECIMAL(19, 8) AS size, side,
             time_bucket(to_seconds(?), make_timestamp(ts::BIGINT * 1000), TIMESTAMP '2000-01-03') AS start
      FROM read_json(?, columns = {instId: 'VARCHAR', tradeId: 'VARCHAR', px: 'VARCHAR', sz: 'VARCHAR',
                                   side: 'VARCHAR', ts: 'VARCHAR'}))
WHERE id BETWEEN ? AND ? AND symbol = ?
GROUP BY symbol, start ORDER BY start
"""
STORED = """
SELECT symbol, (extract(epoch FROM start) * 1000)::bigint, open, high, low, close, volume, quote_volume, buy_volume,
       trade_count, first_trade_id, last_trade_id, complete, (extract(epoch FROM timestamp) * 1000)::bigint
FROM market_data WHERE symbol = %s AND timeframe = %s ORDER BY start
"""
LENGTHS = {"1s": 1, "5s": 5, "1m": 60, "5m": 300}


@pytest.fixture
def shell(database, tmp_path):
    """Run a shell script in which `okx` is ours, the database a fresh one and home an empty folder."""
    processes = []

    def start(script, *simulate):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OKX_", "PG", "XDG_"))}
        env |= {"PATH": f"{BIN}{os.pathsep}{env['PATH']}", "OKX_DSN": database, "HOME": str(tmp_path)}
        command = ["bash", "-c", "set -o pipefail\n" + script]
        if simulate:
            fills = ["--fills", str(tmp_path / "fills.jsonl"), "--no-database"]
            command = [str(BIN / "okx"), "simulate", *simulate, *fills, "--", *command]
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def rows(database, query, *values):
    with psycopg.connect(database) as connection:
        return connection.execute(query, values).fetchall()


def counts(err, command):
    """Return the closing counts of a filter."""
    (text,) = re.findall(rf"^okx {command}: (\{{.*\}})$", err, re.MULTILINE)
    return json.loads(text)


def wait_for(condition, seconds=80.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def check_candles(database, tmp_path, symbol, timeframes, spans=None):
    """Compare the stored candles of a symbol with DuckDB's, from the first fill that the pipe saw on."""
    total = 0
    for name in timeframes:
        stored = rows(database, STORED, symbol, name)
        assert stored
        first, last = spans or (stored[0][10], 2**62)
        expected = duckdb.execute(BARS, [LENGTHS[name], str(tmp_path / "fills.jsonl"), first, last, symbol]).fetchall()
        assert [row[:12] for row in stored] == expected[: len(stored)]
        assert [row[12] for row in stored] == [False] + [True] * (len(stored) - 1)
        assert all(row[13] - row[1] == LENGTHS[name] * 1000 for row in stored)
        total += len(stored)
    return total


def check_tape(database, tmp_path, symbol):
    """Compare the stored trades of a symbol one to one with the simulator's fills between the first and the last."""
    tape = rows(
        database,
        "SELECT trade_id, count, side, price, size, (extract(epoch FROM timestamp) * 1000)::bigint, source, origin "
        "FROM raw_trades WHERE symbol = %s ORDER BY trade_id",
        symbol,
    )
    fills = [json.loads(line) for line in (tmp_path / "fills.jsonl").read_text().splitlines()]
    expected = {int(f["tradeId"]): f for f in fills if f["instId"] == symbol}
    assert tape
    assert [row[0] for row in tape] == list(range(tape[0][0], tape[-1][0] + 1))
    for trade_id, count, side, price, size, timestamp, source, origin in tape:
        fill = expected[trade_id]
        assert (str(price), str(size), side) == (fill["px"], fill["sz"], fill["side"])
        assert (timestamp, count, source, origin) == (int(fill["ts"]), 1, int(fill["source"]), "trades-all")
    return tape


def test_the_pipe_as_it_is_typed(shell, database, tmp_path):
    """After Ctrl-C the rows in market_data are the bars that DuckDB makes of the fills, to the last digit."""
    process = shell(
        "okx stream BTC-USDT | okx normalize | okx candles --tf 1m,5m | okx store", "BTC-USDT", "--rate", "40", *MARKET
    )
    wait_for(lambda: process.poll() is None and _stored(database, "market_data") >= 7)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert check_candles(database, tmp_path, "BTC-USDT", ["1m", "5m"]) == counts(err, "store")["market_data"] >= 7
    assert counts(err, "candles")["missing_fills"] == 0
    assert rows(database, "SELECT count(*) FROM raw_trades") == [(0,)]


def test_the_pipe_with_pass(shell, database, tmp_path):
    """With --pass, raw_trades are the fills one to one, small prices and several symbols too."""
    symbols = ["BTC-USDT", "PEPE-USDT"]
    # Of 60 a second, that is seven minutes: at least one bar of five minutes is over.
    process = shell(
        "okx stream BTC-USDT PEPE-USDT -n 25000 | okx normalize | okx candles --tf 1m,5m --pass | okx store",
        *symbols, "--rate", "60", *MARKET, "--seed", "3",
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    for symbol in symbols:
        tape = check_tape(database, tmp_path, symbol)
        check_candles(database, tmp_path, symbol, ["1m", "5m"], (tape[0][0], tape[-1][0]))
    ledger = rows(
        database,
        "SELECT symbol, sum(upper(r) - lower(r))::bigint FROM trade_ledger, unnest(covered) AS r GROUP BY symbol",
    )
    assert dict(ledger) == dict(rows(database, "SELECT symbol, count(*) FROM raw_trades GROUP BY symbol"))
    assert {row[0] for row in rows(database, "SELECT symbol FROM instruments")} == set(symbols)


def test_collect(shell, database, tmp_path):
    """`collect` stores the same: fills one to one, bars to the last digit, books and tickers beside them."""
    config = {
        "symbols": ["BTC-USDT", "ETH-USDC"],
        "channels": ["trades-all", "books5", "tickers"],
        "timeframes": ["1m", "5m"],
    }
    (tmp_path / "okx.json").write_text(json.dumps(config))
    process = shell(
        "okx collect --config okx.json --log-file log.txt & echo $! >pid; wait $!; "
        "okx status --config okx.json --max-age 1000000d",
        "BTC-USDT", "ETH-USDC", "--rate", "60", *MARKET,
    )  # fmt: skip
    five = "SELECT count(DISTINCT symbol) FROM market_data WHERE timeframe = '5m'"
    wait_for(lambda: _stored(database, "market_data") and rows(database, five) == [(2,)])
    wait_for(lambda: min(_stored(database, table) for table in ("order_books", "tickers")) > 4)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    for symbol in config["symbols"]:
        tape = check_tape(database, tmp_path, symbol)
        check_candles(database, tmp_path, symbol, ["1m", "5m"], (tape[0][0], tape[-1][0]))
    status = [json.loads(line) for line in out.splitlines()]
    channels = ["trades-all", "candles", "books5", "tickers"]
    assert [(row["symbol"], row["channel"], row["state"]) for row in status] == [
        (symbol, channel, "fresh") for symbol in ("BTC-USDT", "ETH-USDC") for channel in channels]  # fmt: skip
    assert [row["missing"] for row in status if row["channel"] == "trades-all"] == [0, 0]
    assert "connected to" in (tmp_path / "log.txt").read_text()


def _stored(database, table):
    try:
        return rows(database, f"SELECT count(*) FROM {table}")[0][0]
    except psycopg.errors.UndefinedTable:
        return 0


@pytest.mark.parametrize("who", ["everybody", "the source"])
def test_an_interrupt_under_load_loses_nothing(shell, database, tmp_path, who):
    """Ctrl-C on the four-stage pipe, or SIGTERM to its source: what `stream` wrote is what `store` committed."""
    script = (
        "okx stream -v BTC-USDT ETH-USDT & echo $! >pid; wait $!"
        if who == "the source"
        else "okx stream -v BTC-USDT ETH-USDT"
    )
    process = shell(
        f"{{ {script}; }} | okx normalize | okx candles --tf 1s,1m --pass | okx store",
        "BTC-USDT", "ETH-USDT", "--rate", "4000", "--history", "0s",
    )  # fmt: skip
    wait_for(lambda: _stored(database, "raw_trades") > 8000)
    if who == "everybody":
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    written = int(re.findall(r"(\d+) lines written", err)[0])
    assert counts(err, "normalize")["lines_in"] == counts(err, "normalize")["lines_out"] == written
    assert counts(err, "candles")["lines_in"] == written
    stored = counts(err, "store")
    assert stored["raw_trades"] + stored["instruments"] + 1 == written  # the first line says where they are from
    assert stored["market_data"] <= counts(err, "candles")["candles"]
    assert _stored(database, "raw_trades") == stored["raw_trades"] > 8000
    for symbol in ("BTC-USDT", "ETH-USDT"):
        check_tape(database, tmp_path, symbol)


def test_head_ends_the_pipe_quietly(shell):
    """A reader that has enough ends the source by SIGPIPE, without a word of complaint."""
    process = shell("okx stream BTC-USDT --stamp | head -3", "BTC-USDT", "--rate", "100")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert len(out.splitlines()) == 3
    assert all("received" in json.loads(line) for line in out.splitlines()[1:])
    assert "Traceback" not in err
    assert not re.search(r"error|broken", err, re.IGNORECASE)


def test_a_socket_killed_ten_times(shell, tmp_path):
    """The stream goes on by itself, and after the last cut every subscription is back."""
    symbols, channels = ["BTC-USDT", "ETH-USDT"], ["trades-all", "tickers", "books5"]
    with LocalExchange(symbols, rate=50, history_s=0) as exchange:
        process = shell(
            f"OKX_WS_URL={exchange.ws_url} OKX_REST_URL={exchange.rest_url} "
            f"okx stream {' '.join(symbols)} --channel {','.join(channels)} --stamp -o out.jsonl"
        )
        for _ in range(10):
            for channel in channels:
                for symbol in symbols:
                    assert exchange.wait_subscribed(channel, symbol, 40)
            exchange.cut()
        for channel in channels:
            for symbol in symbols:
                assert exchange.wait_subscribed(channel, symbol, 40)
        last_cut_ms = time.time_ns() // 1_000_000

        def fresh():
            whole, _, _ = (tmp_path / "out.jsonl.part").read_text().rpartition("\n")
            lines = [json.loads(line) for line in whole.splitlines()]
            return {(m["arg"]["channel"], m["arg"].get("instId")) for m in lines if m.get("received", 0) > last_cut_ms}

        wait_for(lambda: {(c, s) for c in channels for s in symbols} <= fresh())
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
