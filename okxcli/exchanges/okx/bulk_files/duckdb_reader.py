"""A bulk file by way of DuckDB: read, checked, written out for Postgres and cut into bars, a million rows a second.

Only for files without a fault: every row of the usual form, the ids of each symbol consecutive, which proves that they
are fills and not aggregates. Whatever is not like that is left to `raw_lines`, which reads row by row and can tell what
is wrong. Numbers are exact decimals here too.
"""

import logging
import re
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.model import Instrument, amounts
from okxcli.core.timeframes import Timeframe
from okxcli.exchanges.file_interface import Fills, Slice
from okxcli.exchanges.okx.bulk_files.layouts import SHAPE, Layout, UnknownLayout
from okxcli.exchanges.okx.bulk_files.scan import bodies, layout_of
from okxcli.exchanges.okx.bulk_files.unpacking import Table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_log = logging.getLogger(__name__)

#: Memory that DuckDB may use; beyond it, it writes to the temporary folder.
_MEMORY = "384MB"
#: Rows written out at a time, some 5 MiB.
_PIECE = 50_000
#: Digits of DuckDB's widest decimal.
_DIGITS = 38

_LOAD = """
CREATE TABLE fills AS SELECT {symbol} AS symbol, try_cast(trade_id AS BIGINT) AS id, side, {source} AS source,
    CASE WHEN contains(price, '.') THEN rtrim(rtrim(price, '0'), '.') ELSE price END AS price,
    CASE WHEN contains(size, '.') THEN rtrim(rtrim(size, '0'), '.') ELSE size END AS size,
    try_cast(created_time AS BIGINT) AS ts, coalesce({good}, false) AS good
FROM read_csv($path, columns = {{{columns}}}, auto_detect = false, header = false, delim = ',', quote = '',
    escape = '', comment = '')
"""
_TEXT = """
SELECT string_agg(concat('okx', t, symbol, t, id, t, '1', t, side, t, price, t, size, t,
    strftime(make_timestamp(ts * 1000), '%Y-%m-%d %H:%M:%S.%g+00'), t, '\\N', t,
    coalesce(source::VARCHAR, '\\N'), t, 'file', n), '')
FROM fills, (SELECT chr(9) AS t, chr(10) AS n)
WHERE symbol = ? AND id BETWEEN ? AND ? AND ts >= ? AND ts < ?
"""
_BARS = """
SELECT (ts - {offset}) // {length} * {length} + {offset} AS start, count(*), arg_min(price, id), max(price), min(price),
    arg_max(price, id), sum(size), sum(price * size), coalesce(sum(size) FILTER (side = 'buy'), 0), min(id), max(id)
FROM (SELECT id, ts, side, price::{price} AS price, size::{size} AS size
      FROM fills WHERE symbol = ? AND ts >= ? AND ts < ?)
GROUP BY 1 ORDER BY 1
"""


_LENGTHS = """
SELECT max(strpos(concat(price, '.'), '.') - 1), max(greatest(length(price) - strpos(concat(price, '.'), '.'), 0)),
    max(strpos(concat(size, '.'), '.') - 1), max(greatest(length(size) - strpos(concat(size, '.'), '.'), 0)), count(*)
FROM fills WHERE symbol = ?
"""


