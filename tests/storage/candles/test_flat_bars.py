"""Flat bars that nobody wrote: found where the ids prove the quiet, by the ledger or by the chain of candles."""

from contextlib import closing

import pytest
from msgspec.structs import replace
from storage_samples import bars_of, made, market, store

from okxcli.core.timeframes import parse_list
from okxcli.storage.candles.candle_chain import Chain
from okxcli.storage.candles.flat_bars import flats, store_flats
from okxcli.storage.candles.live_mending import AGAIN_MS, FIRST_MS, GIVE_UP_MS, LiveMender
from okxcli.storage.database import open_database
from okxcli.storage.ledger.proof import Proof

KEY = ("okx", "BTC-USDT")
FRAMES = parse_list("1s,5s")
NAMES = "1s,5s"
FOREVER = (0, 1 << 42)


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def flat(bars):
    return {key for key, bar in bars.items() if bar.first_trade_id is None}


def filled(connection, ids):
    return sum(store_flats(connection, ids, frame, *FOREVER) for frame in FRAMES)


@pytest.mark.parametrize("by", ["ledger", "chain"])
def test_a_quiet_that_nobody_filled(database, connection, by):
    """Bars without flat ones, then some of the flat ones: the rest is written, as the candle maker does."""
    fills = market(600, seed=3, quiet=0.03)
    wanted, traded = made(fills, NAMES, fill=True), made(fills, NAMES)
    assert len(wanted) - len(traded) > 50
    store(database, [*(fills if by == "ledger" else ()), *traded.values()])
    ids = Proof.load(connection, *KEY) if by == "ledger" else Chain.load(connection, *KEY)
    if by == "chain":  # which knows no times but those of bars, and so must know more after a quiet
        end = ids.base.newest.start - ids.base.ids.step
        wanted = {key: bar for key, bar in wanted.items() if key in traded or key[1] <= end}
    assert sum(1 for frame in FRAMES for _ in flats(connection, ids, frame, *FOREVER)) == len(wanted) - len(traded)
    assert filled(connection, ids) == len(wanted) - len(traded)
    assert bars_of(database) == wanted
    assert filled(connection, ids) == 0
    connection.execute(
        "DELETE FROM market_data WHERE first_trade_id IS NULL AND extract(epoch FROM start)::int % 2 = 0"
    )
    assert filled(connection, ids) > 0
    assert bars_of(database) == wanted


def test_an_outage_is_no_quiet(database, connection):
    """Where an id between two bars is missing nothing is written; elsewhere it is."""
    fills = market(600, seed=3, quiet=0.03)
    wanted = made(fills, NAMES, fill=True)
    gone = range(200, 300)
    kept = [fill for fill in fills if fill.trade_id not in gone]
    bars = made(kept, NAMES)
    store(database, [*kept, *bars.values()])
    assert filled(connection, Proof.load(connection, *KEY)) > 0
    before = {fills[199 - 1].timestamp, fills[300 - 1].timestamp}
    found = flat(bars_of(database))
    assert found < flat(wanted)
    assert not [end for _, end in found if min(before) < end <= max(before)]


def test_flat_bars_that_do_not_know_the_last_price(database, connection):
    """They are complete no more where the quiet is not proven; where it is, they are made again."""
    fills = market(600, seed=3, quiet=0.03)
    wanted = made(fills, NAMES, fill=True)
    wrong = {key: replace(bar, close=bar.close + 1) for key, bar in wanted.items() if bar.first_trade_id is None}
    at = next(n for n in range(300, 600) if fills[n].timestamp - fills[n - 1].timestamp > 3_000)
    store(database, [*fills[:at], *fills[at + 1 :], *(wanted | wrong).values()])
    filled(connection, Proof.load(connection, *KEY))
    found = bars_of(database)
    unproven = {key for key in wrong if not found[key].complete}
    assert unproven and max(end for _, end in unproven) <= fills[at].timestamp
    assert min(end for _, end in unproven) > fills[at - 1].timestamp
    assert all(found[key] == bar for key, bar in wanted.items() if key not in unproven)
    store(database, [fills[at]])
    assert filled(connection, Proof.load(connection, *KEY)) == len(unproven)
    found = bars_of(database)
    assert all(found[key] == wanted[key] for key in wrong)


