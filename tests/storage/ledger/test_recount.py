"""Ledger against rows, doubts about ids, and what repair makes of them."""

from contextlib import closing

import psycopg
import pytest
from storage_samples import DAY, T0, covered, noted_absent, rows, store, stored_ids, trade

from okxcli.storage.database import open_database
from okxcli.storage.ledger import unsettled
from okxcli.storage.ledger.recount import Difference, recount, repair
from okxcli.storage.ledger.unsettled import Doubt
from okxcli.storage.read.gaps import ranges

KEY = ("okx", "BTC-USDT")


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def test_a_ledger_that_is_right(database, connection):
    """Has no difference, on any day, and repair changes nothing."""
    store(database, [trade(i, timestamp=T0 + i * DAY // 4) for i in range(1, 12) if i != 5])
    before = rows(database, "SELECT * FROM trade_ledger ORDER BY day")
    assert recount(connection, *KEY) == []
    assert repair(connection, *KEY) == []
    assert rows(database, "SELECT * FROM trade_ledger ORDER BY day") == before


def test_rows_that_are_lost(database, connection):
    """Are told; after repair they are missing, those at both ends too, where no neighbour tells of them."""
    store(database, [trade(i, timestamp=T0 + i * DAY // 4) for i in range(1, 12)])
    connection.execute("DELETE FROM raw_trades WHERE trade_id IN (1, 2, 6, 11)")
    lost = [Difference("lost", 1, 2), Difference("lost", 6, 6), Difference("lost", 11, 11)]
    assert recount(connection, *KEY) == lost
    assert covered(database) == list(range(1, 12))
    assert repair(connection, *KEY) == lost
    assert covered(database) == stored_ids(database) == [3, 4, 5, 7, 8, 9, 10]
    assert recount(connection, *KEY) == []
    missing = [(r.first, r.last) for r in ranges(connection, *KEY) if r.kind == "missing"]
    assert missing == [(1, 2), (6, 6), (11, 11)]
    store(database, [trade(i, timestamp=T0 + i * DAY // 4) for i in (1, 2, 6, 11)])
    assert [r.kind for r in ranges(connection, *KEY)] == ["covered"]


def test_rows_that_the_ledger_does_not_have(database, connection):
    """Are told, and counted by repair."""
    store(database, map(trade, range(1, 9)))
    connection.execute("UPDATE trade_ledger SET covered = covered - '{[3,5)}'")
    assert recount(connection, *KEY) == [Difference("uncounted", 3, 4)]
    repair(connection, *KEY)
    assert covered(database) == list(range(1, 9))


def test_an_id_that_is_stored_twice(database, connection):
    """Told on one day and across two; repair keeps the one received first, the other goes to the quarantine."""
    store(database, [trade(i, timestamp=T0 + i * DAY // 2) for i in range(1, 5)])
    for step in ("1 second", "1 day"):
        connection.execute("CREATE TABLE IF NOT EXISTS raw_trades_later PARTITION OF raw_trades DEFAULT")
        connection.execute(
            "INSERT INTO raw_trades SELECT exchange, symbol, trade_id, count, side, price, size, timestamp"
            f" + interval '{step}', received + interval '1 hour', source, origin FROM raw_trades WHERE trade_id = 2"
            " AND received < %s::timestamptz LIMIT 1",
            ["2100-01-01Z"],
        )
    assert Difference("twice", 2, 2) in recount(connection, *KEY)
    repair(connection, *KEY)
    assert rows(database, "SELECT timestamp - received FROM raw_trades WHERE trade_id = 2") == rows(
        database, "SELECT DISTINCT timestamp - received FROM raw_trades"
    )
    assert len(rows(database, "SELECT FROM quarantine WHERE reason = 'id stored twice'")) == 2
    assert stored_ids(database) == covered(database) == [1, 2, 3, 4]


def test_archived_days_are_left_alone(database, connection):
    """Their rows are gone on purpose."""
    store(database, [trade(1), trade(2, timestamp=T0 + DAY)])
    connection.execute("UPDATE trade_ledger SET archived = true WHERE first_id = 1")
    connection.execute("DELETE FROM raw_trades WHERE trade_id = 1")
    assert recount(connection, *KEY) == []


def test_three_answers_over_a_minute_make_an_id_absent(database, connection):
    """Not three at once; and a day later it is asked for once more, then no more."""
    store(database, map(trade, (1, 2, 6)))
    with connection.transaction():
        for now, absent in ((0, []), (10_000, []), (20_000, []), (61_000, [(3, 5)])):
            assert unsettled.settle(connection, *KEY, [(2, 6)], [(3, 5)], T0 + now) == absent
    assert noted_absent(database) == [3, 4, 5]
    held = unsettled.load(connection, *KEY)
    assert held == [Doubt(3, 5, 4, T0, T0 + 61_000, True)]
    assert unsettled.due_again(held, T0 + DAY) == []
    assert unsettled.due_again(held, T0 + DAY + 61_000) == [(3, 5)]
    with connection.transaction():
        assert unsettled.settle(connection, *KEY, [(2, 6)], [(3, 5)], T0 + DAY + 61_000) == []
    assert unsettled.load(connection, *KEY) == []
    assert noted_absent(database) == [3, 4, 5]


def test_each_part_of_a_doubt_is_counted_apart():
    """An answer that shows some of the ids leaves the others as they are, one more answer against them."""
    begun = [Doubt(3, 6, 2, 10, 20), Doubt(9, 9)]
    found = unsettled.answered(begun, [(1, 8)], [(5, 7)], 99)
    assert found == [Doubt(5, 6, 3, 10, 99), Doubt(7, 7, 1, 99, 99), Doubt(9, 9)]


def test_moments_of_a_clock_that_was_ahead_put_nothing_off():
    """What was asked 400 days from now was asked: the minute begins now, and the day after is over."""
    ahead = T0 + 400 * DAY
    found = unsettled.answered([Doubt(3, 5, 2, ahead, ahead)], [(1, 8)], [(3, 5)], T0)
    assert found == [Doubt(3, 5, 3, T0, T0)] and not unsettled.proven(found[0])
    found = unsettled.answered(found, [(1, 8)], [(3, 5)], T0 + 60_000)
    assert unsettled.proven(found[0])
    assert unsettled.due_again([Doubt(3, 5, 3, ahead, ahead, True)], T0) == [(3, 5)]


def test_absent_ids_of_a_stream_are_asked_for_again(database, connection):
    """The moment is kept; what turns up after all is covered, and nothing is left of the doubt but its row."""
    from storage_samples import absent

    store(database, [trade(1), trade(4), absent(2, 3)])
    assert [(d.first, d.last, d.noted) for d in unsettled.load(connection, *KEY)] == [(2, 3, True)]
    store(database, [trade(2)])
    assert (noted_absent(database), covered(database)) == ([3], [1, 2, 4])
    with psycopg.connect(database) as other:
        assert [r.kind for r in ranges(other, *KEY)] == ["covered", "absent", "covered"]
