"""A candle maker that goes on where another was killed: the same bars in the end, the one it was killed in too."""

from contextlib import closing
from random import Random

import pytest
from storage_samples import DAY, MIDNIGHT, absent, store, trade

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.storage.candles.open_bars import reopen
from okxcli.storage.database import open_database
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series

KEY = ("okx", "BTC-USDT")


@pytest.fixture
def connection(database):
    """A connection to a database with tables."""
    with open_database(database, create=True) as opened, closing(opened.connect()) as found:
        yield found


def market(count, seed, step=230, back=80):
    """Return fills around midnight, some with a time before that of the fill before, and quiet times."""
    chance = Random(seed)
    at = MIDNIGHT - count * step // 2
    fills = []
    for number in range(1, count + 1):
        at += chance.choice((0, 1, step, 2 * step)) + (7000 if chance.random() < 0.01 else 0)
        price, size = f"{chance.randint(900, 1100)}.5", f"0.{chance.randint(1, 9999):04d}1"
        fills.append(trade(number, price, size, chance.choice(("buy", "sell")), at - chance.choice((0, 0, 0, back))))
    return fills


def maker(frames, written):
    return RealTimeCandleProcessor(frames, written.append, lateness_ms=500)


def stored(connection, frames):
    with reader.snapshot(connection):
        found = [c for f in frames.split(",") for c in reader.candles(connection, Series(*KEY, f), EVERYTHING)]
    return {
        (c.timeframe, c.timestamp): {f: getattr(c, f) for f in c.__struct_fields__ if f != "revision"} for c in found
    }


@pytest.mark.parametrize(
    ("frames", "candles_too"),
    [("1s,5s,1m,1h", True), ("1s,5s,1m,1h", False), ("2s,5s,1d", True), ("1m", True), ("1m,1d,1d+8,1M", True)],
)
def test_killed_at_any_moment(database, connection, frames, candles_too):
    """Each maker gets a piece of the fills; all of them together store what one alone would have."""
    fills = market(1500, seed=len(frames))
    alone = []
    one = maker(frames, alone)
    for fill in fills:
        one.feed(fill)
    one.finish()
    chance = Random(7)
    at = 0
    while at < len(fills):
        written = []
        after = maker(frames, written)
        reopen(connection, *KEY, after, after.feed)
        piece = fills[at : at + chance.randint(1, 300)]
        for fill in piece:
            after.feed(fill)
        at += len(piece)
        if at == len(fills):
            after.finish()
        # Killed: what the bars would have become is lost. Without candles nothing is there but the fills.
        store(database, [*piece, *(written if candles_too or at == len(fills) else ())])
    wanted = {}
    for bar in alone:
        wanted[bar.timeframe, bar.timestamp] = {f: getattr(bar, f) for f in bar.__struct_fields__ if f != "revision"}
    found = stored(connection, frames)
    if not candles_too:  # those that were over before the last start are backfill's
        wanted = {key: bar for key, bar in wanted.items() if key in found}
        assert {("1m", max(end for frame, end in wanted if frame == "1m"))} < set(wanted)
    assert found == wanted


def test_a_hole_stays_a_hole(database, connection):
    """The bar around ids that are missing is not complete after a restart, and is when they were noted absent."""
    fills = market(400, seed=3)
    hole = set(range(200, 210))
    store(database, [fill for fill in fills[:390] if fill.trade_id not in hole])
    end = [trade(401, timestamp=MIDNIGHT + DAY), trade(402, timestamp=MIDNIGHT + DAY + 1)]
    for complete in (False, True):
        written = []
        after = maker("1w", written)
        assert reopen(connection, *KEY, after, after.feed) == 390
        for fill in [*fills[390:], *end]:
            after.feed(fill)
        after.feed(trade(403, timestamp=MIDNIGHT + 9 * DAY))
        (bar,) = written
        assert (bar.trade_count, bar.first_trade_id) == (402 - len(hole), 1)
        assert bar.complete is complete
        store(database, [absent(min(hole), max(hole))])


def test_a_tape_that_is_empty(connection):
    """There is nothing to go on with."""
    after = maker("1m", [])
    assert reopen(connection, *KEY, after, after.feed) is None


def test_rows_that_retention_took(database, connection):
    """A bar whose fills are gone from the rows, and in no stored bar, is not called complete."""
    store(database, market(600, seed=1))
    connection.execute("UPDATE trade_ledger SET archived = true WHERE first_id = 1")
    connection.execute("DELETE FROM raw_trades WHERE timestamp < %s", ["2025-05-13Z"])
    written = []
    after = maker("1m,1w", written)
    reopen(connection, *KEY, after, after.feed)
    after.feed(trade(601, timestamp=MIDNIGHT + 9 * DAY))
    week = next(bar for bar in written if bar.timeframe == "1w")
    assert week.complete is False
