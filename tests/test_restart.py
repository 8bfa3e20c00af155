"""Collectors that are killed, come twice, or run while somebody mends the past: one tape, and whole bars."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from decimal import Decimal

import psycopg
import pytest

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.model import StandardizedTrade
from okxcli.core.timeframes import parse_list
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.pipeline.collector import Collector
from okxcli.runtime.configuration.config import Config
from okxcli.storage.candles.live_mending import LiveMender
from okxcli.storage.database import open_database
from okxcli.storage.ledger.recount import recount
from okxcli.storage.read import gaps
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series
from okxcli.storage.write.durable_writer import DurableWriter
from okxcli.storage.write.spool import Spool
from okxcli.storage.write.writer import Writer

SYMBOLS = ("BTC-USDT", "ETH-USDT")
FRAMES = ("1s", "5s", "1m", "1d")
DAY = 86_400_000


@pytest.fixture
def exchange():
    """A lively market without limits."""
    with LocalExchange(SYMBOLS, rate=150, history_s=5, options=Options(limits=0)) as found:
        yield found


@pytest.fixture
def collect(tmp_path, database, exchange):
    """Start an `okx collect` of both symbols, with a home of its own."""
    settings = {"symbols": SYMBOLS, "timeframes": FRAMES, "candles": {"lateness": "1s", "grace": "500ms"}}
    (tmp_path / "okx.json").write_text(json.dumps(settings))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    processes = []

    def collect(home):
        env = clean | {
            "OKX_DSN": database,
            "HOME": str(tmp_path / home),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "OKX_CONFIG": str(tmp_path / "okx.json"),
            "OKX_WS_URL": exchange.ws_url,
            "OKX_REST_URL": exchange.rest_url,
        }
        (tmp_path / home).mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "okxcli", "collect"], env=env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield collect
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


def end(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    assert "Traceback" not in process.stderr.read()


def newest(dsn, symbol="BTC-USDT"):
    """Return the highest stored id of a symbol, 0 without any."""
    with psycopg.connect(dsn) as connection:
        try:
            query = "SELECT coalesce(max(trade_id), 0) FROM raw_trades WHERE symbol = %s"
            return connection.execute(query, [symbol]).fetchone()[0]
        except psycopg.errors.UndefinedTable:
            return 0


def wait_past(dsn, number, symbol="BTC-USDT"):
    """Wait until something with a higher id is stored."""
    limit = time.monotonic() + 80
    while newest(dsn, symbol) <= number:
        assert time.monotonic() < limit, "nothing was stored in time"
        time.sleep(0.05)


def as_line(symbol, fill):
    return StandardizedTrade(
        "okx", symbol, fill.trade_id, fill.side, Decimal(fill.price), Decimal(fill.size), fill.ts, source=fill.source
    )


def check(dsn, exchange):
    """The stored tape is the exchange's, every fill once, the ledger knows it, and the bars are those of the fills."""
    with open_database(dsn, create=False) as database, closing(database.connect()) as connection:
        for symbol in SYMBOLS:
            query = "SELECT trade_id FROM raw_trades WHERE symbol = %s ORDER BY 1"
            ids = [row[0] for row in connection.execute(query, [symbol])]
            assert ids == list(range(ids[0], ids[-1] + 1))
            assert recount(connection, "okx", symbol) == []
            assert [one.kind for one in gaps.ranges(connection, "okx", symbol)] == ["covered"]
            made = {}
            maker = RealTimeCandleProcessor(FRAMES, lambda c, made=made: made.__setitem__((c.timeframe, c.start), c))
            for fill in exchange.fills(symbol):
                if ids[0] <= fill.trade_id <= ids[-1]:
                    maker.feed(as_line(symbol, fill))
            maker.finish()
            with reader.snapshot(connection):
                bars = [c for f in FRAMES for c in reader.candles(connection, Series("okx", symbol, f), EVERYTHING)]
            last = max(fill.ts for fill in exchange.fills(symbol) if fill.trade_id == ids[-1])
            stored = {(c.timeframe, c.start): said(c) for c in bars if c.timestamp <= last}
            wanted = {key: said(c) for key, c in made.items() if c.timestamp <= last}
            assert stored == wanted
            assert sum(not bar["complete"] for bar in stored.values()) <= len(FRAMES)


