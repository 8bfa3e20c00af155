"""Candles without fills: the chain of their ids, the bars that it knows better, and where a stream goes on."""

from contextlib import closing

import msgspec
import pytest
from storage_samples import DAY, MIDNIGHT, bars_of, candle, made, market, store, trade

from okxcli.core.timeframes import Timeframe
from okxcli.storage.candles.candle_chain import (
    Chain,
    completed,
    ids_between,
    is_candles_only,
    merge_larger,
    resume_id,
    stale_larger,
)
from okxcli.storage.candles.rebuild import store_bars
from okxcli.storage.database import open_database
from okxcli.storage.ledger import unsettled
from okxcli.storage.ledger.unsettled import Doubt
from okxcli.storage.read import gaps

KEY = ("okx", "BTC-USDT")
FOREVER = (0, 1 << 42)


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def mend(connection, since=FOREVER[0], until=FOREVER[1]):
    """Make the bars again that the chain knows better, as `okx backfill` does; return how many changed."""
    chain = Chain.load(connection, *KEY)
    changed = 0
    for bars in chain.roots:
        changed += store_bars(connection, completed(connection, chain, bars.frame, since, until))
    for frame in chain.frames:
        if frame not in [bars.frame for bars in chain.roots]:
            starts = stale_larger(connection, chain, frame, since, until)
            changed += merge_larger(connection, chain, frame, starts)
    return changed


def test_nothing_is_stored(connection):
    """There is no chain, and nowhere to go on."""
    assert Chain.load(connection, *KEY) is None
    assert resume_id(connection, *KEY) is None
    assert not is_candles_only(connection, *KEY)


def test_a_whole_chain(database, connection):
    """Bars whose ids follow on each other, some fills with times that step back, are one link without a hole."""
    fills = market(900)
    store(database, made(fills, "1s,5s,1m").values())
    chain = Chain.load(connection, *KEY)
    seconds = [bar for (frame, _), bar in bars_of(database).items() if frame == "1s"]
    last = max(bar.last_trade_id for bar in seconds)
    assert chain.covered == [(1, last)]
    assert [frame.name for frame in chain.frames] == ["1s", "5s", "1m"]
    assert [bars.frame.name for bars in chain.roots] == ["1s"]
    assert chain.holes() == []
    run = chain.base.ids.run_of(1)
    assert (run.first, run.last, run.begins) == (1, last, True)
    assert chain.base.whole(seconds[5].start, seconds[5].timestamp, seconds[5].first_trade_id, seconds[5].last_trade_id)
    assert is_candles_only(connection, *KEY)
    assert [one.kind for one in gaps.ranges(connection, *KEY)] == ["covered"]


def test_holes_are_where_the_chain_breaks(database, connection):
    """A bar that is gone, and one that lacks fills in its middle: exactly those ids; absent ones are none of them."""
    fills = market(900)
    bars = made(fills, "1s")
    gone = sorted(bars)[40:43]
    first, last = bars[gone[0]].first_trade_id, bars[gone[-1]].last_trade_id
    thin = bars[sorted(bars)[100]]
    low, high = thin.first_trade_id, thin.last_trade_id
    assert high - low > 1
    kept = {key: bar for key, bar in bars.items() if key not in gone}
    key = ("1s", thin.timestamp)
    kept[key] = msgspec.structs.replace(thin, complete=False, trade_count=2)
    store(database, kept.values())
    known = {i for bar in kept.values() for i in range(bar.first_trade_id, bar.last_trade_id + 1)} - {
        *range(low + 1, high)
    }
    chain = Chain.load(connection, *KEY)
    missing = {i for a, b in chain.holes() for i in range(a, b + 1)}
    assert missing == {*range(1, max(known))} - known
    assert missing <= {*range(first, last + 1), *range(low + 1, high)}
    unsettled.save(connection, *KEY, [Doubt(a, b, 3, 5, 6, True) for a, b in chain.holes()])
    assert Chain.load(connection, *KEY).holes() == []
    kinds = [one.kind for one in gaps.ranges(connection, *KEY)]
    assert "absent" in kinds and "missing" not in kinds


