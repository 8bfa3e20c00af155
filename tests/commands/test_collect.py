"""`okx collect` and `okx status` as processes: what they refuse, and what they outlive."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psycopg
import pytest

from okxcli.commands.collect import _note_clock
from okxcli.local.exchange import LocalExchange
from okxcli.runtime.clock import now_ms
from okxcli.storage.database import open_database
from okxcli.storage.server.known_databases import name_of

CONFIG = {"symbols": ["BTC-USDT", "ETH-USDT"], "channels": ["trades-all", "books5"], "timeframes": ["1s", "1m"]}


@pytest.fixture
def run(tmp_path, database):
    """Start `okx ...` with the fresh database, an empty home and a configuration of two symbols."""
    (tmp_path / "okx.json").write_text(json.dumps(CONFIG))
    processes = []

    def start(*arguments, **variables):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
        env |= {"OKX_DSN": database, "HOME": str(tmp_path), "OKX_CONFIG": str(tmp_path / "okx.json")} | variables
        process = subprocess.Popen(
            [sys.executable, "-m", "okxcli", *arguments],
            env={k: v for k, v in env.items() if v}, cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def end(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err
    return process.returncode, out, err


def wait_for(condition, seconds=60.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.1)


def stored(database):
    """Return the stored fills of each symbol: (how many, first id, last id)."""
    with psycopg.connect(database) as connection:
        try:
            rows = connection.execute(
                "SELECT symbol, count(*), min(trade_id), max(trade_id) FROM raw_trades GROUP BY 1"
            )
            return {symbol: rest for symbol, *rest in rows}
        except psycopg.errors.UndefinedTable:
            return {}


def test_without_a_configuration(run, tmp_path):
    """Exit 78, and the command that makes one."""
    status, _, err = end(run("collect", OKX_CONFIG="", XDG_CONFIG_HOME=str(tmp_path)))
    assert status == 78
    assert "okx config init" in err


def test_an_unreachable_exchange(run, tmp_path):
    """Never connected in time: exit 69 and one line that says where."""
    (tmp_path / "okx.json").write_text(json.dumps(CONFIG | {"exchange": {"connect_timeout": "1s"}}))
    status, _, err = end(run("collect", "--ws-url", "ws://127.0.0.1:9", "--rest-url", "http://127.0.0.1:9"))
    assert status == 69
    assert "127.0.0.1:9" in err.splitlines()[-1]


def test_an_unreachable_database(run):
    """Exit 69 and one line that says where; no password in it."""
    status, _, err = end(run("collect", OKX_DSN="postgresql://me:secret@127.0.0.1:9/okx"))
    assert status == 69
    assert "127.0.0.1:9" in err
    assert "secret" not in err


def test_a_password_on_the_command_line(run):
    """It would show in ps: refused, with the remedy, and not repeated."""
    status, _, err = end(run("collect", "--dsn", "host=127.0.0.1 password=secret"))
    assert status == 2
    assert "pgpass" in err
    assert "secret" not in err


def test_a_database_belongs_to_one_exchange(run, database):
    """A simulation never lands in a real tape, nor the other way round: exit 78."""
    with LocalExchange(["BTC-USDT", "ETH-USDT"], rate=20, history_s=0) as exchange:
        local = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
        assert end(run("collect", "--duration", "2s", **local))[0] == 0
    before = stored(database)
    status, _, err = end(run("collect", "--duration", "2s"))
    assert status == 78
    assert "local" in err
    assert stored(database) == before


def test_no_candles(run, database, tmp_path):
    """A configuration without timeframes stores everything else."""
    (tmp_path / "okx.json").write_text(json.dumps(CONFIG | {"timeframes": []}))
    with LocalExchange(["BTC-USDT", "ETH-USDT"], rate=50, history_s=0) as exchange:
        process = run("collect", OKX_WS_URL=exchange.ws_url, OKX_REST_URL=exchange.rest_url)
        wait_for(lambda: sum(n for n, _, _ in stored(database).values()) > 20)
        process.send_signal(signal.SIGTERM)
        status, _, err = end(process)
    assert status == -signal.SIGTERM
    counts = json.loads(err.splitlines()[-1].removeprefix("okx collect: "))
    assert counts["market_data"] == 0
    assert counts["raw_trades"] == sum(n for n, _, _ in stored(database).values()) > 0


def test_status(run, database):
    """Fresh while it collects, stale (exit 1) some time after; a symbol that was never stored is told."""
    with LocalExchange(["BTC-USDT", "ETH-USDT"], rate=50, history_s=0) as exchange:
        assert end(run("status"))[0] == 69
        process = run("collect", OKX_WS_URL=exchange.ws_url, OKX_REST_URL=exchange.rest_url)
        wait_for(lambda: len(stored(database)) == 2)
        wait_for(lambda: end(run("status"))[0] == 0)  # every channel of both has come
        process.send_signal(signal.SIGTERM)
        assert end(process)[0] == -signal.SIGTERM
    status, out, _ = end(run("status"))
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert list(dict.fromkeys(row["symbol"] for row in rows)) == ["BTC-USDT", "ETH-USDT"]
    assert all(row["state"] == "fresh" and row["age_s"] < 60 for row in rows)
    tapes = [row for row in rows if row["channel"] == "trades-all"]
    assert {row["symbol"]: row["trades"] for row in tapes} == {s: n for s, (n, _, _) in stored(database).items()}
    assert [row["missing"] for row in tapes] == [0, 0]
    status, out, _ = end(run("status", "DOGE-USDT", "BTC-USDT"))
    found = [(row["symbol"], row["channel"], row["state"]) for row in map(json.loads, out.splitlines())]
    assert (status, found[0], found[-1]) == (1, ("BTC-USDT", "trades-all", "fresh"), ("DOGE-USDT", "-", "never stored"))
    time.sleep(1)
    status, out, _ = end(run("status", "--max-age", "500ms", "--table"))
    assert status == 1
    assert "stale" in out


def test_status_tells_of_the_clocks_of_collectors(run, database):
    """What a collector found out about its machine's clock, once it knows; a day later that is forgotten."""
    with open_database(database, create=True) as opened, opened.session() as connection:
        for offset_ms, now in ((None, now_ms), (3_240, now_ms), (-20, now_ms), (-5_000, lambda: now_ms() - 90_000_000)):
            _note_clock(connection, SimpleNamespace(wall_offset_ms=offset_ms, clock=now))
            told = [line for line in end(run("status"))[2].splitlines() if "the clock of" in line]
            assert len(told) == (offset_ms in (3_240, -20))
            if offset_ms == 3_240:
                assert f"the clock of {platform.node()} was 3.2 s behind the exchange's at 20" in told[0]
                assert told[0].endswith("Set it by NTP")
            elif told:
                assert "was 0.0 s ahead of the exchange's at 20" in told[0] and "NTP" not in told[0]


