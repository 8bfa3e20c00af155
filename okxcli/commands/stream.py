"""`okx stream`: what OKX pushes, verbatim, one message a line."""

import logging
import time
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli.options import (
    DEFAULT_REST_URL,
    DEFAULT_WS_URL,
    ConnectTimeout,
    Count,
    Dsn,
    Duration,
    Output,
    Proxy,
    RestUrl,
    Symbols,
    Verbose,
    WsUrl,
)

if TYPE_CHECKING:
    from okxcli.exchanges.okx.feed.live_feed import Feed
    from okxcli.runtime.lines import Output as Lines
    from okxcli.runtime.proxy import Proxies
    from okxcli.runtime.signals import Lifecycle

#: How the lines begin that tell what the symbols are: they are not data, -n does not count them.
_PREFACE = (b'{"arg":{"channel":"instruments"', b'{"event":"site"')


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("stream")(stream)


def stream(
    symbols: Symbols,
    channels: Annotated[
        str,
        typer.Option(
            "--channel",
            "-c",
            metavar="LIST",
            help="Channels, as OKX names them, with commas: trades-all, trades, books5, bbo-tbt, tickers, candle1m.",
        ),
    ] = "trades-all",
    stamp: Annotated[
        bool,
        typer.Option("--stamp/--no-stamp", help='Add the time of arrival to each line, as its last key "received".'),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair/--no-repair",
            help="Fetch fills of trades-all that no socket brought from REST, and drop those that came twice.",
        ),
    ] = True,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Begin with the fills of trades-all since then: ISO 8601, epoch ms, 2h (ago), today.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Go on where Postgres ends: after the newest fill of each symbol; where only candles are stored, so "
            "that the smallest bar that was open comes out whole.",
        ),
    ] = False,
    count: Count = None,
    duration: Duration = None,
    output: Output = None,
    connect_timeout: ConnectTimeout = 30.0,
    ws_url: WsUrl = None,
    rest_url: RestUrl = None,
    proxy: Proxy = None,
    dsn: Dsn = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
    verbose: Verbose = False,
) -> int:
    """Subscribe to market data of OKX and write each push as it came, one a line.

    In: the network. Out: raw lines, OKX's own bytes; the first line of each symbol says what it is (instruments).
    The connection is kept alive and made anew whenever it breaks, until Ctrl-C, -n or --duration ends it. Fills of
    trades-all that were missed meanwhile come from REST, in their order, before those that follow; what OKX itself
    does not have is told as an absent event.
    """
    from okxcli.exchanges.okx.feed.live_feed import Feed
    from okxcli.exchanges.okx.rest.endpoints import RestClient
    from okxcli.exchanges.okx.sites import origin_of, site_event
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_duration, parse_time
    from okxcli.runtime.lines import Output as Lines
    from okxcli.runtime.signals import Lifecycle

    log.setup("stream", verbose=verbose, quiet=quiet)
    ws_base, rest_base, proxies = ways(ws_url, rest_url, proxy)
    seconds = parse_duration(duration) if duration is not None else None
    wanted = [name.strip() for name in channels.split(",") if name.strip()]
    since_ms = None if since is None else parse_time(since, RestClient(rest_base, proxies=proxies).clock()())
    feed = Feed(
        symbols,
        wanted,
        ws_url=ws_base,
        rest_url=rest_base,
        connect_timeout_s=connect_timeout,
        stamp=stamp,
        repair=repair,
        since_ms=since_ms,
        resume=_stored(symbols, ws_base, dsn) if resume else None,
        proxies=proxies,
    )
    with Lifecycle("source") as life, Lines(output) as out, feed:
        _copy(feed, out, life, count, seconds, site_event(origin_of(ws_base)))
    return 0


def _copy(
    feed: "Feed", out: "Lines", life: "Lifecycle", count: int | None, seconds: float | None, first: list[bytes]
) -> None:
    """Write what the feed has, after `first`, until a signal, `count` messages or `seconds` end it."""
    end_s = None if seconds is None else time.monotonic() + seconds
    left = count
    while not life.stop and left != 0:
        wait_s = None if end_s is None else end_s - time.monotonic()
        if wait_s is not None and wait_s <= 0:
            break
        if life.wait(feed.fileno(), wait_s):
            lines = feed.poll()
            left = _write(first + lines if lines else [], out, left)
            first = [] if lines else first
    feed.stop()
    while left != 0 and (lines := feed.poll()):
        left = _write(first + lines, out, left)
        first = []
    logging.getLogger(__name__).debug("%d lines written", out.lines)


def _write(lines: list[bytes], out: "Lines", left: int | None) -> int | None:
    """Write lines, of which `left` may be data, and return how many are left; None is no bound."""
    for line in lines:
        if left is not None and not line.startswith(_PREFACE):
            if left == 0:
                break
            left -= 1
        out.line(line)
    out.flush()
    return left


def _stored(symbols: list[str], ws_url: str, dsn: str | None) -> dict[str, int]:
    """Return the id after which each symbol is to go on by what Postgres has; those without any begin with the present.

    That is the newest fill. Without fills it is one a little before the bar that was open, by the chain of the candles.

    Raises:
        ConfigError: the tape in the database is that of another exchange.
        DatabaseUnavailable: it cannot be reached.
    """
    from okxcli.errors import ConfigError, NoData
    from okxcli.exchanges.okx.sites import origin_of
    from okxcli.runtime.configuration.config_file import load
    from okxcli.storage.candles import candle_chain
    from okxcli.storage.database import open_database
    from okxcli.storage.ledger import id_ledger
    from okxcli.storage.schema import versions

    log = logging.getLogger(__name__)
    found: dict[str, int] = {}
    try:
        database = open_database(dsn, config_dsn=load().dsn, create=False, application="okx stream")
    except NoData as error:
        log.warning("beginning with the present: %s", error)
        return found
    with database, database.session() as connection:
        origin = versions.origin(connection)
        if origin is not None and origin != origin_of(ws_url):
            raise ConfigError(
                f"the database at {database.where} holds data from {origin}, and this is {origin_of(ws_url)}: "
                "its ids say nothing here. Name another one with --dsn"
            )
        for symbol in symbols:
            newest = id_ledger.newest(connection, "okx", symbol)
            last = newest[0] if newest is not None else candle_chain.resume_id(connection, "okx", symbol)
            if last is None:
                log.warning("%s: nothing is stored yet, so it begins with the present", symbol)
            else:
                found[symbol] = last
    return found


def ways(ws_url: str | None, rest_url: str | None, proxy: str | None) -> tuple[str, str, "Proxies"]:
    """Return the WebSocket and the REST base, as given, else from the configuration, else OKX's own, and the way there.

    The configuration is not read where nothing of it is asked for.
    """
    from okxcli.exchanges.okx.sites import origin_of
    from okxcli.runtime.configuration.config import Config
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.proxy import Proxies

    here = all(url and origin_of(url) == "local" for url in (ws_url, rest_url))
    config = Config() if ws_url and rest_url and (here or proxy is not None) else load()
    bases = (ws_url or config.ws_url or DEFAULT_WS_URL, rest_url or config.rest_url or DEFAULT_REST_URL)
    return *bases, Proxies(proxy, config.proxy)