@pytest.mark.parametrize("frames", ["1s,5s,1m", "2s,3s,6s,1m", "1s,1m,1d,1M", "5s,1d,1d+8"])
def test_larger_bars_are_made_of_smaller_ones(database, connection, frames):
    """Deleted, wrong or incomplete larger bars: all that are over are made again, as if they came from the fills."""
    later = MIDNIGHT + 40 * DAY
    fills = [*market(900), *(trade(n, timestamp=later + at) for n, at in ((901, 0), (902, DAY), (903, DAY + 9_000)))]
    wanted = made(fills, frames)
    store(database, wanted.values())
    chain = Chain.load(connection, *KEY)
    larger = [frame.name for frame in chain.frames if frame not in [bars.frame for bars in chain.roots]]
    assert larger
    assert mend(connection) == 0
    connection.execute("DELETE FROM market_data WHERE timeframe = ANY(%s) AND trade_count %% 3 = 0", [larger[:1]])
    connection.execute(
        "UPDATE market_data SET complete = false, trade_count = trade_count - 1, volume = volume - 0.01"
        " WHERE timeframe = ANY(%s) AND (trade_count %% 3 = 1 OR timeframe = '1M') AND trade_count > 1",
        [larger],
    )
    found = bars_of(database)
    lost = len([key for key, bar in wanted.items() if found.get(key) != bar])
    assert lost > 0
    assert mend(connection) == lost
    assert bars_of(database) == wanted
    assert mend(connection) == 0


def test_a_bar_that_was_not_proven_when_it_came(database, connection):
    """Incomplete, all its fills there, its neighbours by now as well: it is complete. Not those at the end of the
    chain, beside which a fill may be missing that stepped back in time as far as others did."""
    bars = made(market(900), "1s")
    store(database, bars.values())
    connection.execute("UPDATE market_data SET complete = false WHERE mod(trade_count, 4) = 0")
    assert bars_of(database) != bars
    mend(connection)
    found = bars_of(database)
    left = [bar for key, bar in bars.items() if found[key] != bar]
    chain = Chain.load(connection, *KEY)
    edge = max(bar.start for bar in bars.values()) - chain.base.ids.step
    assert len(left) < len(bars) // 10
    assert all(bar.timestamp > edge for bar in left)


def test_half_a_bar_is_not_made_whole_by_its_neighbour(database, connection):
    """A pipe that was started anew inside of a minute: its first fill is in no bar, whatever a complete one knows."""
    frame = {"timeframe": "1m"}
    bars = [
        candle(0, first_trade_id=1, last_trade_id=10, count=10, **frame),
        candle(1, first_trade_id=12, last_trade_id=20, count=9, complete=False, **frame),
        candle(2, first_trade_id=21, last_trade_id=30, count=10, **frame),
        candle(3, first_trade_id=31, last_trade_id=40, count=10, **frame),
    ]
    store(database, bars)
    mend(connection)
    assert [bar.complete for bar in bars_of(database).values()] == [True, False, True, True]
    assert Chain.load(connection, *KEY).holes() == [(11, 11)]


def test_a_larger_bar_in_which_the_chain_begins(database, connection):
    """Parts that begin inside of it do not make it whole."""
    frame = {"timeframe": "1m"}
    small = [candle(n, first_trade_id=10 * n + 1, last_trade_id=10 * n + 10, count=10, **frame) for n in range(3, 12)]
    store(database, small)
    big = candle(1, timeframe="5m", first_trade_id=41, last_trade_id=50, count=10, complete=False)
    store(database, [msgspec.structs.replace(big, timestamp=big.start + 300_000)])
    mend(connection)
    found = {bar.start: bar.complete for (name, _), bar in bars_of(database).items() if name == "5m"}
    assert list(found.values()) == [False, True]


