"""`okx history`: the past as raw lines, from the exchange's REST or from its bulk files."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way_of_options

if TYPE_CHECKING:
    from okxcli.commands.ways import Way
    from okxcli.exchanges.file_interface import Archive
    from okxcli.exchanges.interface import Market, Past
    from okxcli.runtime.progress import Progress
    from okxcli.runtime.signals import Lifecycle

_log = logging.getLogger(__name__)

#: So many lines between two looks at signals, and at how the reader does.
_BLOCK = 500


def history(
    *,
    symbols: options.Symbols,
    since: Annotated[
        str | None,
        options.time_option(
            "--since", "From here on: ISO 8601, epoch ms, 2h (ago), today. Needed, except with --files."
        ),
    ] = None,
    until: Annotated[
        str | None, options.time_option("--until", "Up to here, this moment excluded. Default: now.")
    ] = None,
    channel: Annotated[
        str,
        typer.Option(
            "--channel",
            "-c",
            metavar="NAME",
            help="trades-all, funding-rate, or the exchange's own candles: candle1m, candle1H ...",
        ),
    ] = "trades-all",
    types: options.Types = None,
    files: Annotated[
        list[str] | None,
        options.bulk_files("Read the exchange's bulk files here instead: a file, a folder or a pattern."),
    ] = None,
    download: Annotated[
        bool,
        options.switch(
            "download",
            "First fetch the files of the span, unless they are there, into the folder that --files names, "
            "else into $XDG_CACHE_HOME/okx/files.",
        ),
    ] = False,
    bulk: options.BulkFiles,
    output: options.Output = None,
    rest: options.Rest,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only, and show no progress.")] = False,
    verbose: options.Verbose = False,
) -> int:
    """Write what was traded before now as the raw lines that okx stream would have written.

    In: the exchange's REST (fills and funding of the last three months, candles of years), or with --files its bulk
    files. Out: raw lines, oldest first, those of several symbols by time (files: file by file); the first line of each
    symbol says what it is (instruments). Damaged rows of files are told and passed over (exit 65). Fills begin with the
    one before --since, so that the first bar can be proved complete. On a terminal, stderr shows how far it is.
    """
    from okxcli.errors import ExitCode, UsageError
    from okxcli.exchanges.registry import files_of
    from okxcli.runtime import log
    from okxcli.runtime.clock import SteadyClock, parse_time
    from okxcli.runtime.progress import bar
    from okxcli.runtime.signals import Lifecycle

    log.setup("history", verbose=verbose, quiet=quiet)
    way = way_of_options(None, *rest)
    clock = SteadyClock() if files else way.market().clock()
    now = clock()
    begin, end = (parse_time(text, now) if text is not None else None for text in (since, until))
    with Lifecycle("source") as life, bar("okx history", not quiet) as progress:

        def sleep(seconds: float) -> None:
            life.wait(None, seconds)

        # Files need REST for the instruments alone, and can do without.
        market = way.market(patience_s=2.0 if files or download else 60.0, sleep=sleep)
        symbols = _meant(symbols, types, way)
        if download:
            until_ms = now if end is None else end
            files = _fetched(symbols, channel, begin, until_ms, files, bulk.files_url, progress, life, way)
        if files:
            archive = files_of(way.exchange).archive(
                files, symbols, since_ms=begin, until_ms=end, channel=channel, progress=progress, rows_as=bulk.rows_as
            )
            damaged = _from_files(archive, market, output, life)
        elif begin is None:
            raise UsageError("from when on? Name it: --since 2h, --since 2026-05-18 ... or name files: --files")
        else:
            damaged = False
            past = market.past(symbols, channel, (begin, now if end is None else end), clock, progress)
            _from_rest(past, market, way, output, life)
        market.close()
    return ExitCode.DATA if damaged else ExitCode.OK


def _meant(symbols: list[str], types: str | None, way: "Way") -> list[str]:
    """Return the symbols that names and patterns mean."""
    from okxcli.core.selection import Selection
    from okxcli.pipeline.followed_symbols import FollowedSymbols

    selection = Selection(tuple(symbols), options.types_of(types))
    return FollowedSymbols(way.exchange, way.market(), selection).begin() if selection.open else symbols


def _from_rest(past: "Past", market: "Market", way: "Way", output: Path | None, life: "Lifecycle") -> None:
    """Write what REST has, after what the symbols are, and say what it does not show."""
    from okxcli.runtime.lines import Output as Lines

    first = way.first_lines(market.base_url) + market.describe(past.symbols)
    with Lines(output) as out:
        for line in first:
            out.line(line)
        for number, line in enumerate(past.lines()):
            out.line(line)
            if number % _BLOCK == 0:
                out.flush()
                if life.stop:
                    break
    for symbol in past.symbols:
        missing = [part for part in past.missing if part.symbol == symbol]
        if missing:
            count = sum(part.last - part.first + 1 for part in missing)
            told = ", ".join(f"{part.first} to {part.last}" for part in missing[:3])
            more = " ..." if missing[3:] else ""
            _log.warning("%s: %s does not show %d fills: %s%s", symbol, way.exchange.title, count, told, more)


def _fetched(
    symbols: list[str],
    channel: str,
    since: int | None,
    until: int,
    places: list[str] | None,
    base_url: str | None,
    progress: "Progress",
    life: "Lifecycle",
    way: "Way",
) -> list[str]:
    """Fetch the bulk files of a span into a folder and return them."""
    from okxcli.errors import ExchangeUnavailable, UsageError
    from okxcli.exchanges.registry import files_of
    from okxcli.runtime.clock import now_ms
    from okxcli.runtime.files import expanded

    if since is None:
        raise UsageError("--download needs --since: from which day on?")
    if places and (len(places) > 1 or Path(places[0]).is_file()):
        raise UsageError("--download keeps the files in one folder: give --files FOLDER, or leave it out")
    store = files_of(way.exchange)
    base = base_url or store.url
    folder = expanded(places[0]) if places else store.folder(base)
    loader = store.downloader(
        base,
        folder,
        proxies=way.proxies,
        sleep=lambda seconds: life.wait(None, seconds),
        stop=lambda: life.stop,
        progress=progress,
    )
    found = [path for symbol in symbols for path in loader.fetch(symbol, since, until, now_ms(), channel)]
    if not found:
        raise ExchangeUnavailable(
            f"{base} has no files of {', '.join(symbols)} in that span. They come a day or two late; "
            "for less than that leave --download out"
        )
    return [str(path) for path in found]


def _from_files(archive: "Archive", market: "Market", output: Path | None, life: "Lifecycle") -> bool:
    """Write what the bulk files have; return whether some of it could not be read."""
    from okxcli.errors import ExchangeUnavailable
    from okxcli.runtime.lines import Output as Lines

    with Lines(output) as out:
        try:
            for line in market.known(archive.symbols):
                out.line(line)
        except ExchangeUnavailable as error:
            _log.warning("no instruments: %s", error)
        for lines, count in archive.pushes():
            out.block(lines, count)
            out.flush()
            if life.stop:
                break
    return bool(archive.damaged or archive.unreadable)
