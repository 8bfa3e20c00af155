"""The rows of `scripts/bench` with few rows and seconds, and that a wrong answer ends them."""

import json
from pathlib import Path

import psycopg
import pytest
from harness import bench_growth, bench_latency, bench_live, bench_memory, bench_source
from harness.bench import Bench
from harness.bench_table import PURE, C, Gauge, Report, markdown

from okxcli.core.books.chain import Step
from okxcli.core.books.local_book import LocalBook, State
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc tells the CPU of a process")


@pytest.fixture
def bench(tmp_path):
    """A bench of few rows."""
    one = Bench(tmp_path, 2_000, tmp_path / "peers", seconds=1.5)
    yield one
    one.close()


def gauge(report, name):
    return next(one for one in report.gauges if one.what.endswith(name))


def test_a_gauge_above_its_limit_is_a_target_missed():
    """The median counts, and it is told with its spread."""
    report = Report("a row", lambda rounds: [Gauge("this", [1.0, 9.0, 2.0], "ms", 2.0)] * rounds, "says")
    report.run(1)
    assert report.met()
    assert "| this | 2 ms | 1 to 9 | 2 |" in markdown(report)
    assert not Report("a row", lambda _: [], gauges=[Gauge("this", [3.0], "ms", 2.0)]).met()


def test_stream_has_its_rival(bench):
    """Both roads and the bare loop write what was sent."""
    contest = bench_live.stream(bench)
    contest.run(1)
    assert set(contest.taken) == {C, PURE, contest.rival}
    assert (bench.folder / "stream.lines").read_bytes().count(b"\n") == 2_000


@pytest.mark.parametrize("damage", [lambda line: b"", lambda line: line.replace(b'"px":"', b'"px":"1', 1)])
def test_a_line_that_is_lost_or_wrong_is_noticed(bench, damage, tmp_path):
    """Of ours as of the rival's."""
    sent, made = tmp_path / "sent", tmp_path / "made"
    bench_source.write_frames(tmp_path / "frames", sent, ["A-B", "C-D"], 50)
    lines = sent.read_bytes().splitlines(keepends=True)
    made.write_bytes(b'{"arg":{"channel":"instruments"}}\n' + b"".join(lines))
    bench_live.compare_lines(made, sent)
    for at in (0, 20, 49):
        made.write_bytes(b"".join([*lines[:at], damage(lines[at]), *lines[at + 1 :]]))
        with pytest.raises(SystemExit, match="not the lines that were sent"):
            bench_live.compare_lines(made, sent)


@needs_proc
def test_collect_is_measured(bench):
    """CPU, memory and lags of a second of three channels; what was sent is stored."""
    load = bench_live.Load(
        "collect", bench_live.many(4), {"trades-all": 200, "books5": 100, "tickers": 100}, cpu=10_000
    )
    report = bench_live.row_of(bench, load, pure=False)
    report.run(1)
    if not max(gauge(report, "CPU").values):  # the kernel counts it by the hundredth, and on a busy machine late
        report.run(4)
    assert report.met()
    assert max(gauge(report, "CPU").values) > 0 and gauge(report, "peak memory").median > 10
    assert 0 <= gauge(report, "committed, p50").median <= gauge(report, "committed, p99").median < 60_000
    assert gauge(report, ": sent").median > 250


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM raw_trades WHERE trade_id = (SELECT max(trade_id) FROM raw_trades)", "not the fills"),
        ("DELETE FROM raw_trades WHERE trade_id = (SELECT min(trade_id) FROM raw_trades)", "not the fills"),
        ("DELETE FROM tickers WHERE symbol = 'S0001-USDT'", "tickers:"),
        ("DELETE FROM order_books WHERE symbol = 'S0001-USDT'", "order_books:"),
    ],
)
def test_what_is_not_stored_is_noticed(bench, change, told):
    """A fill, a ticker, the books of a symbol."""
    with bench.postgres.fresh() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        base = bench_source.FIRST_ID
        connection.execute("CREATE TABLE part PARTITION OF raw_trades DEFAULT")
        for table in ("tickers", "order_books"):
            connection.execute(f"CREATE TABLE part_{table} PARTITION OF {table} DEFAULT")
        for symbol in ("S0000-USDT", "S0001-USDT"):
            for number in (1, 2, 3):
                connection.execute(
                    "INSERT INTO raw_trades VALUES ('okx', %s, %s, 1, 'buy', 1, 1, now(), NULL, NULL, 'trades-all')",
                    [symbol, base + number],
                )
            for table in ("tickers", "order_books"):
                fill_with_anything(connection, table, symbol)
        report = {"ids": {"S0000-USDT": base + 3, "S0001-USDT": base + 3}, "same": {}}
        report["sent"] = {"trades-all": 6, "tickers": 2, "books5": 2}
        bench_live.compare(connection, report)
        connection.execute(change)
        with pytest.raises(SystemExit, match=told):
            bench_live.compare(connection, report)


def fill_with_anything(connection, table, symbol):
    """Insert a row of some values, whatever columns the table has."""
    rows = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s AND is_nullable = 'NO'"
        " AND column_default IS NULL",
        [table],
    ).fetchall()
    values = {"text": "x", "timestamp with time zone": "now", "numeric": 1, "ARRAY": "{}", "bigint": 1, "boolean": True}
    row = {name: symbol if name == "symbol" else values.get(kind, 1) for name, kind in rows}
    places = ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))


