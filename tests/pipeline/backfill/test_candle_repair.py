"""Where only candles are stored: their chain is mended from OKX, bar by bar, and no fill is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import count
from random import Random

import past_market
import psycopg
import pytest
import storage_samples
from past_market import START_MS
from storage_samples import market

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.decimals import plain
from okxcli.core.model import Absent
from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.interface import Page
from okxcli.exchanges.okx.rest.history import TradeHistory, trade_line
from okxcli.exchanges.registry import exchange
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.pipeline.backfill import Backfill, Tools
from okxcli.runtime.clock import now_ms
from okxcli.storage.candles.candle_chain import Chain
from okxcli.storage.database import open_database
from okxcli.storage.read import gaps
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series

SYMBOL = "BTC-USDT"
KEY = ("okx", SYMBOL)
OKX = [sys.executable, "-m", "okxcli"]


class Place(past_market.Place):
    """A market of ten minutes, of which candles alone are stored."""

    def backfill(self, **options):
        begun = now_ms()
        options = {"clock": lambda: START_MS + 3_600_000 + now_ms() - begun, "spread_ms": 200} | options
        return Backfill(Tools(self.database.connect, TradeHistory(self.rest), exchange(), **options), ())

    def missing(self):
        return [one for one in gaps.ranges(self.connection, *KEY) if one.kind == "missing"]

    def candles(self):
        names = [row[0] for row in self.execute("SELECT DISTINCT timeframe FROM market_data")]
        with reader.snapshot(self.connection):
            found = [c for f in names for c in reader.candles(self.connection, Series(*KEY, f), EVERYTHING)]
        return {(c.timeframe, c.timestamp): as_written(c) for c in found}

    def fills_stored(self):
        counts = [self.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("raw_trades", "trade_ledger")]
        return sum(counts)


def as_written(candle):
    return {f: getattr(candle, f) for f in candle.__struct_fields__ if f != "revision"}


def made(lines, frames, **options):
    """Return the bars that the candle maker makes of lines."""
    found = {}
    maker = RealTimeCandleProcessor(frames, lambda c: found.__setitem__((c.timeframe, c.timestamp), c), **options)
    for line in lines:
        maker.feed(line)
    maker.finish()
    return found


def written(bars):
    return {key: as_written(bar) for key, bar in bars.items()}


@pytest.fixture
def place(database, still):
    """The exchange, and an empty database."""
    with closing(Place(still, database)) as found:
        yield found


@pytest.mark.parametrize("frames", ["1s,5s,1m", "1m,5m", "2s,3s,1m"])
def test_bars_that_were_deleted(place, frames):
    """Holes of one and of many bars, and larger ones: all come back as the fills make them; only the fills beside the
    holes are asked for; a dry run counts it; a second run does nothing."""
    bars = made(place.lines(), frames)
    place.store(bars.values())
    keys = sorted(bars)
    smallest = frames.split(",")[0]
    ends = [end for frame, end in keys if frame == smallest]
    gone = [*ends[2:3], *ends[len(ends) // 2 : len(ends) // 2 + len(ends) // 5]]
    whole = place.candles()
    assert place.run() == []
    place.execute("DELETE FROM market_data WHERE timeframe = %s AND timestamp = ANY(SELECT to_timestamp(e / 1000.0)"
                  " FROM unnest(%s::bigint[]) AS e)", smallest, gone)  # fmt: skip
    place.execute("DELETE FROM market_data WHERE timeframe IN ('5s', '1m', '5m') AND timeframe <> %s"
                  " AND mod(first_trade_id, 2) = 0", smallest)  # fmt: skip
    fills = sum(bars[smallest, end].trade_count for end in gone)
    broken = place.missing()
    assert sum(one.last - one.first + 1 for one in broken) == fills > 0
    with closing(place.backfill()) as work:
        plan, stale = work.plan(SYMBOL), work.stale_bars(SYMBOL)
    assert plan.count == fills and (stale > 0 or "m" in smallest)
    place.turns.asked.clear()
    (row,) = place.run()
    assert (row["missing"], row["fetched"], row["left"]) == (fills, fills, 0)
    asked = [path for path in place.turns.asked if path.endswith("history-trades")]
    assert len(asked) <= plan.requests + 3 <= len(place.lines()) // 100
    assert place.candles() == whole
    assert place.missing() == []
    assert place.fills_stored() == 0
    assert place.run() == []


def test_bars_that_lack_fills(place):
    """A stream that lost fills wrote bars that are not whole: they are made again, with those that hold more."""
    lines = place.lines()
    holes = (range(500, 540), range(541, 542), range(3000, 3900))
    bars = made([line for at, line in enumerate(lines) if not any(at in hole for hole in holes)], "1s,1m")
    place.store(bars.values())
    assert place.missing()
    (row,) = place.run()
    assert (row["left"], row["damaged"]) == (0, 0)
    wanted = written(made(lines, "1s,1m"))
    found = place.candles()
    assert {key for key in wanted if found.get(key) != wanted[key]} == set()
    assert found.keys() == wanted.keys()
    assert place.run() == []


def test_the_tail_since_the_newest_bar(place):
    """A stream that stopped: the bars that are over since are made, the one that was open too; then it is quiet."""
    lines = place.lines()
    wanted = written(made(lines, "1s,5s,1m"))
    place.store(made(lines[:4000], "1s,5s,1m", live=True).values())
    (row,) = place.run()
    assert row["left"] == 0 and row["missing"] == row["fetched"] > 2000
    assert place.candles() == wanted
    place.turns.asked.clear()
    assert place.run() == []
    assert len(place.turns.asked) < 5


def test_bars_before_the_first_one(place):
    """With a time they are made too, and the first one, which was not whole; the link before them is not stored."""
    lines = place.lines()
    place.store(made(lines[3000:], "1s,1m").values())
    assert place.run() == []
    since = lines[1000].timestamp
    (row,) = place.run(since)
    assert row["left"] == 0
    wanted = written(made(lines, "1s,1m"))
    found = place.candles()
    begin = since - since % 1000
    assert [key for key in wanted if wanted[key]["start"] >= begin and found.get(key) != wanted[key]] == []
    assert not [key for key in found if key[0] == "1s" and found[key]["start"] < begin]
    assert place.fills_stored() == 0
    assert place.run(since) == []


def test_a_range_of_time(place):
    """Only its holes are mended."""
    bars = made(place.lines(), "1s")
    place.store(bars.values())
    ends = sorted(end for _, end in bars)
    for at in (50, 400):
        place.execute("DELETE FROM market_data WHERE timestamp = to_timestamp(%s / 1000.0)", ends[at])
    assert len(place.missing()) == 2
    place.run(until=ends[200])
    assert [one.first for one in place.missing()] == [bars["1s", ends[400]].first_trade_id]
    place.run(since=ends[200])
    assert place.missing() == []
    assert place.candles() == written(bars)


def test_times_that_step_back_into_the_bar_before(place):
    """A fill of the hole that belongs into the bar before it mends that bar as well, far back or not."""
    lines = place.lines()
    at = lines[-1].timestamp + 10_000
    at -= at % 1000
    steps = (100, 200, 1_100, 1_200, 900, 2_100, 2_200, 150, 3_100, 3_200, 4_100, 5_100, 6_100)
    for step in steps:
        place.exchange.trade(SYMBOL, "5", "1", ts=at + step)
    wanted = written(made(place.lines(), "1s,1m"))
    early = [line for line in place.lines() if line.trade_id > lines[-1].trade_id]
    kept = [line for line in place.lines() if line not in early[3:9]]
    place.store(made(kept, "1s,1m").values())
    (row,) = place.run()
    assert row["left"] == 0
    assert settled(place.connection, place.candles()) == settled(place.connection, wanted)


def settled(connection, bars):
    """Return the bars by timeframe and end that are far enough from the end of the chain for its word to be final.

    It knows no times but those of bars, and so takes a step back for longer than it was.
    """
    chain = Chain.load(connection, *KEY)
    until = min(bars.newest.start - bars.ids.step for bars in chain.roots)
    return {key: bar for key, bar in bars.items() if key[1] <= until}


def test_ids_that_okx_has_not(place):
    """Asked for three times over the spread; then the bars on both sides are whole, and nobody asks again."""
    place.exchange.skip_ids(SYMBOL, 3)
    last = place.lines()[-1]
    for step in range(1, 5):
        place.exchange.trade(SYMBOL, "5", "1", ts=last.timestamp + 700 * step)
    place.store(made(place.lines(), "1s").values())
    assert [one.last - one.first + 1 for one in place.missing()] == [3]
    (row,) = place.run()
    assert (row["absent"], row["left"], row["candles"] > 0) == (3, 0, True)
    assert place.missing() == []
    assert [one.kind for one in gaps.ranges(place.connection, *KEY)].count("absent") == 1
    place.turns.asked.clear()
    assert place.run() == []
    assert [path for path in place.turns.asked if path.endswith("history-trades")] == []
    incomplete = [key for key, bar in place.candles().items() if not bar["complete"]]
    assert len(incomplete) <= 1


def test_killed_again_and_again(place):
    """Each run ends after a page or two; what is whole by then stays, and the last one leaves nothing."""
    bars = made(place.lines(), "1s,1m")
    whole = written(bars)
    ends = sorted(end for frame, end in bars if frame == "1s")
    place.store(bar for (frame, end), bar in bars.items() if frame == "1m" or not ends[100] <= end <= ends[400])
    left = []
    for pages in (1, 2, 3):
        done = iter(range(11 * pages))
        place.run(stopped=lambda done=done: next(done, None) is None)
        left.append(sum(one.last - one.first + 1 for one in place.missing()))
    assert left == sorted(left, reverse=True) and left[-1] < left[0]
    place.run()
    assert place.candles() == whole


class Past:
    """What REST knows, without a network: markets whose times step back and stand still are made by hand."""

    def __init__(self, fills):
        self.fills = {fill.trade_id: fill for fill in fills}

    def newest(self, symbol):
        last = self.fills[max(self.fills)]
        return last.trade_id, last.timestamp

    def last_id_before(self, symbol, until):
        return max((n for n, fill in self.fills.items() if fill.timestamp < until), default=0)

    def first_id_at(self, symbol, since):
        return min((n for n, fill in self.fills.items() if fill.timestamp >= since), default=max(self.fills) + 1)

    def range(self, symbol, first, last, known=None):
        for low in range(first, last + 1, 100):
            high = min(low + 99, last)
            there = [self.fills[n] for n in range(low, high + 1) if n in self.fills]
            rows = [
                {"instId": symbol, "tradeId": str(f.trade_id), "px": plain(f.price), "sz": plain(f.size),
                 "side": f.side, "ts": str(f.timestamp)} for f in there
            ]  # fmt: skip
            missing = [(n, n) for n in range(low, high + 1) if n not in self.fills]
            yield Page([trade_line(row) for row in rows], low, high, missing, True)


@pytest.mark.parametrize("seed", range(2, 10))
def test_whatever_a_bad_stream_left_behind(database, seed):
    """Streams that began late, ended early and lost fills, ids that the exchange has not, bars that were deleted, times
    that step back and quiet times, flat bars or none: one run makes every bar what it should be, a second none.
    """
    chance = Random(seed)
    frames = ("1s,5s,1m", "2s,3s,6s", "5s,1m", "1s,1m,1d,1d+8")[seed % 4]
    fill = seed % 3 == 0
    fills = market(900, seed, back=(5, 80)[seed % 2], quiet=(0, 0.02)[seed % 2])
    gone = {*chance.sample(range(200, 800), 3)} if seed % 2 else set()
    lines = [Absent(*KEY, f.trade_id, f.trade_id) if f.trade_id in gone else f for f in fills]
    wanted = storage_samples.made(lines, frames, lateness_ms=600_000, fill=fill)
    kept = lines[chance.choice((0, 100)) : chance.choice((700, 900))]
    for length in chance.sample((1, 3, 40, 200), 3):
        at = chance.randrange(len(kept) - length)
        del kept[at : at + length]
    stored = storage_samples.made(kept, frames, fill=fill)
    storage_samples.store(database, [bar for bar in stored.values() if chance.random() > 0.05])
    clock = count(fills[-1].timestamp + 3_600_000, 40)
    with open_database(database, create=True) as opened:
        past = Past([f for f in fills if f.trade_id not in gone])
        tools = Tools(opened.connect, past, exchange(), clock=clock.__next__, spread_ms=50, fill=fill)
        with closing(Backfill(tools, ())) as work:
            (row,) = work.run([SYMBOL], fills[0].timestamp)
            assert row["left"] == 0 and row["candles"] > 0
            assert list(work.run([SYMBOL], fills[0].timestamp)) == []
        found = storage_samples.bars_of(database)
        with closing(opened.connect()) as connection:
            assert settled(connection, found) == settled(connection, wanted)
            assert len(settled(connection, found)) > 0.8 * len(found)


def test_time_stepped_back_before_what_is_fetched(database):
    """A stretch alone does not show it; the bar beside ids that OKX does not show stays incomplete."""
    times = (3_297, 797, 5_000, 5_000, 2_500, 5_001, 5_051, 4_218, 5_052, 6_051, 6_051, 6_101, 8_000, 10_500, 30_000)
    fills = [storage_samples.trade(n, timestamp=START_MS + at) for n, at in enumerate(times, 1)]
    shown = [fill for fill in fills if fill.trade_id not in (3, 4)]
    kept = [fill for fill in shown if fill.trade_id != 10]
    storage_samples.store(database, storage_samples.made(kept, "1s", lateness_ms=60_000).values())
    with open_database(database, create=True) as opened:
        clock = count(START_MS + 3_600_000, 40)
        with closing(Backfill(Tools(opened.connect, Past(shown), exchange(), clock=clock.__next__), ())) as work:
            (row,) = work.run([SYMBOL])
    assert (row["fetched"], row["left"]) == (1, 2)
    starts = [bar.start - START_MS for bar in storage_samples.bars_of(database).values() if bar.complete]
    assert starts == [10_000]


class Away:
    """No REST."""

    def __getattr__(self, name):
        raise ExchangeUnavailable("away")


def test_time_stepped_back_where_another_timeframe_shows_it(database):
    """Bars of 3 s alone would prove one that lacks a fill."""
    times = (14_315, 12_315, 16_314, 14_314, 16_314, 18_313, 23_313)
    fills = [storage_samples.trade(n, timestamp=START_MS // 6_000 * 6_000 + at) for n, at in enumerate(times, 11)]
    kept = [fill for fill in fills if fill.trade_id != 13]
    storage_samples.store(database, storage_samples.made(kept, "2s,3s", lateness_ms=60_000).values())
    with (
        open_database(database, create=True) as opened,
        closing(Backfill(Tools(opened.connect, Away(), exchange()), ())) as work,
        pytest.raises(ExchangeUnavailable),
    ):
        list(work.run([SYMBOL]))
    found = [bar.first_trade_id for bar in storage_samples.bars_of(database).values() if bar.complete]
    assert found == [16, 16]  # their neighbours prove them


@pytest.fixture
def start(tmp_path, database):
    """Start `okx ...` or a pipe of its commands on the fresh database."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "PYTHON"))}
    env = clean | {"OKX_DSN": database, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    running = []

    def start(exchange, *stages):
        script = " | ".join(f'"{sys.executable}" -m okxcli {stage}' for stage in stages)
        process = subprocess.Popen(
            ["bash", "-c", f"set -o pipefail\n{script}"],
            env=env | {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def whole_seconds(database):
    """Return how many complete bars of a second are stored, and the highest id in them."""
    with psycopg.connect(database) as connection:
        if connection.execute("SELECT to_regclass('market_data')").fetchone() == (None,):
            return 0, 0
        query = "SELECT count(*), coalesce(max(last_trade_id), 0) FROM market_data WHERE complete AND timeframe = '1s'"
        return connection.execute(query).fetchone()


def wait_for(condition, seconds=40):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


#: The bars of a second out of the exchange's own list of fills, by Postgres: nothing of okx judges itself.
ORACLE = """
SELECT (extract(epoch FROM m.start) * 1000)::bigint FROM market_data m FULL JOIN (
    SELECT to_timestamp(ts / 1000) AS start, (array_agg(price ORDER BY id))[1] AS open, max(price) AS high,
        min(price) AS low, (array_agg(price ORDER BY id DESC))[1] AS close, sum(size) AS volume,
        sum(price * size) AS quote, count(*) AS n, min(id) AS first, max(id) AS last
    FROM jsonb_to_recordset(%s) AS f (id bigint, ts bigint, price numeric, size numeric)
    GROUP BY 1) AS o USING (start)
WHERE m.timeframe = '1s' AND (o.n IS NULL OR (m.open, m.high, m.low, m.close, m.volume, m.quote_volume, m.trade_count,
    m.first_trade_id, m.last_trade_id) <> (o.open, o.high, o.low, o.close, o.volume, o.quote, o.n, o.first, o.last))
"""


def test_a_pipe_without_fills_is_killed_and_resumed(start, database):
    """`stream --resume | normalize | candles | store` across two stops, one of them kill -9: the chain is unbroken,
    `gaps` agrees, every bar equals the exchange's fills, and backfill finds larger bars alone to mend."""
    pipe = (f"stream {SYMBOL} --resume -q", "normalize -q", "candles --tf 1s,5s --lateness 1s -q", "store -q")
    with LocalExchange([SYMBOL], rate=60, history_s=20, options=Options(limits=0)) as exchange:
        for stop in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            seen = whole_seconds(database)[0]
            process = start(exchange, *pipe)
            wait_for(lambda seen=seen: whole_seconds(database)[0] >= seen + 4)
            os.killpg(process.pid, stop)
            process.communicate(timeout=60)
            time.sleep(1.2)
        exchange.stop_market()
        with psycopg.connect(database, autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM raw_trades").fetchone() == (0,)
            (first, until) = connection.execute(
                "SELECT min(first_trade_id), (extract(epoch FROM max(timestamp)) * 1000)::bigint FROM market_data"
                " WHERE timeframe = '1s' AND complete"
            ).fetchone()
        gaps_run = start(exchange, f"gaps {SYMBOL} --until {until} --lines")
        out, err = gaps_run.communicate(timeout=60)
        assert (gaps_run.returncode, err) == (0, ""), out
        (whole,) = [json.loads(line) for line in out.splitlines()]
        assert whole["kind"] == "covered" and whole["count"] > 300
        backfill = start(exchange, f"backfill {SYMBOL} --lines")
        out, err = backfill.communicate(timeout=60)
        assert (backfill.returncode, err) == (0, "")
        assert all(json.loads(line)["missing"] == 0 for line in out.splitlines())
        fills = [
            {"id": f.trade_id, "ts": f.ts, "price": f.price, "size": f.size}
            for f in exchange.fills(SYMBOL)
            if f.trade_id >= whole["first"]
        ]
        with psycopg.connect(database, autocommit=True) as connection:
            begin = connection.execute("SELECT min(start) FROM market_data WHERE timeframe = '1s'").fetchone()[0]
            wrong = connection.execute(ORACLE, [json.dumps(fills)]).fetchall()
            incomplete = connection.execute(
                "SELECT timeframe, count(*) FROM market_data WHERE NOT complete AND start > %s AND timestamp <="
                " to_timestamp(%s / 1000.0) GROUP BY 1", [begin, until - until % 5000]
            ).fetchall()  # fmt: skip
        assert wrong == []
        assert [row for row in incomplete if row[0] == "1s"] == []
        assert sum(row[1] for row in incomplete) <= 1  # the first bar of five seconds, which begins before the stream
        assert first > 0
