"""SIGHUP: `okx collect` reads its configuration again, and only what it changes is touched."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from decimal import Decimal

import psycopg
import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

BTC, ETH, SOL = SYMBOLS = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
CONFIG = {"symbols": [BTC, ETH], "channels": ["trades-all"], "timeframes": ["1s", "2s"]}


@pytest.fixture
def exchange():
    with LocalExchange(SYMBOLS, rate=150, seed=4, history_s=30, options=Options(limits=0)) as exchange:
        yield exchange


class Collect:
    """A running `okx collect`, with its configuration and its log."""

    def __init__(self, folder, database, exchange, **options):
        self.folder, self.database, self.exchange = folder, database, exchange
        self.file = folder / "okx.json"
        self.file.write_text(json.dumps(CONFIG))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
        env |= {"OKX_DSN": database, "HOME": str(folder), "OKX_CONFIG": str(self.file)}
        env |= {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
        log = (folder / "log.txt").open("wb")
        options = {"stdin": subprocess.DEVNULL, "stderr": log} | options
        self.process = subprocess.Popen(
            [sys.executable, "-m", "okxcli", "collect", "-v"], env=env, cwd=folder, stdout=log, **options
        )
        log.close()

    def wait_for(self, condition, seconds=30.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log()
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)

    def log(self):
        return (self.folder / "log.txt").read_text()

    def hup(self, text):
        """Write another configuration, send HUP, and wait for the line that says what came of it."""
        before = self.log().count("configuration")
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for(lambda: self.log().count("configuration") > before)

    def change(self, **keys):
        self.hup(json.dumps(CONFIG | keys))

    def query(self, query, *values):
        with psycopg.connect(self.database) as connection:
            try:
                return connection.execute(query, values).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    def newest(self, symbol):
        return self.query("SELECT coalesce(max(trade_id), 0) FROM raw_trades WHERE symbol = %s", symbol)[0][0]

    def goes_on(self, *symbols):
        """Wait until a fill of each is stored that is newer than all that exist now."""
        goals = {symbol: self.exchange.fills(symbol)[-1].trade_id for symbol in symbols}
        self.wait_for(lambda: all(self.query("SELECT 1") and self.newest(s) > goal for s, goal in goals.items()))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == -signal.SIGTERM
        assert "Traceback" not in self.log()


@pytest.fixture
def collect(tmp_path, database, exchange):
    one = Collect(tmp_path, database, exchange)
    one.wait_for(lambda: one.query("SELECT to_regclass('raw_trades')") != [(None,)])
    one.goes_on(BTC, ETH)
    one.wait_for(lambda: exchange.wait_subscribed("instruments", "SPOT", 1))
    yield one
    one.process.kill()
    one.process.wait()


def tape(collect, symbol):
    """Return the stored ids of a symbol, after comparing each row with the exchange's fill."""
    rows = collect.query("SELECT trade_id, price, size FROM raw_trades WHERE symbol = %s ORDER BY 1", symbol)
    fills = {fill.trade_id: (Decimal(fill.price), Decimal(fill.size)) for fill in collect.exchange.fills(symbol)}
    assert all(fills[number] == (price, size) for number, price, size in rows)
    return [number for number, _, _ in rows]


#: For each series, whether all its bars are complete but the first and the newest two, which need not be.
MIDDLE_BARS = """
SELECT symbol, timeframe, bool_and(complete) FROM (
    SELECT *, row_number() OVER series AS n, count(*) OVER (PARTITION BY symbol, timeframe) AS total FROM market_data
    WINDOW series AS (PARTITION BY symbol, timeframe ORDER BY start)) AS bars
WHERE n BETWEEN 2 AND total - 2 AND symbol IN (%s, %s) GROUP BY 1, 2
"""


def bars_of(collect, symbol):
    return collect.query("SELECT count(*) FROM market_data WHERE symbol = %s AND timeframe = '2s'", symbol)[0][0]


def handshakes(exchange):
    return exchange.counts()["handshakes"]


