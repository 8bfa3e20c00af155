"""Partitions are made ahead without waiting for readers, and dropped whole by retention."""

import threading
import time
from datetime import date

import psycopg
import pytest
from storage_samples import (
    DAY,
    MIDNIGHT,
    T0,
    absent,
    book,
    candle,
    covered,
    every_state,
    rows,
    store,
    stored_ids,
    ticker,
    trade,
)

from okxcli.core.states import STATES
from okxcli.storage.database import open_database
from okxcli.storage.ledger.id_ledger import archive, note_absent, unarchive
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.ledger.recount import recount, repair
from okxcli.storage.read.gaps import ranges
from okxcli.storage.schema import partitions, versions
from okxcli.storage.schema.partitions import Partitions
from okxcli.storage.upkeep import retention

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
    store(database, [*days, ticker(), ticker(NOW), ticker(NOW + DAY), trade(1)])
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
    store(database, [ticker(T0), ticker(T0 + DAY), ticker(NOW)])
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE tickers DETACH PARTITION tickers_20250512")
    assert apply(database, NOW, tickers=2) == {"tickers": [date(2025, 5, 12), date(2025, 5, 13)]}
    left = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'tickers_2%%'"
    assert rows(database, left) == [("tickers_20250611",)]


def test_partition_in_use_is_left_to_the_next_run(database, monkeypatch):
    """A reader that holds it is not waited for; nothing is half done afterwards."""
    store(database, [ticker(T0), ticker(NOW)])
    monkeypatch.setattr(retention, "_PATIENCE_S", 0.2)
    with psycopg.connect(database) as reader:
        reader.execute("SELECT * FROM tickers").fetchall()
        began = time.monotonic()
        assert apply(database, NOW, tickers=2) == {}
        assert time.monotonic() - began < 10
    assert apply(database, NOW, tickers=2) == {"tickers": [date(2025, 5, 12)]}


def test_a_clock_that_is_ahead_drops_nothing(database):
    """Rows of a day, kept for seven: a clock 400 days ahead finds none too old, a right one the day after does."""
    store(database, [trade(1), book(), ticker(), candle()])
    keep = {"trades": 7, "books": 7, "tickers": 7, "candles": 7}
    assert apply(database, T0 + 400 * DAY, **keep) == {}
    store(database, [trade(2, timestamp=T0 + 8 * DAY), book(T0 + 8 * DAY), ticker(T0 + 8 * DAY)])
    assert apply(database, T0 + 7 * DAY, **keep) == {}
    assert apply(database, T0 + 400 * DAY, **keep) == {
        table: [date(2025, 5, 12)] for table in ("raw_trades", "order_books", "tickers")
    }


def test_a_fill_opens_an_archived_day_again(database):
    """Its rows are what the day covers then; the ids it had are neither lost nor missing, nor do they prove a bar."""
    store(database, [trade(n) for n in range(1, 11)] + [trade(20, timestamp=T0 + 40 * DAY)])
    assert apply(database, T0 + 41 * DAY, trades=30) == {"raw_trades": [date(2025, 5, 12)]}
    assert store(database, [trade(n) for n in (11, 12, 14)]) == {"raw_trades": 3}
    assert rows(database, "SELECT archived, covered::text, retired::text FROM trade_ledger ORDER BY day") == [
        (False, "{[11,13),[14,15)}", "{[1,11)}"),
        (False, "{[20,21)}", "{}"),
    ]
    with open_database(database, create=True) as opened, opened.connect() as connection:
        proof = Proof.load(connection, "okx", "BTC-USDT")
        assert proof.holes() == [(13, 13), (15, 19)]
        assert proof.run_of(connection, 10) is None
        assert proof.run_of(connection, 11)[:2] == (11, 12)
        found = [(one.kind, one.first, one.last) for one in ranges(connection, "okx", "BTC-USDT")]
        assert found[:3] == [("covered", 1, 10), ("covered", 11, 12), ("missing", 13, 13)]
        assert recount(connection, "okx", "BTC-USDT") == []
        assert repair(connection, "okx", "BTC-USDT") == []
        assert note_absent(connection, absent(9, 9), T0) == 0
    assert store(database, [trade(3)]) == {"raw_trades": 1}  # the day takes all of its fills
    assert apply(database, T0 + 41 * DAY, trades=30) == {"raw_trades": [date(2025, 5, 12)]}
    assert rows(database, "SELECT archived, covered::text, retired::text FROM trade_ledger ORDER BY day") == [
        (True, "{[1,13),[14,15)}", "{}"),
        (False, "{[20,21)}", "{}"),
    ]
    with open_database(database, create=True) as opened, opened.connect() as connection:
        assert [one.ids for one in unarchive(connection, "okx", "BTC-USDT", T0, T0 + 1)] == [[(1, 12), (14, 14)]]


def test_restoring_an_open_day_forgets_what_it_lacks(database):
    """Of a day that was archived and is open again, what has rows stays."""
    store(database, [trade(n) for n in range(1, 11)] + [trade(20, timestamp=T0 + 40 * DAY)])
    apply(database, T0 + 41 * DAY, trades=30)
    store(database, [trade(11), trade(5)], batch_rows=1)
    with open_database(database, create=True) as opened, opened.connect() as connection:
        (day,) = unarchive(connection, "okx", "BTC-USDT", T0, T0 + 1)
        assert day.ids == [(1, 4), (6, 10)]
        assert covered(database) == [5, 11, 20]
        archive(connection, "okx", "BTC-USDT", day)
    assert covered(database) == [5, 11, 20]
    assert rows(database, "SELECT archived, retired::text FROM trade_ledger ORDER BY day") == [
        (False, "{[1,5),[6,11)}"),
        (False, "{}"),
    ]


def test_an_archived_day_with_rows_is_opened_by_the_migration(database):
    """Rows that an older release stored into a day it held for archived."""
    store(database, [trade(1), trade(2)])
    text = next(one.sql for one in versions.migrations() if one.number == 4)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE trade_ledger DROP COLUMN retired")
        connection.execute("UPDATE trade_ledger SET archived = true, covered = '{[1,9)}'")
        connection.execute(text.encode())
    assert rows(database, "SELECT archived, covered::text, retired::text FROM trade_ledger") == [
        (False, "{[1,3)}", "{[3,9)}")
    ]


@pytest.mark.parametrize("table", sorted(partitions.STEP))
def test_partitions_have_the_keys_of_their_table(database, table):
    """A partition that is attached has every index of its table, valid."""
    store(database, [trade(1), trade(2, count=2), candle(), book(), ticker(), *every_state()])
    found = rows(
        database,
        "SELECT count(*) FROM pg_index i JOIN pg_partition_tree(to_regclass(%s)) t ON t.relid = i.indrelid"
        " WHERE t.isleaf AND i.indisunique AND i.indisvalid",
        table,
    )
    assert found == [(1,)]


def test_each_state_is_kept_for_its_own_time(database):
    """Rows of a hundred days ago go where their key says so, whole days or months; those of the others stay."""
    old = T0 - 100 * DAY
    store(database, [*every_state(old), *every_state(T0), ticker(old), ticker()])
    for one in STATES:
        wanted = [partitions.start_of(one.table, old)]
        assert apply(database, T0, **{one.table: None}) == {}
        assert apply(database, T0, **{one.table: 60}) == {one.table: wanted}
        assert rows(database, f"SELECT count(*) FROM {one.table}") == [(1,)]
