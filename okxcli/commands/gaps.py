"""`okx gaps`: do we have every fill."""

import logging
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way

if TYPE_CHECKING:
    from okxcli.exchanges.interface import History
    from okxcli.storage.ledger.recount import Difference
    from okxcli.storage.read.gaps import IdRange
    from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

#: Fills of the last minute may still be on their way into the database.
_UNTIL = "1m"
_UNSETTLED_MS = 60_000

#: What a backfill puts right.
_FETCHED = ("missing", "lost", "altered", "differing")

Row = dict[str, object]


def gaps(
    *,
    symbols: Annotated[
        list[str] | None,
        options.some_symbols("Only these; - reads trade lines. Default: the configured and the stored."),
    ] = None,
    since: Annotated[
        str | None, options.time_option("--since", "From here on. Default: the first stored fill.")
    ] = None,
    until: Annotated[str | None, options.time_option("--until", "Up to here. Default: a minute ago.")] = None,
    online: Annotated[
        bool, options.switch("online", "Ask the exchange for its newest fill: is the tail quiet or missing?")
    ] = False,
    recount: Annotated[
        bool, options.switch("recount", "Count the rows too: does the ledger say what is there?")
    ] = False,
    repair: Annotated[bool, options.switch("repair", "With --recount: make the ledger say what the rows say.")] = False,
    table: options.Table = None,
    stored: options.Stored,
    rest: options.Rest,
) -> None:
    """Tell which fills are there and which are missing, by their ids; exit 1 unless all are there.

    In: the database and the configuration, or with - trade lines on standard input. Out: the ranges of ids of each
    symbol in order: covered, missing, absent (the exchange itself has no such id), forgotten (given up by okx db
    forget), unknown (before the first and after the newest stored fill) or ahead (stored with a time that has not come
    yet, which proves nothing), with the times of the fills at their edges. The ids of candles prove those of a symbol
    of which neither fills are stored nor the configuration wants any stored. Exit 1 when anything is missing, unknown
    or ahead between --since and --until, when --recount finds rows and ledger in disagreement (lost, uncounted,
    misplaced, twice, altered), or when okx collect or okx backfill has found a day of which that is so (differing).
    """
    from okxcli.errors import UsageError
    from okxcli.runtime.clock import now_ms, parse_time
    from okxcli.runtime.tables import write_rows

    now = now_ms()
    since_ms = None if since is None else parse_time(since, now)
    if symbols and "-" in symbols:
        if symbols != ["-"] or online or recount or repair:
            raise UsageError("- reads trade lines: it goes with --since and --until alone")
        raise typer.Exit(_of_lines(since_ms, None if until is None else parse_time(until, now), table))
    if repair and not recount:
        raise UsageError("--repair mends what --recount finds: give both")
    until_ms = parse_time(until or _UNTIL, now)
    if since_ms is not None and since_ms >= until_ms:
        raise UsageError("--since must be before --until (default: a minute ago)")
    rows = _of_database(symbols or [], since_ms, until_ms, until is None, online, recount, repair, stored, rest)
    write_rows(_readable(rows, table), table)
    raise typer.Exit(_verdict(rows, repair))


def _verdict(rows: list[Row], mended: bool = False, stored: bool = True) -> int:
    """Return 1 if an id is missing or unknown, or if rows and ledger disagree and were not mended; name the cures.

    `stored`: the rows are of the database, where there is a cure for what is missing.
    """
    from okxcli.core.model import TAPE
    from okxcli.storage.read.freshness import cure_of_ahead

    good: tuple[str, ...] = ("covered", "absent", "forgotten")
    if mended:
        good += ("lost", "uncounted", "misplaced", "twice", "altered")
    for row in rows:
        if row["kind"] == "ahead":
            ids = "" if row["first"] is None else f"{row['first']}-{row['last']}"
            cure = cure_of_ahead(str(row["symbol"]), TAPE if ids else "candles", ids)
            print(f"okx gaps: {row['symbol']}: the time of {ids or 'candles'} has not come. {cure}", file=sys.stderr)
    for symbol in dict.fromkeys(str(row["symbol"]) for row in rows if stored and row["kind"] in _FETCHED):
        wrong = [row for row in rows if row["symbol"] == symbol and row["kind"] in _FETCHED]
        count = sum(row["count"] or 0 for row in wrong)  # type: ignore[misc]
        kinds = " or ".join(dict.fromkeys(str(row["kind"]) for row in wrong))
        print(f"okx gaps: {symbol}: {count:,} {kinds}. Try: okx backfill {symbol}", file=sys.stderr)
    return int(any(row["kind"] not in good for row in rows))


