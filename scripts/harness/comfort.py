"""Lose, alter or age stored data in one way after the other, and see which command says so and what puts it right.

A small market is stored once and copied for each way. A way is passed when some command is not content, the cure is
named by what it prints, and after the cure every command is content and the fills are the exchange's again.
"""

import argparse
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from unittest import mock

import psycopg
from psycopg.conninfo import make_conninfo

from okxcli.cli import run as okx
from okxcli.core.model import BookSnapshot, Ticker
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.runtime.clock import iso, now_ms
from okxcli.storage.database import open_database
from okxcli.storage.ledger import audit
from okxcli.storage.schema import versions
from okxcli.storage.write.writer import Writer

SYMBOL = "BTC-USDT"
_DAY = 86_400_000
_FRAMES = ["1m", "5m", "15m"]
#: What looks at the data, and what backfill does about it.
LOOKS = {
    "gaps": ["gaps", "--online", "--lines"],
    "recount": ["gaps", "--online", "--recount", "--lines"],
    "status": ["status", "--max-age", "3d", "--lines"],
    "verify": ["verify", SYMBOL, "--tf", "1m,5m,15m", "--since", "{since}", "--until", "{until}"],
    "backfill": ["backfill", "--lines"],
}
_BAR = "timeframe = '1m' AND timestamp = (SELECT timestamp FROM market_data WHERE timeframe = '1m' AND complete" \
    " AND trade_count > 3 AND open <> close ORDER BY timestamp OFFSET 9 LIMIT 1)"  # fmt: skip


@dataclass(frozen=True)
class Way:
    """What is done to the database, in SQL with `a`, `b`, `first`, `last` (ids) and `day` to fill in.

    `cure` are the commands that put it right, `named` what must be read in what the commands print: the name of the
    cure; empty where backfill, which cron runs anyway, puts it right unasked.
    """

    name: str
    sql: str
    cure: tuple[str, ...] = ("backfill",)
    named: str = "okx backfill"


def _bar(change: str) -> str:
    return f"UPDATE market_data SET {change} WHERE {_BAR}"


_REBUILD = "backfill {symbol} --rebuild --since {since}"
_COLUMNS = "exchange, symbol, trade_id, count, side, price, size, timestamp, received, source, origin, epoch"


def _copied(**changed: str) -> str:
    """Return SQL that stores the fill `a` once more, with some columns changed."""
    values = ", ".join(changed.get(name, name) for name in _COLUMNS.split(", "))
    return f"INSERT INTO raw_trades ({_COLUMNS}) SELECT {values} FROM raw_trades WHERE trade_id = %(a)s"


def _long_ago(table: str) -> str:
    """Return SQL that dates every row of a table back to 2020."""
    part = f"CREATE TABLE {table}_old PARTITION OF {table} FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')"
    return f"{part}; UPDATE {table} SET timestamp = '2020-01-01Z'"


