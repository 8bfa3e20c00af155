"""Candles: every rule of okx-candles(7), and properties checked against a model that shares no code with them."""

import random
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from okxcli.core.candles.block_processor import BlockCandleProcessor
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.candles.rollup import CandleRollup
from okxcli.core.model import Absent, Instrument, StandardizedTrade
from okxcli.errors import InvalidLine

T0 = 1_747_087_200_000  # 2025-05-12T22:00:00Z, on an hour


def trade(i, at, price="100", size="1", side="buy", symbol="BTC-USDT", count=1):
    return StandardizedTrade("okx", symbol, i, side, Decimal(price), Decimal(size), T0 + at, count=count)


def run(lines, tf="1s,5s", finish=True, **options):
    """Return every candle that the lines make."""
    made = []
    maker = RealTimeCandleProcessor(tf, made.append, **options)
    for line in lines:
        maker.feed(line)
    if finish:
        maker.finish()
    return made


def last_lines(candles):
    """Return the last line of each bar, without its revision."""
    return {(c.symbol, c.timeframe, c.timestamp): msgspec.structs.replace(c, revision=0) for c in candles if c.closed}


def roll(candles, source, tf, **options):
    made = []
    maker = CandleRollup(source, tf, made.append, **options)
    for candle in candles:
        maker.feed(candle)
    maker.finish()
    return made


# ---- the rules, one by one


def test_a_trade_on_the_edge_opens_the_next_bar():
    """Bars are half-open and labelled by their end."""
    (bar,) = run([trade(1, 0, "1"), trade(2, 999, "2"), trade(3, 1000, "3")], "1s")
    assert (bar.start, bar.timestamp) == (T0, T0 + 1000)
    assert (bar.open, bar.close, bar.trade_count) == (1, 2, 2)


def test_nothing_is_written_before_a_bar_is_over():
    """The line that closes a bar is the first of its symbol at or past the end; another symbol closes nothing."""
    made = []
    maker = RealTimeCandleProcessor("1s", made.append)
    maker.trade(trade(1, 0))
    maker.trade(trade(2, 999))
    maker.trade(trade(9, 50_000, symbol="ETH-USDT"))
    assert made == []
    maker.trade(trade(3, 1000))
    assert [c.symbol for c in made] == ["BTC-USDT"]


def test_open_and_close_follow_the_ids():
    """Many trades share a millisecond, and time may step back: inside a bar the order is that of the ids."""
    (bar,) = run([trade(2, 500, "2"), trade(3, 400, "3"), trade(1, 600, "1"), trade(4, 1000)], "1s")
    assert (bar.open, bar.close, bar.high, bar.low) == (1, 3, 3, 1)


def test_volumes():
    """Volume, the part that takers bought, and turnover are exact sums."""
    (bar,) = run([trade(1, 0, "0.1", "0.2"), trade(2, 1, "0.3", "0.7", "sell"), trade(3, 1000)], "1s")
    assert (bar.volume, bar.buy_volume, bar.base_volume) == (Decimal("0.9"), Decimal("0.2"), Decimal("0.9"))
    assert bar.quote_volume == Decimal("0.23")


@pytest.mark.parametrize("kind", ["linear", "inverse"])
def test_contracts_are_worth_what_they_were(kind):
    """A contract value that changes in the middle of a bar holds for the fills after it, not for those before."""
    first, second = (
        Instrument("okx", "BTC-USD-SWAP", "swap", "live", contract_type=kind, contract_value=Decimal(value))
        for value in ("100", "10")
    )
    fills = [trade(i, i, "50000", "3", symbol="BTC-USD-SWAP") for i in range(1, 5)]
    (bar,) = run([first, *fills[:3], second, fills[3], trade(5, 1000, symbol="BTC-USD-SWAP")], "1s")
    contracts = 3 * 3 * 100 + 3 * 10
    amounts = (bar.base_volume, bar.quote_volume)
    assert amounts == (
        (contracts, contracts * 50_000) if kind == "linear" else (Decimal(contracts) / 50_000, contracts)
    )