def test_symbols_come_and_go(collect, exchange):
    """A symbol is added and one removed on the standing connection; the one that stays misses nothing."""
    dials = handshakes(exchange)
    collect.change(symbols=[BTC, SOL])
    assert "the configuration is read again: +SOL-USDT -ETH-USDT" in collect.log()
    collect.goes_on(BTC, SOL)
    assert handshakes(exchange) == dials
    held = {one.channels for one in exchange.connections()}
    assert held == {(("trades-all", BTC), ("trades-all", SOL)), (("instruments", "SPOT"),)}
    ended = collect.newest(ETH)
    collect.wait_for(lambda: exchange.fills(ETH)[-1].trade_id > ended)
    collect.goes_on(BTC)
    assert collect.newest(ETH) == ended
    collect.wait_for(lambda: bars_of(collect, BTC) >= 2)  # an edge of 2 s passes without it
    # It comes back: what it missed meanwhile is fetched, its open bars with it.
    collect.change()
    collect.goes_on(BTC, ETH)
    assert handshakes(exchange) == dials
    collect.wait_for(lambda: min(bars_of(collect, BTC), bars_of(collect, ETH)) >= 4)
    collect.stop()
    for symbol in (BTC, ETH):
        found = tape(collect, symbol)
        assert found == list(range(found[0], found[-1] + 1)), symbol
    assert tape(collect, SOL)
    assert collect.query("SELECT count(*) FROM instruments WHERE symbol = %s", SOL) == [(1,)]
    bars = collect.query(MIDDLE_BARS, BTC, ETH)
    assert {row[:2] for row in bars} == {(s, tf) for s in (BTC, ETH) for tf in ("1s", "2s")}
    assert all(row[2] for row in bars), bars


def test_timeframes_and_channels(collect, exchange):
    """Other bars are made from here on, from what is stored; another channel comes over a standing connection."""
    dials = handshakes(exchange)
    collect.change(timeframes=["1s", "4s"], channels=["trades-all", "books5"])
    assert "+books5 +4s -2s" in collect.log()
    collect.wait_for(lambda: collect.query("SELECT 1 FROM order_books LIMIT 1"))
    collect.wait_for(lambda: collect.query("SELECT 1 FROM market_data WHERE timeframe = '4s' AND complete"))
    collect.change(channels=["trades-all"])
    collect.wait_for(lambda: {len(one.channels) for one in exchange.connections()} == {1, 2})
    collect.goes_on(BTC, ETH)
    assert handshakes(exchange) == dials
    collect.stop()
    for symbol in (BTC, ETH):
        found = tape(collect, symbol)
        assert found == list(range(found[0], found[-1] + 1))


def test_mistakes_change_nothing(collect, exchange):
    """A configuration that cannot be is told in one line; the old one stays, and a right one is taken afterwards."""
    dials, before = handshakes(exchange), exchange.connections()
    other = CONFIG | {"exchange": {"name": "other"}, "symbols": [BTC]}
    wrong = [CONFIG | {"symbols": []}, CONFIG | {"channels": ["trade"], "x": 1}, other]
    for text in ("{", *map(json.dumps, wrong)):
        collect.hup(text)
        assert "the configuration stays as it was" in collect.log().splitlines()[-1]
    collect.goes_on(BTC, ETH)
    assert (handshakes(exchange), exchange.connections()) == (dials, before)
    collect.change(symbols=[BTC, "NO-SUCH"])
    collect.wait_for(lambda: "OKX has no NO-SUCH" in collect.log())
    collect.goes_on(BTC)
    assert handshakes(exchange) == dials
    collect.stop()


def test_while_postgres_is_away(collect, exchange, embedded_dsn):
    """The change waits: it is the database that says where the new symbol begins. Nothing is lost meanwhile."""
    name = psycopg.conninfo.conninfo_to_dict(collect.database)["dbname"]
    with psycopg.connect(embedded_dsn, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        collect.wait_for(lambda: "spooling to" in collect.log())
        collect.change(symbols=SYMBOLS)
        assert collect.log().splitlines()[-1].endswith("is taken up when the database is back")
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    collect.wait_for(lambda: "the configuration is read again: +SOL-USDT" in collect.log())
    collect.goes_on(*SYMBOLS)
    collect.stop()
    for symbol in (BTC, ETH):
        found = tape(collect, symbol)
        assert found == list(range(found[0], found[-1] + 1))


def test_a_terminal_that_goes_ends_it(tmp_path, database, exchange):
    """Where HUP says that the terminal has been closed, it ends as ever, everything stored."""
    ours, theirs = pty.openpty()
    one = Collect(tmp_path, database, exchange, stdin=theirs, start_new_session=True)
    os.close(theirs)
    try:
        one.wait_for(lambda: one.query("SELECT to_regclass('raw_trades')") != [(None,)])
        one.goes_on(BTC)
        os.close(ours)
        one.process.send_signal(signal.SIGHUP)
        assert one.process.wait(60) == -signal.SIGHUP
    finally:
        one.process.kill()
        one.process.wait()
    found = tape(one, BTC)
    assert found == list(range(found[0], found[-1] + 1))