def test_status_of_candles_alone(run, database, tmp_path):
    """Where only candles are stored they tell the age; what waits in the spool is told with its folder."""
    now = time.time_ns() // 1_000_000
    bars = [
        {"type": "candle", "exchange": "okx", "symbol": symbol, "timeframe": "1m", "start": end - 60_000,
         "timestamp": end, "open": "1", "high": "1", "low": "1", "close": "1", "volume": "1", "base_volume": "1",
         "quote_volume": "1", "buy_volume": "1", "trade_count": 1, "first_trade_id": 5, "last_trade_id": 5,
         "closed": True, "complete": False, "revision": 0, "origin": "trades"}
        for symbol, end in (("BTC-USDT", now - now % 60_000), ("ETH-USDT", now - now % 60_000 - 600_000))
    ]  # fmt: skip
    (tmp_path / "bars.jsonl").write_text("".join(json.dumps(bar) + "\n" for bar in bars))
    with LocalExchange(["BTC-USDT"], history_s=0) as exchange:
        assert end(run("store", str(tmp_path / "bars.jsonl"), OKX_WS_URL=exchange.ws_url))[0] == 0
    status, out, err = end(run("status"))
    rows = {(row["symbol"], row["channel"]): row for row in map(json.loads, out.splitlines())}
    assert (status, rows["BTC-USDT", "candles"]["state"], rows["ETH-USDT", "candles"]["state"]) == (1, "fresh", "stale")
    assert rows["ETH-USDT", "candles"]["age_s"] >= 540 > 120 > rows["BTC-USDT", "candles"]["age_s"]
    assert rows["BTC-USDT", "trades-all"]["state"] == "never stored"  # the configuration stores them
    assert "wait in" not in err
    where = err.split("okx status: ")[-1].rsplit(": ", 1)[0]
    folder = tmp_path / ".local/state/okx/spool" / name_of(where)
    folder.mkdir(parents=True)
    (folder / "1.jsonl").write_bytes(b"x" * 100_000)
    assert end(run("status"))[2].splitlines()[-1].endswith(f", 0.1 MB wait in {folder}")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_commits_everything(run, database, signum):
    """The process dies by the signal after committing all that came: the tape has no hole."""
    with LocalExchange(["BTC-USDT", "ETH-USDT"], rate=500, history_s=0) as exchange:
        process = run("collect", OKX_WS_URL=exchange.ws_url, OKX_REST_URL=exchange.rest_url)
        wait_for(lambda: sum(n for n, _, _ in stored(database).values()) > 800)
        process.send_signal(signum)
        status, _, err = end(process)
        assert status == -signum
        counts = json.loads(err.splitlines()[-1].removeprefix("okx collect: "))
        assert counts["missing_fills"] == 0
        assert counts["raw_trades"] == sum(n for n, _, _ in stored(database).values())
        for symbol, (count, first, last) in stored(database).items():
            assert count == last - first + 1
            assert {f.trade_id for f in exchange.fills(symbol)} >= {first, last}


