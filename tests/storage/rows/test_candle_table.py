"""Candles in Postgres: which version of a bar stays, and how revisions are numbered."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage_samples import candle, rows, store

from okxcli.core.candles.compare import beats
from okxcli.core.model import OHLCVCandle

PARTIAL = {"closed": False, "complete": False}
UNPROVEN = {"complete": False}


def bars(dsn):
    return rows(
        dsn, "SELECT close::text, trade_count, complete, closed, revision FROM market_data ORDER BY symbol, timestamp"
    )


@pytest.mark.parametrize(
    ("old", "new", "wins"),
    [
        (candle(), candle(revision=3), False),  # says the same
        (candle(), candle(close="10.0"), False),  # the same number
        (candle(**UNPROVEN), candle(), True),  # complete beats incomplete
        (candle(), candle(close="11", last_trade_id=9, **UNPROVEN), False),
        (candle(), candle(close="11", count=6, last_trade_id=6, **UNPROVEN), True),  # holds one more, whatever it was
        (candle(count=6, last_trade_id=6, **UNPROVEN), candle(), False),
        (candle(count=6, last_trade_id=6, **UNPROVEN), candle(count=2, first_trade_id=6, last_trade_id=7), True),
        (candle(count=3, **UNPROVEN), candle(count=4, **UNPROVEN), True),  # more fills
        (candle(count=4, **UNPROVEN), candle(count=3, close="11", **UNPROVEN), False),
        (candle(**UNPROVEN), candle(close="11", **UNPROVEN), False),  # as many fills: the first stays
        (candle(count=5, **PARTIAL), candle(count=2, **UNPROVEN), True),  # over beats running
        (candle(count=2, **UNPROVEN), candle(count=5, **PARTIAL), False),
        (candle(count=2, **PARTIAL), candle(count=3, **PARTIAL), True),
        (candle(count=2, **PARTIAL), candle(count=2, close="11", **PARTIAL), True),
        (candle(base_volume=None, quote_volume=None), candle(), True),  # the instrument is known now
        (candle(), candle(base_volume=None, quote_volume=None), False),
        (candle(base_volume=None), candle(quote_volume=Decimal(1)), False),  # contradicts what was known
    ],
)
def test_better_version_of_a_bar_wins(old, new, wins):
    """Over beats running, complete beats incomplete, then more fills; what says the same changes nothing."""
    assert beats(new, old) is wins


def test_exchange_may_revise_its_own_bars():
    """Without counts of fills the newer version stays, unless it is less complete."""
    bare = {"origin": "exchange", "first_trade_id": None, "last_trade_id": None, "buy_volume": None}
    assert beats(candle(close="11", count=None, **bare), candle(count=None, **bare))
    assert not beats(candle(close="11", count=None, **(bare | UNPROVEN)), candle(count=None, **bare))


def test_an_older_version_of_an_exchange_bar_does_not_come_back():
    """The volume of one bar only grows: of two versions the one with more is the newer, whichever comes first."""
    bare = {"origin": "exchange", "first_trade_id": None, "last_trade_id": None, "buy_volume": None, "count": None}
    old, new = candle(volume=Decimal(10), **bare), candle(volume=Decimal(20), **bare)
    assert beats(new, old) and not beats(old, new)


def test_rebuild_from_proven_rows_beats_anything_else_that_is_over():
    """Even a complete bar with more fills; but it is not written again when it says the same."""
    assert beats(candle(count=4, close="11"), candle(count=5), proven=True)
    assert not beats(candle(), candle(revision=4), proven=True)
    assert not beats(candle(**PARTIAL), candle(count=1), proven=True)


VERSIONS = st.builds(
    candle,
    close=st.sampled_from(["10", "11"]),
    count=st.integers(1, 4),
    closed=st.booleans(),
    complete=st.booleans(),
).filter(lambda c: c.closed or not c.complete)


@given(VERSIONS, VERSIONS)
def test_no_two_finished_versions_beat_each_other(a, b):
    """Of two bars that are over at most one wins, so two writers cannot replace each other's bar for ever."""
    if a.closed or b.closed:
        assert not (beats(a, b) and beats(b, a))


@given(st.lists(VERSIONS, min_size=1, max_size=8))
def test_what_stays_is_as_good_as_the_best(versions):
    """Folding versions in any order ends with one that no other is better than in rank."""

    def rank(c: OHLCVCandle):
        return c.closed, c.trade_count, c.complete  # of bars with the same first and last id

    kept = versions[0]
    for version in versions[1:]:
        kept = version if beats(version, kept) else kept
    finished = [rank(v) for v in versions if v.closed]
    if finished:
        assert rank(kept) == max(finished)


def test_database_numbers_the_revisions(database):
    """The number counts the versions after the end of the bar, whatever the line says, in one batch or in several."""
    lines = [
        candle(count=1, **PARTIAL),
        candle(count=2, **PARTIAL),
        candle(count=3, **UNPROVEN, revision=7),
        candle(count=4, **UNPROVEN, revision=9),
        candle(),
        candle(count=4, **UNPROVEN),
        candle(revision=12),
    ]
    expected = [("10", 5, True, True, 2)]
    assert store(database, lines) == {"market_data": 5, "duplicates": 2}
    assert bars(database) == expected
    assert store(database, lines) == {"duplicates": 7}
    assert bars(database) == expected


def test_one_line_a_batch_gives_the_same(database):
    """The outcome does not depend on how the input is cut."""
    for version in (candle(count=1, **PARTIAL), candle(count=3, **UNPROVEN), candle(count=3, **PARTIAL), candle()):
        store(database, [version])
    assert bars(database) == [("10", 5, True, True, 1)]


def test_bars_are_kept_apart_by_symbol_timeframe_origin_and_end(database):
    """Each of them has its own row, and the months have partitions."""
    lines = [
        candle(),
        candle(symbol="ETH-USDT"),
        candle(timeframe="60s"),
        candle(origin="exchange"),
        candle(1),
        candle(60 * 24 * 40),
    ]
    assert store(database, lines) == {"market_data": 6}
    assert store(database, lines) == {"duplicates": 6}
    assert rows(database, "SELECT count(*) FROM pg_partition_tree('market_data') WHERE isleaf") == [(2,)]


def test_view_shows_one_finished_bar_for_each_end(database):
    """Ours if it is complete or alone, the exchange's where ours has holes; never a running one."""
    exchange = {"origin": "exchange", "first_trade_id": None, "last_trade_id": None, "count": None}
    store(
        database,
        [
            candle(0),
            candle(0, **exchange),
            candle(1, **UNPROVEN),
            candle(1, **exchange),
            candle(2, **UNPROVEN),
            candle(3, **PARTIAL),
            candle(4, **exchange),
        ],
    )
    found = rows(database, "SELECT origin, complete FROM candles ORDER BY timestamp")
    assert found == [("trades", True), ("exchange", True), ("trades", False), ("exchange", True)]


def test_unknown_values_stay_unknown(database):
    """What is null in the line is null in the table."""
    store(database, [candle(base_volume=None, quote_volume=None, buy_volume=None)])
    assert rows(database, "SELECT base_volume, quote_volume, buy_volume FROM market_data") == [(None, None, None)]
