"""Damaged lines of ours through the writer into a real Postgres: what is taken is in there, digit for digit."""

import json
import logging
from collections import defaultdict
from contextlib import suppress

import psycopg
from psycopg.conninfo import make_conninfo

from harness import decoder
from harness.fuzz_lines import read_line
from harness.tally import Tally
from okxcli.core.codec import encode
from okxcli.core.model import StandardizedTrade
from okxcli.storage.database import Database, open_database
from okxcli.storage.write.writer import Writer

_BATCH = 150
#: Lines after which there is a new database: damaged times make a partition for many a day of a century.
_FRESH = 3_000
_ROWS = """
SELECT symbol, trade_id, count::text, side, price::text, size::text, (extract(epoch FROM timestamp) * 1000)::bigint
FROM (SELECT * FROM raw_trades UNION ALL SELECT * FROM merged_trades) AS every WHERE exchange = 'okx'
"""

_Key = tuple[str, int]


class _Bugs(logging.Handler):
    """Counts what the writer calls a bug: it saves the lines around it, so that nothing else would tell."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        """Count the record if it tells of a bug."""
        if "a bug of okx" in record.msg and record.exc_info and record.exc_info[1] is not None:
            self._tally.crash(record.exc_info[1], record.getMessage().encode())


class Store:
    """The target `store`."""

    def __init__(self, dsn: str) -> None:
        self.tally = Tally("store")
        self._dsn = dsn
        self._number = 0
        self._database: Database | None = None
        self._writer: Writer
        self._taken: dict[_Key, set[tuple[str, ...]]] = defaultdict(set)
        self._pending: list[bytes] = []
        logging.getLogger("okxcli.storage").addHandler(_Bugs(self.tally))

    def feed(self, line: bytes) -> None:
        """Take one line into the batch; a full batch is written."""
        if self._database is None:
            self._begin()
        self._number += 1
        self.tally.try_one(self._one, line.replace(b"\n", b" "))
        if len(self._pending) >= _BATCH:
            self._flush()
        if self._number % _FRESH == 0:
            self.finish()

    def finish(self) -> None:
        """Write what is left, look whether everything is there, and drop the database."""
        if self._database is None:
            return
        self._flush()
        with self._database.connect() as connection:
            self._compare(connection)
        self._writer.close()
        self._database.close()
        self._database = None
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("DROP DATABASE okx_fuzz WITH (FORCE)")

    def _begin(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS okx_fuzz WITH (FORCE)")
            connection.execute("CREATE DATABASE okx_fuzz")
        self._database = open_database(make_conninfo(self._dsn, dbname="okx_fuzz"), create=True)
        self._writer = Writer(self._database.connect, patience_s=5)
        self._taken.clear()

    def _one(self, line: bytes) -> bool:
        found = read_line(line, self.tally)
        if found is None:
            return False
        self._writer.add(found, line)
        self._pending.append(line)
        if isinstance(found, StandardizedTrade) and found.exchange == "okx":
            shown = decoder.shown(encode(found))
            values = (shown["count"], shown["side"], shown["price"], shown["size"], shown["timestamp"])
            self._taken[found.symbol, found.trade_id].add(values)
        return True

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        try:
            self._writer.flush()
        except Exception as error:
            self.tally.crash(error, b"\n".join(batch))
            self._writer.take_pending()

    def _compare(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        """Every row is a trade that was taken; every trade that was taken is a row, covered, or in quarantine."""
        stored: set[_Key] = set()
        for symbol, identity, count, side, price, size, time in connection.execute(_ROWS):
            key = (str(symbol), int(str(identity)))
            stored.add(key)
            values = (str(count), str(side), decoder.number(price), decoder.number(size), str(time))
            if values not in self._taken.get(key, ()):
                self.tally.disagree(f"a row that is no line: {key} {values}", b"")
        for (line,) in connection.execute("SELECT line FROM quarantine WHERE type = 'trade'"):
            with suppress(ValueError, KeyError, TypeError):
                value = json.loads(
                    str(line), parse_int=str
                )  # which one it is, whatever decoders think of the rest of it
                stored.add((value["symbol"], int(value["trade_id"])))
        for symbol, identity in self._taken.keys() - stored:
            covered = connection.execute(
                "SELECT EXISTS (SELECT FROM trade_ledger WHERE symbol = %s AND covered @> %s::bigint)",
                [symbol, identity],
            ).fetchone()
            if covered is None or not covered[0]:
                taken = self._taken[symbol, identity]
                self.tally.disagree(f"a trade that is nowhere: {symbol} {identity} {taken}", b"")
