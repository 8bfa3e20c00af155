"""A machine whose clock is wrong: nothing of the present is refused, dropped or archived, and what is said is right.

`okx` runs as a process whose wall clock is shifted; the exchange is in this process and has the right time.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from decimal import Decimal

import psycopg
import pytest

from okxcli.core.codec import decode
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.runtime.clock import now_ms
from okxcli.storage.write.writer import Writer

DAY_S = 86_400
BTC = "BTC-USDT"
#: A clock that is off by so many seconds, and from so long after the start on by so many more; housekeeping comes at
#: once, so that retention sees the wrong clock, and is done some times.
WRAPPER = """
import os, sys, time
off, after, step = map(float, os.environ["SHIFT"].split())
began, ns, s = time.monotonic(), time.time_ns, time.time
shift = lambda: off + (step if time.monotonic() - began > after else 0)
time.time_ns = lambda: ns() + int(shift() * 10**9)
time.time = lambda: s() + shift()
from okxcli.storage.upkeep import housekeeping
housekeeping.FIRST_HOUSEKEEPING_S, housekeeping.HOUSEKEEPING_S = 0.5, 1.0
from okxcli.cli import main
sys.argv[0] = "okx"
sys.exit(main())
"""
CLOCKS = {
    "400 days ahead": (400 * DAY_S, 99, 0),
    "an hour behind": (-3_600, 99, 0),
    "three days behind": (-3 * DAY_S, 99, 0),
    "set ahead during the run": (0, 4, 400 * DAY_S),
    "set back during the run": (400 * DAY_S, 4, -401 * DAY_S),
}


@pytest.fixture
def exchange():
    with LocalExchange([BTC], rate=30, history_s=110, options=Options(limits=0)) as found:
        yield found


@pytest.fixture
def okx(tmp_path, database, exchange):
    """Run `okx` by a shifted clock: (seconds off, seconds until it steps, seconds that it steps by)."""
    keep = {"trades": "7d", "books": "7d", "tickers": "7d", "candles": None}
    settings = {
        "symbols": [BTC], "channels": ["trades-all", "books5", "tickers"], "timeframes": ["1s", "1m"],
        "candles": {"lateness": "1s", "grace": "500ms"}, "storage": {"keep": keep},
    }  # fmt: skip
    (tmp_path / "okx.json").write_text(json.dumps(settings))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "PYTHON"))}
    clean |= {"OKX_DSN": database, "HOME": str(tmp_path), "OKX_CONFIG": str(tmp_path / "okx.json")}
    clean |= {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url, "XDG_RUNTIME_DIR": str(tmp_path)}

    def run(*arguments, clock=(0, 99, 0), data=None, limit_s=120):
        return subprocess.run(
            [sys.executable, "-c", WRAPPER, *map(str, arguments)],
            env=clean | {"SHIFT": " ".join(map(str, clock))}, cwd=tmp_path, input=data, capture_output=True, text=True,
            check=False, timeout=limit_s,
        )  # fmt: skip

    return run


def query(database, sql, *values):
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(sql, values).fetchall()


def fill(number, at, received=None):
    return json.dumps(
        {"type": "trade", "exchange": "okx", "symbol": BTC, "trade_id": number, "count": 1, "side": "buy",
         "price": "100", "size": "1", "timestamp": at, "received": received, "source": 0, "origin": "trades-all"}
    )  # fmt: skip


def tables(database):
    return {
        name: query(database, f"SELECT count(*) FROM {name}")[0][0] for name in ("raw_trades", "order_books", "tickers")
    }


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_collect_by_a_wrong_clock(okx, database, exchange, clock):
    """And again, by a right one: every fill from the first on is there, in its bars; nothing else is gone."""
    before = {}
    again = [clock] if clock == CLOCKS["400 days ahead"] else []
    for shift in (clock, *again, (0, 99, 0)):
        done = okx("collect", "--duration", "5s", clock=shift)
        assert done.returncode == 0, done.stderr
        after = tables(database)
        assert all(after[name] > before.get(name, 0) for name in after), (before, after)
        before = after
    market = {one.trade_id: one for one in exchange.fills(BTC)}
    stored = query(
        database, "SELECT trade_id, price, (extract(epoch FROM timestamp) * 1000)::bigint FROM raw_trades ORDER BY 1"
    )
    assert [row[0] for row in stored] == list(range(stored[0][0], stored[-1][0] + 1))
    assert all((market[n].ts, Decimal(market[n].price)) == (at, price) for n, price, at in stored)
    assert query(database, "SELECT count(*) FROM quarantine") == [(0,)]
    assert query(database, "SELECT count(*) FROM trade_ledger WHERE archived OR NOT isempty(retired)") == [(0,)]
    bars = query(
        database,
        "SELECT first_trade_id, last_trade_id, trade_count, volume, (extract(epoch FROM start) * 1000)::bigint,"
        " (extract(epoch FROM timestamp) * 1000)::bigint FROM market_data WHERE timeframe = '1s' AND complete",
    )
    assert len(bars) > 4
    for first, last, count, volume, start, end in bars:
        inside = [one for one in market.values() if start <= one.ts < end]
        assert [min(inside_ids := [one.trade_id for one in inside]), max(inside_ids), len(inside)] == [
            first,
            last,
            count,
        ]
        assert volume == sum(Decimal(one.size) for one in inside)
    # Who looks by a clock that is right is told the truth, whatever clock it was written by.
    assert okx("gaps", "--since", "1d", "--lines").returncode == 1  # what was before the first is unknown
    done = okx("gaps", "--lines", "--until", stored[-1][2])
    assert done.returncode == 0, done.stdout
    done = okx("status", "--lines")
    assert {json.loads(line)["state"] for line in done.stdout.splitlines()} == {"fresh"}, done.stdout


@pytest.mark.parametrize("off", [-3_600, -3 * DAY_S])
def test_the_past_by_a_clock_that_is_behind(okx, database, exchange, off):
    """A time ago is meant by the exchange's clock; what is newer than our own is fetched and stored all the same."""
    fills = exchange.fills(BTC)
    done = okx("history", BTC, "--since", "100s", clock=(off, 99, 0))
    assert done.returncode == 0, done.stderr
    assert okx("normalize", "-q", data=done.stdout, clock=(off, 99, 0)).returncode == (0 if off > -DAY_S else 65)
    assert okx("db", "migrate").returncode == 0
    done = okx("backfill", BTC, "--since", "100s", "--until", "now", "--lines", "-q", clock=(off, 99, 0))
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["left"] == 0 and row["fetched"] > 100
    (first, last, count) = query(database, "SELECT min(trade_id), max(trade_id), count(*) FROM raw_trades")[0]
    assert first > fills[0].trade_id and last > fills[-1].trade_id and count == last - first + 1
    # What is stored has come: the last minute by a clock that is behind is not all that gaps looks at.
    rows = [json.loads(line) for line in okx("gaps", "--lines", clock=(off, 99, 0)).stdout.splitlines()]
    assert [row["kind"] for row in rows] == ["covered"]
    done = okx("status", "--lines", clock=(off, 99, 0))
    assert done.returncode == 1 and "Set this machine's clock by NTP" in done.stderr


