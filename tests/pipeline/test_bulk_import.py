"""Bulk files into a real Postgres: the same rows, ledger and candles as the same fills line by line."""

import builtins
import itertools
import random
from types import SimpleNamespace

import psycopg
import pytest
from bulk_files import GENERATIONS, daily, modern, write

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.decimals import parse
from okxcli.core.model import Instrument, StandardizedTrade
from okxcli.exchanges.okx.bulk_files.duckdb_reader import opened as opened_file
from okxcli.exchanges.okx.bulk_files.unpacking import tables
from okxcli.exchanges.registry import exchange
from okxcli.pipeline.bulk_import import BulkLoader
from okxcli.runtime.road import kernel
from okxcli.storage.database import open_database
from okxcli.storage.write import bulk_load
from okxcli.storage.write.writer import Writer

#: Midnight of 2026-05-18 in UTC+8, which is 16:00 UTC of the day before.
MIDNIGHT = 1_779_033_600_000
FRAMES = "1m,5m,1h,1d,1d+8"
SPOT, LINEAR, INVERSE = "BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP"
WORTH = {
    LINEAR: Instrument(
        "okx", LINEAR, "swap", "live", "BTC", "USDT", "USDT", "linear", parse("0.01"), parse("1"), "BTC"
    ),
    INVERSE: Instrument(
        "okx", INVERSE, "swap", "live", "BTC", "USD", "BTC", "inverse", parse("100"), parse("1"), "USD"
    ),
}


def made(count, first=1_000, seed=1, start=MIDNIGHT - 20 * 3_600_000):
    """Return fills over nearly three days; many share a millisecond, and now and then time steps back."""
    rng, clock, found = random.Random(seed), start, []
    for number in range(first, first + count):
        clock += rng.choice([0, 0, 9_000, 90_000, 200_000])
        price, size = f"{rng.randrange(500_000, 520_000) / 10:.1f}", f"{rng.randrange(1, 10**7) / 10**8:.8f}"
        at = clock - (rng.randrange(400) if rng.random() < 0.02 else 0)
        found.append(
            SimpleNamespace(
                trade_id=number, price=price.removesuffix(".0"), size=size.rstrip("0"), ts=at, source=0,
                side=rng.choice(["buy", "sell"]),
            )
        )  # fmt: skip
    return found


@pytest.fixture
def opened(database):
    with open_database(database, create=True, origin="local", application="test") as found:
        yield found


@pytest.fixture
def other(embedded_dsn):
    """A second database, filled line by line."""
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS okx_test_bulk_other")
        connection.execute("CREATE DATABASE okx_test_bulk_other")
    dsn = psycopg.conninfo.make_conninfo(embedded_dsn, dbname="okx_test_bulk_other")
    with open_database(dsn, create=True, origin="local", application="test") as found:
        yield found
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE okx_test_bulk_other WITH (FORCE)")


def by_line(database, fills, frames=FRAMES, lateness_ms=10_000, fill=False):
    """Store fills and their candles as the pipe does; `fills` are lists by symbol."""
    writer = Writer(database.connect)
    maker = RealTimeCandleProcessor(frames, writer.add, lateness_ms=lateness_ms, fill=fill, live=False)
    for symbol, some in fills.items():
        if symbol in WORTH:
            writer.add(WORTH[symbol])
            maker.instrument(WORTH[symbol])
        for f in some:
            numbers = (parse(f.price), parse(f.size))
            trade = StandardizedTrade("okx", symbol, f.trade_id, f.side, *numbers, f.ts, 1, None, None, "file")
            writer.add(trade)
            maker.trade(trade)
    maker.finish()
    writer.flush()
    writer.close()


def introduce(database, *symbols):
    writer = Writer(database.connect)
    for symbol in symbols:
        writer.add(WORTH[symbol])
    writer.flush()
    writer.close()


def stored(database):
    """Return all that counts: the rows, the ledger, the candles whatever their revision."""
    with database.connect() as connection:
        return {
            name: connection.execute(query).fetchall()
            for name, query in {
                "rows": "SELECT * FROM raw_trades ORDER BY symbol, trade_id",
                "ledger": "SELECT symbol, day, covered, absent, first_id, last_id, first_time, last_time, archived"
                " FROM trade_ledger ORDER BY symbol, day",
                "candles": "SELECT symbol, timeframe, start, timestamp, open, high, low, close, volume, base_volume,"
                " quote_volume, buy_volume, trade_count, first_trade_id, last_trade_id, closed, complete, origin"
                " FROM market_data ORDER BY symbol, timeframe, start",
                "quarantine": "SELECT count(*) FROM quarantine",
            }.items()
        }