def said(candle):
    return {name: getattr(candle, name) for name in candle.__struct_fields__ if name != "revision"}


def test_killed_and_started_again(collect, exchange, database):
    """What was traded in between is fetched; the bar in which it was killed comes out complete, as all others do."""
    for _ in range(3):
        process = collect("one")
        wait_past(database, newest(database) + 150)
        process.kill()
        process.wait()
        time.sleep(1.2)
    process = collect("one")
    for symbol in SYMBOLS:
        wait_past(database, exchange.fills(symbol)[-1].trade_id, symbol)
    time.sleep(1.5)
    end(process)
    check(database, exchange)


def test_two_on_one_database(collect, exchange, database):
    """One runs on, the other is killed and started ten times: one tape, every fill once, bars by the common rule."""
    steady = collect("one")
    wait_past(database, 0)
    for _ in range(10):
        other = collect("two")
        time.sleep(1.3)
        other.kill()
        other.wait()
    other = collect("two")
    wait_past(database, exchange.fills("BTC-USDT")[-1].trade_id)
    end(steady)
    wait_past(database, exchange.fills("BTC-USDT")[-1].trade_id)
    end(other)
    check(database, exchange)


class Silent:
    """A feed that says nothing; the test gives the collector its lines, and the time."""

    def __init__(self, clock):
        self.clock = clock


def push(number, at, price="5"):
    row = {"instId": "BTC-USDT", "tradeId": str(number), "px": price, "sz": "1", "side": "buy", "ts": str(at)}
    return json.dumps({"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [row]}).encode()


def test_a_hole_that_is_filled_while_the_day_is_open(tmp_path, database):
    """At 03:00 fills were lost, at 04:00 somebody stored them: at its end the day's bar is whole and complete."""
    midnight = 1_747_008_000_000
    now = [midnight]
    fills = {number: midnight + number * 600_000 for number in range(1, 150)}  # every ten minutes, on to the next day
    lost = range(18, 22)
    frames = parse_list("1m,1h,1d")
    with open_database(database, create=True) as opened:
        keeper = DurableWriter(opened, Spool(tmp_path / "spool"), clock=lambda: now[0])
        mender = LiveMender(opened.session, frames, lambda: now[0])
        config = Config(symbols=("BTC-USDT",), timeframes=tuple(frame.name for frame in frames))
        feed = Silent(lambda: now[0])
        collector = Collector(config, feed, keeper, opened.session, feed.clock, mender=lambda config: mender)
        for number, at in fills.items():
            now[0] = at + 10
            if number == 24:
                with closing(Writer(opened.connect)) as writer:
                    for missed in lost:
                        writer.add(
                            StandardizedTrade("okx", "BTC-USDT", missed, "buy", Decimal(5), Decimal(1), fills[missed])
                        )
                    writer.flush()
            if number not in lost:
                collector.take([push(number, at)])
            for wait in (300, 2_000):
                now[0] += wait
                collector.tick()
                collector.chores.work()
        collector.finish()
        with closing(opened.connect()) as connection, reader.snapshot(connection):
            (day,) = reader.candles(connection, Series("okx", "BTC-USDT", "1d"), EVERYTHING)
            hours = list(reader.candles(connection, Series("okx", "BTC-USDT", "1h"), EVERYTHING))
        keeper.close()
    assert (day.trade_count, day.first_trade_id, day.last_trade_id, day.complete) == (143, 1, 143, True)
    assert day.volume == 143
    # The hour of the hole was over when the fills came, and was mended too.
    assert [hour.trade_count for hour in hours[:5]] == [5, 6, 6, 6, 6]
    assert mender.mended >= 2
