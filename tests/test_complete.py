"""`complete` is never wrong: damaged markets against a whole one kept apart, and a judge that notices what is.

The short form of `scripts/chaos complete`.
"""

import json
import os
import random
from contextlib import closing, contextmanager, suppress

import psycopg
import pytest
from harness.complete import table
from harness.complete_lines import Count, Recipe, from_candles, from_trades, parts, play_candles, play_trades
from harness.complete_stored import Round
from harness.damage import draw
from harness.whole import Fill, Known, Market
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.candles.rollup import CandleRollup
from okxcli.core.codec import decode, encode

T0 = 1_747_087_200_000


@st.composite
def events(draw):
    """A market of a few fills, in which time may step back, and what comes of it: in any order, with ids called absent.

    The first two fills show the step, and they come first.
    """
    step = draw(st.sampled_from([0, 300, 1500]))
    first, clock = draw(st.sampled_from([1, 70])), 5_000 + step
    fills = [Fill(first, T0 + clock, 10, 1, "buy"), Fill(first + 1, T0 + clock - step, 11, 2, "sell")]
    absent, number = [], first + 2
    for gap, back, nobody in draw(
        st.lists(
            st.tuples(st.sampled_from([0, 1, 300, 999, 1000, 2500]), st.sampled_from([0, 0, 1]), st.booleans()),
            min_size=1, max_size=12,
        )
    ):  # fmt: skip
        if nobody:
            absent.append((number, number))
            number += 1
        clock += gap
        fills.append(Fill(number, T0 + clock - back * step, 12 + number % 7, number, "buy"))
        number += 1
    market = Market("A-B", fills, absent, step)
    come = [("fill", fill.id, fill.id) for fill in fills[2:] if draw(st.integers(0, 5))]
    come += [("absent", *ids) for ids in absent if draw(st.booleans())]
    come = draw(st.permutations(come)) if draw(st.booleans()) else sorted(come, key=lambda event: event[1])
    return market, [("fill", fill.id, fill.id) for fill in fills[:2]] + come


@given(events(), st.sampled_from(["1s", "1s,5s", "2s,3s"]), st.sampled_from([0, 2_000, 60_000]), st.booleans())
def test_small_markets_in_any_order(brought, frames, lateness_ms, fill):
    """No line says complete that lacks a fill of the market or has another figure; what is proved is said."""
    market, come = brought
    count = Count("trades")
    judge = play_trades(Recipe(market, frames, lateness_ms, fill), come, count, "small")
    assert judge.wrong == []
    assert count.unsaid == 0


@given(events(), st.sampled_from(["1s,5s", "1s,3s,1m", "2s,6s"]), st.data())
def test_small_markets_of_candles(brought, frames, data):
    """The same for larger candles made of the smaller ones of two who hold different fills, in any order."""
    market, come = brought
    name = frames.split(",")[0]
    lines = []
    for _ in range(data.draw(st.integers(1, 2))):
        held = [n for kind, n, _ in come if kind == "fill" and (n in market.ids[:2] or data.draw(st.integers(0, 5)))]
        lines += parts(market, Known(market, held, market.absent), name)
    opening = [line for line in lines if json.loads(line)["first_trade_id"] <= market.ids[1]]
    rest = data.draw(st.permutations([line for line in lines if line not in opening]))
    judge = play_candles(Recipe(market, frames, 0, fill=False), [*opening, *rest], Count("from"), "small")
    assert judge.wrong == []


@pytest.mark.parametrize(("kind", "play", "bars"), [("trades", from_trades, 1_500), ("from", from_candles, 200)])
def test_damaged_markets(kind, play, bars):
    """Sixty markets, damaged in every way: nothing that is called complete is wrong."""
    count = Count(kind)
    for number in range(60):
        play(f"suite/{number}", count)
    assert count.findings == []
    assert count.complete > bars
    assert count.unsaid * 100 <= count.owed
    assert str(count.markets) in table([count])


@pytest.mark.parametrize("kind", ["store", "chain"])
def test_damaged_markets_that_are_stored(database, kind):
    """Collectors with different losses, restarts, mending, then REST: nothing stored as complete is ever wrong."""
    with closing(Round(f"{kind}/suite/3", database, kind == "store", symbols=8, most=(40, 200))) as one:
        found = one.play()
    assert [text for step in found.values() for text in step.findings] == []
    assert all(step.complete > 100 for step in found.values())
    assert found["fetched"].unsaid * 100 <= found["fetched"].owed


# ---- the judge


class Undone(Exception):
    """Nothing is wrong: what was done is to be taken back."""


class Believer(RealTimeCandleProcessor):
    """Calls every closed bar complete."""

    def __init__(self, frames, emit, **options):
        super().__init__(frames, lambda bar: emit(believed(bar)), **options)


def believed(bar):
    return type(bar)(**{name: getattr(bar, name) for name in bar.__struct_fields__} | {"complete": bar.closed})


