"""Rows lost or altered behind the ledger: counted a day at a time, and what becomes of fills that come again."""

from contextlib import closing
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_samples import DAY, MIDNIGHT, T0, covered, market, rows, store, stored_ids, trade

from okxcli.storage.database import open_database
from okxcli.storage.ledger.audit import audit, audited, findings
from okxcli.storage.ledger.checksum import checksum
from okxcli.storage.ledger.recount import recount

KEY = ("okx", "BTC-USDT")


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def sums(dsn):
    """Return the count and the checksum of each day as the ledger has them."""
    return rows(dsn, "SELECT fills, checksum FROM trade_ledger ORDER BY day")


def whats(connection):
    """Audit every day and return what stands in the ledger then."""
    audit(connection)
    return [one.what for one in findings(connection)]


@settings(max_examples=20)
@given(st.integers(0, 10**9))
def test_the_checksum_of_a_day_is_that_of_its_rows(seed):
    """Whatever the order and the batches in which they came."""
    lines = market(200, seed)
    shuffled = list(lines)
    Random(seed).shuffle(shuffled)
    assert checksum(lines) == checksum(shuffled) == checksum(lines[:90]) + checksum(lines[90:])
    changed = [lines[0].__copy__()]
    assert checksum(changed) == checksum(lines[:1]) != checksum(lines[1:2])


def test_count_and_checksum_are_kept_with_the_rows(database, connection):
    """Batch by batch, over midnight, duplicates left out; and Postgres makes the same of the rows."""
    lines = market(300)
    store(database, [*lines[:200], *lines[100:]], batch_rows=37)
    days = [[line for line in lines if (line.timestamp >= MIDNIGHT) == later] for later in (False, True)]
    assert sums(database) == [(len(day), checksum(day)) for day in days]
    assert whats(connection) == [] and recount(connection, *KEY) == []
    assert audited(connection) == (2, 2)


def test_a_row_that_was_altered(database, connection):
    """Is told by its day; one of a day without a checksum gets its own at the first audit, and is told from then on."""
    store(database, map(trade, range(1, 9)))
    connection.execute("UPDATE trade_ledger SET fills = NULL, checksum = NULL")
    store(database, [trade(9)])
    assert sums(database) == [(None, None)]
    assert whats(connection) == []
    assert sums(database) == [(9, checksum([trade(n) for n in range(1, 10)]))]
    connection.execute("UPDATE raw_trades SET price = 77 WHERE trade_id = 3")
    assert whats(connection) == ["altered"]
    assert [one.kind for one in recount(connection, *KEY)] == ["altered"]
    connection.execute("UPDATE raw_trades SET price = 102537.9 WHERE trade_id = 3")
    assert whats(connection) == []


def test_lost_rows_are_stored_when_they_come_again(database, connection):
    """Not counted as duplicates: with them the day is what it was; a partition that was dropped is made again."""
    lines = [trade(i, timestamp=T0 + i * DAY // 4) for i in range(1, 12)]
    store(database, lines)
    before = sums(database)
    connection.execute("DELETE FROM raw_trades WHERE trade_id IN (2, 3)")
    connection.execute("DROP TABLE raw_trades_20250514")
    assert whats(connection) == ["2 lost", "4 lost"]
    counts = store(database, lines)
    assert counts == {"raw_trades": 6, "duplicates": 5}
    assert stored_ids(database) == covered(database) == list(range(1, 12))
    assert sums(database) == before
    assert whats(connection) == []


def test_another_fill_of_a_lost_id(database, connection):
    """Nothing is there to compare it with: it is stored, and the next audit tells; not one of another day's time."""
    store(database, map(trade, range(1, 9)))
    connection.execute("DELETE FROM raw_trades WHERE trade_id IN (3, 4)")
    counts = store(database, [trade(3, price="77"), trade(4, timestamp=T0 + 3 * DAY)])
    assert counts == {"raw_trades": 1, "quarantined": 1}
    assert whats(connection) == ["1 lost"]
    store(database, [trade(4)])
    assert whats(connection) == ["altered"]


def test_fills_of_an_archived_day_are_duplicates(database, connection):
    """Their rows are gone on purpose, and the day is not audited."""
    store(database, map(trade, range(1, 9)))
    connection.execute("UPDATE trade_ledger SET archived = true")
    connection.execute("TRUNCATE raw_trades")
    assert audit(connection) == []
    assert audited(connection) == (0, 0)


def test_rows_without_a_ledger(database, connection):
    """Of a day whose row in the ledger was deleted are told."""
    store(database, [trade(1), trade(2, timestamp=T0 + DAY)])
    connection.execute("DELETE FROM trade_ledger WHERE first_id = 1")
    assert whats(connection) == ["1 uncounted"]


def test_each_day_in_its_turn(database, connection):
    """One at least, that first whose last audit is longest ago; of some symbols alone, if asked."""
    store(database, [trade(i, timestamp=T0 + i * DAY) for i in range(1, 5)])
    connection.execute("DELETE FROM raw_trades")
    assert [str(audit(connection, budget_s=0)[0].day) for _ in range(5)] == [
        "2025-05-13", "2025-05-14", "2025-05-15", "2025-05-16", "2025-05-13"]  # fmt: skip
    assert audit(connection, symbols=["ETH-USDT"]) == []