def test_contracts_become_coins():
    """Derivatives count contracts; the instrument says what they are worth, and without one nobody guesses."""
    linear = Instrument("okx", "BTC-USDT-SWAP", "swap", "live", contract_type="linear",
                        contract_value=Decimal("0.01"), contract_multiplier=Decimal(1))  # fmt: skip
    inverse = Instrument("okx", "BTC-USD-SWAP", "swap", "live", contract_type="inverse",
                         contract_value=Decimal(100), contract_multiplier=Decimal(1))  # fmt: skip
    for instrument, base, quote in ((linear, "0.03", "1500"), (inverse, "0.006", "300"), (None, None, None)):
        symbol = instrument.symbol if instrument else "BTC-USDT-SWAP"
        lines = [trade(1, 0, "50000", "3", symbol=symbol), trade(2, 1000, symbol=symbol)]
        (bar,) = run([instrument, *lines] if instrument else lines, "1s")
        assert bar.volume == 3
        assert bar.base_volume == (base and Decimal(base))
        assert bar.quote_volume == (quote and Decimal(quote))


def test_complete_needs_both_neighbours():
    """The first bar of a stream and the bars beside a hole are not complete; those between are."""
    bars = run([trade(5, 0), trade(6, 1000), trade(7, 2000), trade(9, 3000), trade(10, 4000), trade(11, 5000)], "1s")
    assert [c.complete for c in bars] == [False, True, False, False, True]


def test_the_very_first_fill_has_no_neighbour_below():
    """Id 1 is the first there is."""
    (bar,) = run([trade(1, 0), trade(2, 1000)], "1s")
    assert bar.complete


def test_ids_may_lie_in_the_neighbouring_bar():
    """Timestamps can step back: an id of the next bar inside this bar's range leaves it complete."""
    bars = run([trade(1, 0), trade(2, 500), trade(3, 1100), trade(4, 900), trade(5, 1200), trade(6, 12_500)], "1s")
    final = last_lines(bars)
    first = final["BTC-USDT", "1s", T0 + 1000]
    assert (first.first_trade_id, first.last_trade_id, first.trade_count, first.complete) == (1, 4, 3, True)


def test_a_step_back_after_the_first_fill_proves_nothing():
    """Where a stream begins, or goes on after a hole, a fill from before it makes no bar of what nobody saw."""
    bars = run([trade(5, 2000), trade(6, 1990), trade(7, 2010), trade(8, 3000), trade(9, 4010), trade(10, 5010)], "1s")
    final = {c.start - T0: (c.trade_count, c.complete) for c in last_lines(bars).values()}
    assert final == {1000: (1, False), 2000: (2, False), 3000: (1, True), 4000: (1, True)}
    mended = last_lines(run([trade(8, 3000), trade(9, 2990), trade(10, 3010), trade(11, 4010), trade(7, 1500)], "1s"))
    assert {c.start - T0: c.complete for c in mended.values()} == {1000: False, 2000: True, 3000: True}


def test_where_time_steps_back_more_must_be_known():
    """A fill that nobody has seen may step back as far as others did: what is known must reach past that."""
    tape = [trade(1, 0), trade(2, 800), trade(3, 300), trade(4, 1900)]  # half a second back
    (first,) = [c for c in run([*tape, trade(5, 2499)], "1s") if c.timestamp == T0 + 2000]
    assert not first.complete
    assert last_lines(run([*tape, trade(5, 2500)], "1s"))["BTC-USDT", "1s", T0 + 2000].complete
    assert last_lines(run([*tape, trade(5, 2499), trade(6, 2500)], "1s"))["BTC-USDT", "1s", T0 + 2000].complete


def test_a_long_step_back_keeps_bars_waiting():
    """Longer than the window for late trades, too: a bar is written again once what is known reaches far enough."""
    tape = [trade(1, 60_000), trade(2, 45_000), *(trade(i, 60_000 + 1000 * i) for i in range(3, 40))]
    final = last_lines(run(tape, "1s"))
    assert [c.complete for c in final.values() if c.start > T0 + 70_000] == [True] * 13 + [False] * 15


def test_an_absent_id_ends_no_proof():
    """It has no time: beside it a fill of the bar may be missing, above as below."""
    above = [
        trade(1, -500),
        trade(2, 100),
        trade(3, 200),
        trade(6, 1100),
        trade(7, 2100),
        Absent("okx", "BTC-USDT", 4, 4),
    ]
    assert not last_lines(run(above, "1s"))["BTC-USDT", "1s", T0 + 1000].complete
    assert last_lines(run([*above, trade(5, 900)], "1s"))["BTC-USDT", "1s", T0 + 1000].complete
    below = [trade(1, -500), Absent("okx", "BTC-USDT", 3, 3), trade(4, 100), trade(5, 1100)]
    assert not last_lines(run(below, "1s"))["BTC-USDT", "1s", T0 + 1000].complete


