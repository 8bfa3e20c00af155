"""Bars made again from rows: the same as the candle maker's, complete where the ledger proves it, and only what is
stale."""

from contextlib import closing
from decimal import Decimal
from random import Random

import pytest
from storage_samples import MIDNIGHT, absent, instrument, rows, store, trade

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.timeframes import parse_list
from okxcli.storage.candles.flat_bars import store_flats
from okxcli.storage.candles.outdated import stale
from okxcli.storage.candles.rebuild import rebuild
from okxcli.storage.database import open_database
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.ledger.recount import recount
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series

KEY = ("okx", "BTC-USDT")
FRAMES = parse_list("1s,5s,1m")
FOREVER = (0, 1 << 42)


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def market(count, seed=1, step=230, back=80):
    """Return fills around midnight, some of them with a time before that of the fill before."""
    chance = Random(seed)
    at = MIDNIGHT - count * step // 2
    fills = []
    for number in range(1, count + 1):
        at += chance.choice((0, 1, step, 2 * step))
        price, size = f"{chance.randint(900, 1100)}.5", f"0.{chance.randint(1, 9999):04d}1"
        fills.append(trade(number, price, size, chance.choice(("buy", "sell")), at - chance.choice((0, 0, 0, back))))
    return fills


def made(lines, frames=FRAMES, **options):
    """Return the final bars that the candle maker makes of lines, by timeframe and end."""
    found = {}
    maker = RealTimeCandleProcessor(
        [frame.name for frame in frames], lambda c: found.__setitem__((c.timeframe, c.timestamp), c), **options
    )
    for line in lines:
        maker.feed(line)
    maker.finish()
    return found


def mend(connection, frames=FRAMES, since=FOREVER[0], until=FOREVER[1], fill=False):
    """Rebuild what is stale, as `okx backfill` does; return how many bars changed."""
    stored = 0
    for at, frame in enumerate(frames):
        smaller = [other for other in frames[:at] if frame.holds(other)]
        starts = stale(connection, Proof.load(connection, *KEY), frame, since, until)
        stored += rebuild(connection, *KEY, frame, starts, source=smaller[-1] if smaller else None)
        if fill:
            stored += store_flats(connection, Proof.load(connection, *KEY), frame, since, until)
    return stored


def bars(connection, frames=FRAMES):
    """Return the stored bars by timeframe and end, at revision 0."""
    with reader.snapshot(connection):
        found = [c for f in frames for c in reader.candles(connection, Series(*KEY, f.name), EVERYTHING)]
    return {(c.timeframe, c.timestamp): c for c in found}


def same(stored, wanted):
    """Whether the same bars say the same, whatever their revision."""
    plain = {key: (*(getattr(c, f) for f in c.__struct_fields__ if f != "revision"),) for key, c in stored.items()}
    return plain == {
        key: (*(getattr(c, f) for f in c.__struct_fields__ if f != "revision"),) for key, c in wanted.items()
    }


@pytest.mark.parametrize("fill", [False, True])
def test_bars_of_nothing_but_rows(database, connection, fill):
    """Trades alone are stored: every bar that is over is made, as the candle maker makes it; a second time nothing."""
    fills = market(900)
    store(database, fills)
    wanted = made(fills, fill=fill)
    assert mend(connection, fill=fill) == len(wanted)
    assert same(bars(connection), wanted)
    assert sum(c.complete for c in bars(connection).values()) >= len(wanted) - len(FRAMES)
    assert mend(connection, fill=fill) == 0


def test_a_hole_that_was_filled(database, connection):
    """The bars that hold or adjoin its ids become complete, the others are left as they are."""
    fills = market(900)
    hole = range(300, 420)
    early = [fill for fill in fills if fill.trade_id not in hole]
    store(database, [*early, *made(early, lateness_ms=0).values()])
    assert not all(c.complete for c in bars(connection).values())
    before = bars(connection)
    store(database, [fill for fill in fills if fill.trade_id in hole])
    changed = mend(connection)
    wanted = made(fills)
    assert same(bars(connection), wanted)
    differing = [
        key for key, bar in wanted.items() if not same({key: bar}, {key: before.get(key, bar)}) or key not in before
    ]
    assert changed == len(differing)
    assert all(bars(connection)[key].revision == (1 if key in before else 0) for key in differing)


