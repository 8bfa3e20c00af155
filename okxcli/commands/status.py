"""`okx status`: is it running, is it fresh, is it whole."""

import shutil
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from okxcli.storage.database import Database
    from okxcli.storage.read.freshness import Freshness
    from okxcli.storage.server.pooled_connection import Connection

#: A symbol is not stale before so many of its usual pauses between two fills have passed, and always after a day.
_PAUSES = 20
_LONGEST_MS = 86_400_000
#: A clock that is further off is worth a word.
_OFF_MS = 1_000

_Symbols = Annotated[list[str] | None, options.some_symbols("Only these. Default: the configured and the stored.")]


def status(
    *,
    symbols: _Symbols = None,
    watch: Annotated[
        float | None,
        typer.Option("--watch", min=0.5, metavar="SECONDS", help="Look again every so often, until Ctrl-C."),
    ] = None,
    max_age: Annotated[
        str, options.time_option("--max-age", "A channel whose newest row is older than this is stale.")
    ] = "2m",
    table: options.Table = None,
    stored: options.Stored,
) -> None:
    """Tell how fresh and how whole the stored data is; exit 1 unless it is fresh and as it was stored.

    In: the database, and the configuration for the symbols and channels that should be there. Out: one row for each
    channel of a symbol, by exchange: age of its newest row in seconds (of candles, how long the next one is due), and
    of the tape, trades-all, fills stored and in the last minute, missing and absent ids; quarantined lines of a symbol
    stand in its first row. A channel is stale when it is older than --max-age; the tape and candles of a symbol that
    trades seldom when they are older than 20 of its usual pauses between two fills, or than a day. Price limits and
    liquidations come when they come, and are never stale. It is ahead when its
    newest row is as much later than this machine's clock. Lines on stderr say what else was found, with its cure (exit
    1 as well), how far the clocks of collectors were from the exchange's when they last looked, the size of the
    database and the free disk, how many days of the tape were audited by okx collect and okx backfill, what waits in
    the spool of this user and machine, and whether this machine has the kernels in C.
    """
    from okxcli.exchanges.registry import configured
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_duration
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import open_database
    from okxcli.storage.rows.reader import meant

    log.setup("status", quiet=True)
    settings = load(stored.config)
    limit_ms = round(parse_duration(max_age) * 1000)
    name, channels = configured(settings).name, settings.channels
    wanted = Wanted(name, tuple(symbols or ()), settings.symbols, channels, settings.timeframes)
    well = True
    with open_database(stored.dsn, config_dsn=settings.dsn, create=False, application="okx status") as database:
        with database.session() as connection:
            wanted = replace(wanted, configured=tuple(meant(connection, settings.symbols, settings.types)))
        if watch is None:
            well = _show(database, wanted, limit_ms, table)
        else:
            with Lifecycle("server") as life:
                while not life.stop:
                    well = _show(database, wanted, limit_ms, table, clear=sys.stdout.isatty())
                    life.wait(None, watch)
    raise typer.Exit(0 if well else 1)


@dataclass(frozen=True)
class Wanted:
    """What should be there: `named` symbols, else all; of the configured ones these channels and timeframes."""

    exchange: str
    named: tuple[str, ...]
    configured: tuple[str, ...]
    channels: tuple[str, ...]
    timeframes: tuple[str, ...]

    def completed(self, found: "list[Freshness]") -> "list[Freshness]":
        """Return the rows to show: those that were found, and one for each channel that should be there and is not."""
        from okxcli.storage.read.freshness import Freshness

        rows = [one for one in found if not self.named or one.symbol in self.named]
        for symbol in self.named or self.configured:
            there = {one.channel for one in rows if (one.exchange, one.symbol) == (self.exchange, symbol)}
            wanted = self._due(symbol, there) if symbol in self.configured else [] if there else ["-"]
            rows += [Freshness(self.exchange, symbol, channel, None) for channel in wanted]
        return sorted(rows, key=lambda one: (one.symbol, one.exchange))

    def _due(self, symbol: str, there: set[str]) -> list[str]:
        """Return the channels of a symbol that should be there and are not."""
        from okxcli.core.states import BY_CHANNEL
        from okxcli.storage.read.freshness import THEIR_CANDLES

        found: list[str] = []
        for channel in self.channels:
            described = BY_CHANNEL.get(channel)
            if described is not None and (not described.keeps or described.subject(symbol) != symbol):
                continue
            name = THEIR_CANDLES if channel.startswith("candle") else channel
            if name not in there and name not in found:
                found.append(name)
        return found