WAYS = (
    Way("ten rows deleted", "DELETE FROM raw_trades WHERE trade_id BETWEEN %(a)s AND %(a)s + 9"),
    Way("the first and the last row deleted", "DELETE FROM raw_trades WHERE trade_id IN (%(first)s, %(last)s)"),
    Way("every row deleted", "TRUNCATE raw_trades"),
    Way("a price altered", "UPDATE raw_trades SET price = price * 2 WHERE trade_id = %(a)s"),
    Way("a size altered", "UPDATE raw_trades SET size = size + 0.00000001 WHERE trade_id = %(a)s"),
    Way("a side altered", "UPDATE raw_trades SET side = CASE side WHEN 'buy' THEN 'sell' ELSE 'buy' END"
        " WHERE trade_id = %(a)s"),
    Way("a time altered", "UPDATE raw_trades SET timestamp = timestamp + interval '61 s' WHERE trade_id = %(a)s"),
    Way("a time altered into another day", "UPDATE raw_trades SET timestamp = timestamp - interval '40 minutes'"
        " WHERE trade_id = %(a)s"),
    Way("an id altered", "UPDATE raw_trades SET trade_id = trade_id + 100000 WHERE trade_id = %(a)s"),
    Way("a row doubled", _copied(timestamp="timestamp + interval '1 s'")),
    Way("a row that never was", _copied(trade_id="trade_id + 1000000")),
    Way("a row of another database", _copied(trade_id="trade_id + 1", price="price * 3",
        timestamp="timestamp + interval '2 s'")),
    Way("a row of another epoch", "UPDATE raw_trades SET epoch = 1 WHERE trade_id = %(a)s"),
    Way("a partition dropped", "DROP TABLE raw_trades_{day}"),
    Way("a partition detached", "ALTER TABLE raw_trades DETACH PARTITION raw_trades_{day};"
        " ALTER TABLE raw_trades_{day} RENAME TO elsewhere"),
    Way("a partition emptied", "TRUNCATE raw_trades_{day}"),
    Way("a day of the ledger deleted", "DELETE FROM trade_ledger WHERE day = (SELECT min(day) FROM trade_ledger)"),
    Way("the ledger deleted", "DELETE FROM trade_ledger"),
    Way("the ledger widened", "UPDATE trade_ledger SET covered = covered + int8multirange(int8range(%(last)s + 1,"
        " %(last)s + 6)), last_id = %(last)s + 5 WHERE last_id = %(last)s"),
    Way("the ledger narrowed", "UPDATE trade_ledger SET covered = covered - int8multirange(int8range(%(a)s, %(b)s))"),
    Way("stored ids called absent", "DELETE FROM raw_trades WHERE trade_id = %(a)s; UPDATE trade_ledger SET covered ="
        " covered - int8multirange(int8range(%(a)s, %(a)s + 1)), absent = absent + int8multirange(int8range(%(a)s,"
        " %(a)s + 1)) WHERE covered @> %(a)s::bigint"),
    Way("10^12 ids called absent", "DELETE FROM raw_trades WHERE trade_id = %(last)s; UPDATE trade_ledger SET covered ="
        " covered - int8multirange(int8range(%(last)s, NULL)), last_id = %(last)s - 1, absent = absent +"
        " int8multirange(int8range(%(last)s, 1000000000000000)) WHERE last_id = %(last)s"),
    Way("ids missed that are not there", "INSERT INTO doubts (exchange, symbol, first_id, last_id) VALUES ('okx',"
        " 'BTC-USDT', %(last)s + 5, %(last)s + 9)", ("db forget BTC-USDT --ids {lost} --yes",), "okx db forget"),
    Way("a wild id", _copied(trade_id="1000000000000000") + "; UPDATE trade_ledger SET covered = covered +"
        " int8multirange('{[1000000000000000,1000000000000000]}'), last_id = 1000000000000000, fills = NULL, checksum ="
        " NULL WHERE last_id = %(last)s", ("db forget BTC-USDT --ids 1000000000000000 --yes",), "okx db forget"),
    Way("a time that has not come", _copied(trade_id="%(last)s + 1", timestamp="now() + interval '400 days'").replace(
        "INSERT", "CREATE TABLE raw_trades_ahead PARTITION OF raw_trades DEFAULT; INSERT", 1) + "; INSERT INTO"
        " trade_ledger (exchange, symbol, day, covered, first_id, last_id, first_time, last_time) SELECT exchange,"
        " symbol, timestamp::date, int8multirange(int8range(trade_id, trade_id + 1)), trade_id, trade_id, timestamp,"
        " timestamp FROM raw_trades_ahead", ("db forget BTC-USDT --ids {next} --yes",), "okx db forget"),
    Way("the tape gone, the candles left", "TRUNCATE raw_trades, trade_ledger", ("backfill --since {since}",),
        "--since"),
    Way("all of the symbol gone", "TRUNCATE raw_trades, trade_ledger, market_data, symbols, tickers, order_books",
        ("backfill --since {since}", "refresh"), "--since"),
    Way("restored from an old backup", "DELETE FROM raw_trades WHERE trade_id > %(b)s; UPDATE trade_ledger SET covered"
        " = covered - int8multirange(int8range(%(b)s + 1, NULL)), last_id = %(b)s, fills = NULL, checksum = NULL,"
        " last_time = (SELECT max(timestamp) FROM raw_trades) WHERE last_id = %(last)s; DELETE FROM market_data WHERE"
        " last_trade_id > %(b)s"),
    Way("a candle deleted", f"DELETE FROM market_data WHERE {_BAR}"),
    Way("an open altered", _bar("open = open * 1.01"), (_REBUILD,), "--rebuild"),
    Way("a high altered", _bar("high = high * 2"), (_REBUILD,), "--rebuild"),
    Way("a volume altered", _bar("volume = volume + 0.00000001"), (_REBUILD,), "--rebuild"),
    Way("a count altered", _bar("trade_count = trade_count + 1"), (_REBUILD,), "--rebuild"),
    Way("ids of a candle altered", _bar("last_trade_id = last_trade_id + 1"), (_REBUILD,), "--rebuild"),
    Way("a candle called incomplete", _bar("complete = false"), named=""),
    Way("a candle called running", _bar("closed = false")),
    Way("a candle moved", _bar("start = start + interval '7 s', timestamp = timestamp + interval '7 s'"), (_REBUILD,),
        "--rebuild"),
    Way("a candle that never was", "CREATE TEMP TABLE extra AS SELECT * FROM market_data WHERE " + _BAR + "; UPDATE"
        " extra SET start = start + interval '30 s', timestamp = timestamp + interval '30 s'; INSERT INTO market_data"
        " TABLE extra", (_REBUILD,), "--rebuild"),
    Way("a larger candle altered", "UPDATE market_data SET close = close + 7 WHERE timeframe = '15m' AND complete",
        (_REBUILD,), "--rebuild"),
    Way("a timeframe deleted", "DELETE FROM market_data WHERE timeframe = '5m'"),
    Way("every candle deleted", "TRUNCATE market_data"),
    Way("tickers that stopped", _long_ago("tickers"), ("refresh",), "stale"),
    Way("books that stopped", _long_ago("order_books"), ("refresh",), "stale"),
    Way("a fresh row of another exchange", _long_ago("tickers") + "; INSERT INTO symbols VALUES ('other', 'BTC-USDT');"
        " INSERT INTO tickers (exchange, symbol, timestamp) SELECT 'other', symbol, max(last_time) FROM trade_ledger"
        " GROUP BY 2", ("refresh",), "stale"),
    Way("a channel never stored", "TRUNCATE tickers", ("refresh",), "never stored"),
    Way("a line refused", "INSERT INTO quarantine (type, exchange, symbol, reason, line) VALUES ('trade', 'okx',"
        " 'BTC-USDT', 'why', 'x')", ("db run DELETE_FROM_quarantine",), "in quarantine"),
    Way("tables of an older release", "UPDATE meta SET value = '2' WHERE key = 'schema_version'; ALTER TABLE doubts"
        " DROP COLUMN forgotten; ALTER TABLE trade_ledger DROP fills, DROP checksum, DROP audited, DROP found,"
        " DROP retired; ALTER TABLE symbols DROP COLUMN IF EXISTS step;"
        " DROP TABLE funding_rates, mark_prices, index_prices, open_interest, price_limits, liquidations",
        ("db migrate", "backfill"), "okx db migrate"),
    Way("data of another exchange", "UPDATE meta SET value = 'okx.com' WHERE key = 'origin'",
        ("db run UPDATE_meta_SET_value='local'_WHERE_key='origin'",), "holds data from okx.com"),
)  # fmt: skip


