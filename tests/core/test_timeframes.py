"""Timeframes: edges against the calendar of the standard library, names, common pieces."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okxcli.core.timeframes import DAY, HOUR, MINUTE, Timeframe, common, parse_list
from okxcli.errors import InvalidLine

moments = st.integers(0, 4_102_444_800_000 - 1)


def ms(moment):
    return round(moment.timestamp() * 1000)


@given(moments)
def test_days_weeks_and_months_are_the_calendars(timestamp):
    """Days, Mondays and firsts of the month agree with datetime, in UTC and in UTC+8."""
    for suffix, zone in (("", UTC), ("+8", timezone(timedelta(hours=8)))):
        day = datetime.fromtimestamp(timestamp / 1000, zone).replace(hour=0, minute=0, second=0, microsecond=0)
        assert Timeframe.parse("1d" + suffix).start_of(timestamp) == ms(day)
        assert Timeframe.parse("1w" + suffix).start_of(timestamp) == ms(day - timedelta(days=day.weekday()))
        month = Timeframe.parse("1M" + suffix)
        first = day.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
        assert month.start_of(timestamp) == ms(first)
        assert month.end_of(ms(first)) == ms(following)


@given(moments, st.sampled_from("1s 5s 1m 3m 15m 1h 4h 6h 1d 2d 1w 1M 1d+8 2w+8 1M+8".split()))
def test_bars_are_half_open_and_meet(timestamp, name):
    """A moment lies in exactly one bar; its end starts the next one."""
    timeframe = Timeframe.parse(name)
    start = timeframe.start_of(timestamp)
    end = timeframe.end_of(start)
    assert start <= timestamp < end
    assert timeframe.start_of(start) == start
    assert timeframe.start_of(end) == end
    assert timeframe.start_of(end - 1) == start


@pytest.mark.parametrize(
    "name", ["", "m", "0m", "7m", "5h", "25h", "1x", "2M", "1h+8", "1d+9", "-1m", "1.5m", "01m", "1D", "90m" * 9]
)
def test_what_is_not_a_timeframe(name):
    """Seconds, minutes and hours divide a day; only days and longer have a UTC+8 form."""
    with pytest.raises(InvalidLine):
        Timeframe.parse(name)


@pytest.mark.parametrize(
    ("names", "length", "offset"),
    [("1m,5m", MINUTE, 0), ("2h,3h", HOUR, 0), ("1d,1d+8", 8 * HOUR, 0), ("1M", DAY, 0), ("1d+8", DAY, 16 * HOUR),
     ("1w,1M+8", 8 * HOUR, 0), ("90m,1h", 30 * MINUTE, 0)],
)  # fmt: skip
def test_greatest_common_smaller_timeframe(names, length, offset):
    """Larger bars are merged from the longest bars that all of them are made of."""
    base = common(parse_list(names))
    assert (base.length, base.offset) == (length, offset)
    assert all(timeframe.holds(base) for timeframe in parse_list(names))


def test_lists_are_sorted_and_each_comes_once():
    """Shortest first; a name given twice is one timeframe."""
    assert [t.name for t in parse_list("1h, 1m,1M,1m,1d")] == ["1m", "1h", "1d", "1M"]
    with pytest.raises(InvalidLine):
        parse_list(" , ")
