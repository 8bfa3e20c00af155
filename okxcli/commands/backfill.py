"""`okx backfill`: find the holes of the tape, fill them, mend the bars."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options

if TYPE_CHECKING:
    from collections import Counter

    from okxcli.pipeline.backfill import Backfill
    from okxcli.runtime.configuration.config import Config
    from okxcli.runtime.progress import Progress
    from okxcli.runtime.proxy import Proxies
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import Database

#: The part of OKX's limits that it takes; the other half is for those who follow the present.
_SHARE = 0.5

Row = dict[str, object]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("backfill")(backfill)


def backfill(
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL]...", help="Only these. Default: the configured ones.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="From here on: fetched too where the tape begins later."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Up to here. Default: a minute ago.")
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--files", metavar="PATH", help="Take what these bulk files of OKX hold, before OKX is asked for the rest."
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download/--no-download",
            help="Take whole days from OKX's bulk files where that is quicker than REST. Of another exchange only if "
            "--files-url says where its files are.",
        ),
    ] = True,
    files_url: options.FilesUrl = None,
    rows_as: options.RowsAs = None,
    restore: Annotated[
        bool,
        typer.Option("--restore/--no-restore", help="Fetch the days too whose rows retention dropped (needs --since)."),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild/--no-rebuild",
            help="Make every stored candle of the time again, whatever it says (needs --since, or - for SYMBOL: the "
            "bars that okx verify tells of on standard input).",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--no-dry-run", help="Only tell what would be done, and how long it would take.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait up to a minute to prove that OKX itself lacks an id.")
    ] = True,
    table: Annotated[
        bool | None, typer.Option("--table/--lines", help="A table, or JSON lines. Default: a table on a terminal.")
    ] = None,
    config: options.Config = None,
    dsn: options.Dsn = None,
    ws_url: options.WsUrl = None,
    rest_url: options.RestUrl = None,
    proxy: options.Proxy = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and only warnings on stderr.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Fill the holes of the stored tape from OKX and mend the candles they touched; made for cron.

    In: the database, whose ledger of ids tells what is missing, and OKX's REST and bulk files: whole days come from
    files, the rest from REST. Out: rows; and on standard output one line for each symbol of which there was something
    to do, nothing otherwise. Of a symbol of which only candles are stored the candles are mended, by the chain of their
    ids, and no fill is stored. Whatever it has fetched is committed from second to second: killed at any moment, the
    next run goes on. Exit 1 while ids are left that are neither here nor proven absent. Two at once do not run: the
    second exits with 75. It takes at most half of what OKX allows an address.
    """
    from okxcli.errors import ExitCode, UsageError
    from okxcli.exchanges.okx.rest.endpoints import RestClient
    from okxcli.exchanges.okx.sites import origin_of
    from okxcli.pipeline.bulk_import import BulkLoader
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_time
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.progress import Progress
    from okxcli.runtime.proxy import Proxies
    from okxcli.runtime.signals import Lifecycle
    from okxcli.runtime.tables import write_rows

    log.setup("backfill", verbose=verbose, quiet=not verbose)
    settings = load(config)
    if restore and since is None:
        raise UsageError("--restore fetches what retention dropped: say from when on with --since")
    if rebuild and since is None and symbols != ["-"]:
        raise UsageError("--rebuild makes candles again: say from when on with --since, or pipe okx verify to it")
    if not symbols and not settings.symbols:
        raise UsageError("no symbol is configured and none given. Try: okx backfill BTC-USDT --since 1d")
    base = rest_url or settings.rest_url or options.DEFAULT_REST_URL
    proxies = Proxies(proxy, settings.proxy)
    now = (clock := RestClient(base, proxies=proxies).clock())()
    begin, end = (None if text is None else parse_time(text, now) for text in (since, until))
    if begin is not None and begin >= (end or now):
        raise UsageError("--since must be before --until (default: a minute ago)")
    spans = _told(symbols, begin, end) if rebuild and symbols == ["-"] else None
    names = list(dict.fromkeys(symbols or settings.symbols)) if spans is None else list(spans)
    if not names:
        return
    site = origin_of(ws_url or settings.ws_url or options.DEFAULT_WS_URL)
    loaded: dict[str, Counter[str]] = {}
    rows: list[Row] = []
    with (
        Lifecycle("source") as life,
        _alone(dsn, settings.dsn, site) as database,
        Progress("okx backfill", not quiet) as progress,
    ):
        place = _files_place(site, files_url) if download else None
        work, describe = _worker(database, base, settings, wait, life, progress, place, clock, proxies)
        with closing(work):
            if dry_run:
                write_rows(_planned(work, names, begin, end, rebuild), table)
                return
            for name in names if restore and begin is not None else ():
                work.tape.restore(name, begin or 0, end or now)
            if files:
                loader = BulkLoader(database, names, settings.timeframes, begin, end, settings.fill, describe, rows_as)
                loader.load(files, lambda: life.stop, progress)
                loaded = loader.by_symbol()
            try:
                for some, since_ms, until_ms in _runs(names, begin, end, spans):
                    rows += work.run(some, since_ms, until_ms, loaded, rebuild)
            finally:
                write_rows(rows, table)
    if work.unread or work.lacking:
        raise typer.Exit(ExitCode.DATA if work.unread else ExitCode.NO)


