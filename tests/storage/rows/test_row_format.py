"""Rows as arrays of Postgres: whatever they hold comes back as it was."""

from decimal import Decimal

import psycopg

from okxcli.storage.rows import row_format


def test_rows_come_back_as_they_were(embedded_dsn):
    """Names with whatever is special in an array, numbers of any size, and what is not known."""
    rows = [
        ("BTC-USDT", 1, Decimal("0.000000001"), "{[1,8),[9,10)}"),
        ('a"b\\c,{d} NULL', -(1 << 62), Decimal("1e30"), "{}"),
        ("NULL", 0, None, "{[5,6)}"),
        ("", 7, Decimal(0), "{[1,2)}"),
        ("é✓", 8, Decimal("1.10"), "{[1,2)}"),
    ]
    query = "SELECT a, b, c, d FROM unnest(%s::text[], %s::int8[], %s::numeric[], %s::text[]) AS n (a, b, c, d)"
    with psycopg.connect(embedded_dsn) as connection:
        assert connection.execute(query, row_format.columns(rows)).fetchall() == rows
