"""Filling holes: which ids are asked for, what is stored, which bars are mended, and what a kill costs."""

from collections import Counter
from contextlib import closing
from itertools import pairwise
from random import Random

import past_market
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from past_market import START_MS

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.model import Absent
from okxcli.core.timeframes import parse_list
from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.exchanges.registry import exchange
from okxcli.pipeline.backfill import Backfill, Tools, pages
from okxcli.runtime.clock import now_ms
from okxcli.storage.ledger import audit, recount
from okxcli.storage.read import gaps
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series
from okxcli.storage.schema import versions

SYMBOL = "BTC-USDT"
KEY = ("okx", SYMBOL)
FRAMES = ("1s", "15s", "1m", "1h")


class Place(past_market.Place):
    """A market of ten minutes, and what became of it in the database."""

    def backfill(self, wait=True, files=None, taped=(), **options):
        begun = now_ms()
        options = {"clock": lambda: START_MS + 3_600_000 + now_ms() - begun, "spread_ms": 200} | options
        tools = Tools(self.database.connect, TradeHistory(self.rest), exchange(), **options)
        return Backfill(tools, FRAMES, wait=wait, files=files, taped=taped)

    def stored(self):
        return [row[0] for row in self.execute("SELECT trade_id FROM raw_trades ORDER BY 1")]

    def rows(self):
        return self.execute(
            "SELECT timestamp, trade_id, side, price, size FROM raw_trades ORDER BY trade_id, timestamp"
        ).fetchall()

    def missing(self):
        found = gaps.ranges(self.connection, *KEY)
        return [(one.kind, one.first, one.last) for one in found if one.kind != "covered"]

    def candles(self):
        with reader.snapshot(self.connection):
            found = [c for f in FRAMES for c in reader.candles(self.connection, Series(*KEY, f), EVERYTHING)]
        return {(c.timeframe, c.timestamp): as_written(c) for c in found}

    def forget(self, ids, rows_only=False):
        """Delete fills from the rows, and from the ledger."""
        self.execute("DELETE FROM raw_trades WHERE trade_id = ANY(%s)", ids)
        if not rows_only:
            recount.repair(self.connection, *KEY)


def as_written(candle):
    return {f: getattr(candle, f) for f in candle.__struct_fields__ if f != "revision"}


def makes(lines):
    """Return the bars that the candle maker writes of lines."""
    found = []
    maker = RealTimeCandleProcessor(FRAMES, found.append)
    for line in lines:
        maker.feed(line)
    maker.finish()
    return found


def made(lines):
    """Return the same by timeframe and end."""
    return {(c.timeframe, c.timestamp): as_written(c) for c in makes(lines)}


@pytest.fixture
def place(database, still):
    """The exchange, and an empty database."""
    with closing(Place(still, database)) as found:
        yield found


