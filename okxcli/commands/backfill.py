"""`okx backfill`: find the holes of the tape, fill them, mend the bars."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way

if TYPE_CHECKING:
    from collections import Counter

    from okxcli.commands.ways import Way
    from okxcli.exchanges.interface import Exchange
    from okxcli.pipeline.backfill import Backfill, PastChannels
    from okxcli.runtime.configuration.config import Config
    from okxcli.runtime.progress import Progress
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import Database

#: The part of the exchange's limits that it takes; the other half is for those who follow the present.
_SHARE = 0.5

Row = dict[str, object]
_Restore = Annotated[
    bool, options.switch("restore", "Fetch the days too whose rows retention dropped (needs --since).")
]
_DryRun = Annotated[bool, options.switch("dry-run", "Only tell what would be done, and how long it would take.")]
_Wait = Annotated[bool, options.switch("wait", "Wait up to a minute to prove that the exchange itself lacks an id.")]


def backfill(
    *,
    symbols: Annotated[list[str] | None, options.some_symbols("Only these. Default: the configured ones.")] = None,
    since: Annotated[
        str | None, options.time_option("--since", "From here on: fetched too where the tape begins later.")
    ] = None,
    until: Annotated[str | None, options.time_option("--until", "Up to here. Default: a minute ago.")] = None,
    files: Annotated[
        list[str] | None,
        options.bulk_files("Take what these bulk files hold, before the exchange is asked for the rest."),
    ] = None,
    download: Annotated[
        bool,
        options.switch(
            "download",
            "Take whole days from the exchange's bulk files where that is quicker than REST. Of another site only "
            "if --files-url says where its files are.",
        ),
    ] = True,
    bulk: options.BulkFiles,
    restore: _Restore = False,
    rebuild: Annotated[
        bool,
        options.switch(
            "rebuild",
            "Make every stored candle of the time again, whatever it says (needs --since, or - for SYMBOL: the "
            "bars that okx verify tells of on standard input).",
        ),
    ] = False,
    dry_run: _DryRun = False,
    wait: _Wait = True,
    table: options.Table = None,
    stored: options.Stored,
    addresses: options.Addresses,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and only warnings on stderr.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Fill the holes of the stored tape from the exchange and mend the candles they touched; made for cron.

    In: the database, whose ledger of ids tells what is missing, and the exchange's REST and bulk files: whole days come
    from files, the rest from REST. Out: rows; and on standard output one line for each symbol of which there was
    something to do, nothing otherwise. Of a symbol of which only candles are stored the candles are mended, by the
    chain of their ids, and no fill is stored. Of the exchange's own candles and of funding, where the configuration has
    those channels, the holes are filled and what came since (a line of standard output for each). Whatever it has
    fetched is committed from second to second: killed at any moment, the next run goes on. Exit 1 while ids are left
    that are neither here nor proven absent. Two at once do not run: the second exits with 75. It takes at most half of
    what the exchange allows an address.
    """
    from okxcli.errors import ExitCode, UsageError
    from okxcli.pipeline.bulk_import import BulkLoader
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_time
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.progress import bar
    from okxcli.runtime.signals import Lifecycle
    from okxcli.runtime.tables import write_rows

    log.setup("backfill", verbose=verbose, quiet=not verbose)
    settings = load(stored.config)
    if restore and since is None:
        raise UsageError("--restore fetches what retention dropped: say from when on with --since")
    if rebuild and since is None and symbols != ["-"]:
        raise UsageError("--rebuild makes candles again: say from when on with --since, or pipe okx verify to it")
    if "-" in (symbols or ()) and (not rebuild or symbols != ["-"]):
        raise UsageError("- reads the lines of okx verify: it goes alone, with --rebuild")
    if not symbols and not settings.symbols and not settings.types:
        raise UsageError("no symbol is configured and none given. Try: okx backfill BTC-USDT --since 1d")
    here = way(settings, *addresses)
    now = (clock := here.market().clock())()
    begin, end = (None if text is None else parse_time(text, now) for text in (since, until))
    if begin is not None and begin >= (end or now):
        raise UsageError("--since must be before --until (default: a minute ago)")
    spans = _told(symbols, begin, end) if rebuild and symbols == ["-"] else None
    names = list(dict.fromkeys(symbols or settings.symbols)) if spans is None else [some[0] for some, _, _ in spans]
    if spans == []:
        return
    loaded: dict[str, Counter[str]] = {}
    rows: list[Row] = []
    with (
        Lifecycle("source") as life,
        _alone(stored.dsn, settings.dsn, here.origin) as database,
        bar("okx backfill", not quiet) as progress,
    ):
        names, settings = _meant(database, names, settings)
        place = _files_place(here, bulk.files_url) if download else None
        work, describe, others = _worker(database, here, settings, wait, life, progress, place, clock)
        with closing(work):
            if dry_run:
                write_rows(_planned(work, here.exchange, names, begin, end, rebuild), table)
                return
            for name in names if restore and begin is not None else ():
                work.tape.restore(name, begin or 0, end or now)
            if files:
                frames, fill, source = settings.timeframes, settings.fill, here.exchange
                loader = BulkLoader(database, names, frames, begin, end, fill, describe, bulk.rows_as, source=source)
                loader.load(files, lambda: life.stop, progress)
                loaded = loader.by_symbol
            try:
                for some, since_ms, until_ms in [(names, begin, end)] if spans is None else spans:
                    rows += work.run(some, since_ms, until_ms, loaded, rebuild)
            finally:
                write_rows(rows, table)
            write_rows(list(others.run(names, settings.channels if not rebuild else (), begin, end)), table)
    if work.unread or work.lacking:
        raise typer.Exit(ExitCode.DATA if work.unread else ExitCode.NO)