def test_a_database_that_goes_away_and_comes_back(run, database, embedded_dsn):
    """What comes meanwhile waits; when the database is back it is stored, every fill once."""
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    with LocalExchange(["BTC-USDT", "ETH-USDT"], rate=200, history_s=0) as exchange:
        process = run("collect", OKX_WS_URL=exchange.ws_url, OKX_REST_URL=exchange.rest_url)
        wait_for(lambda: sum(n for n, _, _ in stored(database).values()) > 100)
        with psycopg.connect(embedded_dsn, autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            time.sleep(6)
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        resumed = exchange.fills("BTC-USDT")[-1].trade_id
        wait_for(lambda: stored(database)["BTC-USDT"][2] > resumed)
        process.send_signal(signal.SIGTERM)
        status, _, err = end(process)
        assert status == -signal.SIGTERM
        for count, first, last in stored(database).values():
            assert count == last - first + 1
        with psycopg.connect(database) as connection:
            rows = connection.execute(
                "SELECT trade_id, price, size FROM raw_trades WHERE symbol = 'BTC-USDT' ORDER BY 1"
            )
            fills = {f.trade_id: (f.price, f.size) for f in exchange.fills("BTC-USDT")}
            assert all(fills[i] == (str(price), str(size)) for i, price, size in rows)
    assert "back" in err


def test_books_are_kept_healed_and_read_back(run, tmp_path, database):
    """Every stored book is one that the exchange had at that number, through a gap and a cut; read gives the lines."""
    wanted = {"symbols": ["BTC-USDT"], "channels": ["books"], "timeframes": []}
    (tmp_path / "okx.json").write_text(json.dumps(wanted | {"storage": {"books_every": "100ms", "books_depth": 7}}))
    with LocalExchange(["BTC-USDT"], rate=50, history_s=60) as exchange:
        state, truth = exchange._engine.venue.listings["BTC-USDT"].books, {}

        def step(now, advance=state.advance):
            update = advance(now)
            truth[state.seq] = state.sides(7)
            return update

        exchange.call(lambda: setattr(state, "advance", step))
        collect = run("collect", "-v", OKX_WS_URL=exchange.ws_url, OKX_REST_URL=exchange.rest_url)

        def count():
            with psycopg.connect(database) as connection:
                try:
                    return connection.execute("SELECT count(*) FROM order_books").fetchone()[0]
                except psycopg.errors.UndefinedTable:
                    return 0

        for fault in ("book-gap=2", "cut", "book-reset"):
            before = count() + 10
            wait_for(lambda: count() > before)  # noqa: B023
            exchange.fault(fault)
        before = count() + 10
        wait_for(lambda: count() > before)
        collect.send_signal(signal.SIGINT)
        status, _, err = end(collect)
    assert status == -signal.SIGINT
    assert "BTC-USDT books: invalid: an update that follows on" in err
    counts = json.loads(err.splitlines()[-1].removeprefix("okx collect: "))
    assert (counts["book_gaps"], counts["book_resets"]) == (1, 1)
    books = [json.loads(line) for line in end(run("read", "books", "BTC-USDT", "--origin", "books"))[1].splitlines()]
    assert len(books) == count() == counts["order_books"]
    for book in books:
        assert book["timestamp"] % 100 == 0
        sides = truth[book["seq_id"]]
        for name, levels in (("bids", sides.bids), ("asks", sides.asks)):
            assert book[name] == [level[:2] for level in levels]
