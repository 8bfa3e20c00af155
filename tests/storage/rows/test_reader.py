"""Reading back: the very lines that were stored, in order, a range or the newest, and what comes after."""

from contextlib import closing

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_samples import DAY, MIDNIGHT, T0, absent, book, candle, instrument, store, trade

from okxcli.core.codec import encode
from okxcli.errors import AnswerNo
from okxcli.storage.database import open_database
from okxcli.storage.read import follow
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series, Span


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def read(connection, kind, symbols=("BTC-USDT",), timeframes=(None,), origin=None, **limits):
    """Return what a query yields; where Postgres can write its lines itself, they are the same."""
    from dataclasses import replace

    plan = replace(follow.query(connection, kind, list(symbols), "here", timeframes, origin), **limits)
    with reader.snapshot(connection):
        found = list(plan.lines(connection))
        if plan.plain:
            blocks = list(plan.blocks(connection))
            assert [line for lines, _ in blocks for line in lines.split(b"\n")] == [encode(line) for line in found]
            assert all(lines.count(b"\n") == count - 1 for lines, count in blocks)
    return found


def test_lines_come_back_as_they_were(database, connection):
    """Byte for byte, with every digit, every unknown value and every millisecond."""
    fills = [
        trade(1, price="0.00000853", size="99999999999.123456789012345678"),
        trade(2, received=None, source=None, origin="rest"),
        trade(3, price="102537.9", side="buy"),
    ]
    bars = [candle(), candle(1, base_volume=None, quote_volume=None, complete=False)]
    books = [book(), book(T0 + 1, seq_id=None, received=T0 + 60), book(T0 + 2, 7, origin="bbo-tbt")]
    store(database, [*fills, *bars, *books])
    assert [encode(line) for line in read(connection, "trades")] == [encode(line) for line in fills]
    assert read(connection, "candles", timeframes=("1m",)) == bars
    assert read(connection, "books") == books
    assert read(connection, "books", origin="bbo-tbt") == books[2:]


@pytest.mark.parametrize("table", ["raw_trades", "merged_trades"])
def test_rows_of_others_are_spelt_as_lines(database, connection, table):
    """Whoever stored them, and however: needless zeros, microseconds, more fills than one, names of any letters."""
    store(database, [trade(1), trade(5, count=2, origin="trades")])
    connection.execute(f"TRUNCATE {table}")
    numbers = ["0.10", "100", "1e-25", "1e25", "12345678901234567890.123456789000", "0.000000000001", "NaN", "0.0"]
    for number, text in enumerate(numbers, 10):
        connection.execute(
            f"INSERT INTO {table} (exchange, symbol, trade_id, count, side, price, size, timestamp, received, source,"
            " origin) VALUES ('okx', 'BTC-USDT', %s, %s, 'buy', %s::numeric, %s::numeric, to_timestamp(%s) +"
            " %s::interval, to_timestamp(%s) - %s::interval, %s, %s)",
            [number, number % 3, text, numbers[-1 - number % 7], T0 // 1000, f"{number * 1237} us",
             None if number % 2 else T0 // 1000, f"{number * 500} us", number - 11, 'caf\u00e9 \\t "x"'],
        )  # fmt: skip
    connection.execute("UPDATE trade_ledger SET first_time = '2010-01-01', last_time = '2099-01-01'")
    origin = None if table == "raw_trades" else "trades"
    assert len(read(connection, "trades", origin=origin)) == len(numbers)
    assert len(read(connection, "trades", origin=origin, first=3)) == 3
    assert read(connection, "trades", origin=origin, first=0) == read(connection, "trades", origin=origin, newest=0)


def test_more_fills_than_are_fetched_at_a_time(database, connection, monkeypatch):
    """Blocks follow on each other without a seam, over days and at their ends, with every limit."""
    monkeypatch.setattr(reader, "_FETCH", 3)
    fills = [trade(i, timestamp=MIDNIGHT + (i - 9) * 1000) for i in range(1, 19)]
    store(database, fills)
    for most in (None, 1, 2, 3, 4, 8, 9, 18, 30):
        assert read(connection, "trades", first=most) == fills[:most]
        assert read(connection, "trades", newest=most) == fills[-most if most else 0 :]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shifts=st.lists(st.integers(-2 * DAY, 2 * DAY), min_size=1, max_size=25),
    newest=st.none() | st.integers(0, 30),
    since=st.integers(-DAY, DAY),
)
def test_fills_rise_by_id_whatever_their_times(database, connection, shifts, newest, since):
    """Clocks that step back over midnights, ranges and limits: always by id, none twice, none left out."""
    connection.execute("TRUNCATE raw_trades, trade_ledger")
    fills = [trade(i, timestamp=MIDNIGHT + shift) for i, shift in enumerate(shifts, 1)]
    store(database, fills)
    wanted = [fill for fill in fills if fill.timestamp >= MIDNIGHT + since]
    if newest is not None:
        wanted = wanted[len(wanted) - newest :] if newest < len(wanted) else wanted
    assert read(connection, "trades", span=Span(since=MIDNIGHT + since), newest=newest) == wanted


