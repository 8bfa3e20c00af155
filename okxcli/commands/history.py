"""`okx history`: the past as raw lines, from OKX's REST or from its bulk files."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli.commands.stream import ways
from okxcli.options import FilesUrl, Output, Proxy, RestUrl, RowsAs, Symbols, Verbose

if TYPE_CHECKING:
    from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
    from okxcli.exchanges.okx.feed.history_stream import Past
    from okxcli.exchanges.okx.rest.endpoints import RestClient
    from okxcli.runtime.progress import Progress
    from okxcli.runtime.proxy import Proxies
    from okxcli.runtime.signals import Lifecycle

_log = logging.getLogger(__name__)

#: So many lines between two looks at signals, and at how the reader does.
_BLOCK = 500


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("history")(history)


def history(
    symbols: Symbols,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="From here on: ISO 8601, epoch ms, 2h (ago), today. Needed, except with --files.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Up to here, this moment excluded. Default: now.")
    ] = None,
    channel: Annotated[
        str,
        typer.Option(
            "--channel", "-c", metavar="NAME", help="trades-all, or OKX's own candles: candle1m, candle1H ..."
        ),
    ] = "trades-all",
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--files", metavar="PATH", help="Read OKX's bulk files here instead: a file, a folder or a pattern."
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download/--no-download",
            help="First fetch the files of the span, unless they are there, into the folder that --files names, "
            "else into $XDG_CACHE_HOME/okx/files.",
        ),
    ] = False,
    files_url: FilesUrl = None,
    rows_as: RowsAs = None,
    output: Output = None,
    rest_url: RestUrl = None,
    proxy: Proxy = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only, and show no progress.")] = False,
    verbose: Verbose = False,
) -> int:
    """Write what was traded before now as the raw lines that okx stream would have written.

    In: OKX's REST (fills of the last three months, candles of years), or with --files its bulk files. Out: raw lines,
    oldest first, those of several symbols by time (files: file by file); the first line of each symbol says what it is
    (instruments). Damaged rows of files are told and passed over (exit 65). Fills begin with the one before --since, so
    that the first bar can be proved complete. On a terminal, stderr shows how far it is.
    """
    from okxcli.errors import ExitCode, UsageError
    from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
    from okxcli.exchanges.okx.feed.history_stream import Past
    from okxcli.exchanges.okx.rest.endpoints import RestClient
    from okxcli.exchanges.okx.rest.history import TradeHistory
    from okxcli.runtime import log
    from okxcli.runtime.clock import SteadyClock, parse_time
    from okxcli.runtime.progress import Progress
    from okxcli.runtime.signals import Lifecycle

    log.setup("history", verbose=verbose, quiet=quiet)
    _, base, proxies = ways(None, rest_url, proxy)
    clock = SteadyClock() if files else RestClient(base, proxies=proxies).clock()
    now = clock()
    begin, end = (parse_time(text, now) if text is not None else None for text in (since, until))
    with Lifecycle("source") as life, Progress("okx history", not quiet) as progress:

        def sleep(seconds: float) -> None:
            life.wait(None, seconds)

        # Files need REST for the instruments alone, and can do without.
        patience_s = 2.0 if files or download else 60.0
        rest = RestClient(base, patience_s=patience_s, proxies=proxies, sleep=sleep)
        if download:
            until_ms = now if end is None else end
            files = _fetched(symbols, channel, begin, until_ms, files, files_url, progress, life, proxies)
        if files:
            archive = Archive(files, symbols, begin, end, channel, progress, rows_as)
            damaged = _from_files(archive, rest, output, life)
        elif begin is None:
            raise UsageError("from when on? Name it: --since 2h, --since 2026-05-18 ... or name files: --files")
        else:
            damaged = False
            fills = TradeHistory(rest, sleep=sleep, clock=clock)
            past = Past(fills, symbols, channel, begin, now if end is None else end, progress)
            _from_rest(past, rest, output, life)
        rest.close()
    return ExitCode.DATA if damaged else ExitCode.OK


def _from_rest(past: "Past", rest: "RestClient", output: Path | None, life: "Lifecycle") -> None:
    """Write what REST has, after what the symbols are, and say what it does not show."""
    from okxcli.exchanges.okx.feed.history_stream import instruments
    from okxcli.exchanges.okx.rest.instrument_list import Catalogue
    from okxcli.exchanges.okx.sites import origin_of, site_event
    from okxcli.runtime.lines import Output as Lines

    first = site_event(origin_of(rest.base_url)) + instruments(Catalogue(rest), past.symbols)
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
            _log.warning("%s: OKX does not show %d fills: %s%s", symbol, count, told, " ..." if missing[3:] else "")


def _fetched(
    symbols: list[str],
    channel: str,
    since: int | None,
    until: int,
    places: list[str] | None,
    base_url: str | None,
    progress: "Progress",
    life: "Lifecycle",
    proxies: "Proxies",
) -> list[str]:
    """Fetch the bulk files of a span into a folder and return them."""
    from okxcli.errors import ExchangeUnavailable, UsageError
    from okxcli.exchanges.okx.bulk_files.download import DEFAULT_FILES_URL, Downloader, default_folder
    from okxcli.runtime.clock import now_ms
    from okxcli.runtime.files import expanded

    if since is None:
        raise UsageError("--download needs --since: from which day on?")
    if places and (len(places) > 1 or Path(places[0]).is_file()):
        raise UsageError("--download keeps the files in one folder: give --files FOLDER, or leave it out")
    base = base_url or DEFAULT_FILES_URL
    folder = expanded(places[0]) if places else default_folder(base)
    loader = Downloader(base, folder, progress, lambda s: life.wait(None, s), stop=lambda: life.stop, proxies=proxies)
    found = [path for symbol in symbols for path in loader.fetch(symbol, since, until, now_ms(), channel)]
    if not found:
        raise ExchangeUnavailable(
            f"{base} has no files of {', '.join(symbols)} in that span. They come a day or two late; "
            "for less than that leave --download out"
        )
    return [str(path) for path in found]


def _from_files(archive: "Archive", rest: "RestClient", output: Path | None, life: "Lifecycle") -> bool:
    """Write what the bulk files have; return whether some of it could not be read."""
    from okxcli.errors import ExchangeUnavailable
    from okxcli.exchanges.okx.rest.instrument_list import Catalogue, instrument_line
    from okxcli.runtime.lines import Output as Lines

    with Lines(output) as out:
        try:
            for row in Catalogue(rest).find(archive.symbols).values():
                out.line(instrument_line(row))
        except ExchangeUnavailable as error:
            _log.warning("no instruments: %s", error)
        for lines in archive.lines():
            for line in lines:
                out.line(line)
            out.flush()
            if life.stop:
                break
    return bool(archive.damaged or archive.unreadable)