def load(database, folder, *symbols, **more):
    ways = {"stop": more.pop("stop")} if "stop" in more else {}
    return BulkLoader(database, symbols or [SPOT], FRAMES.split(","), source=exchange(), **more).load([folder], **ways)


@pytest.mark.parametrize("make", GENERATIONS.values(), ids=GENERATIONS)
def test_a_load_equals_the_pipe(opened, other, tmp_path, make):
    """Every generation, over days of UTC+8 and of UTC: rows, ledger and candles as if each fill had come by itself."""
    fills = made(4_000)
    paths = daily(tmp_path, SPOT, fills, make)
    assert len(paths) == 3
    by_line(other, {SPOT: fills})
    done = load(opened, tmp_path)
    found, wanted = stored(opened), stored(other)
    if make is GENERATIONS["newest"]:  # it alone tells the source
        found["rows"] = [(*row[:9], None, *row[10:]) for row in found["rows"]]
    assert found == wanted
    assert done.trades == 4_000 and done.duplicates == 0
    complete = [row for row in found["candles"] if row[1] == "1d+8" and row[16]]
    assert len(complete) == 1 and sum(row[16] for row in found["candles"]) > 500


@pytest.mark.parametrize("make", GENERATIONS.values(), ids=GENERATIONS)
def test_faultless_files_take_the_fast_way(tmp_path, make):
    """Each generation is one that DuckDB reads; a single odd row is enough for the slow way."""
    fills = made(200)
    (path, *_) = daily(tmp_path, SPOT, fills, make)
    (table,) = tables(path)
    with opened_file(table, [SPOT]) as duck:
        assert duck.fills(SPOT).first == 1_000 and duck.holds(SPOT) and not duck.holds(LINEAR)
    data = make(SPOT, fills).replace(fills[77].price.encode(), b"-1", 1)
    (table,) = tables(write(tmp_path / "bad", path.stem, data))
    with opened_file(table, [SPOT]) as duck:
        assert duck is None


def test_flat_bars_of_quiet_times(opened, other, tmp_path):
    """Within a file and across the end of one, where the ids prove that nothing was traded: as the pipe writes them."""
    fills = made(900)
    by_line(other, {SPOT: fills}, fill=True)
    daily(tmp_path, SPOT, fills)
    done = load(opened, tmp_path, fill=True)
    found, wanted = stored(opened), stored(other)
    assert found == wanted
    assert sum(row[13] is None for row in found["candles"]) > 200
    assert done.candles == len(found["candles"])
    assert load(opened, tmp_path, fill=True).candles == 0


def test_amounts_of_contracts(opened, other, tmp_path):
    """Linear and inverse swaps: the amounts in both currencies are those of the fills, to the last digit."""
    fills = {LINEAR: made(700), INVERSE: made(700, first=50, seed=4)}
    for symbol, some in fills.items():
        daily(tmp_path, symbol, some)
    by_line(other, fills)
    introduce(opened, LINEAR, INVERSE)
    load(opened, tmp_path, LINEAR, INVERSE)
    assert stored(opened) == stored(other)
    assert all(row[9] is not None and row[10] is not None for row in stored(opened)["candles"])


def test_a_second_load_changes_nothing(opened, tmp_path):
    """The same files again, and one of the days in another generation: every fill is known."""
    fills = made(1_200)
    daily(tmp_path, SPOT, fills)
    load(opened, tmp_path)
    before = stored(opened)
    daily(tmp_path / "again", SPOT, fills, GENERATIONS["chinese"])
    again = load(opened, tmp_path)
    assert stored(opened) == before
    assert again.trades == 0 and again.candles == 0 and again.duplicates >= 2_400


def test_what_is_there_already_is_kept(opened, other, tmp_path):
    """A part of a day came live before: the rest is added, and the bars beside the seam come out whole."""
    fills = made(4_000)
    by_line(opened, {SPOT: fills[900:1_700]})
    by_line(other, {SPOT: fills})
    daily(tmp_path, SPOT, fills)
    done = load(opened, tmp_path)
    assert stored(opened) == stored(other)
    assert done.trades == 3_200 and done.duplicates > 0


def test_days_in_any_order(opened, other, tmp_path):
    """The last day first, the first day last: the bars between are mended at the end of each load."""
    fills = made(4_000)
    by_line(other, {SPOT: fills})
    for path in reversed(daily(tmp_path, SPOT, fills)):
        load(opened, path)
    assert stored(opened) == stored(other)


def test_without_duckdb_it_takes_longer(opened, other, tmp_path, monkeypatch, caplog):
    """DuckDB is no condition: the same comes out line by line, and it is told what would be faster."""
    real = builtins.__import__

    def without(name, *rest):
        if name == "duckdb":
            raise ImportError(name)
        return real(name, *rest)

    fills = made(600)
    by_line(other, {SPOT: fills})
    daily(tmp_path, SPOT, fills)
    monkeypatch.setattr(builtins, "__import__", without)
    load(opened, tmp_path)
    assert stored(opened) == stored(other) and "okxcli[duckdb]" in caplog.text