def _of_database(
    symbols: list[str],
    since_ms: int | None,
    until_ms: int,
    open_end: bool,
    online: bool,
    recount: bool,
    repair: bool,
    where: options.Stored,
    rest: options.Rest,
) -> list[Row]:
    from okxcli.core.model import TAPE
    from okxcli.errors import AnswerNo, Refused
    from okxcli.runtime import log
    from okxcli.runtime.clock import now_ms
    from okxcli.runtime.configuration.config_file import load
    from okxcli.storage.database import open_database
    from okxcli.storage.ledger import recount as counting
    from okxcli.storage.ledger.id_ledger import newest as newest_fill
    from okxcli.storage.read.gaps import differing_days, ranges, taped
    from okxcli.storage.rows.reader import meant

    log.setup("gaps", quiet=True)
    settings = load(where.config)
    here = way(settings, None, rest.rest_url, rest.proxy if online else None)
    history = here.market().history(now_ms) if online else None
    rows: list[Row] = []
    with (
        open_database(where.dsn, config_dsn=settings.dsn, create=False, application="okx gaps") as database,
        database.session() as connection,
    ):
        configured = meant(connection, settings.symbols, settings.types) if TAPE in settings.channels else []
        stored = taped(connection)
        names = meant(connection, symbols) or sorted({*configured, *(symbol for _, symbol in stored)})
        if not names:
            raise AnswerNo("nothing is stored and no symbol is configured: name one, or see okx collect")
        for name in names:
            for exchange in [one for one, symbol in stored if symbol == name] or [here.exchange.name]:
                if recount:
                    compare = counting.repair if repair else counting.recount
                    rows += [_row(exchange, name, one) for one in compare(connection, exchange, name)]
                else:
                    rows += [_row(exchange, name, one) for one in differing_days(connection, exchange, name)]
                kept = exchange == here.exchange.name and name in configured
                newest = newest_fill(connection, exchange, name) if open_end else None
                # What is stored has come, whatever this machine's clock says.
                end = until_ms if newest is None else max(until_ms, newest[1] - _UNSETTLED_MS)
                found = ranges(connection, exchange, name, since_ms, end, kept)
                if newest is not None and newest[1] >= end and not any(one.kind == "covered" for one in found):
                    _log.warning("%s: every stored fill is younger than a minute: ask again in a minute", name)
                if history is not None and exchange == here.exchange.name:
                    try:
                        found = list(_settled(history, connection, name, found, end))
                    except Refused as error:  # delisted: that concerns no other symbol
                        _log.warning("%s: what is after its newest stored fill stays unknown: %s", name, error)
                rows += [_row(exchange, name, one) for one in found]
    return rows


def _settled(
    history: "History", connection: "Connection", symbol: str, found: "list[IdRange]", until_ms: int
) -> "Iterator[IdRange]":
    """Yield the ranges, the unknown after the newest fill replaced by what the exchange's newest fill says of it."""
    from okxcli.storage.read.gaps import IdRange

    for one in found:
        if one.kind != "unknown" or one.first is None:
            yield one
            continue
        newest, newest_ms = history.newest(symbol)
        last = newest if newest_ms < until_ms else history.last_id_before(symbol, until_ms)
        if last >= one.first:
            yield IdRange("missing", one.first, last, one.first_time, min(newest_ms, until_ms))


def _row(exchange: str, symbol: str, one: "IdRange | Difference") -> Row:
    """Return the row that tells of a range of ids; where ledger and rows differ, it has no times."""
    return {
        "type": "range",
        "exchange": exchange,
        "symbol": symbol,
        "kind": one.kind,
        "first": one.first,
        "last": one.last,
        "count": one.count,
        "first_time": getattr(one, "first_time", None),
        "last_time": getattr(one, "last_time", None),
    }


def _readable(rows: list[Row], table: bool | None) -> list[Mapping[str, object]]:
    """Return the rows as they are for lines; for a table without what repeats, and with times that people read."""
    from okxcli.runtime.clock import iso

    if not (sys.stdout.isatty() if table is None else table):
        return list(rows)

    def cell(name: str, value: object) -> object:
        if name in ("first_time", "last_time") and isinstance(value, int):
            return iso(value)
        return str(value) if name in ("first", "last") and value is not None else value  # ids without separators

    return [
        {name: cell(name, value) for name, value in row.items() if name not in ("type", "exchange")} for row in rows
    ]


def _of_lines(since_ms: int | None, until_ms: int | None, table: bool | None) -> int:
    """Tell what trade lines on standard input hold; return the exit code."""
    from okxcli.core.codec import UnknownType, decode
    from okxcli.core.model import Absent, StandardizedTrade
    from okxcli.runtime.clock import now_ms
    from okxcli.runtime.filters import LineFilter
    from okxcli.runtime.tables import write_rows
    from okxcli.storage.ledger.id_ranges import RangeBook

    books: dict[tuple[str, str], RangeBook] = {}

    def handle(line: bytes) -> None:
        try:
            found = decode(line, now_ms())
        except UnknownType:
            return
        if isinstance(found, Absent):
            books.setdefault((found.exchange, found.symbol), RangeBook()).absent.append((found.first, found.last))
        elif isinstance(found, StandardizedTrade):
            at = found.timestamp
            if (since_ms is None or at >= since_ms) and (until_ms is None or at < until_ms):
                book = books.setdefault((found.exchange, found.symbol), RangeBook())
                book.add(found.first_id, found.trade_id, at, at)

    status = LineFilter("gaps", quiet=True).run(handle)
    rows = [_row(*key, one) for key, book in sorted(books.items()) for one in book.ranges()]
    write_rows(_readable(rows, table), table)
    return _verdict(rows, stored=False) or status