def test_the_source_sends_what_it_reports():
    """Frames are as long as they say, ids follow on each other, the time is that of the sending."""
    source = bench_source.Source(
        {"symbols": ["A-B"], "channels": ["trades-all", "tickers"], "rates": {"trades-all": 1, "tickers": 1}}
    )
    source.listener.close()
    for number in (1, 2, 3):
        made = source._push(("trades-all", "A-B"), b"1747087163557")
        assert made[1] == 126 and int.from_bytes(made[2:4]) == len(made) - 4
        (row,) = json.loads(made[4:])["data"]
        assert (row["tradeId"], row["ts"]) == (str(bench_source.FIRST_ID + number), "1747087163557")
    ticker = source._push(("tickers", "A-B"), b"1747087163557")
    assert json.loads(ticker[4:])["data"][0]["ts"] == "1747087163557"
    assert source._push(("tickers", "A-B"), b"1747087163557") and source.same == {"tickers": 1}
    assert source.sent == {"trades-all": 3, "tickers": 2}


@needs_proc
def test_latency_is_measured(bench):
    """Of every fill that is sent there is a line, from the pipe and from the bare loop."""
    report = bench_latency.to_a_line(bench)
    report.run(1)
    assert {one.what.split(":")[0] for one in report.gauges} == {"C kernels", "Python alone", "bare loop"}
    assert all(0 < one.median < 60_000 for one in report.gauges)
    limits = {one.what: one.most for one in report.gauges if one.most is not None}
    assert limits["C kernels: p50"] == gauge(report, "bare loop: p50").median + 1
    assert limits["C kernels: p99"] == gauge(report, "bare loop: p99").median + 5


def test_a_fill_without_a_line_is_noticed():
    """Lines are known by symbol and id, and count when they are whole."""
    blocks = [
        (5_000_000, b'{"type":"trade","symbol":"A-B","trade_id":7,"x":1}\n{"symbol":"A-'),
        (9_000_000, b'B","trade_id":8}\n'),
    ]
    read = bench_latency.read_at(blocks, bench_latency._OURS)
    assert bench_latency.delays({(b"A-B", 7): 1_000_000, (b"A-B", 8): 2_000_000}, read) == [4.0, 7.0]
    with pytest.raises(SystemExit, match="1 of 3 fills"):
        bench_latency.delays({(b"A-B", 7): 1, (b"A-B", 8): 2, (b"A-B", 9): 3}, read)


@pytest.mark.parametrize("row", [bench_growth.timeframes, bench_growth.merged])
def test_growth_of_pipes_is_measured(bench, row):
    """Each variant takes all trades, and all but the first are told beside the first."""
    report = row(bench)
    report.run(1)
    ratios = [one for one in report.gauges if one.what.endswith("beside the first")]
    assert len(report.gauges) == 2 * len(ratios) + 1 and all(one.most == bench_growth.FLAT for one in ratios)


def test_growth_beyond_a_fifth_is_a_target_missed():
    """By medians."""
    flat = Report("", lambda _: bench_growth.gauges({"one": [1.0, 5.0, 1.0], "ten": [1.1, 1.2, 9.0]}))
    flat.run(1)
    assert flat.met()
    steep = Report("", lambda _: bench_growth.gauges({"one": [1.0], "ten": [1.3]}))
    steep.run(1)
    assert not steep.met()


def test_trades_that_candles_did_not_take_are_noticed(tmp_path):
    """Its counts must tell of each."""
    stats = tmp_path / "stats"
    stats.write_text(json.dumps({"trades": 8, "duplicates": 1, "overlapping": 1, "late": 0}))
    bench_growth.counted(stats, 10)
    with pytest.raises(SystemExit, match="of 11 trades"):
        bench_growth.counted(stats, 11)


@needs_proc
@pytest.mark.parametrize("row", [bench_growth.database, bench_growth.ledger])
def test_growth_of_a_database_is_measured(bench, row, monkeypatch):
    """Fills are stored beside those that SQL has made; one that is not is noticed."""
    bench.big = 3_000
    report = row(bench)
    report.run(2)
    assert len(report.gauges) == 3
    stored = bench_growth._newer
    monkeypatch.setattr(bench_growth, "_newer", lambda connection: min(stored(connection), 300))
    with pytest.raises(SystemExit, match="of 400 trades were stored"):
        row(bench).run(1)


def test_memory_is_measured(bench):
    """Of every filter and of `read`, which shows what `store` has stored."""
    report = bench_memory.memory(bench)
    report.run(1)
    assert [one.what.split()[0] for one in report.gauges] == ["normalize", "candles", "candles", "store", "read"]
    assert all(8 < one.median < 500 and one.most == 64 for one in report.gauges)


def test_the_bare_loop_is_a_script_of_its_own():
    """It needs nothing of okx."""
    text = (Path(bench_live.__file__).parents[1] / "peers" / "plain_stream.py").read_text()
    assert "okxcli" not in text and "recv_data" in text


def test_the_books_of_the_source_are_sound():
    """A snapshot of 400 levels, and updates of some 26 that follow on it: each book is good at every message."""
    plan = {"symbols": ["A-USDT", "B-USDT"], "channels": ["books"], "rates": {"books": 10}, "seconds": 1}
    source, reader = bench_source.Source(plan), Normalizer()
    books = {symbol: LocalBook("okx", symbol, "books") for symbol in plan["symbols"]}
    sizes = []
    for n in range(200):
        symbol = plan["symbols"][n % 2]
        framed = source._push(("books", symbol), b"%d" % (1_747_087_200_000 + n))
        payload = framed[4:]
        assert framed == bench_source.frame(payload)
        (update,) = reader.feed(payload)
        assert books[symbol].take(update) is (Step.SNAPSHOT if n < 2 else Step.UPDATE)
        assert books[symbol].state is State.GOOD
        sizes.append(len(update.bids) + len(update.asks))
    assert sizes[:2] == [800, 800]
    assert 15 < sum(sizes[2:]) / len(sizes[2:]) < 35
    source.listener.close()
    source.selector.close()
