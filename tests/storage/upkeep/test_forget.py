"""Ids taken out of the tape by name, with the bars that they were in, and how they come back."""

from contextlib import closing

import pytest
from storage_samples import (
    DAY,
    T0,
    absent,
    bars_of,
    covered,
    made,
    market,
    noted_absent,
    rows,
    store,
    stored_ids,
    trade,
)

from okxcli.errors import UsageError
from okxcli.storage.database import open_database
from okxcli.storage.ledger.audit import audit, findings
from okxcli.storage.ledger.recount import recount
from okxcli.storage.read.gaps import ranges
from okxcli.storage.upkeep import forget as module
from okxcli.storage.upkeep.forget import Forgotten, forget

KEY = ("okx", "BTC-USDT")
FRAMES = "1s,5s,1m,1h"


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def kinds(connection):
    return [(one.kind, one.first, one.last) for one in ranges(connection, *KEY)]


def sound(connection):
    """Whether rows, ledger, counts and checksums agree."""
    return audit(connection) == [] and recount(connection, *KEY) == [] and findings(connection) == []


def test_a_wild_fill(database, connection):
    """Of an id and a time that cannot be: nothing is missing any more, and the bars are those without it."""
    lines = market(400)
    wild = trade(10**15, price="7", timestamp=lines[-1].timestamp + DAY // 24)
    near = trade(10**15 + 1, price="8", timestamp=lines[200].timestamp)
    store(database, [*lines, *made(lines, FRAMES).values()])
    clean = bars_of(database)
    store(database, [wild, near])  # the second one makes the first one credible
    store(database, made([*lines[:201], near, *lines[201:], wild], FRAMES, fill=True).values(), proven=True)
    assert bars_of(database) != clean
    assert any(kind == "missing" for kind, _, _ in kinds(connection))
    found = forget(connection, *KEY, 10**15, 10**15 + 1, done=False)
    assert found == Forgotten(2, 0, 0, 0, found.candles) and found.candles > 0
    assert 10**15 in covered(database) and stored_ids(database)[-1] == 10**15 + 1
    assert forget(connection, *KEY, 10**15, 10**15 + 1) == found
    assert kinds(connection) == [("covered", 1, 400)]
    left = bars_of(database)
    for key, bar in left.items():  # beside those that were there, the bars that the wild one had ended
        assert key in clean or (bar.timestamp > lines[-1].timestamp and not bar.complete)
    numbers = ("open", "high", "low", "close", "volume", "trade_count", "first_trade_id", "last_trade_id")
    for key, bar in clean.items():
        assert [getattr(left[key], name) for name in numbers] == [getattr(bar, name) for name in numbers]
    assert sound(connection)
    assert len(rows(database, "SELECT FROM quarantine WHERE reason = 'taken out: forgotten'")) == 2


def test_a_fill_among_others(database, connection):
    """It is missing then, and comes back; its bars are not complete meanwhile, nor are those beside it."""
    lines = market(400)
    store(database, [*lines, *made(lines, FRAMES).values()])
    gone = lines[200]
    assert forget(connection, *KEY, gone.trade_id, gone.trade_id).fills == 1
    assert kinds(connection) == [("covered", 1, 200), ("missing", 201, 201), ("covered", 202, 400)]
    for bar in bars_of(database).values():
        assert bar.trade_count == sum(bar.start <= one.timestamp < bar.timestamp for one in lines if one is not gone)
        assert not (bar.complete and bar.first_trade_id <= 202 and bar.last_trade_id >= 200)
    assert sound(connection)
    store(database, [gone])
    assert kinds(connection) == [("covered", 1, 400)] and sound(connection)


def test_absent_ids_alone(database, connection):
    """Are missing then; fills among them stay. Given up for good they are missed no more, until that is taken back."""
    store(database, [trade(1), trade(9), trade(5), absent(2, 4), absent(6, 8)])
    assert forget(connection, *KEY, 3, 7, absent_only=True) == Forgotten(0, 0, 4, 0, 0)
    assert noted_absent(database) == [2, 8] and covered(database) == [1, 5, 9]
    assert forget(connection, *KEY, 3, 7, for_good=True) == Forgotten(1, 0, 0, 5, 0)
    assert [one for one in kinds(connection) if one[0] != "absent"] == [
        ("covered", 1, 1), ("forgotten", 3, 7), ("covered", 9, 9)]  # fmt: skip
    forget(connection, *KEY, 3, 7)
    assert ("missing", 3, 7) in kinds(connection)
    store(database, [trade(n) for n in range(1, 10)])
    assert kinds(connection) == [("covered", 1, 9)] and sound(connection)


def test_too_many_at_once(database, connection, monkeypatch):
    """Nothing is changed, and it is said."""
    store(database, map(trade, range(1, 9)))
    monkeypatch.setattr(module, "MOST", 5)
    with pytest.raises(UsageError, match="in parts"):
        forget(connection, *KEY, 1, 8)
    assert stored_ids(database) == covered(database) == list(range(1, 9))


def test_rows_that_were_lost(database, connection):
    """Of ids without a row the ledger's word is taken out alone."""
    store(database, [trade(i, timestamp=T0 + i) for i in range(1, 9)])
    connection.execute("DELETE FROM raw_trades WHERE trade_id > 6")
    assert forget(connection, *KEY, 6, 8) == Forgotten(1, 2, 0, 0, 0)
    assert covered(database) == [1, 2, 3, 4, 5]


def test_a_step_back_that_a_forgotten_fill_had_shown(database, connection):
    """Goes with it: else every bar would have to wait so much longer for its proof, for good."""
    store(database, [trade(1), trade(2, timestamp=T0 + 50_000), *(trade(n) for n in range(3, 9))])
    assert rows(database, "SELECT step FROM symbols") == [(49_997,)]
    forget(connection, *KEY, 2, 2, done=False)
    assert rows(database, "SELECT step FROM symbols") == [(49_997,)]
    forget(connection, *KEY, 2, 2)
    assert rows(database, "SELECT step FROM symbols") == [(0,)]