def test_range_is_half_open_and_holds_whole_bars(database, connection):
    """A fill at --until is out, one at --since is in; a bar must lie within."""
    store(database, [*(trade(i, timestamp=T0 + i) for i in range(1, 6)), *(candle(i) for i in range(5))])
    assert [t.trade_id for t in read(connection, "trades", span=Span(T0 + 2, T0 + 4))] == [2, 3]
    start = candle(1).start
    span = Span(start, start + 150_000)
    assert read(connection, "candles", timeframes=("1m",), span=span) == [candle(1), candle(2)]


def test_limits_count_for_each_series(database, connection):
    """The newest or the first so many of every symbol and timeframe, oldest first."""
    bars = [candle(i, symbol=s) for i in range(4) for s in ("BTC-USDT", "ETH-USDT")]
    store(database, [*bars, *(book(T0, i) for i in range(5))])
    both = ("BTC-USDT", "ETH-USDT")
    assert read(connection, "candles", both, ("1m",), newest=2) == bars[4:]
    assert read(connection, "candles", both, ("1m",), first=1) == bars[:2]
    assert [b.seq_id for b in read(connection, "books", newest=3)] == [2, 3, 4]
    assert read(connection, "books", newest=0) == []


def test_symbols_are_merged_by_time(database, connection):
    """Each keeps its own order by id."""
    fills = [
        trade(1, timestamp=T0),
        trade(9, symbol="ETH-USDT", timestamp=T0 + 1),
        trade(2, timestamp=T0 + 2),
        trade(10, symbol="ETH-USDT", timestamp=T0 + 3),
    ]
    store(database, fills)
    assert read(connection, "trades", ("ETH-USDT", "BTC-USDT")) == fills


def test_running_bars_and_merged_trades_only_when_asked(database, connection):
    """The tape and the finished bars are the default."""
    running = candle(1, closed=False, complete=False)
    store(database, [candle(), running, trade(1), trade(5, count=3, origin="trades")])
    assert read(connection, "candles", timeframes=("1m",)) == [candle()]
    assert read(connection, "candles", timeframes=("1m",), running=True) == [candle(), running]
    assert [t.trade_id for t in read(connection, "trades")] == [1]
    assert [t.count for t in read(connection, "trades", origin="trades")] == [3]


def test_context_comes_where_it_matters(database, connection):
    """The instrument before the first fill and where it changed, absent ids before the fill that follows them."""
    name = "BTC-USDT-SWAP"
    changed = instrument(T0 + 5, state="suspend")
    fills = [trade(i, symbol=name, timestamp=T0 + i) for i in (3, 4, 7, 8)]
    store(database, [instrument(T0 + 4, state="live"), changed, *fills, absent(5, 6, name), absent(9, 9, name)])
    assert read(connection, "trades", (name,), context=True) == [
        instrument(T0 + 4),
        fills[0],
        fills[1],
        changed,
        absent(5, 6, name),
        *fills[2:],
    ]


