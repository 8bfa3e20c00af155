"""Ids too far from all others: one is refused, two that follow on each other are where the symbol is."""

from storage_samples import T0, absent, covered, rows, store
from storage_samples import trade as dated

from okxcli.core.tape import FAR

WILD = 10**15


def trade(number):
    """Return a fill of one time, whatever its id."""
    return dated(number, timestamp=T0)


def bad(dsn):
    """Return what is in quarantine: the reason and the line."""
    return rows(dsn, "SELECT reason, line::jsonb->>'trade_id' FROM quarantine ORDER BY id")


def test_a_wild_id_is_refused(database):
    """In a batch of its own, among others, and above as well as below; what is near is stored, a week of ids too."""
    high = 900_000_000
    ids = [high, high + 1, high + 2, high + 2 + FAR]
    wild = [high + WILD, 5]
    assert store(database, map(trade, [*ids, *wild])) == {
        "raw_trades": 4,
        "quarantined": 2,
    }
    assert covered(database) == ids
    assert store(database, [trade(high + 2 * WILD), trade(high + 4)]) == {"raw_trades": 1, "quarantined": 1}
    assert {reason for reason, _ in bad(database)} == {"its id is far from all others"}


def test_ids_that_begin_anew(database):
    """The second one says that it is so: both are stored, in whatever batches they come."""
    store(database, map(trade, range(1, 9)))
    assert store(database, [trade(WILD)]) == {"quarantined": 1}
    assert store(database, [trade(WILD + 1)]) == {"raw_trades": 2}
    assert bad(database) == []
    assert store(database, [trade(2 * WILD), trade(2 * WILD + 1)]) == {"raw_trades": 2}
    assert covered(database) == [*range(1, 9), WILD, WILD + 1, 2 * WILD, 2 * WILD + 1]


def test_the_first_fill_of_a_symbol(database):
    """Cannot be compared with any: it is stored, and what is right goes on from the second fill on."""
    assert store(database, [trade(WILD)]) == {"raw_trades": 1}
    assert store(database, [trade(1), trade(2)]) == {"raw_trades": 2}


def test_absent_ids_that_cannot_be(database):
    """Too many, or far from all fills, they are refused; beside the newest fill they are not."""
    store(database, map(trade, range(1, 9)))
    wrong = [absent(9, 10**12), absent(WILD, WILD + 1)]
    assert store(database, [*wrong, absent(9, 11)]) == {"absent": 3, "quarantined": 2}