def _show(database: "Database", wanted: Wanted, limit_ms: int, table: bool | None, clear: bool = False) -> bool:
    """Write the rows once, and on stderr what was found; return whether all is well."""
    from okxcli.runtime.clock import iso, now_ms
    from okxcli.runtime.road import road
    from okxcli.runtime.tables import write_rows, write_text
    from okxcli.storage.ledger import audit
    from okxcli.storage.read.freshness import cure_of_ahead, database_size, freshness, quarantined
    from okxcli.storage.schema import versions
    from okxcli.storage.write.spool import Spool, default_folder

    now = now_ms()
    with database.session() as connection:
        found = freshness(connection, now, wanted.configured, wanted.timeframes)
        size, bad = database_size(connection), quarantined(connection)
        told = list(_findings(connection, wanted, found))
        audited, days = audit.audited(connection)
        clocks = [one for one in versions.clocks(connection) if now - one.at_ms < _LONGEST_MS]
    rows = [_row(one, now, limit_ms) for one in wanted.completed(found)]
    if clear:
        write_text(f"\x1b[H\x1b[2J{iso(now)}  {database.where}\n\n")
    write_rows(rows, table)
    place = database.target.base
    disk = ""
    if place is not None:
        disk = f", {_gigabytes(shutil.disk_usage(place if place.exists() else place.parent).free)} free"
    spool = Spool(default_folder(database.where))
    waiting = f", {_gigabytes(spool.size())} wait in {spool.folder}" if spool.size() else ""
    counted = f", {audited} of {days} days audited" if days else ""
    refused = f", {bad:,} lines in quarantine" if bad else ""
    told += [
        f"{row['exchange']} {row['symbol']}: {row['channel']} has rows of a time that has not come."
        f" {cure_of_ahead(str(row['symbol']), str(row['channel']))}"
        for row in rows
        if row["state"] == "ahead"
    ]
    for line in told:
        print(f"okx status: {line}", file=sys.stderr)
    for one in clocks:
        word = "behind" if one.offset_ms > 0 else "ahead of"
        cure = ". Set it by NTP" if abs(one.offset_ms) > _OFF_MS else ""
        text = f"the clock of {one.host} was {abs(one.offset_ms) / 1000:.1f} s {word} the exchange's"
        text += f" at {iso(one.at_ms)}{cure}"
        print(f"okx status: {text}", file=sys.stderr)
    ours = f", lines read by {road()[0]}"
    print(f"okx status: {database.where}: {_gigabytes(size)}{disk}{counted}{refused}{ours}{waiting}", file=sys.stderr)
    if not rows:
        print("okx status: nothing is stored and no symbol is configured", file=sys.stderr)
    return bool(rows) and not told and all(row["state"] == "fresh" for row in rows)


def _findings(connection: "Connection", wanted: Wanted, rows: "list[Freshness]") -> "Iterator[str]":
    """Yield in a line each what is wrong with what is stored, and its cure."""
    from itertools import groupby

    from okxcli.core.tape import FAR
    from okxcli.storage.ledger import audit

    for row in rows:
        if (row.missing or 0) > FAR and (not wanted.named or row.symbol in wanted.named):
            yield (
                f"{row.exchange} {row.symbol}: {row.missing:,} missing ids are more than could be: okx gaps"
                f" {row.symbol} tells of the wild one, okx db forget {row.symbol} --ids takes it out"
            )
    found = [one for one in audit.findings(connection) if not wanted.named or one.symbol in wanted.named]
    for (exchange, symbol), group in groupby(found, key=lambda one: (one.exchange, one.symbol)):
        days = list(group)
        more = f" and {len(days) - 1} more days" if days[1:] else ""
        yield (
            f"{exchange} {symbol}: the fills of {days[0].day}{more} are not as they were stored ({days[0].what})."
            f" To mend it: okx backfill {symbol}"
        )


def _row(one: "Freshness", now: int, limit_ms: int) -> dict[str, object]:
    # A market that trades once an hour is not dead after two minutes; nor is one that is alive excused for a day.
    limit_ms = max(limit_ms, min(_PAUSES * one.pause_ms, _LONGEST_MS))
    age_ms = None if one.newest is None else now - one.newest
    state = "never stored" if age_ms is None else "stale" if age_ms > limit_ms else "fresh"
    if age_ms is not None and age_ms < -limit_ms and not one.channel.endswith("candles"):
        state = "ahead"  # a clock is wrong: this machine's, or that of the row
    if state == "stale" and not _keeps(one.channel):
        state = "fresh"
    state = "ahead" if one.ahead else state
    return {
        "exchange": one.exchange,
        "symbol": one.symbol,
        "channel": one.channel,
        "state": state,
        "age_s": None if age_ms is None else max(age_ms, 0) // 1000,
        "trades": one.trades,
        "per_minute": one.rate,
        "missing": one.missing,
        "absent": one.absent,
        "quarantined": one.quarantined,
    }


def _keeps(channel: str) -> bool:
    """Whether something of a channel comes every few minutes, whatever happens."""
    from okxcli.core.states import BY_CHANNEL

    return channel not in BY_CHANNEL or BY_CHANNEL[channel].keeps


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