def test_a_file_with_faults_goes_in_by_the_block_too(opened, other, tmp_path, monkeypatch):
    """As many rows as are everyday ones, to the same end as one by one: odd spellings, damage, wild times, twice."""
    fills = made(900)
    fills[700].ts = 4_000_000_000_000
    data = modern(SPOT, fills).replace(b",1007,", b",100x7,").replace(b",1100,buy,", b',"1100",BUY,')
    lines = data.splitlines(keepends=True)
    write(tmp_path, "BTC-USDT-trades-2026-05-17", b"".join([*lines, lines[300], lines[301].replace(b",5", b",6")]))
    one_by_one = []
    add = Writer.add
    monkeypatch.setattr(Writer, "add", lambda *some: (one_by_one.append(type(some[1])), add(*some))[1])
    done = load(opened, tmp_path)
    assert (done.trades, done.damaged) == (898, 2)
    built = kernel("storage.rows._fill_rows") is not None
    assert one_by_one.count(StandardizedTrade) < (20 if built else 1_000)
    monkeypatch.setenv("OKX_PURE", "1")
    assert load(other, tmp_path) == done
    assert stored(opened) == stored(other)


def test_damaged_rows_and_aggregates(opened, tmp_path):
    """A damaged row is left out alone, its id stays missing; merged trades go beside the tape, not into it."""
    fills = made(400)
    damaged = modern(SPOT, fills).replace(b",1007,", b",100x7,")
    write(tmp_path / "a", "BTC-USDT-trades-2026-05-17", damaged)
    done = load(opened, tmp_path / "a")
    assert (done.trades, done.damaged) == (399, 1)
    write(tmp_path / "b", "ETH-USDT-aggtrades-2026-05-17", modern("ETH-USDT", fills))
    load(opened, tmp_path / "b", "ETH-USDT")
    with opened.connect() as connection:
        assert (
            connection.execute("SELECT covered::text FROM trade_ledger ORDER BY day")
            .fetchall()[0][0]
            .startswith("{[1000,1007),[1008,")
        )
        assert connection.execute("SELECT symbol, count(*) FROM raw_trades GROUP BY 1").fetchall() == [(SPOT, 399)]
        assert connection.execute("SELECT count(*) FROM merged_trades").fetchall() == [(400,)]


@pytest.mark.parametrize(("wild", "taken"), [(4_000_000_000_000, 0), (1_300_000_000_000, 1)])
def test_a_row_of_a_wild_time(opened, tmp_path, wild, taken):
    """One of 2096 is refused alone; one of 2011 is stored, and no day between is gone through."""
    fills = made(400)
    fills[399].ts = wild
    write(tmp_path, "BTC-USDT-trades-2026-05-17", modern(SPOT, fills))
    done = load(opened, tmp_path)
    assert (done.trades, done.damaged) == (399 + taken, 1 - taken)
    with opened.connect() as connection:
        (days,) = connection.execute("SELECT count(*) FROM trade_ledger").fetchone()
        assert connection.execute("SELECT max(timestamp) < now() FROM raw_trades").fetchone() == (True,)
        assert connection.execute("SELECT count(*) < 400 * 5 FROM market_data").fetchone() == (True,)
    assert days <= 3 + taken


def test_what_rows_are_told_to_be(opened, other, tmp_path):
    """A file of fills that lacks many goes into the tape, and one without a hole beside it, where that is said."""
    fills = [fill for fill in made(600) if fill.trade_id % 30]
    by_line(other, {SPOT: fills})
    write(tmp_path / "a", "BTC-USDT-trades-2026-05-17", modern(SPOT, fills))
    loader = BulkLoader(opened, [SPOT], FRAMES.split(","), rows_as="fills", source=exchange())
    loader.load([tmp_path / "a"])
    assert loader.by_symbol[SPOT]["files"] == len(fills)
    found, wanted = stored(opened), stored(other)
    assert (found["rows"], found["ledger"]) == (wanted["rows"], wanted["ledger"])
    write(tmp_path / "b", "ETH-USDT-trades-2026-05-17", modern("ETH-USDT", made(200)))
    BulkLoader(opened, ["ETH-USDT"], FRAMES.split(","), rows_as="aggregates", source=exchange()).load([tmp_path / "b"])
    with opened.connect() as connection:
        assert connection.execute("SELECT count(*) FROM merged_trades").fetchall() == [(200,)]
        assert connection.execute("SELECT count(*) FROM raw_trades WHERE symbol = 'ETH-USDT'").fetchall() == [(0,)]


