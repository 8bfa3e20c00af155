"""Sets of ids as ranges, against plain sets."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.multirange import Int8Multirange
from psycopg.types.range import Int8Range

from okxcli.storage.ledger.id_ledger import holds, ranges_of, read, subtract, union, written

IDS = st.sets(st.integers(1, 40))
PARTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1])))


def members(ranges):
    return {i for first, last in ranges for i in range(first, last + 1)}


@given(IDS)
def test_ranges_of_ids_are_those_ids(ids):
    """No id more, no id less, and every two ranges have a gap between them."""
    found = ranges_of(sorted(ids))
    assert members(found) == ids
    assert all(a[1] + 1 < b[0] for a, b in pairwise(found))


@given(PARTS, PARTS)
def test_union_and_difference_are_those_of_sets(some, others):
    """Whatever overlaps or touches."""
    joined = union(some)
    assert members(joined) == members(some)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(joined))
    assert members(subtract(joined, others)) == members(some) - members(others)
    assert {i for i in range(1, 60) if holds(joined, i)} == members(some)


def test_spelling_for_postgres_and_back():
    """Postgres writes the upper end as the first id after the range."""
    assert written([(1, 5), (7, 7)]) == "{[1,5],[7,7]}"
    assert written([]) == "{}"
    assert read(Int8Multirange([Int8Range(1, 6), Int8Range(7, 8)])) == [(1, 5), (7, 7)]