def test_fills_that_came_too_late_for_their_bar(database, connection):
    """A bar whose ids are all known lacks a fill that came later, with a higher id: it is made again."""
    fills = market(900, seed=3)
    kept = made(fills, lateness_ms=0)
    assert not same(kept, made(fills))
    store(database, [*fills, *kept.values()])
    assert mend(connection) > 0
    assert same(bars(connection), made(fills))
    assert mend(connection) == 0


def test_a_hole_that_was_filled_in_part(database, connection):
    """The bars hold what is there by now, and are not complete."""
    fills = market(600)
    part = [fill for fill in fills if not 200 <= fill.trade_id < 260]
    store(database, [*part, *made(part).values()])
    more = [fill for fill in fills if not 220 <= fill.trade_id < 230]
    store(database, [fill for fill in more if fill not in part])
    mend(connection)
    assert same(bars(connection), made(more, lateness_ms=1 << 40))


def test_ids_that_were_found_absent(database, connection):
    """Prove the bars around them, and no bar is made of nothing."""
    fills = [fill for fill in market(400) if not 150 <= fill.trade_id < 170]
    store(database, [*fills, *made(fills).values()])
    store(database, [absent(150, 169)])
    mend(connection)
    lines = [*fills[:149], absent(150, 169), *fills[149:]]
    assert same(bars(connection), made(lines))
    assert mend(connection) == 0


