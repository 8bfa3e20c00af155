"""Larger candles of smaller ones: what parts prove, and what they do not."""

from decimal import Decimal

import msgspec
import pytest

from okxcli.core.candles.bucket import flat_candle
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.candles.rollup import CandleRollup
from okxcli.core.model import OHLCVCandle, StandardizedTrade

T0 = 1_747_087_200_000  # on an hour


def part(minute, first, last, count=None, complete=True, revision=0, tf="1m"):
    """A bar of one minute with these ids."""
    ten = Decimal(10)
    start = T0 + minute * 60_000
    count = last - first + 1 if count is None else count
    return OHLCVCandle(
        "okx", "A-B", tf, start, start + 60_000, ten, ten, ten, ten, Decimal(count), ten, ten, ten,
        count, first, last, complete=complete, revision=revision,
    )  # fmt: skip


def roll(parts, tf="5m", **options):
    """Return every line that parts make."""
    made = []
    maker = CandleRollup("1m", tf, made.append, **options)
    for one in parts:
        maker.feed(one)
    maker.finish()
    return made


def last(made):
    """Return the last line of each bar by its first minute."""
    return {(bar.start - T0) // 60_000: bar for bar in made}


def market(minutes=30, each=10):
    """Parts of a market that trades all the time, each of ten fills."""
    return [part(n, n * each + 1, n * each + each) for n in range(minutes)]


def test_a_stream_that_begins_inside_a_larger_bar():
    """Its parts prove their own edges, not those of the whole."""
    made = last(roll(part(n, 500 + 10 * n, 509 + 10 * n) for n in range(3, 20)))
    assert [(at, bar.trade_count, bar.complete) for at, bar in made.items()] == [
        (0, 20, False), (5, 50, True), (10, 50, True), (15, 50, True),
    ]  # fmt: skip


def test_a_stream_that_begins_with_the_first_fill_of_all():
    """Nothing was before id 1, wherever in the larger bar it is."""
    made = last(roll(part(n, 10 * n - 29, 10 * n - 20) for n in range(3, 20)))
    assert [bar.complete for bar in made.values()] == [True] * 4


@pytest.mark.parametrize("gone", range(30))
def test_a_part_that_is_missing(gone):
    """Anywhere in a larger bar, at its end too: that bar is not complete, all others between the ends are."""
    made = last(roll(one for one in market() if one.start != T0 + gone * 60_000))
    for at, bar in made.items():
        whole = at != gone // 5 * 5
        assert bar.trade_count == (50 if whole else 40)
        assert bar.complete == whole


def test_parts_of_one_minute_alone():
    """A single complete part makes no larger bar complete."""
    assert not any(bar.complete for bar in roll([part(7, 70, 79), part(12, 110, 119)]))


def test_a_quiet_that_the_ids_prove():
    """No line comes of a minute in which nothing traded; the ids beside it say that nothing is missing."""
    parts = [part(3, 41, 50), part(6, 51, 60), part(8, 61, 70), part(12, 71, 80)]
    made = last(roll(parts))
    assert (made[5].trade_count, made[5].complete) == (20, True)
    parts[2] = part(8, 62, 70)
    assert not last(roll(parts))[5].complete


def test_two_versions_of_a_part_that_hold_different_fills():
    """What one of them proves is no help to a bar that is made of the other."""
    outside = [part(4, 1, 10), part(5, 11, 20), part(7, 31, 40), part(8, 41, 50), part(9, 51, 60), part(10, 61, 70)]
    one, other = part(6, 21, 30, 9, complete=False), part(6, 22, 30, complete=False)
    for first, second in ((one, other), (other, one)):
        made = last(roll([*outside[:2], first, *outside[2:], msgspec.structs.replace(second, revision=1)]))
        assert (made[5].trade_count, made[5].complete) == (49, False)
    whole = part(6, 21, 30, revision=2)
    made = last(roll([*outside[:2], one, *outside[2:], other, whole]))
    assert (made[5].trade_count, made[5].complete) == (50, True)


def test_a_part_with_fewer_fills_of_the_same_ids_does_not_win():
    """However high its revision: another stream numbers its own."""
    parts = market(7)
    fewer = part(2, 21, 30, 8, complete=False, revision=5)
    made = roll([*parts, fewer])
    assert (last(made)[0].trade_count, last(made)[0].complete) == (50, True)


def test_flat_parts_hold_no_ids():
    """Who wrote them knew the ids that follow; where time steps back, one of those may lie in a part that is lost."""
    parts = [part(0, 2, 2), part(1, 1, 1), part(2, 3, 9), part(4, 10, 10)]
    parts += [part(n, 10 * n - 39, 10 * n - 30) for n in range(5, 9)]  # 52 was in minute 9, before 51
    quiet = [(T0 + n * 60_000, T0 + n * 60_000 + 60_000) for n in range(11, 16)]
    flats = [flat_candle("okx", "A-B", "1m", start, end, Decimal(10)) for start, end in quiet]
    assert not last(roll([*parts, part(10, 51, 51), *flats]))[5].complete


def test_revisions_of_a_flat_bar_that_was_none():
    """A fill whose time stepped back lies in a quiet that was written: its bar is the next version of the flat one."""
    parts = [part(4, 1, 10), part(17, 11, 20), part(18, 21, 30), part(12, 31, 31), part(19, 32, 40), part(26, 41, 50)]
    lines = [bar for bar in roll(parts, fill=True) if bar.start == T0 + 600_000]
    assert [bar.revision for bar in lines] == list(range(len(lines)))
    assert lines[-1].trade_count == 1


def test_revisions_go_on_when_a_bar_comes_back():
    """After it was let go, too: of the lines of one bar none has the revision of another."""
    parts = market(40)
    late = [part(n, 10 * n + 1, 10 * n + 10, revision=1) for n in (2, 12, 22, 32)]
    made = roll([*parts, *late, *market(45)[40:], *late])
    lines = [(bar.start, bar.revision) for bar in made]
    assert len(lines) == len(set(lines))


def test_larger_candles_of_flat_parts():
    """Flat parts in every minute without a fill make a larger bar whole, as the fills would."""
    made = []
    maker = RealTimeCandleProcessor("1m,5m", made.append, fill=True)
    for number, at in enumerate((0, 190, 299, 300, 610, 1201, 1500, 1600), 1):
        ten = Decimal(10)
        maker.feed(StandardizedTrade("okx", "A-B", number, "buy", ten, ten, T0 + at * 1000))
    maker.finish()
    rolled = last(roll([bar for bar in made if bar.timeframe == "1m"]))
    direct = last([bar for bar in made if bar.timeframe == "5m"])
    assert {at: bar for at, bar in rolled.items() if bar.complete} == {
        at: bar for at, bar in direct.items() if bar.complete and at in rolled
    }
    flat = [flat_candle("okx", "A-B", "1m", T0 + n * 60_000, T0 + n * 60_000 + 60_000, Decimal(10)) for n in range(5)]
    assert not any(bar.complete for bar in roll(flat[:4]))