class Clock:
    """A clock that is set by hand."""

    now = 1_000_000

    def __call__(self):
        return self.now


def test_a_collector_that_was_started_anew_after_a_quiet(database, connection):
    """The flat bars between its first bar and the one stored before are written once the bar is in the database."""
    fills = market(600, seed=3, quiet=0.03)
    wanted = made(fills, NAMES, fill=True)
    store(database, [*fills, *made(fills, NAMES).values()])
    quiet = max(end for frame, end in flat(wanted) if frame == "1s")
    first = min(
        (bar for (frame, end), bar in wanted.items() if frame == "1s" and end > quiet), key=lambda bar: bar.start
    )
    clock = Clock()
    with open_database(database, create=False) as opened:
        mender = LiveMender(opened.session, FRAMES, clock, fill=True)
        mender.note(first)
        connection.execute("DELETE FROM market_data WHERE timestamp = to_timestamp(%s / 1000.0)", [first.timestamp])
        clock.now += FIRST_MS
        mender.tick()
        assert flat(bars_of(database)) == set() and mender.due_in() == AGAIN_MS / 1000
        store(database, [first])
        clock.now += AGAIN_MS
        mender.tick()
        assert mender.due_in() is None
        found = flat(bars_of(database))
        assert len(found) == mender.mended > 0
        assert found <= flat(wanted) and ("1s", quiet) in found
        mender.note(first)
        assert mender.due_in() is None


def test_a_bar_that_cannot_be_proved_is_looked_at_ever_more_rarely(database, connection):
    """Hundreds of symbols have one at the start; a new bar of the symbol is looked at soon all the same."""
    bars = sorted(made(market(600, seed=3), NAMES).values(), key=lambda bar: bar.timestamp)
    some = [replace(bar, complete=False) for bar in bars if bar.timeframe == "1s"][:2]
    clock, looks = Clock(), []
    began = clock.now
    with open_database(database, create=False) as opened:

        def session():
            looks.append(clock.now - began)
            return opened.session()

        mender = LiveMender(session, FRAMES, clock)
        mender.note(some[0])
        while mender.due_in() is not None and clock.now - began < 300_000:
            clock.now += round(mender.due_in() * 1000)
            mender.tick()
        assert looks[:5] == [1_000, 6_000, 16_000, 36_000, 76_000] and looks[-1] - looks[-2] == 60_000
        mender.note(some[1])
        assert mender.due_in() == FIRST_MS / 1000
        clock.now += GIVE_UP_MS
        mender.tick()
        assert mender.due_in() is None


def test_what_nothing_can_prove_is_not_looked_into(database, connection, monkeypatch):
    """No id is known below the first bar: its ledger is not even read, until a backfill has stored what was before."""
    fills = market(600, seed=3)
    began = 50
    bar = min((one for one in made(fills[began:], NAMES).values()), key=lambda one: (one.timestamp, -one.start))
    assert bar.first_trade_id == fills[began].trade_id and not bar.complete
    store(database, [*fills[began:], bar])
    clock = Clock()
    with open_database(database, create=False) as opened:
        mender = LiveMender(opened.session, FRAMES, clock)
        mender.note(bar)
        clock.now += FIRST_MS
        with monkeypatch.context() as patched:
            patched.setattr(Proof, "load", pytest.fail)
            mender.tick()
        assert mender.due_in() == AGAIN_MS / 1000
        store(database, fills[:began])
        clock.now += AGAIN_MS
        mender.tick()
        assert mender.due_in() is None and mender.mended == 1
