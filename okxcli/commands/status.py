"""`okx status`: is it running, is it fresh, is it whole."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options

if TYPE_CHECKING:
    from okxcli.storage.database import Database
    from okxcli.storage.freshness import Freshness


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("status")(status)


def status(
    symbols: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SYMBOL]...", help="Only these. Default: the configured and the stored."),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option("--watch", min=0.5, metavar="SECONDS", help="Look again every so often, until Ctrl-C."),
    ] = None,
    max_age: Annotated[
        str, typer.Option("--max-age", metavar="TIME", help="A symbol whose newest row is older than this is stale.")
    ] = "2m",
    table: Annotated[
        bool | None, typer.Option("--table/--lines", help="A table, or JSON lines. Default: a table on a terminal.")
    ] = None,
    config: options.Config = None,
    dsn: options.Dsn = None,
) -> None:
    """Tell how fresh and how whole the stored data is; exit 1 if a symbol is stale.

    In: the database, and the configuration for the symbols that should be there. Out: one row a symbol: age of its
    newest row in seconds (trade, book or ticker, since a quiet market still has books; where only candles are stored,
    how long the next one is due), fills stored and in the last minute, missing and absent ids, age of the newest
    candle, quarantined lines. A last line on stderr gives the size of the database and the free disk, and what waits
    in the spool of this user and machine.
    """
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_duration
    from okxcli.runtime.config import load
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import open_database

    log.setup("status", quiet=True)
    settings = load(config)
    limit_ms = round(parse_duration(max_age) * 1000)
    wanted = list(symbols or settings.symbols)
    stale = False
    with open_database(dsn, config_dsn=settings.dsn, create=False, application="okx status") as database:
        if watch is None:
            stale = _show(database, wanted, bool(symbols), limit_ms, table)
        else:
            with Lifecycle("server") as life:
                while not life.stop:
                    stale = _show(database, wanted, bool(symbols), limit_ms, table, clear=sys.stdout.isatty())
                    life.wait(None, watch)
    raise typer.Exit(1 if stale else 0)


def _show(
    database: "Database", wanted: list[str], only: bool, limit_ms: int, table: bool | None, clear: bool = False
) -> bool:
    """Write the rows once; return whether one is stale."""
    from okxcli.runtime.clock import iso, now_ms
    from okxcli.runtime.tables import write_rows, write_text
    from okxcli.storage.freshness import database_size, freshness
    from okxcli.storage.spool import Spool, default_folder

    now = now_ms()
    with database.session() as connection:
        found = {one.symbol: one for one in freshness(connection, now)}
        size = database_size(connection)
    names = wanted if only else sorted({*wanted, *found})
    rows = [_row(name, found.get(name), now, limit_ms) for name in names]
    if clear:
        write_text(f"\x1b[H\x1b[2J{iso(now)}  {database.where}\n\n")
    write_rows(rows, table)
    place = database.target.base
    disk = f", {_gigabytes(shutil.disk_usage(_existing(place)).free)} free" if place is not None else ""
    spool = Spool(default_folder(database.where))
    waiting = f", {_gigabytes(spool.size())} wait in {spool.folder}" if spool.size() else ""
    print(f"okx status: {database.where}: {_gigabytes(size)}{disk}{waiting}", file=sys.stderr)
    if not rows:
        print("okx status: nothing is stored and no symbol is configured", file=sys.stderr)
    return not rows or any(row["state"] != "fresh" for row in rows)


def _row(name: str, one: "Freshness | None", now: int, limit_ms: int) -> dict[str, object]:
    newest = one.newest if one is not None else None

    def age(moment: int | None) -> int | None:
        return None if moment is None else max(now - moment, 0) // 1000

    return {
        "symbol": name,
        "state": "never stored" if newest is None else "stale" if now - newest > limit_ms else "fresh",
        "age_s": age(newest),
        "trades": one.trades if one else 0,
        "per_minute": one.rate if one else 0,
        "missing": one.missing if one else 0,
        "absent": one.absent if one else 0,
        "candle_age_s": age(one.last_candle) if one else None,
        "quarantined": one.quarantined if one else 0,
    }


def _existing(path: Path) -> Path:
    return path if path.exists() else path.parent


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
