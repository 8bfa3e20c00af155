"""`okx stream`: what the exchange pushes, verbatim, one message a line."""

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way_of_options

if TYPE_CHECKING:
    from okxcli.commands.ways import Way
    from okxcli.exchanges.interface import Feed, LineSource
    from okxcli.pipeline.followed_symbols import FollowedSymbols
    from okxcli.runtime.archive.archive import Archive
    from okxcli.runtime.lines import Output as Lines
    from okxcli.runtime.signals import Lifecycle


#: Seconds between two looks at what is listed.
_LOOK_S = 0.5


def stream(
    *,
    symbols: options.SomeSymbols = None,
    channels: Annotated[
        str | None,
        typer.Option(
            "--channel",
            "-c",
            metavar="LIST",
            help="Channels, with commas: trades-all (the default), trades, books5, bbo-tbt, tickers, candle1m, "
            "funding-rate, mark-price ...; with --private: orders, account, positions (the default), fills.",
        ),
    ] = None,
    types: options.Types = None,
    stamp: Annotated[
        bool, options.switch("stamp", 'Add the time of arrival to each line, as its last key "received".')
    ] = False,
    repair: Annotated[
        bool,
        options.switch(
            "repair", "Fetch fills of trades-all that no socket brought from REST, and drop those that came twice."
        ),
    ] = True,
    since: Annotated[
        str | None,
        options.time_option(
            "--since", "Begin with the fills of trades-all since then: ISO 8601, epoch ms, 2h (ago), today."
        ),
    ] = None,
    resume: Annotated[
        bool,
        options.switch(
            "resume",
            "Go on where Postgres ends: after the newest fill of each symbol; where only candles are stored, so "
            "that the smallest bar that was open comes out whole.",
        ),
    ] = False,
    count: options.Count = None,
    duration: options.Duration = None,
    output: options.Archived = None,
    room: options.ArchiveRoom,
    connect_timeout: options.ConnectTimeout = 30.0,
    account: options.Account,
    addresses: options.Addresses,
    dsn: options.Dsn = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
    verbose: options.Verbose = False,
) -> int:
    """Subscribe to market data of the exchange and write each push as it came, one a line.

    In: the network. Out: raw lines, the exchange's own bytes; the first line of each symbol says what it is
    (instruments). A pattern such as '*-USDT' stands for all symbols of such a name, --type swap for all swaps: what the
    exchange lists meanwhile is streamed from then on, and what it takes off is not any more. The connection is kept
    alive and made anew whenever it breaks, until Ctrl-C, -n or --duration ends it. Fills of trades-all that were missed
    meanwhile come from REST, in their order, before those that follow; what the exchange itself does not have is told
    as an absent event. With --private the lines are those of an account, from the login on; what changed while the
    connection was away is not repeated.
    """
    from okxcli.core.model import TAPE
    from okxcli.core.origin import SITE_HEAD
    from okxcli.errors import UsageError
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_duration
    from okxcli.runtime.signals import Lifecycle

    log.setup("stream", verbose=verbose, quiet=quiet)
    way = _way(account, addresses)
    seconds = parse_duration(duration) if duration is not None else None
    wanted = None if channels is None else [name.strip() for name in channels.split(",") if name.strip()]
    common = way.stream_options(connect_timeout, stamp)
    feed: LineSource
    follow: _Follow | None = None
    if account.private:
        if symbols or types or since or resume:
            raise UsageError("--private streams a whole account: leave symbols, --type, --since and --resume out")
        feed = way.exchange.account(
            wanted,
            key_file=account.credentials,
            **common,
        )
    else:
        followed = _followed(symbols or [], types, way)
        symbols = followed.begin()
        feed = public = way.exchange.feed(
            symbols,
            [TAPE] if wanted is None else wanted,
            **common,
            key_file=account.credentials,
            repair=repair,
            since_ms=_begin(since, way),
            resume=_stored(symbols, way, dsn, since) if resume else None,
            listing=followed.selection.open,
            wants=followed.wants,
        )
        follow = _Follow(public, followed, [TAPE] if wanted is None else wanted) if followed.selection.open else None
    preface = (SITE_HEAD, *way.exchange.preface)
    reading = nullcontext() if follow is None else follow.followed
    with Lifecycle("source") as life, _output(output, room, preface) as out, feed, reading:
        _Copy(feed, out, preface, count, way.first_lines(way.ws_url), follow).run(life, seconds)
    return 0


def _output(path: Path | None, room: options.ArchiveRoom, preface: tuple[bytes, ...]) -> "Lines | Archive":
    """Return what writes lines: to one file or standard output, or to files by time where the path has times in it."""
    from okxcli.errors import UsageError
    from okxcli.runtime.archive.archive import Archive
    from okxcli.runtime.archive.file_names import FileNames
    from okxcli.runtime.lines import Output as Lines

    if path is not None and FileNames.asked_for(str(path)):
        return Archive(FileNames(str(path)), preface, room.guard())
    if room != options.ArchiveRoom():
        raise UsageError("--min-free and --when-low are for an archive: -o 'raw/%Y-%m-%d/%H.jsonl.zst'")
    return Lines(path)


