"""Times that step back over ids: how far is kept, and bars are looked at again in which a fill lands."""

from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_samples import MIDNIGHT, absent, bars_of, candle, made, market, rows, store, trade

from okxcli.core.timeframes import Timeframe
from okxcli.storage.candles.flat_bars import store_flats
from okxcli.storage.candles.outdated import stale
from okxcli.storage.candles.rebuild import rebuild
from okxcli.storage.database import open_database
from okxcli.storage.ledger import recount
from okxcli.storage.ledger.proof import Proof

KEY = ("okx", "BTC-USDT")
FOREVER = (0, 1 << 42)
SECOND = Timeframe.parse("1s")


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def fills_at(*moments, first=1):
    return [trade(first + n, f"{100 + n}", timestamp=MIDNIGHT + at) for n, at in enumerate(moments)]


def step_of(fills):
    """Return the largest step back by comparing each fill with each."""
    ordered = sorted(fills, key=lambda fill: fill.trade_id)
    return max(a.timestamp - b.timestamp for n, a in enumerate(ordered) for b in ordered[n:])


def stored_step(dsn):
    return rows(dsn, "SELECT step FROM symbols WHERE symbol = 'BTC-USDT'")[0][0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    moments=st.lists(st.integers(0, 5000), min_size=1, max_size=30),
    shuffled=st.randoms(use_true_random=False),
    batches=st.integers(1, 6),
)
def test_the_largest_step_is_kept_however_fills_come(database, moments, shuffled, batches):
    """In any order, in any number of batches: it is that of all fills by their ids."""
    with closing(open_database(database, create=True)) as opened, opened.session() as connection:
        connection.execute("TRUNCATE raw_trades, trade_ledger, symbols")
    fills = fills_at(*sorted(moments, key=lambda at: at // 1000))
    order = list(fills)
    shuffled.shuffle(order)
    for number in range(batches):
        store(database, order[number::batches])
    assert stored_step(database) == max(step_of(fills), 0)


def test_a_repair_of_the_ledger_measures_again(database, connection):
    """A step that only lost rows had shown is forgotten with them."""
    store(database, fills_at(0, 100, 60_000, 200, 300, 61_000))
    assert stored_step(database) == 59_800
    connection.execute("DELETE FROM raw_trades WHERE trade_id = 3")
    recount.repair(connection, *KEY)
    assert stored_step(database) == 0
    store(database, [trade(7, timestamp=MIDNIGHT + 60_900)])
    assert stored_step(database) == 100
    connection.execute("UPDATE symbols SET step = 0")  # as in a database that an older release has made
    assert recount.repair(connection, *KEY) == []
    assert stored_step(database) == 100


def test_a_bar_is_looked_at_again_when_a_fill_lands_in_it(database, connection):
    """Stored as complete without it: it is not, from the moment on at which the fill is stored."""
    early = [trade(87, timestamp=MIDNIGHT + 900), *fills_at(1200, 2000, 3000, 4000, first=88)]
    store(database, [*early, *made(early, "1s").values()])
    before = bars_of(database)
    assert before["1s", MIDNIGHT + 2000].complete
    store(database, [trade(85, timestamp=MIDNIGHT + 100), trade(86, price="99", timestamp=MIDNIGHT + 1100)])
    found = bars_of(database)
    assert not found["1s", MIDNIGHT + 2000].complete
    assert found["1s", MIDNIGHT + 3000] == before["1s", MIDNIGHT + 3000]
    assert rows(database, "SELECT step FROM symbols") == [(200,)]
    starts = stale(connection, Proof.load(connection, *KEY), SECOND, *FOREVER)
    rebuild(connection, *KEY, SECOND, starts)
    bar = bars_of(database)["1s", MIDNIGHT + 2000]
    assert (bar.trade_count, bar.low, bar.complete) == (2, 99, True)


def test_a_bar_that_holds_the_fill_stays_complete(database, connection):
    """Its fills may be stored after it, by another process."""
    fills = market(200, back=0)
    bars = made(fills, "1s,1m")
    store(database, bars.values())
    store(database, fills)
    assert bars_of(database) == bars


def test_a_flat_bar_in_which_a_fill_lands(database, connection):
    """Nothing traded, it said; now it waits to be made again, and those after it, whose price was another."""
    fills = fills_at(0, 5000, 6000)
    store(database, [*fills, *made(fills, "1s", fill=True).values()])
    store(database, [trade(9, timestamp=MIDNIGHT + 8000), trade(10, timestamp=MIDNIGHT + 2500)])
    found = bars_of(database)
    assert [found["1s", MIDNIGHT + at].complete for at in (2000, 3000, 4000)] == [True, False, False]
    assert found["1s", MIDNIGHT + 6000].complete


def test_a_flat_bar_with_the_price_of_another_fill(database, connection):
    """Of a maker that took the last fill before the quiet for absent: written again, and once."""
    fills = fills_at(0, 500, 5000, 6000)
    lie = [fills[0], absent(2, 2), *fills[2:]]
    store(database, [*fills, *made(lie, "1s", fill=True).values()])
    proof = Proof.load(connection, *KEY)
    rebuild(connection, *KEY, SECOND, stale(connection, proof, SECOND, *FOREVER))
    assert store_flats(connection, proof, SECOND, *FOREVER) == 4
    assert bars_of(database) == made(fills, "1s", fill=True)
    assert store_flats(connection, proof, SECOND, *FOREVER) == 0


def test_larger_bars_of_nothing_but_complete_parts_that_are_there(database, connection):
    """Complete small bars do not make a larger one of their own fills alone, where rows tell of more."""
    fills = fills_at(-500, 1000, 2000, 3000, 4000, 5000, 6000)
    bars = made(fills, "1s")
    store(database, [*fills, *(bar for key, bar in bars.items() if key[1] > MIDNIGHT + 3000)])
    rebuild(connection, *KEY, Timeframe.parse("5s"), [MIDNIGHT], source=SECOND)
    bar = bars_of(database)["5s", MIDNIGHT + 5000]
    assert (bar.trade_count, bar.complete) == (4, True)


def test_an_absent_id_ends_no_proof(database, connection):
    """Nor does one that is covered and has no row."""
    fills = fills_at(-500, 100, 200, first=1) + fills_at(1100, 2100, first=6)
    store(database, [*fills, absent(4, 4)])
    rebuild(connection, *KEY, SECOND, [MIDNIGHT])
    assert not bars_of(database)["1s", MIDNIGHT + 1000].complete
    store(database, [trade(5, timestamp=MIDNIGHT + 900)])
    rebuild(connection, *KEY, SECOND, [MIDNIGHT])
    assert bars_of(database)["1s", MIDNIGHT + 1000].complete
    connection.execute("DELETE FROM market_data")
    connection.execute("DELETE FROM raw_trades WHERE trade_id = 3")
    rebuild(connection, *KEY, SECOND, [MIDNIGHT])
    bar = bars_of(database)["1s", MIDNIGHT + 1000]
    assert (bar.trade_count, bar.complete) == (2, False)


def test_rows_that_are_gone_prove_nothing(database, connection):
    """Wherever in a bar they are missing, at its edge too."""
    fills = market(300, back=0)
    wanted = made(fills, "1s")
    for gone in (1, 2, 77, 150, 299, 300):
        connection.execute("TRUNCATE raw_trades, trade_ledger, symbols, market_data")
        store(database, fills)
        connection.execute("DELETE FROM raw_trades WHERE trade_id = %s", [gone])
        rebuild(connection, *KEY, SECOND, [bar.start for bar in wanted.values()])
        found = bars_of(database)
        assert any(bar.complete for bar in found.values())
        assert [bar for key, bar in found.items() if bar.complete and bar != wanted[key]] == []


def test_an_older_version_of_a_bar_of_the_exchange(database):
    """Stored in any order, the one with more volume stays."""
    bare = {"origin": "exchange", "first_trade_id": None, "last_trade_id": None, "buy_volume": None, "count": None}
    store(database, [candle(volume=20, **bare), candle(volume=10, **bare)])
    assert rows(database, "SELECT volume::int FROM market_data") == [(20,)]
