"""`okx collect` as a process where Postgres or the home is not what it should be."""

import json
import os
import signal
import subprocess
import sys
import time

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.pipeline.collector import Collector
from okxcli.runtime.configuration.config import Config
from okxcli.storage.database import open_database
from okxcli.storage.write.durable_writer import DurableWriter
from okxcli.storage.write.spool import Spool

CONFIG = {"symbols": ["BTC-USDT", "ETH-USDT"], "channels": ["trades-all"], "timeframes": ["1s"]}


@pytest.fixture
def exchange():
    with LocalExchange(CONFIG["symbols"], rate=50, seed=3, history_s=2, options=Options(limits=0)) as exchange:
        yield exchange


@pytest.fixture
def collect(exchange, database, tmp_path):
    """Start `okx collect` on the exchange and the fresh database; its home is an empty folder."""
    (tmp_path / "okx.json").write_text(json.dumps(CONFIG))
    processes = []

    def start(*arguments, **variables):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "PYTHON"))}
        env |= {"OKX_DSN": database, "OKX_CONFIG": str(tmp_path / "okx.json"), "HOME": str(tmp_path)}
        env |= {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url} | variables
        process = subprocess.Popen(
            [sys.executable, "-m", "okxcli", "collect", *arguments],
            env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def refuse(embedded_dsn, database):
    """Take the database away from everybody, or give it back."""
    name = conninfo_to_dict(database)["dbname"]

    def refuse(away):
        with psycopg.connect(embedded_dsn, autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {not away}')
            if away:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    yield refuse
    refuse(False)


def wait_for(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def newest(database):
    """Return the newest stored id of each symbol."""
    try:
        with psycopg.connect(database) as connection:
            return dict(connection.execute("SELECT symbol, max(trade_id) FROM raw_trades GROUP BY 1").fetchall())
    except psycopg.Error:
        return {}


def end(process, timeout=40):
    _, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err
    return process.returncode, err


def test_postgres_comes_up_after_the_collector(collect, database, exchange, refuse, tmp_path):
    """As after a reboot: what comes meanwhile waits in the spool, and is stored once Postgres is there."""
    first = collect()
    wait_for(lambda: len(newest(database)) == 2)
    first.send_signal(signal.SIGTERM)
    assert end(first)[0] == -signal.SIGTERM
    refuse(True)
    process = collect()
    wait_for(lambda: list(tmp_path.glob(".local/state/okx/spool/*/*.jsonl")))
    come = {symbol: exchange.fills(symbol)[-1].trade_id for symbol in CONFIG["symbols"]}
    assert process.poll() is None
    refuse(False)
    wait_for(lambda: all(newest(database).get(symbol, 0) >= number for symbol, number in come.items()))
    wait_for(lambda: not list(tmp_path.glob(".local/state/okx/spool/*/*.jsonl")))
    process.send_signal(signal.SIGTERM)
    status, err = end(process)
    assert status == -signal.SIGTERM
    assert "going on without it" in err
    assert " is back" in err


def test_a_database_that_was_never_there(collect):
    """A wrong name is told at once, and nothing is collected for it: exit 69."""
    status, err = end(collect(OKX_DSN="host=127.0.0.1 port=1"))
    assert status == 69
    assert err == "okx collect: cannot reach Postgres at 127.0.0.1:1: connection refused\n"


def test_a_home_that_cannot_be_written(collect, database, tmp_path):
    """With Postgres there it collects; that there is no spool is said."""
    (tmp_path / "file").touch()
    process = collect(HOME=str(tmp_path / "file"))
    wait_for(lambda: len(newest(database)) == 2)
    process.send_signal(signal.SIGTERM)
    status, err = end(process)
    assert status == -signal.SIGTERM
    assert "so there is no spool: nothing is taken in while" in err


def test_sigterm_while_a_table_is_locked(collect, database, exchange, tmp_path):
    """It ends within 10 s; what could not be committed waits in the spool, which exit 75 tells; nothing is lost."""
    process = collect()
    wait_for(lambda: len(newest(database)) == 2)
    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE raw_trades IN ACCESS EXCLUSIVE MODE")
        time.sleep(1)
        come = {symbol: exchange.fills(symbol)[-1].trade_id for symbol in CONFIG["symbols"]}
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status, err = end(process)
        took = time.monotonic() - began
    assert status == 75, err
    assert took < 10
    assert "lines wait in " in err
    again = collect()
    assert all(exchange.wait_subscribed("trades-all", symbol, 60) for symbol in come)
    come = {symbol: exchange.fills(symbol)[-1].trade_id + 1 for symbol in come}  # pushed, after what was missed
    wait_for(lambda: all(newest(database).get(symbol, 0) >= number for symbol, number in come.items()))
    wait_for(lambda: not list(tmp_path.glob(".local/state/okx/spool/*/*.jsonl")))
    again.send_signal(signal.SIGTERM)
    assert end(again)[0] == -signal.SIGTERM
    with psycopg.connect(database) as connection:
        ids = connection.execute("SELECT trade_id FROM raw_trades WHERE symbol = 'BTC-USDT' ORDER BY 1").fetchall()
    assert [number for (number,) in ids] == list(range(ids[0][0], ids[-1][0] + 1))


def test_a_message_that_is_none(database, tmp_path):
    """What the normaliser refuses is told, kept in quarantine, and costs its neighbours nothing."""
    row = {"instId": "BTC-USDT", "tradeId": "7", "px": "5", "sz": "1", "side": "buy", "ts": "1747008000000"}
    push = {"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [row]}
    bad = json.dumps(push | {"data": [row | {"px": "1e400"}]}).encode()
    with open_database(database, create=True) as opened:
        keeper = DurableWriter(opened, Spool(tmp_path / "spool"))
        config = Config(symbols=("BTC-USDT",), timeframes=("1m",))
        collector = Collector(config, None, keeper, opened.session, lambda: 1_747_008_001_000)
        collector.take([b"nonsense", json.dumps(push).encode(), bad])
        collector.finish()
        keeper.close()
        assert collector.counts()["rejected"] == collector.counts()["quarantined"] == 2
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT trade_id FROM raw_trades").fetchall() == [(7,)]
        kept = connection.execute("SELECT line, reason FROM quarantine ORDER BY id").fetchall()
    assert [line for line, _ in kept] == ["nonsense", bad.decode()]
    assert "number out of range" in kept[1][1]