def test_a_bar_that_is_missing_inside_the_ids_of_its_neighbour(database, connection):
    """Times step back, so that its ids lie between those of another: what that lacks is missing."""
    frame = {"timeframe": "1m"}
    bars = [
        candle(0, first_trade_id=1, last_trade_id=10, count=10, **frame),
        candle(1, first_trade_id=11, last_trade_id=20, count=8, **frame),  # two of them are of the next minute
        candle(3, first_trade_id=21, last_trade_id=30, count=10, **frame),
    ]
    store(database, bars)
    assert Chain.load(connection, *KEY).holes() == [(12, 19)]
    store(database, [candle(2, first_trade_id=15, last_trade_id=16, count=2, **frame)])
    assert Chain.load(connection, *KEY).holes() == []


def test_time_steps_back_between_bars_that_follow_on_each_other(database, connection):
    """As far as it does there, it may have between ids that nobody holds."""
    placed = [(3, 1, 1), (0, 2, 2), (2, 5, 5), (5, 6, 8), (8, 9, 9), (30, 10, 10)]  # 3 and 4 are in no bar
    frame = {"timeframe": "1m", "complete": False}
    store(database, [candle(n, first_trade_id=a, last_trade_id=b, count=b - a + 1, **frame) for n, a, b in placed])
    base = Chain.load(connection, *KEY).base
    assert base.ids.step == 4 * 60_000 - 1
    mend(connection)
    assert [bar.first_trade_id for bar in bars_of(database).values() if bar.complete] == [9]


def test_what_lies_in_a_span(database, connection):
    """The lowest and highest id of the bars that lie in it whole."""
    bars = made(market(900), "1s")
    store(database, bars.values())
    chain = Chain.load(connection, *KEY)
    some = [bars[key] for key in sorted(bars)[10:20]]
    span = some[0].start, some[-1].timestamp
    assert ids_between(connection, chain, *span) == (
        min(bar.first_trade_id for bar in some), max(bar.last_trade_id for bar in some))  # fmt: skip
    assert ids_between(connection, chain, span[0] + 1, span[0] + 900) is None


def test_where_a_stream_goes_on_that_has_no_complete_bar(database, connection):
    """With the first fill of the first bar, for all since then is to be proved."""
    store(database, [candle(0, complete=False), candle(1, complete=False)])
    assert resume_id(connection, *KEY) == 0


def test_where_a_stream_goes_on(database, connection):
    """A page of fills before the end of the newest complete bar of the smallest timeframe, not before its first."""
    fills = market(900)
    bars = made(fills, "1s,1m")
    store(database, bars.values())
    complete = [bar for (frame, _), bar in bars.items() if frame == "1s" and bar.complete]
    newest = max(complete, key=lambda bar: bar.timestamp)
    assert resume_id(connection, *KEY) == newest.first_trade_id - 1
    store(database, [msgspec.structs.replace(newest, timestamp=newest.timestamp + 1000, start=newest.timestamp,
                                             first_trade_id=5_000, last_trade_id=5_500, trade_count=501)])  # fmt: skip
    assert resume_id(connection, *KEY) == 5_400


def test_many_bars(database, connection):
    """100,000 of a minute come down to one link; of the larger ones that one is looked for which is missing."""
    connection.execute("CREATE TABLE market_data_all PARTITION OF market_data DEFAULT")
    for name, length, fills, many in (("1m", 60, 2, 100_000), ("1h", 3600, 120, 1_666)):
        connection.execute(
            "INSERT INTO market_data SELECT 'okx', 'BTC-USDT', %(name)s, t, t + %(length)s * interval '1 s', 1, 1, 1,"
            " 1, 1, 1, 1, 1, %(fills)s, i * %(fills)s + 1, (i + 1) * %(fills)s, true, true, 0, 'trades' FROM"
            " (SELECT i, timestamptz '2025-01-01Z' + i * %(length)s * interval '1 s' AS t FROM"
            " generate_series(0, %(many)s - 1) AS i) AS bars",
            {"name": name, "length": length, "fills": fills, "many": many},
        )
    chain = Chain.load(connection, *KEY)
    assert chain.covered == [(1, 200_000)]
    hour = Timeframe.parse("1h")
    assert stale_larger(connection, chain, hour, *FOREVER) == []
    connection.execute("DELETE FROM market_data WHERE timeframe = '1h' AND first_trade_id = 1201")
    assert len(stale_larger(connection, chain, hour, *FOREVER)) == 1