def test_a_step_back_where_the_tape_begins(database, connection):
    """A fill from before the first known one proves no bar, though the ids beside it are known."""
    fills = [
        trade(number, "100", "1", "buy", MIDNIGHT + at)
        for number, at in ((5, 2000), (6, 1990), (7, 2010), (8, 3000), (9, 2990), (10, 4010), (11, 5010))
    ]
    store(database, fills)
    assert mend(connection, FRAMES[:1]) == 4
    assert same(bars(connection, FRAMES[:1]), made(fills, FRAMES[:1]))
    complete = {(c.start - MIDNIGHT) // 1000: c.complete for c in bars(connection, FRAMES[:1]).values()}
    assert complete == {1: False, 2: False, 3: True, 4: True}
    again = stale(connection, Proof.load(connection, *KEY), FRAMES[0], *FOREVER)
    assert not {MIDNIGHT + 1000, MIDNIGHT + 2000} & set(again)


def test_larger_bars_of_smaller_ones(database, connection):
    """Merged where those are proven, from rows where they are not: the same bars either way."""
    fills = market(1200, seed=5, step=400)
    store(database, fills)
    small, large = parse_list("1s,1m")
    wanted = made(fills, (large,))
    starts = [bar.start for bar in wanted.values()]
    rebuild(connection, *KEY, small, stale(connection, Proof.load(connection, *KEY), small, *FOREVER))
    connection.execute(
        "UPDATE market_data SET complete = false, volume = 77 WHERE timestamp BETWEEN %s AND %s",
        ["2025-05-12 23:58Z", "2025-05-12 23:59Z"],
    )
    connection.execute("DELETE FROM market_data WHERE timestamp = (SELECT min(timestamp) FROM market_data)")
    assert rebuild(connection, *KEY, large, starts, source=small) == len(wanted)
    assert same(bars(connection, (large,)), wanted)


def test_amounts_follow_from_the_instrument(database, connection):
    """Contracts are worth what the stored instrument says."""
    swap = {"symbol": "BTC-USDT-SWAP"}
    about = instrument(contract_multiplier=1, contract_type="linear", received=MIDNIGHT)
    fills = [trade(i, size="3", timestamp=MIDNIGHT + 400 * i, **swap) for i in range(1, 9)]
    store(database, [about, *fills])
    (frame,) = parse_list("1s")
    starts = stale(connection, Proof.load(connection, "okx", "BTC-USDT-SWAP"), frame, *FOREVER)
    rebuild(connection, "okx", "BTC-USDT-SWAP", frame, starts)
    found = rows(database, "SELECT volume, base_volume, quote_volume FROM market_data ORDER BY timestamp")
    wanted = made([about, *fills], (frame,)).values()
    assert found == [(c.volume, c.base_volume, c.quote_volume) for c in wanted]
    assert None not in found[0]


def test_amounts_are_those_of_their_time(database, connection):
    """A contract value that changed in the middle of a bar: the bar is made again of what each fill was worth."""
    swap = {"symbol": "BTC-USDT-SWAP"}
    rules = {"contract_multiplier": 1, "contract_type": "linear"}
    before = instrument(received=MIDNIGHT, contract_value=Decimal("0.01"), **rules)
    after = instrument(received=MIDNIGHT + 1_500, contract_value=Decimal("0.1"), **rules)
    fills = [trade(i, size="3", timestamp=MIDNIGHT + 400 * i, **swap) for i in range(1, 9)]
    store(database, [before, after, *fills])
    (frame,) = parse_list("1s")
    starts = stale(connection, Proof.load(connection, "okx", "BTC-USDT-SWAP"), frame, *FOREVER)
    rebuild(connection, "okx", "BTC-USDT-SWAP", frame, starts)
    found = rows(database, "SELECT volume, base_volume, quote_volume FROM market_data ORDER BY timestamp")
    late = [fill.timestamp >= MIDNIGHT + 1_500 for fill in fills].index(True)
    wanted = made([before, *fills[:late], after, *fills[late:]], (frame,)).values()
    assert found == [(c.volume, c.base_volume, c.quote_volume) for c in wanted]
    assert sorted({base / volume for volume, base, _ in found}) == [Decimal("0.01"), Decimal("0.055"), Decimal("0.1")]


def test_a_range_of_time_is_kept_to(database, connection):
    """Bars outside are left alone."""
    fills = market(900)
    store(database, fills)
    (frame,) = parse_list("5s")
    starts = stale(connection, Proof.load(connection, *KEY), frame, MIDNIGHT, MIDNIGHT + 20_000)
    assert starts == [MIDNIGHT + 5000 * i for i in range(4)]


def test_archived_days_are_left_alone(database, connection):
    """Of rows that are gone no bar is made, however incomplete the stored one is."""
    fills = market(900)
    store(database, [*fills, *(c for c in made(fills).values() if c.timestamp < MIDNIGHT)])
    connection.execute("UPDATE market_data SET complete = false")
    connection.execute("UPDATE trade_ledger SET archived = true WHERE first_id = 1")
    connection.execute("DELETE FROM raw_trades WHERE timestamp < %s", ["2025-05-13Z"])
    before = bars(connection)
    mend(connection)
    after = bars(connection)
    assert {key: after[key] for key in before} == before
    assert len(after) > len(before)


@pytest.mark.parametrize("seed", range(6))
def test_bars_of_a_day_that_is_open_again(database, connection, seed):
    """Its rows were dropped in the middle of it, by mistake: what came since makes bars, complete where that proves it,
    and none that was whole before gets worse. What was dropped is neither missing nor lost.
    """
    fills = market(900, seed)
    cut = Random(seed).randrange(100, 400)
    whole = made(fills)
    store(database, [*fills[:cut], *(c for c in made(fills[:cut]).values() if c.complete)])
    before = bars(connection)
    connection.execute("UPDATE trade_ledger SET archived = true")
    connection.execute("DELETE FROM raw_trades")
    lost = {fill.trade_id for fill in Random(seed).sample(fills[cut:], 40)}
    store(database, [fill for fill in fills[cut:] if fill.trade_id not in lost])
    mend(connection)
    proof = Proof.load(connection, *KEY)
    assert proof.retired == [(1, cut)] and recount(connection, *KEY) == []
    assert {n for first, last in proof.holes() for n in range(first, last + 1)} == lost - {
        900,
        *range(proof.last_id, 900),
    }
    store(database, [fill for fill in fills if fill.trade_id in lost])
    mend(connection)
    after = bars(connection)
    assert {key: after[key] for key in before} == before
    for key, bar in after.items():
        if bar.complete:
            assert same({key: bar}, {key: whole[key]})
        else:
            assert bar.first_trade_id <= cut + 1 or bar.last_trade_id >= 899 or bar.start < fills[cut].timestamp + 1_000
    assert sum(bar.complete for bar in after.values()) > len(before) + 20