def _meant(database: "Database", names: list[str], settings: "Config") -> tuple[list[str], "Config"]:
    """Return what names and patterns mean by what is stored, those that are given and those of the configuration.

    Raises:
        AnswerNo: patterns mean nothing that is stored.
    """
    from okxcli.errors import AnswerNo
    from okxcli.storage.rows.reader import meant

    with database.session() as connection:
        configured = meant(connection, settings.symbols, settings.types)
        found = meant(connection, names, settings.types)
    if not found:
        raise AnswerNo(f"nothing is stored that is like {', '.join(names) or ' or '.join(settings.types)}")
    return found, replace(settings, symbols=tuple(configured))


def _told(symbols: list[str] | None, begin: int | None, end: int | None) -> list[tuple[list[str], int, int]]:
    """Return each symbol, alone, with the span (ms) of its bars that `okx verify` tells of on standard input."""
    from okxcli.errors import UsageError
    from okxcli.pipeline.verify import span_of
    from okxcli.runtime.filters import LineFilter

    if begin is not None or end is not None:
        raise UsageError("- reads the lines of okx verify, which say of what time they are: leave --since and --until")
    found: dict[str, tuple[int, int]] = {}

    def handle(line: bytes) -> None:
        symbol, start, stop = span_of(line)
        low, high = found.get(symbol, (start, stop))
        found[symbol] = min(low, start), max(high, stop)

    code = LineFilter("backfill", quiet=True).run(handle)
    if code:
        raise typer.Exit(code)
    return [([symbol], low, high) for symbol, (low, high) in found.items()]


def _files_place(way: "Way", files_url: str | None) -> str | None:
    """Return where the bulk files of a site are; None where nobody knows: those of the main site are of no other."""
    if way.exchange.files is None:
        return None
    return files_url or (way.exchange.files.url if way.origin == way.exchange.home else None)


@contextmanager
def _alone(dsn: str | None, config_dsn: str | None, site: str) -> Iterator["Database"]:
    """Open the database, if it holds data of this site, and hold the lock of which there is one in it.

    Raises:
        TryLater: another run holds it.
    """
    from okxcli.errors import TryLater
    from okxcli.storage.database import open_database
    from okxcli.storage.schema import versions
    from okxcli.storage.server.pooled_connection import lone

    with (
        open_database(dsn, config_dsn=config_dsn, create=False, application="okx backfill") as database,
        database.session() as connection,
    ):
        versions.guard_origin(connection, site, database.where)
        with lone(connection, versions.BACKFILL_LOCK) as alone:
            if not alone:
                raise TryLater(f"another okx backfill is at work on {database.where}: try again when it is done")
            yield database


def _worker(
    database: "Database",
    way: "Way",
    settings: "Config",
    wait: bool,
    life: "Lifecycle",
    progress: "Progress",
    files_url: str | None,
    clock: Callable[[], int],
) -> tuple["Backfill", Callable[[str], list[bytes]], "PastChannels"]:
    """Return what does the work, what tells in raw lines what a symbol is, and what fills in other channels."""
    from okxcli.core.model import TAPE
    from okxcli.exchanges.registry import files_of
    from okxcli.pipeline.backfill import Backfill, BulkFiles, PastChannels, Tools

    def sleep(seconds: float) -> None:
        if not life.stop:
            life.wait(None, seconds)

    market = way.market(share=_SHARE, sleep=sleep)

    def describe(symbol: str) -> list[bytes]:
        return market.describe([symbol])

    files: BulkFiles | None = None
    if files_url is not None:
        files = BulkFiles(
            database,
            files_url,
            files_of(way.exchange).folder(files_url),
            settings.timeframes,
            fill=settings.fill,
            describe=describe,
            stopped=lambda: life.stop,
            sleep=sleep,
            clock=clock,
            proxies=way.proxies,
            source=way.exchange,
        )
    tools = Tools(
        database.connect,
        market.history(clock),
        way.exchange,
        clock=clock,
        fill=settings.fill,
        describe=describe,
        stopped=lambda: life.stop,
        sleep=sleep,
        progress=progress,
    )
    keep = settings.keep_days.get("candles")
    taped = settings.symbols if TAPE in settings.channels else ()
    others = PastChannels(tools, lambda symbol, channel, span: market.past([symbol], channel, span, clock, progress))
    work = Backfill(tools, settings.timeframes, keep_candles_days=keep, wait=wait, files=files, taped=taped)
    return work, describe, others


def _planned(
    work: "Backfill", exchange: "Exchange", names: list[str], begin: int | None, end: int | None, rebuild: bool
) -> list[Row]:
    """Return what a run would do; requests are what pages of a hundred fills cost, at the pace that it keeps."""

    count, seconds = exchange.pages()
    found: list[Row] = []
    for name in names:
        plan = work.plan(name, begin, end, rebuild)
        found.append(
            {
                "symbol": name,
                "missing": plan.count,
                "files": sum(days.fills for days in plan.days),
                "days": sum(days.number for days in plan.days),
                "requests": plan.requests,
                "seconds": round(plan.requests * seconds / (count * _SHARE)),
                "stale_candles": 0 if plan.note else work.stale_bars(name, begin, end),
                "note": plan.note,
            }
        )
    return found