@given(st.sets(st.integers(1, 900)), st.integers(1, 30))
def test_the_fewest_pages(ids, size):
    """Every wanted id is in a run, and the pages of the runs are no more than a greedy cover needs."""
    from okxcli.storage.ledger.id_ledger import ranges_of

    runs = pages(ranges_of(sorted(ids)), size)
    asked = [n for first, last in runs for n in range(first, last + 1)]
    assert len(asked) == len(set(asked))
    assert ids <= set(asked)
    needed, end = 0, 0
    for number in sorted(ids):
        if number > end:
            needed, end = needed + 1, number + size - 1
    assert sum(-(-(last - first + 1) // size) for first, last in runs) == needed


def test_a_symbol_that_was_never_stored(place):
    """Nothing is known of where to begin; with --since it is fetched, beginning one fill early, and bars are made."""
    assert place.run() == []
    since = place.fills[0].ts + 60_000
    (row,) = place.run(since)
    ids = [fill.trade_id for fill in place.fills if fill.ts >= since]
    assert place.stored() == [ids[0] - 1, *ids]
    assert (row["fetched"], row["left"]) == (len(ids) + 1, 0)
    wanted = made([line for line in place.lines() if line.trade_id >= ids[0] - 1])
    assert place.candles() == {key: bar for key, bar in wanted.items() if bar["timestamp"] > since}
    assert place.run(since) == []


def test_thirty_percent_of_the_ids(place):
    """Deleted from rows and ledger: the ids, the bars, and no more requests than their pages need."""
    place.store(place.lines())
    place.run()
    whole = place.candles()
    assert whole == made(place.lines())
    chance = Random(1)
    ids = place.ids
    gone = [i for at in range(0, len(ids), 50) if chance.random() < 0.3 for i in ids[at : at + 50]]
    place.forget(gone)
    place.execute("UPDATE market_data SET complete = false, trade_count = 1, volume = 1 WHERE timeframe <> '1h'")
    assert place.missing() != []
    with closing(place.backfill()) as work:
        needed = work.plan(SYMBOL).requests
    place.turns.asked.clear()
    (row,) = place.run()
    asked = [path for path in place.turns.asked if path.endswith("history-trades")]
    assert len(asked) <= needed * 1.05
    assert (row["missing"], row["fetched"], row["left"]) == (len(gone), len(gone), 0)
    assert place.missing() == []
    assert place.stored() == ids
    assert place.candles() == whole
    assert place.run() == []


def test_killed_again_and_again(place):
    """Each run stops after a page or two, some without mending a bar; the end is the same."""
    place.store(place.lines())
    place.run()
    whole = place.candles()
    gone = [i for at in range(0, len(place.ids), 700) for i in place.ids[at : at + 300]]
    place.forget(gone)
    place.execute("UPDATE market_data SET complete = false, trade_count = trade_count - 1 WHERE timeframe <> '1h'")
    for pages_done in (1, 2, 1, 3, 2):
        work = place.backfill()
        plan = work.plan(SYMBOL)
        done = iter(range(pages_done))
        work.tools.stopped = lambda done=done: next(done, None) is None
        work.tape.fetch_runs(plan, plan.runs, Counter())
        work.close()
    before = len(place.missing())
    assert 0 < len(place.stored()) < len(place.ids)
    (row,) = place.run()
    assert row["fetched"] < len(gone)
    assert before > 0 and place.missing() == []
    assert place.stored() == place.ids
    assert place.candles() == whole


def test_rows_alone_were_deleted(place):
    """The ledger does not know; recount and repair find out, and the holes are filled, at both ends of the tape too."""
    place.store(place.lines())
    place.run()
    whole = place.candles()
    gone = [*place.ids[:40], *place.ids[1000:1500], *place.ids[-7:]]
    place.forget(gone, rows_only=True)
    assert place.missing() == []
    recount.repair(place.connection, *KEY)
    assert sum(last - first + 1 for _, first, last in place.missing()) == len(gone)
    (row,) = place.run()
    assert row["fetched"] == len(gone)
    assert place.stored() == place.ids
    assert place.candles() == whole


def test_ids_that_okx_has_not(place):
    """Asked for three times over the spread, then absent; the bars around them are complete, and nothing is left."""
    place.exchange.skip_ids(SYMBOL, 3)
    place.exchange.trade(SYMBOL, "5", "1")
    last = place.exchange.fills(SYMBOL)[-1].trade_id
    place.store(place.lines())
    (row,) = place.run()
    assert (row["fetched"], row["absent"], row["left"]) == (0, 3, 0)
    assert place.missing() == [("absent", last - 3, last - 1)]
    assert place.run() == []


def test_without_waiting_the_answers_add_up(place):
    """A run from cron that does not wait counts one answer; the third, late enough, settles it."""
    place.exchange.skip_ids(SYMBOL, 2)
    place.exchange.trade(SYMBOL, "5", "1")
    place.store(place.lines())
    at = START_MS + 3_600_000
    for minute, absent in ((0, 0), (10, 0), (20, 2)):
        (row,) = place.run(wait=False, spread_ms=60_000, clock=lambda minute=minute: at + 60_000 * minute)
        assert (row["absent"], row["left"]) == (absent, 2 - absent)
    assert place.run(wait=False, clock=lambda: at + 1_800_000) == []


def test_absent_ids_are_asked_for_once_more_a_day_later(place):
    """What OKX shows by then is stored after all, and is no longer absent."""
    lines = place.lines()
    hidden = {lines[300].trade_id, lines[301].trade_id}
    place.store([line for line in lines if line.trade_id not in hidden])
    place.store([Absent(*KEY, min(hidden), max(hidden))])
    noted = now_ms()
    place.run(clock=lambda: noted + 1000)
    assert place.missing() == [("absent", min(hidden), max(hidden))]
    (row,) = place.run(clock=lambda: noted + 90_000_000)
    assert row["fetched"] == 2
    assert place.missing() == []
    assert place.candles() == made(lines)
    place.turns.asked.clear()
    assert place.run(clock=lambda: noted + 180_000_000) == []


def test_a_range_of_time(place):
    """Only its holes are filled."""
    lines = place.lines()
    holes = [range(500, 520), range(3000, 3010)]
    place.store([line for at, line in enumerate(lines) if not any(at in hole for hole in holes)])
    middle = lines[1500].timestamp
    place.run(until=middle)
    assert place.missing() == [("missing", lines[3000].trade_id, lines[3009].trade_id)]
    place.run(since=middle)
    assert place.missing() == []


def test_the_tail_is_left_to_the_collector_for_a_minute(place):
    """Fills of the last minute are on their way already; older ones are fetched."""
    lines = place.lines()
    place.store(lines[:-50])
    newest = lines[-51].timestamp
    place.run(clock=lambda: newest + 59_000)
    assert place.run(clock=lambda: newest + 59_000) == []
    assert [path for path in place.turns.asked if path.endswith("market/trades")] == []
    place.run(clock=lambda: newest + 61_000)
    assert place.stored() == place.ids


def test_retired_days(place):
    """Their fills were here and are not fetched; restored they are missing, and come back."""
    place.store(place.lines())
    place.run()
    whole = place.candles()
    place.execute("UPDATE trade_ledger SET archived = true")
    place.execute("DELETE FROM raw_trades")
    assert place.run() == []
    with closing(place.backfill()) as work:
        assert work.tape.restore(SYMBOL, START_MS - 86_400_000, START_MS + 1) == len(place.ids)
    place.run()
    assert place.stored() == place.ids
    assert place.candles() == whole


def test_retired_days_that_okx_shows_no_more(place):
    """Are told as left, and stay retired days: what cannot be had again is no hole for good."""
    lines = place.lines()
    older = [replace(line, trade_id=line.trade_id - 50, timestamp=line.timestamp - 86_400_000) for line in lines[:50]]
    place.store([*older, *lines])
    place.execute("UPDATE trade_ledger SET archived = true WHERE last_id < %s", place.ids[0])
    place.execute("DELETE FROM raw_trades WHERE trade_id < %s", place.ids[0])
    query = "SELECT day, covered, absent, retired, archived, first_id, last_id FROM trade_ledger ORDER BY day"
    before = place.execute(query).fetchall()
    with closing(place.backfill()) as work:
        assert work.tape.restore(SYMBOL, older[0].timestamp, older[-1].timestamp) == 50
        (row,) = work.run([SYMBOL])
        assert row["left"] == 50 and work.lacking
    assert place.execute(query).fetchall() == before
    assert place.missing() == []
    with closing(place.backfill()) as work:
        (row,) = work.run([SYMBOL])  # the bars beside that day are proven again
        assert row["missing"] == row["left"] == 0 and not work.lacking


def test_candles_prove_nothing_for_a_tape(place):
    """Where the tape is gone, what its candles know is missing; it is not mended as candles alone would be."""
    lines = place.lines()
    place.store([*lines, *makes(lines)])
    place.execute("UPDATE trade_ledger SET covered = '{}', first_id = NULL, last_id = NULL, first_time = NULL")
    place.execute("DELETE FROM raw_trades")
    lost = [one for one in place.missing() if one[0] == "missing"]
    assert lost[0][1] <= place.ids[100] and lost[-1][2] >= place.ids[-300]
    place.execute("DELETE FROM trade_ledger")
    assert place.missing() == []  # candles alone are stored
    assert [one.kind for one in gaps.ranges(place.connection, *KEY, kept=True)] == [
        *(one[0] for one in lost),
        "unknown",
    ]
    with closing(place.backfill(taped=[SYMBOL])) as work:
        assert list(work.run([SYMBOL])) == [] and work.lacking
        (row,) = work.run([SYMBOL], START_MS - 3_600_000)
        assert row["left"] == 0
    assert place.stored() == place.ids


@pytest.mark.parametrize("at", [3000, -100])
def test_bars_with_a_fill_that_was_refused(place, at):
    """A wild id came in a stream and is in its bars, but not in the tape: they are made again without it."""
    lines = place.lines()
    wild = replace(lines[at], trade_id=10**15, price=lines[0].price * 9)
    place.store([*lines, *makes([*lines[:at], wild, *lines[at:]])])
    assert max(bar["last_trade_id"] for bar in place.candles().values()) == 10**15
    place.run()
    assert place.candles() == made(lines)
    assert place.missing() == []


BEHIND_ITS_BACK = {
    "rows deleted": "DELETE FROM raw_trades WHERE trade_id BETWEEN %(a)s AND %(a)s + 9",
    "the first and the last row deleted": "DELETE FROM raw_trades WHERE trade_id IN (%(first)s, %(last)s)",
    "every row deleted": "TRUNCATE raw_trades",
    "a price altered": "UPDATE raw_trades SET price = price * 2 WHERE trade_id = %(a)s",
    "a size altered": "UPDATE raw_trades SET size = size + 0.00000001 WHERE trade_id = %(a)s",
    "a side altered": "UPDATE raw_trades SET side = CASE side WHEN 'buy' THEN 'sell' ELSE 'buy' END"
    " WHERE trade_id = %(a)s",
    "a time altered": "UPDATE raw_trades SET timestamp = timestamp + interval '61 s' WHERE trade_id = %(a)s",
    "an id altered": "UPDATE raw_trades SET trade_id = trade_id + 10000 WHERE trade_id = %(a)s",
    "two prices exchanged": "UPDATE raw_trades r SET price = o.price FROM raw_trades o WHERE (r.trade_id, o.trade_id)"
    " IN ((%(a)s, %(b)s), (%(b)s, %(a)s))",
    "a row doubled": "INSERT INTO raw_trades SELECT exchange, symbol, trade_id, count, side, price, size,"
    " timestamp + interval '1 s', received, source, origin FROM raw_trades WHERE trade_id = %(a)s",
    "a row that never was": "INSERT INTO raw_trades SELECT exchange, symbol, trade_id + 1000, count, side, price, size,"
    " timestamp, received, source, origin FROM raw_trades WHERE trade_id = %(last)s",
    "the ledger deleted": "DELETE FROM trade_ledger",
    "the ledger widened": "UPDATE trade_ledger SET covered = covered + int8multirange(int8range(%(last)s + 1,"
    " %(last)s + 6)), last_id = %(last)s + 5",
    "the ledger narrowed": "UPDATE trade_ledger SET covered = covered - int8multirange(int8range(%(a)s, %(b)s))",
}


@pytest.mark.parametrize("done", BEHIND_ITS_BACK)
def test_what_was_done_behind_its_back(place, done):
    """The next run counts the rows, says so, and makes fills, ledger and bars what they were; then it is silent."""
    place.store(place.lines())
    place.run()
    whole, rows = place.candles(), place.rows()
    a = next(n for n, m in pairwise(rows) if n[1] > place.ids[2000] and n[3] != m[3])[1]  # another price follows
    values = {"a": a, "b": a + 1, "first": place.ids[0], "last": place.ids[-1]}
    place.execute(BEHIND_ITS_BACK[done], values)
    audit.audit(place.connection)
    told = audit.findings(place.connection)
    assert len(told) == 1 and len(gaps.differing_days(place.connection, *KEY)) == 1
    with closing(place.backfill()) as work:
        found = list(work.run([SYMBOL]))
    assert audit.findings(place.connection) == []
    assert place.rows() == rows
    assert [one for one in place.missing() if one[0] != "unknown"] == []
    assert place.candles() == whole
    assert not work.lacking and len(found) <= 1
    assert place.run() == [] and recount.recount(place.connection, *KEY) == []


def test_a_symbol_that_okx_does_not_have(place):
    """Does not keep the others from being filled; the error comes at the end."""
    place.store(place.lines()[:-500])
    found = []
    with closing(place.backfill()) as work, pytest.raises(ExchangeUnavailable):
        for row in work.run(["NO-SUCH", SYMBOL], START_MS - 500_000):
            found.append(row)
    assert place.stored() == place.ids
    assert [row["symbol"] for row in found] == [SYMBOL]


def test_a_hole_while_the_day_is_open(place):
    """A bar that is not over is left alone until it is; then the ledger makes it whole."""
    lines = place.lines()
    place.store([line for at, line in enumerate(lines) if not 900 <= at < 1000])
    place.run()
    (hour,) = parse_list("1h")
    assert all(end <= lines[-1].timestamp for _, end in place.candles())
    day = place.exchange
    day.trade(SYMBOL, "5", "1", ts=hour.end_of(hour.start_of(lines[-1].timestamp)) + 1)
    day.trade(SYMBOL, "5", "1", ts=hour.end_of(hour.start_of(lines[-1].timestamp)) + 2)
    place.run(clock=lambda: START_MS + 2 * 3_600_000)
    hours = [c for (frame, _), c in place.candles().items() if frame == "1h"]
    assert [c["complete"] for c in hours][-1:] == [True]


def test_one_lock_for_a_database():
    """The locks of the database are different numbers."""
    locks = [value for name, value in vars(versions).items() if name.endswith("_LOCK")]
    assert len(set(locks)) == len(locks) == 4
