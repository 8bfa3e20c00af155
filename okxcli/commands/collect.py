"""`okx collect`: stream, normalize, candles and store in one supervised process."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way

if TYPE_CHECKING:
    from okxcli.commands.ways import Way
    from okxcli.exchanges.interface import Feed
    from okxcli.pipeline.collector import Collector
    from okxcli.pipeline.followed_symbols import FollowedSymbols
    from okxcli.runtime.archive.archive import Archive
    from okxcli.runtime.configuration.config import Config
    from okxcli.storage.database import Database
    from okxcli.storage.server.pooled_connection import Connection
    from okxcli.storage.write.durable_writer import DurableWriter

#: So much time may pass between two reads of the sockets: a commit comes far later, and larger batches cost less.
_BATCH_S = 0.01


def collect(
    *,
    config: options.Config = None,
    duration: options.Duration = None,
    dsn: options.Dsn = None,
    addresses: options.Addresses,
    log_file: Annotated[
        Path | None,
        typer.Option("--log-file", metavar="FILE", help="Log everything here, with times; stderr stays brief."),
    ] = None,
    stats: options.Stats = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Collect everything that the configuration names into Postgres, until Ctrl-C.

    In: the symbols, channels and timeframes of the configuration, from the exchange. Out: rows (trades, candles, books,
    tickers, instruments), and on stderr one line for each change of state. At the end everything that has come is
    committed. Running it again goes on where it stopped; rows that are there already are not written twice. SIGHUP has
    the configuration read again: symbols, channels and timeframes come and go, and the others go on undisturbed. So do
    symbols that a pattern such as *-USDT selects, as the exchange lists them and takes them off.

    While Postgres is away data goes to a spool folder, and from there into the database as soon as it is back; data
    that is left there at the end is told (exit 75), and stored by the next run. A database that was in use here before
    may be away at the start as well, as after a reboot: okx backfill then fetches what was missed before the start.
    Another one must be there (exit 69).
    """
    from okxcli.pipeline.followed_symbols import FollowedSymbols
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_duration
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.filters import tell_counts
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import open_database
    from okxcli.storage.write.durable_writer import DurableWriter
    from okxcli.storage.write.spool import Spool, default_folder

    log.setup("collect", verbose=verbose, quiet=quiet, log_file=log_file)
    settings = load(config, required=True)
    if log_file is None and settings.log_file is not None:
        log.setup("collect", verbose=verbose, quiet=quiet, log_file=settings.log_file, file_level=settings.log_level)
    seconds = parse_duration(duration) if duration is not None else None
    here = way(settings, *addresses)
    followed = FollowedSymbols(here.exchange, here.market())
    settings = followed.settled(settings)
    with (
        Lifecycle("source", reloads=True) as life,
        open_database(
            dsn, config_dsn=settings.dsn, create=True, origin=here.origin, application="okx collect", later=True
        ) as database,
    ):
        feed = _feed(settings, here, database, followed.wants)
        clock = feed.clock  # the exchange's as soon as it is known
        feed.measure()
        keeper = DurableWriter(database, Spool(default_folder(database.where)), clock=clock, hurried=lambda: life.stop)

        load_anew, archive = partial(load, config, required=True), _archive(settings, here)
        collector = _collector(settings, feed, keeper, database, followed, load_anew, archive)
        try:
            if database.ready:
                with database.session() as connection:
                    _note_clock(connection, feed)
                    collector.reopen(connection)
            with feed, followed, archive or nullcontext():
                collector.run(life, seconds)
        finally:
            keeper.close()
            tell_counts("collect", collector.counts(), stats, quiet)
    log.check()


def _archive(settings: "Config", way: "Way") -> "Archive | None":
    """Return the archive that a configuration names, if it does, beginning with which site the data is from."""
    from okxcli.core.origin import SITE_HEAD
    from okxcli.runtime.archive.archive import Archive
    from okxcli.runtime.archive.disk_guard import DiskGuard
    from okxcli.runtime.archive.file_names import FileNames

    if settings.archive is None:
        return None
    template, min_free, when_low = settings.archive
    archive = Archive(FileNames(template), (SITE_HEAD, *way.exchange.preface), DiskGuard(min_free, when_low))
    archive.explain(way.first_lines(way.ws_url))
    return archive


def _collector(
    settings: "Config",
    feed: "Feed",
    keeper: "DurableWriter",
    database: "Database",
    followed: "FollowedSymbols",
    load: Callable[[], "Config"],
    archive: "Archive | None",
) -> "Collector":
    """Return what collects; `load` reads the configuration anew."""
    from okxcli.core.timeframes import parse_list
    from okxcli.pipeline.collector import Collector
    from okxcli.runtime.clock import now_ms
    from okxcli.storage.candles.live_mending import LiveMender
    from okxcli.storage.ledger import audit
    from okxcli.storage.upkeep import retention
    from okxcli.storage.upkeep.housekeeping import session

    clock = feed.clock

    def housekeep(now: "Config") -> None:
        with session(database) as connection:
            retention.apply(connection, now.keep_days if clock.known else {}, min(clock(), now_ms()))
            audit.audit(connection)
            _note_clock(connection, feed)

    def mender(now: "Config") -> LiveMender:
        frames = parse_list(now.timeframes) if now.timeframes else ()
        return LiveMender(lambda: session(database), frames, clock, now.fill)

    return Collector(
        settings, feed, keeper, partial(session, database), clock, housekeep=housekeep, mender=mender,
        load=lambda: followed.settled(load()), followed=followed, archive=archive,
    )  # fmt: skip


def _note_clock(connection: "Connection", feed: "Feed") -> None:
    """Have `okx status` know how far this machine's clock is from the exchange's."""
    from platform import node

    from okxcli.storage.schema import versions

    if feed.wall_offset_ms is not None:
        versions.note_clock(connection, versions.ClockNote(node(), feed.wall_offset_ms, feed.clock()))


def _feed(settings: "Config", way: "Way", database: "Database", wants: Callable[[str], bool]) -> "Feed":
    """Return the feed of a configuration; its tapes go on where those in the database end, if that is there."""
    from okxcli.core.model import TAPE
    from okxcli.storage.candles.open_bars import newest_ids

    resume: dict[str, int] = {}
    if TAPE in settings.channels and database.ready:
        with database.session() as connection:
            resume = newest_ids(connection, way.exchange.name, settings.symbols)
    return way.exchange.feed(
        settings.symbols,
        settings.channels,
        **way.stream_options(settings.connect_timeout_s, stamp=True),
        resume=resume,
        listing=True,
        batch_s=_BATCH_S,
        wants=wants,
    )
