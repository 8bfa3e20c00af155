"""Names, patterns and types: which symbols they mean."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import SHARED, needs_shared

from okxcli.core.selection import Selection, expanded, is_pattern

KNOWN = {
    "BTC-USDT": "spot", "ETH-USDT": "spot", "BTC-USDC": "spot", "BTC-USDT-SWAP": "swap", "ETH-USD-SWAP": "swap",
    "BTC-USDT-261225": "futures", "OLD-USDT": None,
}  # fmt: skip


def meant(*wanted, types=()):
    return expanded(wanted, types, KNOWN)


def test_names_patterns_and_types():
    """Names in their order, listed or not; then what patterns select, by name, once."""
    assert meant("BTC-USDT", "X-Y", "BTC-USDT") == ["BTC-USDT", "X-Y"]
    assert meant("*-USDT") == ["BTC-USDT", "ETH-USDT", "OLD-USDT"]
    assert meant("BTC-*") == ["BTC-USDC", "BTC-USDT", "BTC-USDT-261225", "BTC-USDT-SWAP"]
    assert meant("BTC-*", types=("swap",)) == ["BTC-USDT-SWAP"]
    assert meant(types=("swap", "futures")) == ["BTC-USDT-261225", "BTC-USDT-SWAP", "ETH-USD-SWAP", "OLD-USDT"]
    assert meant("ETH-USDT", types=("swap",)) == ["ETH-USDT"]  # a name is a name
    assert meant("ETH-USDT", "???-USD?") == ["ETH-USDT", "BTC-USDC", "BTC-USDT", "OLD-USDT"]
    assert meant("*") == sorted(KNOWN)
    assert meant() == [] and not Selection(()).open and Selection((), ("swap",)).open
    assert meant("BTC.USDT*") == [] and meant("usdt") == ["usdt"]


def test_families_of_options():
    """The first two parts of a pattern, where they hold no sign that stands for others."""
    assert Selection(("BTC-USD-*-C", "ETH-USD-2612*", "BTC-USD-??????-*", "*-USD-1", "BTC-*", "X-Y")).families() == [
        "BTC-USD", "ETH-USD",
    ]  # fmt: skip


names = st.text(st.sampled_from("AB-_"), min_size=1, max_size=6)


@given(st.lists(names, max_size=8), st.text(st.sampled_from("AB-_*?"), min_size=1, max_size=5).filter(is_pattern))
def test_patterns_are_those_of_sql(known, pattern):
    """As LIKE has them, and nothing of a regular expression means anything."""
    import sqlite3

    like = pattern.replace("_", r"\_").replace("*", "%").replace("?", "_")
    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA case_sensitive_like = on")
        selected = {n for n in known if database.execute(r"SELECT ? LIKE ? ESCAPE '\'", [n, like]).fetchone()[0]}
    assert set(expanded([pattern], (), dict.fromkeys(known))) == selected


@needs_shared
@pytest.mark.parametrize(
    ("pattern", "types", "where"),
    [
        ("*-USDT", (), "instId LIKE '%-USDT'"),
        ("BTC-*", (), "instId LIKE 'BTC-%'"),
        ("*", ("swap",), "instType = 'SWAP'"),
        (None, ("swap",), "instType = 'SWAP'"),
        (None, ("spot",), "instType = 'SPOT'"),
        ("*-USD-SWAP", ("swap",), "instType = 'SWAP' AND ctType = 'inverse'"),
        ("*-USD*", ("spot",), "instType = 'SPOT' AND instId LIKE '%-USD%'"),
        ("???-USDC", (), "instId LIKE '___-USDC'"),
        ("*-USDT-SWAP", (), "settleCcy = 'USDT' AND instType = 'SWAP'"),
        ("1*", (), "instId LIKE '1%'"),
    ],
)
def test_production_lists_as_sql_selects(pattern, types, where):
    """What DuckDB selects of OKX's own 1,530 rows is what a pattern means, to the row."""
    duckdb = pytest.importorskip("duckdb")
    known, files = {}, []
    for kind in ("spot", "swap"):
        path = SHARED / "rest" / f"okxapi-2026-04-27.production.public-instruments-{kind}.json.gz"
        rows = json.loads(gzip.decompress(path.read_bytes()))["data"]
        known |= {row["instId"]: row["instType"].lower() for row in rows}
        files.append(str(path))
    query = "SELECT r.instId FROM (SELECT unnest(data) AS r FROM read_json(?, maximum_object_size = 100000000))"
    query += " WHERE " + where.replace("instId", "r.instId").replace("instType", "r.instType").replace(
        "ctType", "r.ctType").replace("settleCcy", "r.settleCcy")  # fmt: skip
    selected = sorted(name for (name,) in duckdb.execute(query, [files]).fetchall())
    assert len(known) == 1530 and selected
    assert expanded([pattern] if pattern else [], types, known) == selected