def _begin(since: str | None, way: "Way") -> int | None:
    """Return the moment that `--since` names, in ms.

    Raises:
        UsageError: it is none, or in the future.
    """
    from okxcli.errors import UsageError
    from okxcli.runtime.clock import parse_time

    if since is None:
        return None
    now = way.market().clock()()
    since_ms = parse_time(since, now)
    if since_ms > now:
        raise UsageError("--since is in the future: leave it out to begin with the present")
    return since_ms


def _way(account: options.Account, addresses: options.Addresses) -> "Way":
    """Return the way to the site that is named, else to where the addresses lead."""
    from okxcli.errors import UsageError

    way = way_of_options(*addresses)
    if account.site is None and not account.demo:
        return way
    if addresses.ws_url or addresses.rest_url:
        raise UsageError(
            "--site and --demo name addresses: leave --ws-url, --rest-url, OKX_WS_URL and OKX_REST_URL out"
        )
    ws_url, rest_url = way.exchange.addresses(account.site, account.demo)
    return way._replace(ws_url=ws_url, rest_url=rest_url)


def _followed(symbols: list[str], types: str | None, way: "Way") -> "FollowedSymbols":
    """Return what tells which symbols are meant.

    Raises:
        UsageError: none is named, or no such type.
    """
    from okxcli.core.selection import Selection
    from okxcli.errors import UsageError
    from okxcli.pipeline.followed_symbols import FollowedSymbols

    if not symbols and not types:
        raise UsageError("no symbol given. Try: okx stream BTC-USDT")
    return FollowedSymbols(way.exchange, way.market(), Selection(tuple(symbols), options.types_of(types)))


@dataclass
class _Follow:
    """Has a feed stream the symbols that patterns mean, as they come and go."""

    feed: "Feed"
    followed: "FollowedSymbols"
    channels: list[str]

    def after(self, lines: list[bytes]) -> list[bytes]:
        """Look at what was streamed; return it, with what is left of symbols that are gone."""
        self.followed.see(lines)
        symbols = self.followed.news()
        return lines if symbols is None else lines + self.feed.change(symbols, self.channels)


@dataclass
class _Copy:
    """Writes what a feed has, after `first`; no more than `left` messages, without those that begin as `preface`."""

    feed: "LineSource"
    out: "Lines | Archive"
    preface: tuple[bytes, ...]
    left: int | None
    first: list[bytes]
    follow: "_Follow | None" = None

    def run(self, life: "Lifecycle", seconds: float | None) -> None:
        """Write until a signal, the count or so many seconds end it."""
        end_s = None if seconds is None else time.monotonic() + seconds
        while not life.stop and self.left != 0:
            wait_s = None if end_s is None else end_s - time.monotonic()
            if wait_s is not None and wait_s <= 0:
                break
            look_s = None if self.follow is None else _LOOK_S
            waits = [one for one in (wait_s, self.out.due_in(), look_s) if one is not None]
            lines = self.feed.poll() if life.wait(self.feed.fileno(), min(waits, default=None)) else []
            self._write(lines if self.follow is None else self.follow.after(lines))
        self.feed.stop()
        while self.left != 0 and (lines := self.feed.poll()):
            self._write(lines)
        logging.getLogger(__name__).debug("%d lines written", self.out.lines)

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            lines, self.first = self.first + lines, []
        for line in lines:
            if self.left is not None and not line.startswith(self.preface):
                if self.left == 0:
                    break
                self.left -= 1
            self.out.line(line)
        self.out.flush()


def _stored(symbols: list[str], way: "Way", dsn: str | None, since: str | None) -> dict[str, int]:
    """Return the id after which each symbol is to go on by what Postgres has; those without any begin with the present.

    That is the newest fill. Without fills it is one a little before the bar that was open, by the chain of the candles.

    Raises:
        ConfigError: the tape in the database is that of another exchange.
        DatabaseUnavailable: it cannot be reached.
    """
    from okxcli.errors import ConfigError, NoData
    from okxcli.runtime.configuration.config_file import load
    from okxcli.storage.candles import candle_chain
    from okxcli.storage.database import open_database
    from okxcli.storage.ledger import id_ledger
    from okxcli.storage.schema import versions

    log = logging.getLogger(__name__)
    found: dict[str, int] = {}
    begin = "the present" if since is None else "--since"
    try:
        database = open_database(dsn, config_dsn=load().dsn, create=False, application="okx stream")
    except NoData as error:
        log.warning("beginning with %s: %s", begin, error)
        return found
    with database, database.session() as connection:
        origin = versions.origin(connection)
        if origin is not None and origin != way.origin:
            raise ConfigError(
                f"the database at {database.where} holds data from {origin}, and this is {way.origin}: "
                "its ids say nothing here. Name another one with --dsn"
            )
        for symbol in symbols:
            newest = id_ledger.newest(connection, way.exchange.name, symbol)
            last = newest[0] if newest is not None else candle_chain.resume_id(connection, way.exchange.name, symbol)
            if last is None:
                log.warning("%s: nothing is stored yet, so it begins with %s", symbol, begin)
            else:
                found[symbol] = last
    return found
