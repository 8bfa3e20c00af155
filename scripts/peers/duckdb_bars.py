"""DuckDB: exact one-minute bars of a daily file, as anybody writes them who knows SQL; no checks, no ids proved."""

import sys

import duckdb

COLUMNS = {
    "instrument_name": "VARCHAR",
    "trade_id": "BIGINT",
    "side": "VARCHAR",
    "price": "DECIMAL(18, 8)",
    "size": "DECIMAL(20, 10)",  # so that a product is a DECIMAL(38, 18)
    "created_time": "BIGINT",
}
duckdb.execute("SET enable_progress_bar = false")
duckdb.execute(
    """
    COPY (
        SELECT instrument_name, created_time // 60000 * 60000 AS start,
            arg_min(price, trade_id), max(price), min(price), arg_max(price, trade_id),
            sum(size), sum(price * size), coalesce(sum(size) FILTER (side = 'buy'), 0),
            count(*), min(trade_id), max(trade_id)
        FROM read_csv($path, header = true, columns = $columns)
        GROUP BY ALL ORDER BY instrument_name, start
    ) TO '/dev/stdout' (FORMAT csv, HEADER false)
    """,
    {"path": sys.argv[1], "columns": COLUMNS},
)
