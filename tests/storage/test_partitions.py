"""Partitions are made ahead without waiting for readers, and dropped whole by retention."""

import threading
import time
from datetime import date

import psycopg
import pytest
from storage_samples import DAY, MIDNIGHT, T0, book, candle, covered, rows, store, stored_ids, ticker, trade

from okxcli.storage import partitions, retention
from okxcli.storage.database import open_database
from okxcli.storage.partitions import Partitions

NOW = T0 + 30 * DAY


def names(dsn, table):
    found = rows(dsn, "SELECT relid::text FROM pg_partition_tree(to_regclass(%s)) WHERE isleaf ORDER BY 1", table)
    return [row[0] for row in found]


def apply(dsn, now, **keep):
    with open_database(dsn, create=True) as opened, opened.connect() as connection:
        return retention.apply(connection, keep, now)


def test_names_and_bounds_of_days_and_months():
    """Days and calendar months, UTC."""
    assert partitions.start_of("raw_trades", T0) == date(2025, 5, 12)
    assert partitions.start_of("market_data", T0) == date(2025, 5, 1)
    assert partitions.end_of("market_data", date(2024, 12, 1)) == date(2025, 1, 1)
    assert partitions.end_of("tickers", date(2024, 2, 28)) == date(2024, 2, 29)
    for table in partitions.STEP:
        start = partitions.start_of(table, T0)
        assert partitions.start_in(table, partitions.name_of(table, start)) == start
    assert partitions.start_in("raw_trades", "raw_trades_202505") is None
    assert partitions.start_in("tickers", "tickers_pkey") is None


def test_tomorrow_is_made_today(database):
    """Live data finds its next partition there; a recording gets only its own days."""
    with open_database(database, create=True) as opened, opened.connect() as connection:
        today = T0 // DAY
        Partitions().ensure(connection, "tickers", [today], today)
        Partitions().ensure(connection, "tickers", [today - 100], today)
        Partitions().ensure(connection, "tickers", [today], today)
    assert names(database, "tickers") == ["tickers_20250201", "tickers_20250512", "tickers_20250513"]


def test_long_read_holds_up_no_new_partition(database):
    """A reader in the middle of a table does not stop a writer that needs a new day."""
    store(database, [trade(1)])
    with psycopg.connect(database) as reader:
        reader.execute("SELECT * FROM raw_trades").fetchall()  # its transaction goes on
        assert store(database, [trade(2, timestamp=MIDNIGHT)]) == {"raw_trades": 1}
    assert len(names(database, "raw_trades")) == 2


def test_two_processes_make_the_same_partition(database):
    """Racing for it does no harm."""
    failed = []

    def work():
        try:
            with opened.connect() as connection:
                Partitions().ensure(connection, "order_books", range(20_000, 20_010), 0)
        except Exception as error:
            failed.append(error)

    with open_database(database, create=True) as opened:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert len(names(database, "order_books")) == 10


def test_retention_drops_whole_days_that_ended_long_enough_ago(database):
    """Seven days of books: the eighth day back goes, the seventh stays; nothing is dropped twice."""
    days = [book(T0 - i * DAY) for i in range(12)]
    store(database, [*days, ticker(), trade(1)])
    assert apply(database, T0, books=7, tickers=30, trades=None, candles=None) == {
        "order_books": [date(2025, 5, day) for day in range(1, 5)]
    }
    assert rows(database, "SELECT count(*) FROM order_books") == [(8,)]
    assert apply(database, T0, books=7) == {}
    assert apply(database, NOW, tickers=30) == {}
    assert apply(database, NOW + DAY, tickers=29) == {"tickers": [date(2025, 5, 12)]}


def test_dropped_trades_are_archived_in_the_ledger(database):
    """The ids stay known: storing them again is a duplicate, and brings no row back."""
    fills = [trade(1), trade(2, timestamp=MIDNIGHT), trade(3, timestamp=MIDNIGHT + 40 * DAY)]
    store(database, [*fills, candle()])
    assert apply(database, MIDNIGHT + 41 * DAY, trades=30) == {"raw_trades": [date(2025, 5, 12), date(2025, 5, 13)]}
    assert rows(database, "SELECT day::text, archived FROM trade_ledger ORDER BY day") == [
        ("2025-05-12", True),
        ("2025-05-13", True),
        ("2025-06-22", False),
    ]
    assert store(database, fills) == {"duplicates": 3}
    assert stored_ids(database) == [3] and covered(database) == [1, 2, 3]
    assert rows(database, "SELECT count(*) FROM candles") == [(1,)]


def test_retention_goes_on_where_it_was_cut_short(database):
    """A partition that was detached and not dropped, or is about to be detached, goes with the next run."""
    store(database, [ticker(T0), ticker(T0 + DAY)])
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE tickers DETACH PARTITION tickers_20250512")
    assert apply(database, NOW, tickers=2) == {"tickers": [date(2025, 5, 12), date(2025, 5, 13)]}
    assert rows(database, "SELECT count(*) FROM pg_class WHERE relname LIKE 'tickers_2%%'") == [(0,)]


def test_partition_in_use_is_left_to_the_next_run(database, monkeypatch):
    """A reader that holds it is not waited for; nothing is half done afterwards."""
    store(database, [ticker(T0)])
    monkeypatch.setattr(retention, "_LOCK_TIMEOUT", "200ms")
    with psycopg.connect(database) as reader:
        reader.execute("SELECT * FROM tickers").fetchall()
        began = time.monotonic()
        assert apply(database, NOW, tickers=2) == {}
        assert time.monotonic() - began < 10
    assert apply(database, NOW, tickers=2) == {"tickers": [date(2025, 5, 12)]}


@pytest.mark.parametrize("table", sorted(partitions.STEP))
def test_partitions_have_the_keys_of_their_table(database, table):
    """A partition that is attached has every index of its table, valid."""
    store(database, [trade(1), trade(2, count=2), candle(), book(), ticker()])
    found = rows(
        database,
        "SELECT count(*) FROM pg_index i JOIN pg_partition_tree(to_regclass(%s)) t ON t.relid = i.indrelid"
        " WHERE t.isleaf AND i.indisunique AND i.indisvalid",
        table,
    )
    assert found == [(1,)]