def test_a_clock_that_is_set_right_and_no_rest(okx):
    """Where the exchange's time is not known the stamps go by the wall clock as it is, not as it was."""
    shift = (400 * DAY_S, 6, -400 * DAY_S)
    done = okx("stream", BTC, "--stamp", "--duration", "10s", "-q", "--rest-url", "http://127.0.0.1:9", clock=shift)
    stamps = [json.loads(line)["received"] for line in done.stdout.splitlines() if "trades-all" in line]
    assert abs(stamps[-1] - now_ms()) < 60_000 and stamps[0] - now_ms() > 399 * DAY_S * 1_000


def test_a_pipe_by_a_clock_that_is_behind(okx, exchange):
    """Without --stamp the lines tell when they came as soon as that is known to matter: the present is not refused."""
    behind = (-3 * DAY_S, 99, 0)
    raw = okx("stream", BTC, "-n", "300", "-q", clock=behind).stdout
    stamped = [json.loads(line)["received"] for line in raw.splitlines() if '"received":' in line]
    assert len(stamped) > 100 and all(abs(at - now_ms()) < 60_000 for at in stamped)
    done = okx("normalize", data=raw, clock=behind)
    counts = json.loads(done.stderr.splitlines()[-1].removeprefix("okx normalize: "))
    assert counts["lines_out"] >= len(stamped)
    done = okx("candles", "--tf", "1s", "-q", data=done.stdout, clock=behind)
    assert done.returncode == 0 and done.stdout.count('"complete":true') > 1, done.stderr
    assert '"received":' not in okx("stream", BTC, "-n", "20", "-q", clock=(-3_000, 99, 0)).stdout


def test_a_row_of_2096_blinds_nobody(okx, database):
    """An older release has stored it: candles are made, gaps and status say what is wrong, backfill ends soon."""
    assert okx("collect", "--duration", "5s").returncode == 0
    (last,) = query(database, "SELECT max(trade_id) FROM raw_trades")[0]
    put(database, fill(last + 1, 4_000_000_000_000))
    done = okx("gaps", "--lines", "--until", "now")
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert done.returncode == 1 and kinds == ["covered", "unknown", "ahead"]
    assert okx("gaps", "--lines").returncode == 1
    assert f"the time of {last + 1}-{last + 1} has not come. Set this machine's clock by NTP" in done.stderr
    cure = done.stderr.strip().splitlines()[-1].rpartition("take them out: okx ")[2]
    done = okx("status", "--lines")
    assert done.returncode == 1
    states = {one["channel"]: one["state"] for one in map(json.loads, done.stdout.splitlines())}
    assert states["trades-all"] == "ahead" and f"okx gaps {BTC} tells their ids" in done.stderr
    (bars,) = query(database, "SELECT count(*) FROM market_data WHERE timeframe = '1s' AND complete")[0]
    done = okx("collect", "--duration", "5s")
    counts = json.loads(done.stderr.splitlines()[-1].removeprefix("okx collect: "))
    assert counts["late"] == 0 and counts["quarantined"] == 1  # the fill whose id the row has taken
    assert query(database, "SELECT count(*) FROM market_data WHERE timeframe = '1s' AND complete")[0][0] > bars + 3
    began = time.monotonic()
    assert okx("backfill", "--lines", "-q", "--no-wait").returncode in (0, 1)
    assert time.monotonic() - began < 60
    # The cure that was named: the row goes, and the fill whose id it had taken comes.
    assert okx(*cure.partition(";")[0].split()).returncode == 0
    assert okx("backfill", "--lines", "-q", "--no-wait").returncode == 0
    done = okx("gaps", "--lines", "--until", now_ms() - 90_000)
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] in (["unknown"], ["covered"]), done.stdout
    assert query(database, "SELECT count(*) FROM raw_trades WHERE trade_id = %s AND timestamp < now()", last + 1) == [
        (1,)
    ]
    assert "ahead" not in okx("status", "--lines").stdout