@pytest.mark.parametrize("back", [1, 700, 2_500, 61_000])
def test_time_that_steps_back_across_the_end_of_a_file(opened, other, tmp_path, back):
    """The first fills of a file belong into bars that the file before it proved complete: these are mended, whichever
    of the two comes first."""
    rng, fills = random.Random(back), made(900, start=MIDNIGHT - 3_600_000)
    for number, fill in enumerate(fills):
        fill.ts = MIDNIGHT - 450_000 + 1_000 * number
    late = [fill for fill in fills if MIDNIGHT + 10_000 <= fill.ts < MIDNIGHT + 60_000]
    for fill in rng.sample(late, 5):
        fill.ts = MIDNIGHT - back - rng.randrange(200)
    first, second = ([f for f in fills if (f.trade_id < 1_450) is early] for early in (True, False))
    frames = "1s,1m,1d+8"
    by_line(other, {SPOT: fills}, frames, lateness_ms=600_000)
    write(tmp_path / "1", "BTC-USDT-trades-2026-05-17", modern(SPOT, first))
    write(tmp_path / "2", "BTC-USDT-trades-2026-05-18", modern(SPOT, second))
    for folder in ("1", "2") if back % 2 else ("2", "1"):
        BulkLoader(opened, [SPOT], frames.split(","), source=exchange()).load([tmp_path / folder])
    found, wanted = stored(opened), stored(other)
    assert found | {"candles": 0} == wanted | {"candles": 0}
    # Where the tape begins it is known by now that a fill may lie so far back; line by line that was learned later.
    tops = itertools.accumulate((fill.ts for fill in fills), max)
    edge = (fills[0].ts + max(top - fill.ts for top, fill in zip(tops, fills, strict=True))) / 1000
    for ours, theirs in zip(found["candles"], wanted["candles"], strict=True):
        assert ours == theirs or (ours[2].timestamp() <= edge and ours[:16] == theirs[:16] and not ours[16])


def test_a_span_and_a_stop(opened, tmp_path):
    """Only what lies in the span is stored; a load that is told to stop keeps what it has, and can be taken up."""
    fills = made(4_000)
    daily(tmp_path, SPOT, fills)
    since, until = fills[500].ts, fills[900].ts
    assert load(opened, tmp_path, since_ms=since, until_ms=until).trades == sum(since <= f.ts < until for f in fills)
    answers = iter([False, False, False] + [True] * 100)
    load(opened, tmp_path, stop=lambda: next(answers))
    load(opened, tmp_path)
    with opened.connect() as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT trade_id) FROM raw_trades").fetchall() == [
            (4_000, 4_000)
        ]


def test_a_partition_that_came_meanwhile(opened, other, tmp_path, monkeypatch):
    """Somebody else makes the day's partition while its rows come in beside it: they are moved there."""
    fills = made(600)
    by_line(other, {SPOT: fills})
    by_line(opened, {"ETH-USDT": fills[::40]})
    daily(tmp_path, SPOT, fills)
    monkeypatch.setattr(bulk_load.partitions, "existing", lambda *_: [])
    load(opened, tmp_path)
    found, wanted = stored(opened), stored(other)
    assert [row for row in found["rows"] if row[1] == SPOT] == wanted["rows"]
    with opened.connect() as connection:
        assert connection.execute("SELECT to_regclass('loading_raw_trades_20260517')").fetchone() == (None,)


def test_a_new_partition_is_like_the_others(opened, tmp_path):
    """The day that a load makes has the same key and columns as one that the writer makes, and takes rows like it."""
    fills = made(600)
    daily(tmp_path, SPOT, fills)
    load(opened, tmp_path)
    by_line(opened, {"ETH-USDT": made(50, start=MIDNIGHT - 24 * 3_600_000), "SOL-USDT": fills})
    with opened.connect() as connection:
        parts = connection.execute(
            "SELECT i.inhrelid::regclass::text, pg_get_constraintdef(k.oid), k.conname = c.relname || '_pkey',"
            " (SELECT count(*) FROM pg_inherits WHERE inhrelid = k.conindid)"
            " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " JOIN pg_constraint k ON k.conrelid = i.inhrelid AND k.contype = 'p'"
            " WHERE i.inhparent = 'raw_trades'::regclass ORDER BY 1"
        ).fetchall()
        assert len(parts) >= 2 and {part[1:] for part in parts} == {
            ('PRIMARY KEY (exchange, symbol, epoch, trade_id, "timestamp")', True, 1)
        }
        counts = connection.execute("SELECT symbol, count(*) FROM raw_trades GROUP BY 1 ORDER BY 1").fetchall()
    assert counts == [(SPOT, 600), ("ETH-USDT", 50), ("SOL-USDT", 600)]