def test_an_absent_id_that_turns_up_is_folded_in():
    """What was called absent was not seen: its fill is no duplicate, and the bar is written again with it."""
    tape = [trade(1, -500), trade(2, 100), trade(4, 800), Absent("okx", "BTC-USDT", 3, 3), trade(5, 1100)]
    bars = [c for c in run([*tape, trade(3, 500, "99"), trade(6, 20_000)], "1s") if c.timestamp == T0 + 1000]
    assert [(c.revision, c.trade_count, c.low, c.complete) for c in bars] == [(0, 2, 100, True), (1, 3, 99, True)]
    maker = RealTimeCandleProcessor("1s")
    for line in (*tape, trade(3, 500), trade(3, 500), trade(4, 800)):
        maker.feed(line)
    assert (maker.trades, maker.duplicates) == (5, 2)


def test_a_wild_count_does_not_begin_a_tape():
    """Ids begin at 1; a merged trade that claims all ids from 1 on is no witness of that."""
    (bar,) = run([trade(500, 0, count=500), trade(501, 1000)], "1s")
    assert (bar.first_trade_id, bar.complete) == (1, False)


def test_a_bar_that_lost_a_late_trade_is_not_complete():
    """Also when it had been written complete: the trade was of this bar, and is not in it."""
    lines = [trade(1, -500), trade(2, 100), trade(3, 59_950), trade(5, 60_100), trade(6, 61_000)]
    bars = [c for c in run([*lines, trade(4, 40_000), trade(7, 90_000)], "1m") if c.timestamp == T0 + 60_000]
    assert [(c.trade_count, c.complete) for c in bars] == [(2, False)]


