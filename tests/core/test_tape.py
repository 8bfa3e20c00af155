"""Id ranges against plain sets."""

from hypothesis import given
from hypothesis import strategies as st

from okxcli.core.tape import IdRanges, is_absent, pause_ms

spans = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda s: (s[0], s[0] + s[1])), max_size=40)


@given(spans, st.integers(1, 70), st.integers(0, 10))
def test_ranges_are_a_set(added, low, width):
    """Adding, covering, touching and holes agree with a set of integers."""
    ranges, known = IdRanges(), set()
    for first, last in added:
        span = set(range(first, last + 1))
        assert ranges.add(first, last) == len(span - known)
        known |= span
    asked = set(range(low, low + width + 1))
    assert ranges.covers(low, low + width) == (asked <= known)
    assert ranges.touches(low, low + width) == bool(asked & known)
    assert {i for first, last in ranges for i in range(first, last + 1)} == known
    inside = set(range(min(known), max(known) + 1)) if known else set()
    assert ranges.missing() == len(inside - known)
    assert {i for first, last in ranges.holes() for i in range(first, last + 1)} == inside - known
    assert ranges.top == max(known, default=0)


@given(st.permutations(range(1, 60)))
def test_memory_is_bounded_and_errs_on_the_safe_side(ids):
    """Past the limit the lowest range is forgotten: what is covered was added, ids at the floor are not new."""
    ranges, added = IdRanges(limit=4), set()
    for i in ids:
        floor = ranges.floor
        assert ranges.add(i, i) == (1 if i > floor else 0)
        added.add(i)
        assert len(ranges) <= 4
        for first, last in ranges:
            assert set(range(first, last + 1)) <= added
            assert first > ranges.floor


@given(st.integers(1, 6), st.integers(0, 200_000), st.integers(1_000, 120_000))
def test_an_id_is_absent_by_answers_and_by_time(answers, apart, spread):
    """Neither many answers at once nor two far apart prove it; three do, asked for at the pace that `pause_ms` says."""
    assert is_absent(answers, 7, 7 + apart, spread) == (answers >= 3 and apart >= spread)
    assert is_absent(3, 0, 2 * pause_ms(spread) + 1, spread)
    assert not is_absent(2, 0, 1 << 60, spread)