def _told(symbols: list[str] | None, begin: int | None, end: int | None) -> dict[str, tuple[int, int]]:
    """Return the span (ms) of the bars of each symbol that `okx verify` tells of on standard input."""
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
    return found


def _runs(
    names: list[str], begin: int | None, end: int | None, spans: dict[str, tuple[int, int]] | None
) -> Iterator[tuple[list[str], int | None, int | None]]:
    """Yield which symbols to go through, and for what time."""
    if spans is None:
        yield names, begin, end
    else:
        yield from (([name], *span) for name, span in spans.items())


def _files_place(site: str, files_url: str | None) -> str | None:
    """Return where the bulk files of an exchange are; None where nobody knows: those of okx.com are of no other."""
    from okxcli.exchanges.okx.bulk_files.download import DEFAULT_FILES_URL

    return files_url or (DEFAULT_FILES_URL if site == "okx.com" else None)


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
    rest_url: str,
    settings: "Config",
    wait: bool,
    life: "Lifecycle",
    progress: "Progress",
    files_url: str | None,
    clock: Callable[[], int],
    proxies: "Proxies",
) -> tuple["Backfill", Callable[[str], list[bytes]]]:
    """Return what does the work, and what tells in raw lines what a symbol is."""
    from okxcli.exchanges.okx.bulk_files.download import default_folder
    from okxcli.exchanges.okx.feed.history_stream import instruments
    from okxcli.exchanges.okx.rest.endpoints import RestClient
    from okxcli.exchanges.okx.rest.history import TradeHistory
    from okxcli.exchanges.okx.rest.instrument_list import Catalogue
    from okxcli.pipeline.backfill import Backfill, BulkFiles, Tools

    def sleep(seconds: float) -> None:
        if not life.stop:
            life.wait(None, seconds)

    rest = RestClient(rest_url, share=_SHARE, proxies=proxies, sleep=sleep)

    def describe(symbol: str) -> list[bytes]:
        return instruments(Catalogue(rest), [symbol])

    files: BulkFiles | None = None
    if files_url is not None:
        files = BulkFiles(
            database,
            files_url,
            default_folder(files_url),
            settings.timeframes,
            fill=settings.fill,
            describe=describe,
            stopped=lambda: life.stop,
            sleep=sleep,
            clock=clock,
            proxies=proxies,
        )
    tools = Tools(
        database.connect,
        TradeHistory(rest, sleep=sleep, clock=clock),
        clock=clock,
        fill=settings.fill,
        describe=describe,
        stopped=lambda: life.stop,
        sleep=sleep,
        progress=progress,
    )
    keep = settings.keep_days.get("candles")
    taped = settings.symbols if "trades-all" in settings.channels else ()
    return Backfill(tools, settings.timeframes, keep_candles_days=keep, wait=wait, files=files, taped=taped), describe


def _planned(work: "Backfill", names: list[str], begin: int | None, end: int | None, rebuild: bool) -> list[Row]:
    """Return what a run would do; requests are what pages of a hundred fills cost, at the pace that it keeps."""
    from okxcli.exchanges.okx.rest.rate_limits import RATES

    count, seconds = RATES["/api/v5/market/history-trades"]
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
