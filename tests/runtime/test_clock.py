"""Times and durations as users write them."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okxcli.errors import Early, UsageError
from okxcli.runtime.clock import ClockDoubt, SteadyClock, iso, parse_duration, parse_time

NOW = 1_747_087_200_123


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1.5", 1.5), ("250ms", 0.25)],
)
def test_durations(text, seconds):
    """Units, several of them, or bare seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "0", "5x", "1h 30m", "1e3s", "∞"])
def test_what_is_no_duration(text):
    """One clear error, whatever it is."""
    with pytest.raises(UsageError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("2h", NOW - 7_200_000),
        ("today", 1_747_008_000_000),
        ("yesterday", 1_746_921_600_000),
        ("1747087200123", NOW),
        ("2025-05-12", 1_747_008_000_000),
        ("2025-05-12T22:00Z", 1_747_087_200_000),
        ("2025-05-13T06:00:00+08:00", 1_747_087_200_000),
        ("2025-05-12 22:00:00.123", NOW),
    ],
)
def test_times(text, expected):
    """ISO 8601 (UTC unless it says otherwise), epoch milliseconds, a duration ago, words."""
    assert parse_time(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "tomorrowish", "2025-13-01", "12"])
def test_what_is_no_time(text):
    """One clear error."""
    if text == "12":
        assert parse_time(text + "s", NOW) == NOW - 12_000
        return
    with pytest.raises(UsageError):
        parse_time(text, NOW)


@given(st.integers(0, 4_102_444_800_000))
def test_iso_reads_back(ms):
    """What is written reads back as the same millisecond."""
    assert parse_time(iso(ms), NOW) == ms


def test_a_steady_clock_does_not_follow_the_wall():
    """Whatever the wall clock does after the start, time passes as it passes; only who knows better corrects it."""
    wall, passed = [NOW], [5_000_000_000]
    clock = SteadyClock(lambda: wall[0], lambda: passed[0])
    assert clock() == NOW
    for step in (3_600_000, -7_200_000):
        wall[0] += step
        passed[0] += 250_000_000
    assert clock() == NOW + 500
    clock.correct(-86_400_000)
    assert clock() == NOW + 500 - 86_400_000


@given(st.lists(st.tuples(st.sampled_from(["A-B", "C-D"]), st.booleans()), max_size=120))
def test_many_trades_in_a_row_from_the_future_blame_the_clock(flow):
    """Twenty of a symbol whose ids follow on each other, whatever comes of others between; it is said once."""
    doubt, told, ids, runs = ClockDoubt(), [], {"A-B": 0, "C-D": 0}, {"A-B": 0, "C-D": 0}
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("okxcli.runtime.clock")
    logger.addHandler(handler)
    try:
        reached = False
        for symbol, refused in flow:
            ids[symbol] += 1
            runs[symbol] = runs[symbol] + 1 if refused else 0
            if refused:
                doubt.note([Early(symbol, ids[symbol], ids[symbol], 7_200_000)])
            reached = reached or runs[symbol] >= 20
            assert len(told) == reached
        assert not told or ("behind, by 2.0 h" in told[0] and "okx db quarantine --retry" in told[0])
    finally:
        logger.removeHandler(handler)