class BelievingRollup(CandleRollup):
    """The same for larger candles."""

    def __init__(self, source, frames, emit, **options):
        super().__init__(source, frames, lambda bar: emit(believed(bar)), **options)


class Doubter(RealTimeCandleProcessor):
    """Calls no bar complete."""

    def __init__(self, frames, emit, **options):
        super().__init__(frames, lambda bar: emit(doubted(bar)), **options)


def doubted(bar):
    return type(bar)(**{name: getattr(bar, name) for name in bar.__struct_fields__} | {"complete": False})


def test_a_maker_that_believes_everything_is_noticed():
    """Bars that lack fills and are called complete are found, in candles of trades and of candles."""
    trades, larger = Count("trades"), Count("from")
    for number in range(10):
        from_trades(f"suite/{number}", trades, Believer)
        from_candles(f"suite/{number}", larger, BelievingRollup)
    assert trades.wrong > 100
    assert larger.wrong > 20


def test_a_maker_that_never_says_complete_is_noticed():
    """What everybody could prove and he did not say is counted."""
    count = Count("trades")
    for number in range(20):
        from_trades(f"suite/{number}", count, Doubter)
    assert count.complete == count.wrong == 0
    assert count.unsaid == count.owed > 50


@pytest.fixture(scope="module")
def right():
    """A market, and the candles of one second that are right and complete, as JSON."""
    market = draw("A-B", random.Random("right"), 1000, 0)
    made = []
    maker = RealTimeCandleProcessor("1s", made.append, fill=True)
    for number in market.ids:
        maker.feed(decode(market.trade(number).encode()))
    maker.finish()
    return market, [bar for bar in map(json.loads, map(encode, made)) if bar["complete"]]


def test_right_candles_pass(right):
    """The judge has nothing to say."""
    market, bars = right
    assert len(bars) > 100
    assert {market.judge(bar) for bar in bars} == {""}


@pytest.mark.parametrize(
    "change",
    [
        {"open": "1"}, {"high": "1000.0001"}, {"low": "0.0001"}, {"close": "1"}, {"volume": "0.00000001"},
        {"base_volume": "0.00000001"}, {"quote_volume": "0.000000000001"}, {"buy_volume": "999999"},
        {"trade_count": 999}, {"first_trade_id": 3}, {"last_trade_id": 10**13}, {"start": T0 - 1000},
    ],
)  # fmt: skip
def test_one_figure_that_is_wrong_is_noticed(right, change):
    """Whatever figure it is, in bars with fills and in flat ones."""
    market, bars = right
    traded = next(bar for bar in bars if (bar["trade_count"] or 0) > 2)
    flat = next(bar for bar in bars if bar["trade_count"] == 0)
    assert market.judge(traded | change)
    if change.keys() & {"open", "high", "low", "close", "volume", "start"}:
        assert market.judge(flat | change)


def test_a_flat_bar_over_a_fill_is_noticed(right):
    """And a bar of fills where nothing traded."""
    market, bars = right
    traded = next(bar for bar in bars if bar["trade_count"])
    flat = next(bar for bar in bars if bar["trade_count"] == 0)
    times = ("start", "timestamp")
    assert "fills traded" in market.judge(flat | {name: traded[name] for name in times})
    assert market.judge(traded | {name: flat[name] for name in times}) == "nothing traded in it"


MISTAKES = {
    "a fill is lost": "UPDATE market_data SET first_trade_id = first_trade_id + 1 WHERE complete AND trade_count > 1",
    "a fill is left out": "UPDATE market_data SET trade_count = trade_count - 1 WHERE complete AND trade_count > 1",
    "a digit": "UPDATE market_data SET quote_volume = quote_volume + 0.000000000001 WHERE complete",
    "an edge": "UPDATE market_data SET last_trade_id = last_trade_id + 1 WHERE complete AND trade_count > 1",
}


@pytest.fixture(scope="module")
def pattern(embedded_dsn):
    """A round that was played, and the name of its database."""
    name = f"okx_test_complete_{os.getpid()}"
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        one = Round("store/suite/5", make_conninfo(embedded_dsn, dbname=name), True, symbols=8, most=(200,))
        with closing(one):
            one.play()
            yield one
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def undone(connection):
    """Take back what is done in the block."""
    with suppress(Undone), connection.transaction():
        yield
        raise Undone


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_the_database_are_noticed(pattern, name):
    """Each of them, where before nothing was wrong."""
    assert pattern.look("fetched").findings == []
    with undone(pattern.connection):
        assert pattern.connection.execute(MISTAKES[name]).rowcount > 0
        assert pattern.look("fetched").wrong > 0


def test_bars_that_are_not_called_complete_are_noticed(pattern):
    """As many as were owed are unsaid."""
    with undone(pattern.connection):
        pattern.connection.execute("UPDATE market_data SET complete = false")
        found = pattern.look("fetched")
    assert found.complete == 0
    assert found.unsaid == found.owed > 20