@dataclass
class Found:
    """What became of a way: the exit codes by command before and after, what was printed, and what is wrong."""

    way: Way
    before: dict[str, int]
    after: dict[str, int]
    text: str
    wrong: str


class Place:
    """A market that stands still, and a database with all of it, to be copied."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn = dsn
        self._folder = folder
        # Some minutes after a midnight, so that two days are stored; no more than a day ago.
        now = now_ms()
        midnight = now // _DAY * _DAY - (_DAY if now % _DAY < 1_500_000 else 0)
        self.exchange = LocalExchange(
            [SYMBOL], rate=1.5, history_s=4_500, quiet=0.1, seed=5, start_ms=midnight + 1_200_000,
            options=Options(limits=0),
        )  # fmt: skip
        self.midnight = midnight
        self.begin = midnight + 1_200_000 - 4_200_000

    def __enter__(self) -> "Place":
        self.exchange.__enter__()
        self.exchange.stop_market()
        self.exchange.set_time(self.midnight + 1_200_000 + 70_000)
        self._name = f"okx_comfort_{os.getpid()}"
        config = {
            "symbols": [SYMBOL],
            "channels": ["trades-all", "tickers", "books5"],
            "timeframes": _FRAMES,
            "exchange": {"ws_url": self.exchange.ws_url, "rest_url": self.exchange.rest_url},
        }
        (self._folder / "okx.json").write_text(json.dumps(config))
        self._execute(f"CREATE DATABASE {self._name}")
        self.dsn = make_conninfo(self._dsn, dbname=self._name)
        with open_database(self.dsn, create=True, origin="local"):
            pass
        self.refresh()
        codes = [self.run(f"backfill --since {iso(self.begin)}")[0], self.run("backfill")[0]]
        found = {name: self.run(" ".join(words)) for name, words in LOOKS.items()}
        wrong = {name: text for name, (code, text) in found.items() if code}
        if codes != [0, 0] or wrong:
            raise AssertionError(f"the market itself is not whole: {codes} {wrong}")
        self.fills = self._fills()
        with psycopg.connect(self.dsn, autocommit=True) as connection:  # nobody may be connected to what is copied
            self.ids = [row[1] for row in self.fills]
            connection.execute("SELECT 1")
        self.template, self.dsn = self._name, ""
        return self

    def __exit__(self, *error: object) -> None:
        self._execute(f"DROP DATABASE {self._name} WITH (FORCE)")
        self.exchange.__exit__(None, None, None)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def copy(self) -> Iterator[None]:
        """Work on a copy within the block."""
        name = f"{self._name}_copy"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {self.template}")
        self.dsn = make_conninfo(self._dsn, dbname=name)
        try:
            yield
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def run(self, command: str) -> tuple[int, str]:
        """Run `okx COMMAND` and return its exit code and what it says on both streams."""
        command = command.format(symbol=SYMBOL, since=iso(self.begin), until=iso(self.midnight + 900_000))
        words = [word.replace("_", " ") if command.startswith("db run") else word for word in command.split()]
        if words == ["refresh"]:
            self.refresh()
            return 0, ""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
        env = {"OKX_DSN": self.dsn, "OKX_CONFIG": str(self._folder / "okx.json"), "HOME": str(self._folder)}
        env["XDG_RUNTIME_DIR"] = str(self._folder)
        out, err, lines = io.StringIO(), io.StringIO(), self._folder / "lines"
        more = ["-o", str(lines)] if words[0] == "verify" else []
        logger = logging.getLogger("okxcli")
        handlers = list(logger.handlers)
        try:
            with mock.patch.dict(os.environ, {**clean, **env}, clear=True), redirect_stdout(out), redirect_stderr(err):
                code = int(okx([*words, *more]))
        finally:
            for handler in [one for one in logger.handlers if one not in handlers]:
                logger.removeHandler(handler)
        return code, out.getvalue() + err.getvalue()

    def refresh(self) -> None:
        """Store a ticker and a book of now."""
        at = self.midnight + 1_200_000
        book = BookSnapshot("okx", SYMBOL, at, ((Decimal(1), Decimal(1)),), ((Decimal(2), Decimal(1)),), 1)
        with open_database(self.dsn, create=True) as database, closing(Writer(database.connect)) as writer:
            writer.add(Ticker("okx", SYMBOL, at, last=Decimal(1)))
            writer.add(book)
            writer.flush()

    def _fills(self) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(
                "SELECT timestamp, trade_id, side, price, size FROM raw_trades WHERE epoch = 0 ORDER BY 2, 1"
            ).fetchall()

    def damage(self, way: Way) -> None:
        """Do what a way says."""
        rows = self.fills
        late = [at for at, row in enumerate(rows) if row[0].timestamp() * 1000 > self.midnight + 240_000]  # type: ignore[attr-defined]
        a = next(at for at in late if rows[at][3] != rows[at + 1][3])
        values = {"a": rows[a][1], "b": self.ids[a + 5], "first": self.ids[0], "last": self.ids[-1]}
        day = iso(self.midnight)[:10].replace("-", "")
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = psycopg.ClientCursor(connection)
            cursor.execute(way.sql.replace("{day}", day), values)

    def look(self) -> tuple[dict[str, int], str]:
        """Run every command that looks, and backfill last; return their exit codes and all that they say."""
        found = {name: self.run(" ".join(words)) for name, words in LOOKS.items()}
        return {name: code for name, (code, _) in found.items()}, "\n".join(
            f"{name}: {line}" for name, (_, text) in found.items() for line in text.splitlines()
        )

    def go(self, way: Way) -> Found:
        """Go one way on a copy."""
        with self.copy():
            self.damage(way)
            with psycopg.connect(self.dsn, autocommit=True) as plain:
                current = versions.version(plain) == versions.newest()
            if current:  # as okx collect does all the time
                with open_database(self.dsn, create=False) as database, database.session() as connection:
                    audit.audit(connection)
            before, text = self.look()
            noticed = any(before.values()) or "backfill: {" in text or way.named in (text if way.named else ())
            wrong = "" if noticed else "silent"
            if way.named and way.named not in text:
                wrong = wrong or "the cure is not named"
            last = self.ids[-1]
            for cure in way.cure:
                self.run(cure.replace("{lost}", f"{last + 5}-{last + 9}").replace("{next}", str(last + 1)))
            after, again = self.look()
            if any(after.values()) and not wrong:
                wrong = "not cured: " + again[-600:]
            if not wrong and self._fills() != self.fills:
                wrong = "the fills are not the exchange's"
            return Found(way, before, after, text, wrong)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--only", metavar="TEXT", default="", help="only the ways whose name holds this")


def main(options: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Go all ways and print a table: the exit code of each command before the cure, and the cure."""
    from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base

    bad = 0
    show(f"{'way':36}" + "".join(f"{name:>10}" for name in LOOKS) + "  cure")
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(throwaway_base(), THROWAWAY) as server,
        Place(server.dsn, Path(folder)) as place,
    ):
        for way in WAYS:
            if options.only not in way.name:
                continue
            found = place.go(way)
            cure = "; ".join("okx " + one for one in way.cure if one != "refresh") or "the channel goes on"
            codes = "".join(f"{code:>10}" for code in found.before.values())
            show(f"{way.name:36}{codes}  {(found.wrong and 'WRONG: ' + found.wrong) or cure}")
            bad += bool(found.wrong)
    show(f"{len(WAYS)} ways, {bad} wrong")
    return int(bad > 0)