def test_unknown_symbol_is_told_with_those_that_are_there(database, connection):
    """The answer is no, and which names would do."""
    store(database, [trade(1)])
    with pytest.raises(AnswerNo, match=r"nothing of BTC-USD is stored at here. Did you mean BTC-USDT\?"):
        read(connection, "trades", ("BTC-USD",))
    with pytest.raises(AnswerNo, match=r"nothing of WRONG is stored at here. Stored symbols: BTC-USDT$"):
        read(connection, "trades", ("WRONG",))


def test_of_many_symbols_a_few_are_named(database, connection):
    """A thousand names on a line are no help: the first ones, or the nearest."""
    store(database, [trade(1, symbol=f"A{n:03d}-USDT") for n in range(300)])
    with pytest.raises(AnswerNo, match=r"Stored symbols: A000-USDT, .*, A004-USDT and 295 more$"):
        read(connection, "trades", ("WRONG",))
    with pytest.raises(AnswerNo) as told:
        read(connection, "trades", ("a123-usdt", *(f"B{n}" for n in range(50))))
    assert "Did you mean A123-USDT" in str(told.value)
    assert len(str(told.value)) < 250


def test_snapshot_reads_one_moment_and_writes_nothing(database, connection):
    """What is stored while a read goes on does not come into it."""
    store(database, [trade(1)])
    plan = follow.query(connection, "trades", ["BTC-USDT"], "here")
    with reader.snapshot(connection):
        lines = plan.lines(connection)
        assert next(lines) == trade(1)
        store(database, [trade(2)])
        assert list(lines) == []
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), reader.snapshot(connection):
        connection.execute("DELETE FROM raw_trades")


def polled(connection, position):
    with reader.snapshot(connection):
        return list(position.poll(connection))


def test_following_yields_each_new_row_once(database, connection):
    """Fills above the newest id, books after the newest time, bars that are new or were revised."""
    store(database, [trade(5), book(), candle(complete=False)])
    places = {}
    for kind, frame in (("trades", None), ("books", None), ("candles", "1m")):
        plan = follow.query(connection, kind, ["BTC-USDT"], "here", (frame,))
        with reader.snapshot(connection):
            places[kind] = next(iter(plan.positions(connection).values()))
        assert polled(connection, places[kind]) == []
    later = [trade(6), trade(7, timestamp=T0 + 2)]
    store(database, [*later, trade(3), book(T0, 2), book(T0 + 1), candle(1), candle()])
    assert polled(connection, places["trades"]) == later
    assert polled(connection, places["books"]) == [book(T0, 2), book(T0 + 1)]
    bars = polled(connection, places["candles"])
    assert [(bar.timestamp, bar.revision) for bar in bars] == [(candle().timestamp, 1), (candle(1).timestamp, 0)]
    assert all(polled(connection, place) == [] for place in places.values())


def test_a_wild_time_does_not_hide_what_follows(database, connection):
    """A fill and a book of 2096, of an older release: what comes after them by the right time is shown."""
    places = {}
    for kind in ("trades", "books"):
        store(database, [trade(5, timestamp=4_000_000_000_000), book(4_000_000_000_000), book(T0 - DAY)])
        plan = follow.query(connection, kind, ["BTC-USDT"], "here")
        with reader.snapshot(connection):
            places[kind] = next(iter(plan.positions(connection).values()))
        polled(connection, places[kind])
    store(database, [trade(6), book(T0)])
    assert polled(connection, places["trades"]) == [trade(6)]
    assert polled(connection, places["books"])[-1] == book(T0)


def test_following_begins_with_what_is_stored_first(database, connection):
    """A symbol of which there is nothing of that kind yet."""
    store(database, [trade(1)])
    place = follow.Position("books", Series("okx", "BTC-USDT"))
    assert polled(connection, place) == []
    store(database, [book()])
    assert polled(connection, place) == [book()]
    assert EVERYTHING.since <= T0 < EVERYTHING.until
