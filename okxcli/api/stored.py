"""What is in Postgres: read, store, and prove."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from okxcli.api.rows import Rows
from okxcli.api.through import Moment, milliseconds, way_to
from okxcli.core.codec import decode
from okxcli.core.model import TAPE, BookSnapshot, BookUpdate, Line, OHLCVCandle, StandardizedTrade
from okxcli.core.states import STATES
from okxcli.core.timeframes import parse_list
from okxcli.errors import UsageError
from okxcli.exchanges.registry import configured
from okxcli.runtime.clock import now_ms
from okxcli.runtime.configuration.config_file import load
from okxcli.storage.database import Database, open_database
from okxcli.storage.read import follow as following
from okxcli.storage.read.gaps import ranges
from okxcli.storage.rows import reader
from okxcli.storage.write.writer import Writer

_POLL_S = 0.5
#: Rows that `aread` fetches before the loop has its turn.
_BATCH = 1_000
_TYPES: dict[str, type] = {"trades": StandardizedTrade, "candles": OHLCVCandle, "books": BookSnapshot}
_TYPES |= {one.word: one.kind for one in STATES}


class Gap(NamedTuple):
    """A range of ids of a symbol: `covered`, `missing`, `absent`, `forgotten`, `unknown` or `ahead`; see okx-gaps(1).

    `first` and `last` are ids, `since` and `until` the times (ms) of the fills at its edges; None: not known.
    """

    symbol: str
    kind: str
    first: int | None
    last: int | None
    since: int | None
    until: int | None


def read(
    kind: str,
    *symbols: str,
    since: Moment | None = None,
    until: Moment | None = None,
    timeframes: str | Iterable[str] = "1m",
    count: int | None = None,
    origin: str | None = None,
    context: bool = False,
    partial: bool = False,
    follow: bool = False,
    dsn: str | None = None,
) -> Rows:
    """Return stored rows, oldest first; nothing is asked for before the first is.

    `kind` and the other parameters are as for `okx read`: trades (by id), candles, books, tickers, funding-rates ...;
    `count` are the newest of each symbol (and timeframe), or with `since` the first. With `follow` it goes on with what
    is stored from now on, without end. Candles are ours, or the exchange's own with the origin `exchange`.

    Raises:
        UsageError: no such kind, no symbol, or what is no time.
        AnswerNo: from the loop: nothing is stored of a symbol.
        DatabaseUnavailable: from the loop.
    """
    if kind not in _TYPES:
        raise UsageError(f"no such kind: {kind!r}. There are {', '.join(_TYPES)}")
    if not symbols:
        raise UsageError("no symbol given, such as BTC-USDT")
    if follow and until is not None:
        raise UsageError("follow has no end: leave until out")
    now = now_ms()
    span = reader.Span(
        reader.EVERYTHING.since if since is None else milliseconds(since, now),
        reader.EVERYTHING.until if until is None else milliseconds(until, now),
    )
    frames: Sequence[str | None] = [frame.name for frame in parse_list(timeframes)] if kind == "candles" else (None,)
    of = origin or ("trades" if kind == "candles" else None)

    def run() -> Generator[Line, None, None]:
        with _opened(dsn, create=False) as database, database.session() as connection:
            plan = following.query(connection, kind, symbols, database.where, frames, of)
            plan = replace(plan, span=span, context=context, running=partial)
            plan = replace(plan, first=count) if since is not None else replace(plan, newest=count)
            with reader.snapshot(connection):
                positions = plan.positions(connection) if follow else {}
                yield from plan.lines(connection)
            while follow:
                time.sleep(_POLL_S)
                with reader.snapshot(connection):
                    yield from reader.merged([position.poll(connection) for position in positions.values()])

    return Rows(run, (_TYPES[kind],))


# The twin has the parameters spelt out, as an editor shows them.
async def aread(
    kind: str,
    *symbols: str,
    since: Moment | None = None,
    until: Moment | None = None,
    timeframes: str | Iterable[str] = "1m",
    count: int | None = None,
    origin: str | None = None,
    context: bool = False,
    partial: bool = False,
    dsn: str | None = None,
) -> AsyncGenerator[Line, None]:
    """Yield the same for `async for`, a thousand rows at a time; a thread of the loop's executor waits for Postgres.

    Raises:
        UsageError, AnswerNo, DatabaseUnavailable: as `read`, from the loop.
    """
    loop = asyncio.get_running_loop()
    rows = read(
        kind, *symbols, since=since, until=until, timeframes=timeframes, count=count, origin=origin, context=context,
        partial=partial, dsn=dsn,
    )  # fmt: skip
    with rows:
        while some := await loop.run_in_executor(None, lambda: list(islice(rows, _BATCH))):
            for line in some:
                yield line


def store(lines: Iterable[Line | bytes | str], *, dsn: str | None = None, ws_url: str | None = None) -> dict[str, int]:
    """Store lines, and return what became of them: rows by their table, duplicates, refused ones.

    `ws_url` is where the data is from, as for `stream`: a database takes that of one place alone.
    As `okx store`, but for the spool: what is known is not stored twice, ids are covered in the ledger in the same
    transaction, and while the database cannot be reached for half a minute it ends with an error. Then all batches
    before that one are stored. Tables are made where there are none.

    Raises:
        InvalidLine: a line that is given as text is none.
        DatabaseUnavailable: it cannot be reached, or takes nothing.
        ConfigError: it holds data from elsewhere, as of a simulation.
    """
    with (
        _opened(dsn, create=True, origin=way_to(ws_url, None, None).origin) as database,
        closing(Writer(database.connect, where=database.where)) as writer,
    ):
        for line in lines:
            raw = line.encode() if isinstance(line, str) else line
            found = decode(raw, now_ms()) if isinstance(raw, bytes) else raw
            if not isinstance(found, BookUpdate):  # a step on the way to a book, which `books` makes of it
                writer.add(found)
        writer.flush()
        return writer.counts()


def gaps(*symbols: str, since: Moment | None = None, until: Moment | None = "1m", dsn: str | None = None) -> list[Gap]:
    """Return which fills are there and which are missing, by their ids, of the symbols (default: the configured ones).

    Up to a minute ago, unless `until` says otherwise: the fills of the last one may be on their way.

    Raises:
        UsageError: no symbol is given or configured.
        DatabaseUnavailable: it cannot be reached.
    """
    settings = load()
    names = symbols or settings.symbols
    if not names:
        raise UsageError("no symbol given or configured, such as BTC-USDT")
    now = now_ms()
    since_ms, until_ms = (None if one is None else milliseconds(one, now) for one in (since, until))
    with _opened(dsn, create=False) as database, database.session() as connection:
        exchange = configured(settings).name
        return [
            Gap(symbol, one.kind, one.first, one.last, one.first_time, one.last_time)
            for symbol in names
            for one in ranges(
                connection,
                exchange,
                symbol,
                since_ms,
                until_ms,
                TAPE in settings.channels and symbol in settings.symbols,
            )
        ]


def _opened(dsn: str | None, create: bool, origin: str | None = None) -> Database:
    # Nobody else sees what is given to a function: it may hold a password, as the configuration's may.
    named = dsn or os.environ.get("OKX_DSN") or load().dsn
    return open_database(None, config_dsn=named, create=create, origin=origin, application="okxcli")