def test_quiet_longer_than_a_week_is_left_open():
    """One wrong time must not make millions of flat bars."""
    week = 7 * 86_400_000
    for length, flats in ((week, week // 3_600_000), (week + 3_600_000, 0)):
        maker = RealTimeCandleProcessor("1h", (made := []).append, fill=True)
        for line in (trade(1, 0), trade(2, 3_600_000 + length), trade(3, 2 * 3_600_000 + length)):
            maker.feed(line)
        assert sum(not c.trade_count for c in made) == flats
        assert maker.counts()["long_quiets"] == (not flats)


def test_absent_ids_count_as_known():
    """Ids that the exchange does not have make no bar incomplete, also when that is learned a minute later."""
    lines = [trade(1, 0), trade(2, 1000), trade(5, 2000), trade(6, 3000), trade(7, 62_000)]
    assert not last_lines(run(lines, "1s"))["BTC-USDT", "1s", T0 + 2000].complete
    bars = run([*lines, Absent("okx", "BTC-USDT", 3, 4), trade(8, 63_000)], "1s")
    assert [c.complete for c in last_lines(bars).values()] == [True] * 5
    assert max(c.revision for c in bars) == 1


def test_merged_trades_cover_their_ids():
    """A trade of three fills closes a hole of three ids."""
    bars = run([trade(1, 0), trade(4, 1000, count=3), trade(5, 2000)], "1s")
    assert [c.complete for c in bars] == [True, True]
    assert bars[1].trade_count == 3


def test_a_late_trade_revises_its_bar_once():
    """Inside the window it is folded in, and the bar written once more when the window has passed."""
    lines = [trade(1, 0, "1"), trade(3, 1500, "3"), trade(2, 900, "2"), trade(4, 5000), trade(5, 12_000)]
    bars = [c for c in run(lines, "1s") if c.timestamp == T0 + 1000]
    assert [(c.revision, c.trade_count, c.complete) for c in bars] == [(0, 1, False), (1, 2, True)]


def test_what_comes_later_still_is_counted_and_left_out():
    """Past the window a trade changes no final bar, and no bar that lacks it is complete."""
    made = []
    maker = RealTimeCandleProcessor("1s,1m", made.append)
    for line in (trade(1, 0), trade(3, 1500), trade(4, 20_000), trade(2, 900), trade(5, 70_000)):
        maker.feed(line)
    maker.finish()
    assert maker.late == 1
    final = last_lines(made)
    assert final["BTC-USDT", "1s", T0 + 1000].trade_count == 1
    assert not final["BTC-USDT", "1s", T0 + 1000].complete
    assert final["BTC-USDT", "1s", T0 + 2000].complete  # it was not of this one
    minute = final["BTC-USDT", "1m", T0 + 60_000]  # was still running: it has the trade
    assert (minute.trade_count, minute.complete) == (4, True)


def test_timeframes_do_not_depend_on_their_neighbours():
    """A 1m bar is the same whether 1s bars are made beside it or not, late trades included."""
    rng = random.Random(5)
    lines = [trade(i, i * 700 - rng.choice([0, 0, 0, 15_000, 40_000]) + 60_000) for i in range(1, 400)]
    alone = run(lines, "1m")
    beside = [c for c in run(lines, "1s,7d,1m") if c.timeframe == "1m"]
    assert alone == beside


def test_provisional_bars_by_the_wall_clock():
    """A live symbol's bar is written when the wall clock has passed it, not complete, and again when final."""
    made = []
    maker = RealTimeCandleProcessor("1s", made.append, grace_ms=2000)
    maker.feed(trade(1, 0))
    maker.feed(trade(2, 10))
    assert maker.advance(T0 + 2999) == T0 + 3000
    assert made == []
    assert maker.advance(T0 + 3000) is None
    assert [(c.complete, c.revision) for c in made] == [(False, 0)]
    maker.feed(trade(3, 4000))
    assert [(c.complete, c.revision) for c in made] == [(False, 0), (True, 1)]
    assert msgspec.structs.replace(made[0], complete=True, revision=1) == made[1]


def test_history_is_not_closed_by_the_wall_clock():
    """Old trades have no wall clock, so that history is deterministic."""
    maker = RealTimeCandleProcessor("1s", emit=pytest.fail)
    maker.feed(trade(1, 0))
    assert maker.advance(T0 + 60_000) is None


class LooksAtAll(RealTimeCandleProcessor):
    """What `advance` is to make and return, by a look at every symbol."""

    def advance(self, now_ms):
        dues = []
        for market in self._markets.values():
            market.live = market.live or (market.clock > 0 and now_ms - market.clock < 60_000)
            if market.live:
                self.write(series.provisional(now_ms, self.grace_ms) for series in market.series)
                dues += [end + self.grace_ms for series in market.series if (end := series.next_end()) is not None]
        return min(dues, default=None)


@pytest.mark.parametrize("seed", range(20))
def test_who_is_not_due_need_not_be_looked_at(seed):
    """Any trades of many symbols, late and repeated ones too, at any times by the wall clock."""
    rng = random.Random(seed)
    options = {"lateness_ms": rng.choice([0, 1500]), "grace_ms": rng.choice([0, 700]), "fill": rng.random() < 0.5}
    symbols = [f"S{n}-USDT" for n in range(7)]
    ids, made, at, dues = dict.fromkeys(symbols, 1), ([], []), 0, set()
    makers = [kind("1s,5s", made[n].append, **options) for n, kind in enumerate((RealTimeCandleProcessor, LooksAtAll))]
    for _ in range(400):
        at += rng.choice([0, 30, 400, 2500, 70_000 if rng.random() < 0.02 else 0])
        symbol = rng.choice(symbols[: 1 + at // 4000])
        ids[symbol] += rng.choice([0, 1, 1, 1, 2])
        moment = max(0, at - rng.choice([0, 0, 0, 100, 1200, 4000]))
        gone = rng.choice(symbols) if rng.random() < 0.02 else None
        now = T0 + at + rng.choice([-3000, 0, 50, 900])
        found = []
        for maker in makers:
            if gone is not None:
                maker.forget("okx", gone)
            maker.feed(trade(ids[symbol], moment, symbol=symbol))
            found.append(maker.advance(now))
        assert found[0] == found[1]
        dues.add(found[0])
    assert made[0] == made[1] and len(dues) > 20 and any(not c.complete for c in made[0])


def test_time_alone_costs_nothing_for_symbols_that_are_not_due(monkeypatch):
    """A thousand symbols that wait for the end of their bars are not looked at every time."""
    maker = RealTimeCandleProcessor("1m", emit=pytest.fail)
    for number in range(1000):
        maker.feed(trade(1, number, symbol=f"S{number}-USDT"))
    assert maker.advance(T0 + 1000) == T0 + 62_000
    monkeypatch.setattr("okxcli.core.candles.series.Series.next_end", pytest.fail)
    monkeypatch.setattr("okxcli.core.candles.series.Series.provisional", pytest.fail)
    assert maker.advance(T0 + 61_999) == T0 + 62_000


class NoFolds:
    """A kernel that folds nothing, and counts how often it is asked what it has."""

    asked = 0

    def watch(self, *place):
        pass

    def run(self, *place):
        self.asked += 1


def test_old_trades_of_many_symbols_are_not_looked_at_with_every_block():
    """Nor is it put off for long that one is live: who advances is told when to come again."""
    folder, made = NoFolds(), []
    maker = BlockCandleProcessor(folder, "1m", made.append)
    for number in range(100):
        maker.feed(trade(1, number, symbol=f"S{number}-USDT"))
    now = T0 + 3_600_000
    folder.asked = 0
    assert maker.advance(now) is None and folder.asked == 100
    for later in range(1, 250, 10):
        assert maker.advance(now + later) == now + 250
    assert folder.asked == 100
    maker.feed(trade(2, 3_600_100, symbol="S7-USDT"))
    assert maker.advance(now + 200) == now + 250
    assert maker.advance(now + 250) == now + 62_000
    made.clear()
    maker.advance(now + 62_000)
    assert [(bar.symbol, bar.complete) for bar in made] == [("S7-USDT", False)]


def test_flat_bars_only_where_the_ids_prove_the_quiet():
    """With fill, a quiet that the ids prove has flat bars at the last close; an outage never."""
    bars = run([trade(1, 0, "7"), trade(2, 3100, "8"), trade(4, 5100)], "1s", fill=True)
    flat = [c for c in bars if c.trade_count == 0]
    assert [c.timestamp - T0 for c in flat] == [2000, 3000]
    assert all(c.open == c.high == c.low == c.close == 7 and c.volume == 0 and c.complete for c in flat)
    assert [c.timestamp - T0 for c in bars] == [1000, 2000, 3000, 4000]


def test_a_repaired_hole_brings_the_flat_bars():
    """Ids that come late into a quiet prove the rest of it."""
    bars = run([trade(1, 0, "7"), trade(3, 5000), trade(2, 2500, "8"), trade(4, 6000)], "1s", fill=True)
    final = last_lines(bars)
    assert [(k[2] - T0, c.trade_count, c.close) for k, c in sorted(final.items())] == [
        (1000, 1, 7), (2000, 0, 7), (3000, 1, 8), (4000, 0, 8), (5000, 0, 8), (6000, 1, 100)]  # fmt: skip


def test_running_bars_on_request():
    """With partial, running bars are written once a second of the symbol's time, and at the end, as not closed."""
    bars = run([trade(1, 0), trade(2, 100), trade(3, 1000), trade(4, 2500)], "1m", partial=True)
    assert [(c.closed, c.trade_count) for c in bars] == [(False, 1), (False, 3), (False, 4)]
    assert all(not c.complete for c in bars)


def test_hooks_see_new_trades_and_closed_candles():
    """Registered functions are called for each trade that is no duplicate and each closed candle."""
    seen, closed = [], []
    maker = RealTimeCandleProcessor("1s")
    maker.on_trade(seen.append)
    maker.on_candle(closed.append)
    for line in (trade(1, 0), trade(1, 0), trade(2, 1000)):
        maker.feed(line)
    assert [t.trade_id for t in seen] == [1, 2]
    assert [c.timestamp for c in closed] == [T0 + 1000]


def test_counts():
    """Every trade is accounted for."""
    maker = RealTimeCandleProcessor("1s")
    for line in (
        trade(1, 0),
        trade(2, 0),
        trade(2, 0),
        trade(7, 3000, count=3),
        trade(7, 3000, count=4),
        trade(9, 20_000),
    ):
        maker.feed(line)
    counts = maker.counts()
    assert (counts["trades"], counts["duplicates"], counts["overlapping"]) == (4, 1, 1)
    assert (counts["missing_fills"], counts["open_bars"], counts["symbols"]) == (3, 1, 1)


def test_bars_cut_in_utc_plus_8():
    """1d+8 starts at 16:00 UTC; both kinds of day are made of the same trades."""
    bars = run([trade(1, 0, "1"), trade(2, 3 * 3_600_000, "2"), trade(3, 30 * 3_600_000, "3")], "1d,1d+8,1w,1M+8")
    days = {c.timeframe: c for c in reversed(bars)}
    assert (days["1d"].timestamp - T0, days["1d"].trade_count) == (2 * 3_600_000, 1)
    assert (days["1d+8"].timestamp - T0, days["1d+8"].trade_count) == (18 * 3_600_000, 2)


def test_rollup_of_timeframes_that_do_not_nest():
    """Bars are made of whole smaller bars, or refused."""
    with pytest.raises(InvalidLine):
        CandleRollup("1m", "90s", lambda candle: None)
    with pytest.raises(InvalidLine):
        CandleRollup("1d", "1d+8", lambda candle: None)


# ---- properties


@st.composite
def tapes(draw, step_back=True, holes=True, symbols=1):
    """A tape in id order: fills that share milliseconds, quiet spells, holes in the ids, time that steps back a bit."""
    rng = draw(st.randoms(use_true_random=False))
    tape = []
    for k in range(symbols):
        at, i = rng.randrange(0, 3000), rng.choice([1, 100, 2**31 - 5])
        for _ in range(draw(st.integers(1, 60))):
            at += rng.choice([0, 0, 0, 1, 40, 300, 900, 1000, 2500, 14_000])
            back = rng.choice([0, 0, 0, 0, 300, 1500]) if step_back else 0
            price, size = rng.randrange(99_000, 101_000), rng.randrange(1, 10**9)
            tape.append(
                trade(i, max(at - back, 0), f"{price}e-1", f"{size}e-8", rng.choice(["buy", "sell"]), f"S{k}-USDT")
            )
            i += 1 if not holes or rng.random() < 0.9 else rng.randrange(2, 4)
    return tape


def oracle(tape, length):
    """Bars by a plain loop over the whole tape."""
    bars = {}
    for t in sorted(tape, key=lambda t: t.trade_id):
        bars.setdefault((t.symbol, t.timestamp // length), []).append(t)
    return {
        (symbol, (n + 1) * length): (
            ts[0].price, max(t.price for t in ts), min(t.price for t in ts), ts[-1].price,
            sum(t.size for t in ts), sum(t.size * t.price for t in ts),
            sum((t.size for t in ts if t.side == "buy"), Decimal(0)), len(ts), ts[0].trade_id, ts[-1].trade_id,
        )
        for (symbol, n), ts in bars.items()
    }  # fmt: skip


def figures(c):
    return (c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.buy_volume, c.trade_count,
            c.first_trade_id, c.last_trade_id)  # fmt: skip


def largest_step(tape, symbol):
    known = sorted((t.trade_id, t.timestamp) for t in tape if t.symbol == symbol)
    return max(a - b for n, (_, a) in enumerate(known) for _, b in known[n:])


def provably_complete(tape, candle, step):
    known = {t.trade_id: t.timestamp for t in tape if t.symbol == candle.symbol}
    low, high = candle.first_trade_id, candle.last_trade_id
    if not set(range(low, high + 1)) <= known.keys():
        return False
    run = {candle.first_trade_id}
    while low - 1 in known:
        low -= 1
        run.add(low)
    while high + 1 in known:
        high += 1
        run.add(high)
    begins = low == 1 or any(known[i] < candle.start - step for i in run)
    return begins and any(known[i] >= candle.timestamp + step for i in run)


@given(tapes(symbols=2))
def test_bars_equal_a_plain_loop(tape):
    """Every final bar, in every timeframe, is what its own trades come to, and complete where the ids prove it."""
    final = last_lines(run(tape, "1s,5s,1m"))
    newest = {t.symbol: max(u.timestamp for u in tape if u.symbol == t.symbol) for t in tape}
    for name, length in (("1s", 1000), ("5s", 5000), ("1m", 60_000)):
        expected = {k: v for k, v in oracle(tape, length).items() if k[1] <= newest[k[0]]}
        mine = {(c.symbol, c.timestamp): c for c in final.values() if c.timeframe == name}
        assert {k: figures(c) for k, c in mine.items()} == expected
        for candle in mine.values():  # a step that shows only after a bar was let go does not change it any more
            assert candle.complete or not provably_complete(tape, candle, largest_step(tape, candle.symbol))
            assert provably_complete(tape, candle, 0) or not candle.complete


@pytest.mark.slow
@given(tapes(), st.randoms(use_true_random=False))
def test_order_of_arrival_inside_the_window_does_not_matter(tape, rng):
    """Shuffling trades inside the lateness window leaves the last line of every bar as it was."""
    newest = tape[0].timestamp
    waiting, shuffled = list(tape), []
    while waiting:  # any next trade that is not late, and that makes no waiting one late
        fit = [
            t for t in waiting
            if t.timestamp >= newest - 10_000
            and all(u.timestamp >= max(newest, t.timestamp) - 10_000 for u in waiting if u is not t)
        ]  # fmt: skip
        chosen = rng.choice(fit) if fit else waiting[0]
        waiting.remove(chosen)
        shuffled.append(chosen)
        newest = max(newest, chosen.timestamp)
    if any(t.timestamp < max(u.timestamp for u in tape[: n + 1]) - 10_000 for n, t in enumerate(tape)):
        return
    mine, theirs = (last_lines(run(trades, "1s,5s,1m")) for trades in (tape, shuffled))
    if largest_step(tape, tape[0].symbol):  # shown earlier or later, it counts for bars that are not let go by then
        mine, theirs = ({key: figures(bar) for key, bar in bars.items()} for bars in (mine, theirs))
    assert mine == theirs


@given(tapes(), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_repeating_any_part_adds_nothing(tape, start, length, at):
    """A part of the input that comes again, at any later place, changes no byte."""
    part = tape[start : start + length]
    at = max(at, min(start + length, len(tape)))
    assert run(tape) == run([*tape[:at], *part, *tape[at:]])


@pytest.mark.slow
@given(tapes(symbols=3), st.randoms(use_true_random=False))
def test_symbols_do_not_touch_each_other(tape, rng):
    """Any interleaving of symbols, and one after the other, gives the same lines for each."""
    by_symbol = {s: [t for t in tape if t.symbol == s] for s in {t.symbol for t in tape}}
    queues = [list(trades) for trades in by_symbol.values()]
    mixed = []
    while any(queues):
        mixed.append(rng.choice([q for q in queues if q]).pop(0))
    for symbol, trades in by_symbol.items():
        alone = run(trades, fill=True)
        assert [c for c in run(mixed, fill=True) if c.symbol == symbol] == alone
        assert [c for c in run(tape, fill=True) if c.symbol == symbol] == alone


@given(tapes(), st.integers(1, 60))
def test_no_leakage(tape, cut):
    """What was written by some moment is the same whatever trades come afterwards."""
    before = run(tape[:cut], finish=False, partial=True)
    assert run(tape, finish=False, partial=True)[: len(before)] == before
    changed = [*tape[:cut], *(msgspec.structs.replace(t, price=t.price * 3, size=t.size * 7) for t in tape[cut:])]
    mine, theirs = last_lines(run(tape)), last_lines(run(changed))
    untouched = [
        k for k in mine if all(not k[2] - {"1s": 1000, "5s": 5000}[k[1]] <= t.timestamp < k[2] for t in tape[cut:])
    ]
    assert all(figures(mine[k]) == figures(theirs[k]) for k in untouched)


@given(tapes())
def test_volume_is_conserved(tape):
    """Every fill is in exactly one bar of each timeframe, once the input has gone on past it."""
    end = trade(tape[-1].trade_id + 1, max(t.timestamp for t in tape) - T0 + 120_000, symbol=tape[0].symbol)
    bars = last_lines(run([*tape, end], "1s,5s,1m")).values()
    for name in ("1s", "5s", "1m"):
        assert sum(c.volume for c in bars if c.timeframe == name) == sum(t.size for t in tape)
        assert sum(c.trade_count for c in bars if c.timeframe == name) == len(tape)
    assert all(c.low <= min(c.open, c.close) and c.high >= max(c.open, c.close) for c in bars)


def small_and_large(tape, fill):
    """Return the 1s candle lines of a tape, and the last lines of its larger bars made from trades and from those."""
    everything = run(tape, "1s,5s,1m", fill=fill)
    small = [c for c in everything if c.timeframe == "1s"]
    direct = {k: c for k, c in last_lines(everything).items() if k[1] != "1s"}
    return direct, last_lines(roll(small, "1s", "5s,1m", fill=fill))


def missing_at_the_end(direct, rolled):
    """Return the bars that only the trades gave, without the last one that traded of each symbol and timeframe."""
    ends = {}
    for (symbol, name, timestamp), candle in direct.items():
        if candle.trade_count:
            ends[symbol, name] = max(ends.get((symbol, name), 0), timestamp)
    return [k for k in direct if k not in rolled and k[2] < ends[k[0], k[1]]]


@given(tapes(symbols=2, step_back=False), st.booleans())
def test_candles_of_candles_are_candles_of_trades(tape, fill):
    """Feeding 1s candles gives the larger bars that the trades give; only the last of each may be absent."""
    direct, rolled = small_and_large(tape, fill)
    assert rolled == {k: c for k, c in direct.items() if k in rolled}
    assert not missing_at_the_end(direct, rolled)


def shown_first(tape):
    """Return a tape that begins by showing, from one second to another, how far its times step back.

    Nobody can know of a step that comes later, nor bars of a second of one inside of them.
    """
    steps, newest, lowest = defaultdict(int), {}, {}
    for one in sorted(tape, key=lambda t: t.trade_id):
        lowest.setdefault(one.symbol, one.trade_id)
        high = newest[one.symbol] = max(newest.get(one.symbol, 0), one.timestamp)
        steps[one.symbol] = max(steps[one.symbol], high - one.timestamp)
    first = [
        trade(lowest[s] + n, at, symbol=s) for s, step in steps.items() for n, at in ((0, -60_000), (1, -61_000 - step))
    ]
    return [*first, *(msgspec.structs.replace(t, trade_id=t.trade_id + 2) for t in tape)]


@pytest.mark.slow
@given(tapes(symbols=2))
@example([trade(1, 569), trade(2, 0), trade(3, 4_900), trade(4, 5_100), trade(6, 12_000)])
def test_candles_of_candles_where_time_steps_back(tape):
    """Where ids of one bar lie between those of another, the figures are the same, and `complete` is never a lie."""
    direct, rolled = small_and_large(shown_first(tape), fill=False)
    assert rolled.keys() <= direct.keys()
    assert not missing_at_the_end(direct, rolled)
    for key, candle in rolled.items():
        assert figures(candle) == figures(direct[key])
        assert direct[key].complete or not candle.complete


@given(tapes(), st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_repeating_candles_adds_nothing(tape, start, length, at):
    """Candle lines that come again change no byte either."""
    small = [c for c in run(tape, "1s,5s") if c.timeframe == "1s"]
    part = small[start : start + length]
    at = max(at, min(start + length, len(small)))
    assert roll(small, "1s", "5s,1m") == roll([*small[:at], *part, *small[at:]], "1s", "5s,1m")


@pytest.mark.slow
@given(tapes(holes=False, step_back=False))
def test_quotients_are_rounded_fill_by_fill(tape):
    """Coins of an inverse contract: a quotient of 18 places for each fill, half to even, and from there exact sums, so
    that bars of trades, of smaller bars and of candle lines have the same digits.
    """
    instrument = Instrument("okx", "S0-USDT", "swap", "live", contract_type="inverse", contract_value=Decimal(100))
    everything = run([instrument, *tape], "1s,5s,1m")
    small = [c for c in everything if c.timeframe == "1s"]
    rolled = last_lines(roll(small, "1s", "5s,1m"))
    for key, candle in last_lines(everything).items():
        inside = [t for t in tape if candle.start <= t.timestamp < candle.timestamp]
        units = sum(round(Fraction(t.size) * 100 / Fraction(t.price) * 10**18) for t in inside)
        assert candle.base_volume == Decimal(units).scaleb(-18)
        assert candle.quote_volume == sum(t.size * 100 for t in inside)
        assert key not in rolled or rolled[key] == candle
    alone = last_lines(run([instrument, *tape], "1m"))
    assert alone == {key: candle for key, candle in last_lines(everything).items() if key[1] == "1m"}