def test_nothing_is_dropped_while_nobody_knows_the_time(okx, database):
    """A clock that is ahead, no REST that says so, and a row of 2096 beside: all three do not take the tape."""
    assert okx("collect", "--duration", "4s").returncode == 0
    (last, count) = query(database, "SELECT max(trade_id), count(*) FROM raw_trades")[0]
    put(database, fill(last + 1, 4_000_000_000_000))
    away = ("--rest-url", "http://127.0.0.1:9")
    assert okx("collect", "--duration", "6s", *away, clock=(400 * DAY_S, 99, 0)).returncode == 0
    assert query(database, "SELECT count(*) >= %s FROM raw_trades", count + 1) == [(True,)]
    assert query(database, "SELECT count(*) FROM trade_ledger WHERE archived OR NOT isempty(retired)") == [(0,)]


def put(database, *lines):
    """Store lines as an older release did, which looked at no clock."""
    with closing(Writer(lambda: psycopg.connect(database, autocommit=True))) as writer:
        for line in lines:
            writer.add(decode(line.encode()))
        writer.flush()


def test_nothing_but_rows_of_2096(okx, database):
    """Candles alone, or one fill alone: gaps does not say that all is well, nor that nothing is there."""
    assert okx("db", "migrate").returncode == 0
    bar = {
        "type": "candle", "exchange": "okx", "symbol": "A-B", "timeframe": "1m", "start": 3_999_999_960_000,
        "timestamp": 4_000_000_020_000, "open": "1", "high": "1", "low": "1", "close": "1", "volume": "1",
        "base_volume": "1", "quote_volume": "1", "buy_volume": "1", "trade_count": 1, "first_trade_id": 5,
        "last_trade_id": 5, "closed": True, "complete": True, "revision": 0, "origin": "trades",
    }  # fmt: skip
    put(database, json.dumps(bar), fill(9, 4_000_000_000_000))
    for symbol, first in (("A-B", None), (BTC, 9)):
        done = okx("gaps", symbol, "--lines", "--until", "now")
        ahead = [one for one in map(json.loads, done.stdout.splitlines()) if one["kind"] == "ahead"]
        assert done.returncode == 1 and [one["first"] for one in ahead] == [first], done.stdout
        assert "has not come" in done.stderr
    states = [json.loads(line)["state"] for line in okx("status", "--lines").stdout.splitlines()]
    assert states.count("ahead") == 2
    assert okx("db", "run", okx("gaps", "A-B").stderr.split('"')[-2]).returncode == 0
    assert okx("gaps", "A-B", "--lines").stderr == ""


def test_a_clock_behind_and_no_rest(okx, database, exchange):
    """Two pushes that agree tell the time; what was refused until then is told, kept, and taken back by a command."""
    done = okx("collect", "--duration", "14s", "--rest-url", "http://127.0.0.1:9", clock=(-7_200, 99, 0))
    assert done.returncode == 0, done.stderr
    (refused,) = query(database, "SELECT count(*) FROM quarantine WHERE reason LIKE '%%ahead of received'")[0]
    (stored,) = query(database, "SELECT count(*) FROM raw_trades")[0]
    assert refused > 20 and stored > 20
    assert done.stderr.count("it must be this machine's clock that is behind") == 1
    assert okx("db", "quarantine", "--retry", "--reason", "ahead of received").returncode == 0
    first, last, count = query(database, "SELECT min(trade_id), max(trade_id), count(*) FROM raw_trades")[0]
    assert count == last - first + 1 > stored
    assert query(database, "SELECT count(*) FROM quarantine") == [(0,)]


def test_a_fill_of_2011_costs_no_time(okx, database):
    """Between it and the others lie eight million minutes, of which there is none to make."""
    now = now_ms()
    data = [fill(1, 1_300_000_000_000), *(fill(n, now - 600_000 + n * 1_000) for n in range(2, 400))]
    assert okx("store", "-q", data="\n".join(data)).returncode == 0
    began = time.monotonic()
    done = okx("backfill", "--dry-run", "--lines", "--until", now - 150_000)
    assert json.loads(done.stdout)["stale_candles"] < 1_000, done.stdout
    assert time.monotonic() - began < 60