@contextmanager
def opened(table: Table, symbols: Collection[str]) -> Iterator["DuckFile | None"]:
    """Read a file, whose disk space is freed at the end of the block.

    None if it is not one of trades without a fault, or if DuckDB is not installed.

    Raises:
        InputError: the file is damaged as a whole.
    """
    layout = _layout_of(table, symbols)
    if layout is None:
        yield None
        return
    try:
        import duckdb
    except ImportError:
        _log.warning("reading files without DuckDB, which takes some times as long: pip install 'okxcli[duckdb]'")
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="okx-files-") as folder, duckdb.connect() as connection:
        try:
            connection.execute(f"SET memory_limit = '{_MEMORY}'; SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            connection.execute("SET temp_directory = ?", [folder])
            whole = _load(connection, Path(folder) / "rows.csv", table, layout)
        except duckdb.Error as error:
            _log.debug("%s: DuckDB does not take it: %s", table, str(error).splitlines()[0])
            whole = False
        yield DuckFile(connection) if whole else None


def _load(connection: "DuckDBPyConnection", plain: Path, table: Table, layout: Layout) -> bool:
    """Read and check all rows by way of the file `plain`; False if any is not of the usual form."""
    with plain.open("wb") as out:
        for _, block in bodies(table, layout):
            out.write(block)
    names = [name if name in SHAPE else f"other{at}" for at, name in enumerate(layout.columns)]
    # The names are ours: those of known columns, and numbered ones.
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    tests = {name: SHAPE[name].decode() for name in names if name in SHAPE}
    # A cell that is empty is null here, which is no match: only a source may be.
    cells = {"source": "coalesce(source, '')"}
    good = " AND ".join(f"regexp_full_match({cells.get(name, name)}, ${name})" for name in tests)
    source = "try_cast(source AS SMALLINT)" if "source" in names else "NULL"
    symbol = "instrument_name" if layout.symbol is None else f"'{layout.symbol.decode()}'"
    query = _LOAD.format(symbol=symbol, source=source, good=good, columns=columns)
    connection.execute(query, {**tests, "path": str(plain)})
    plain.unlink()
    return connection.execute("SELECT count(*) FROM fills WHERE NOT good").fetchall() == [(0,)]


class DuckFile:
    """One faultless bulk file of trades in DuckDB."""

    def __init__(self, connection: "DuckDBPyConnection") -> None:
        self._connection = connection

    def holds(self, symbol: str) -> bool:
        """Whether there is any row of a symbol."""
        return bool(self._connection.execute("SELECT 1 FROM fills WHERE symbol = ? LIMIT 1", [symbol]).fetchall())

    def fills(self, symbol: str) -> Fills | None:
        """Return what there is of a symbol; None if there is nothing, or if its ids have holes or come twice."""
        rows = self._connection.execute(
            "SELECT count(*), count(DISTINCT id), min(id), max(id), min(ts), max(ts) FROM fills WHERE symbol = ?",
            [symbol],
        ).fetchall()
        count, distinct, first, last, first_ms, last_ms = rows[0]
        if not count or count != distinct or last - first + 1 != count:
            return None
        return Fills(symbol, first, last, first_ms, last_ms)

    def step(self, symbol: str) -> int:
        """Return how far time steps back at most from one fill of a symbol to one with a higher id (ms)."""
        rows = self._connection.execute(
            "SELECT coalesce(max(before - ts), 0) FROM (SELECT ts, max(ts) OVER (ORDER BY id"
            " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM fills WHERE symbol = ?)",
            [symbol],
        ).fetchall()
        return max(int(rows[0][0]), 0)

    def slice(self, symbol: str, since_ms: int, until_ms: int) -> Slice | None:
        """Return what there is of a symbol in a span of time; None if there is nothing."""
        values = [symbol, since_ms, until_ms]
        times = self._connection.execute(
            "SELECT min(ts), max(ts), arg_min(ts, id), arg_max(ts, id) FROM fills"
            " WHERE symbol = ? AND ts >= ? AND ts < ?",
            values,
        ).fetchall()[0]
        if times[0] is None:
            return None
        ids = self._connection.execute(
            "SELECT min(id), max(id) FROM (SELECT id, id - row_number() OVER (ORDER BY id) AS part FROM fills"
            " WHERE symbol = ? AND ts >= ? AND ts < ?) GROUP BY part ORDER BY 1",
            values,
        ).fetchall()
        return Slice(ids, *times)

    def text(self, symbol: str, first: int, last: int, since_ms: int, until_ms: int) -> Iterator[str]:
        """Yield rows as COPY takes them, piece by piece by id; one is made while the caller is busy with another."""
        cursor = self._connection.cursor()

        def piece(at: int) -> str:
            values = [symbol, at, min(at + _PIECE - 1, last), since_ms, until_ms]
            return str(cursor.execute(_TEXT, values).fetchall()[0][0] or "")

        with ThreadPoolExecutor(1) as maker:
            coming = maker.submit(piece, first)
            for at in range(first + _PIECE, last + _PIECE, _PIECE):
                made = coming.result()
                if at <= last:
                    coming = maker.submit(piece, at)
                yield made

    def buckets(
        self, symbol: str, frame: Timeframe, since_ms: int, until_ms: int, instrument: Instrument | None
    ) -> list[TimeframeBucket] | None:
        """Return the bars of a fixed length in a span, oldest first.

        None where sums do not make them: amounts of inverse contracts are rounded fill by fill, and numbers may be
        too long for DuckDB.
        """
        if instrument is not None and instrument.contract_type == "inverse":
            return None
        types = self._types(symbol)
        if types is None:
            return None
        query = _BARS.format(offset=frame.offset, length=frame.length, price=types[0], size=types[1])
        found = []
        for row in self._connection.execute(query, [symbol, since_ms, until_ms]).fetchall():
            start, bar = row[0], TimeframeBucket(row[0], row[0] + frame.length)
            bar.count, bar.open, bar.high, bar.low, bar.close, bar.volume, turnover, buy, first, last = row[1:]
            bar.start, bar.buy, bar.first_id, bar.last_id = start, Decimal(buy), first, last
            # What a size is worth does not depend on the price here, so that of the sum is the sum.
            bar.base = amounts(instrument, symbol, Decimal(1), bar.volume)[0]
            bar.quote = amounts(instrument, symbol, Decimal(1), turnover)[1]
            found.append(bar)
        return found

    def _types(self, symbol: str) -> tuple[str, str] | None:
        """Return the narrowest decimal types for price and size; None if a sum of products may not fit DuckDB's."""
        row = self._connection.execute(_LENGTHS, [symbol]).fetchall()[0]
        whole, places, size_whole, size_places, count = row
        if count == 0 or whole + places + size_whole + size_places + len(str(count)) > _DIGITS:
            return None
        return f"DECIMAL({whole + places}, {places})", f"DECIMAL({size_whole + size_places}, {size_places})"


def _layout_of(table: Table, symbols: Collection[str]) -> Layout | None:
    """Return the layout of a file of trades that holds some of the symbols; None for any other file."""
    try:
        name, layout = layout_of(table, symbols, "trades")
    except UnknownLayout:
        return None
    if layout is None or layout.run_on or (name is not None and name.kind == "aggtrades"):
        return None
    safe = layout.symbol is None or re.fullmatch(rb"[A-Za-z0-9_.-]+", layout.symbol) is not None
    return layout if safe else None
