"""Ranges of the tape: covered, missing, absent, unknown, cut to a range of time."""

from contextlib import closing

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage_samples import DAY, MIDNIGHT, T0, absent, candle, rows, store, trade

from okxcli.storage.database import open_database
from okxcli.storage.ledger.id_ranges import IdRange, RangeBook
from okxcli.storage.read.gaps import ranges


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def found(connection, since=None, until=None, symbol="BTC-USDT"):
    return [(r.kind, r.first, r.last) for r in ranges(connection, "okx", symbol, since, until)]


def test_holes_and_absent_ids_between_covered_ones(database, connection):
    """In order of ids, with the times of the fills beside them."""
    store(database, [*map(trade, (1, 2, 3, 7, 8, 12)), absent(5, 6)])
    assert ranges(connection, "okx", "BTC-USDT") == [
        IdRange("covered", 1, 3, T0 + 1, T0 + 3),
        IdRange("missing", 4, 4, T0 + 3, T0 + 7),
        IdRange("absent", 5, 6, T0 + 3, T0 + 7),
        IdRange("covered", 7, 8, T0 + 7, T0 + 8),
        IdRange("missing", 9, 11, T0 + 8, T0 + 12),
        IdRange("covered", 12, 12, T0 + 12, T0 + 12),
    ]


def test_unknown_before_the_first_and_after_the_newest(database, connection):
    """Only as far as somebody asks for that time."""
    store(database, map(trade, (1, 2, 3)))
    assert found(connection, T0 + 1, T0 + 4) == [("covered", 1, 3)]
    assert ranges(connection, "okx", "BTC-USDT", T0 - 5, T0 + 100) == [
        IdRange("unknown", None, 0, T0 - 5, T0 + 1),
        IdRange("covered", 1, 3, T0 + 1, T0 + 3),
        IdRange("unknown", 4, None, T0 + 3, T0 + 100),
    ]
    assert found(connection, T0 + 50, T0 + 100) == [("unknown", 4, None)]
    assert found(connection, T0 - 50, T0 - 20) == [("unknown", None, 0)]


def test_a_symbol_that_was_never_stored(connection):
    """Is unknown as a whole."""
    assert ranges(connection, "okx", "DOGE-USDT", 5, 9) == [IdRange("unknown", None, None, 5, 9)]


def test_a_range_of_time_cuts_what_is_covered(database, connection):
    """To its own fills; a hole belongs to it when the time between its neighbours does."""
    store(database, [trade(i) for i in range(1, 100) if not 40 <= i < 50])
    assert found(connection, T0 + 10, T0 + 20) == [("covered", 10, 19)]
    assert found(connection, T0 + 30, T0 + 45) == [("covered", 30, 39), ("missing", 40, 49)]
    assert found(connection, T0 + 45, T0 + 60) == [("missing", 40, 49), ("covered", 50, 59)]
    assert found(connection, T0 + 42, T0 + 43) == [("missing", 40, 49)]


def test_ids_that_interleave_at_midnight_are_no_hole(database, connection):
    """The ledger's days are joined before anything is called missing."""
    steps = [-3, -2, 1, -1, 2, 3]
    store(database, [trade(i, timestamp=MIDNIGHT + step) for i, step in enumerate(steps, 1)])
    assert len(rows(database, "SELECT FROM trade_ledger")) == 2
    assert found(connection) == [("covered", 1, 6)]


def test_archived_days_were_here(database, connection):
    """Their rows are gone, their times come from the ledger."""
    store(database, [trade(1), trade(2), trade(3, timestamp=T0 + DAY), trade(5, timestamp=T0 + DAY)])
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("UPDATE trade_ledger SET archived = true WHERE first_id = 1")
        other.execute("DELETE FROM raw_trades WHERE trade_id < 3")
    assert ranges(connection, "okx", "BTC-USDT") == [
        IdRange("covered", 1, 3, T0 + 1, T0 + DAY),
        IdRange("missing", 4, 4, T0 + DAY, T0 + DAY),
        IdRange("covered", 5, 5, T0 + DAY, T0 + DAY),
    ]


def test_candles_alone_prove_by_their_chain(database, connection):
    """Where no trade is stored, the ids of the smallest timeframe's bars tell."""
    bars = [candle(0), candle(1), candle(3), candle(4, complete=False, last_trade_id=26)]
    store(database, [*bars, candle(0, timeframe="5m", first_trade_id=1, last_trade_id=90)])
    assert found(connection) == [
        ("covered", 1, 10),
        ("missing", 11, 15),
        ("covered", 16, 21),
        ("missing", 22, 25),
        ("covered", 26, 26),
    ]


@given(
    st.lists(st.integers(1, 60), max_size=60), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 4)), max_size=5)
)
def test_a_book_of_ranges_is_the_set_of_ids(ids, noted):
    """Whatever the order of the ids; missing and absent ids are those between the covered ones."""
    book = RangeBook()
    for number in ids:
        book.add(number, number, number, number)
    book.absent += [(first, first + more) for first, more in noted]
    members = {"covered": set(), "missing": set(), "absent": set()}
    for one in book.ranges():
        members[one.kind] |= set(range(one.first, one.last + 1))
    gone = {i for first, more in noted for i in range(first, first + more + 1)} - set(ids)
    inside = set(range(min(ids), max(ids) + 1)) if ids else set()
    assert members["covered"] == set(ids)
    assert members["absent"] == gone & inside
    assert members["missing"] == inside - set(ids) - gone
