"""`okx read`: stored rows back as lines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from okxcli import options

if TYPE_CHECKING:
    from okxcli.core.model import Line
    from okxcli.runtime.lines import Output
    from okxcli.runtime.signals import Lifecycle

_HELP = """Read stored rows back as the lines they were.

In: Postgres. Out: the lines of one type, oldest first, as okx normalize and okx candles wrote them.
"""

read = options.Group(_HELP)

#: States of a symbol by their names here, and their lines in words.
STATES = {
    "tickers": ("tickers", "ticker"),
    "funding-rates": ("funding rates", "funding"),
    "mark-prices": ("mark prices", "mark"),
    "index-prices": ("index prices", "index"),
    "open-interest": ("open interest", "open_interest"),
    "price-limits": ("price limits", "price_limit"),
    "liquidations": ("liquidations", "liquidation"),
}

#: Seconds between two looks for new rows.
_POLL_S = 0.5


class _Which(NamedTuple):
    """The options that choose among the rows of a symbol."""

    since: Annotated[
        str | None, options.time_option("--since", "From here on: ISO 8601, epoch ms, 2h (ago), today.")
    ] = None
    until: Annotated[str | None, options.time_option("--until", "Up to here, this moment excluded.")] = None
    most: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, metavar="N", help="At most N of a symbol (and timeframe): with --since "
                     "the first, else the newest."),
    ] = None  # fmt: skip
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-follow", "-f", help="Then go on with what is stored from now on, until Ctrl-C."),
    ] = False


class _Ends(NamedTuple):
    """The options that say from where to where."""

    output: options.Output = None
    dsn: options.Dsn = None
    config: options.Config = None


@read.subcommand
def trades(
    *,
    symbols: options.Symbols,
    which: _Which,
    origin: Annotated[
        str | None,
        typer.Option("--origin", metavar="NAME", help="trades: the merged trades. Default: the tape, fill by fill."),
    ] = None,
    context: Annotated[
        bool, options.switch("context", "Write the instrument and absent lines too, as candles needs.")
    ] = False,
    ends: _Ends,
) -> None:
    """Read trades back, by rising id.

    In: Postgres. Out: trade lines; several symbols are merged by time. With --context, okx candles makes the same
    bars of them as it made at first. With --follow, what is filled in later below the newest id is not shown.
    """
    from okxcli.errors import UsageError

    if origin not in (None, "trades"):
        raise UsageError(f"no such origin: {origin!r}. Only the merged trades stand apart: --origin trades")
    _run(which, ends, "trades", symbols, origin=origin, context=context)


@read.subcommand
def candles(
    *,
    symbols: options.Symbols,
    tf: Annotated[str, typer.Option("--tf", metavar="LIST", help="Timeframes: 1m,5m.")] = "1m",
    which: _Which,
    origin: Annotated[
        str, typer.Option("--origin", metavar="NAME", help="trades: ours; exchange: the exchange's own.")
    ] = "trades",
    running: Annotated[bool, options.switch("partial", "Bars too that were still running when last stored.")] = False,
    ends: _Ends,
) -> None:
    """Read candles back, by time.

    In: Postgres. Out: candle lines, the newest revision of each bar; several symbols and timeframes are merged by
    time. Bars that lie whole between --since and --until. With --follow, revisions of the last 20 bars come too.
    """
    from okxcli.core.timeframes import parse_list
    from okxcli.errors import InvalidLine, UsageError

    try:
        frames = [frame.name for frame in parse_list(tf)]
    except InvalidLine as reason:
        raise UsageError(str(reason)) from None
    _run(which, ends, "candles", symbols, frames, origin, running=running)


@read.subcommand
def books(
    *,
    symbols: options.Symbols,
    which: _Which,
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="NAME", help="books5, bbo-tbt, books. Default: all of them.")
    ] = None,
    ends: _Ends,
) -> None:
    """Read order book snapshots back, by time.

    In: Postgres. Out: book lines; several symbols are merged by time.
    """
    _run(which, ends, "books", symbols, origin=origin)


def _reads(word: str, what: str, tag: str) -> None:
    """Make the command that reads a type of state."""

    def of_state(*, symbols: options.Symbols, which: _Which, ends: _Ends) -> None:
        _run(which, ends, word, symbols)

    of_state.__name__ = word
    of_state.__doc__ = f"""Read {what} back, by time.

    In: Postgres. Out: {tag} lines; several symbols are merged by time. With --follow, what is stored later of a time
    before the newest is not shown.
    """
    read.subcommand(of_state)


for _word, (_what, _tag) in STATES.items():
    _reads(_word, _what, _tag)


def _run(
    which: _Which,
    ends: _Ends,
    kind: str,
    symbols: list[str],
    timeframes: Sequence[str | None] = (None,),
    origin: str | None = None,
    context: bool = False,
    running: bool = False,
) -> None:
    """Read, write, and follow if that is asked for."""
    from okxcli.errors import UsageError
    from okxcli.runtime import log
    from okxcli.runtime.clock import now_ms, parse_time
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.lines import Output
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import open_database
    from okxcli.storage.read import follow
    from okxcli.storage.rows import reader

    log.setup("read", quiet=True)
    if which.follow and which.until is not None:
        raise UsageError("--follow has no end: leave --until out")
    now = now_ms()
    span = reader.Span(
        parse_time(which.since, now) if which.since is not None else reader.EVERYTHING.since,
        parse_time(which.until, now) if which.until is not None else reader.EVERYTHING.until,
    )
    if span.since is not None and span.until is not None and span.since >= span.until:
        raise UsageError("--since is not before --until: there is nothing between them")
    first = which.most if which.since is not None else None
    newest = which.most if which.since is None else None
    settings = load(ends.config)
    with (
        Lifecycle("source") as life,
        open_database(ends.dsn, config_dsn=settings.dsn, create=False, application="okx read") as database,
        database.session() as connection,
        Output(ends.output) as out,
    ):
        plan = follow.query(connection, kind, symbols, database.where, timeframes, origin)
        plan = replace(plan, span=span, first=first, newest=newest, context=context, running=running)
        with reader.snapshot(connection):
            positions = plan.positions(connection) if which.follow else {}
            if plan.plain:
                _write_blocks(plan.blocks(connection), out, life)
            else:
                _write(plan.lines(connection), out, life)
        out.flush()
        while which.follow and not life.stop:
            life.wait(None, _POLL_S)
            with reader.snapshot(connection):
                _write(reader.merged([position.poll(connection) for position in positions.values()]), out, life)
            out.flush()


def _write(lines: "Iterator[Line]", out: "Output", life: "Lifecycle") -> None:
    from okxcli.core.codec import encode

    for line in lines:
        if life.stop:
            return
        out.line(encode(line))


def _write_blocks(blocks: "Iterator[tuple[bytes, int]]", out: "Output", life: "Lifecycle") -> None:
    for lines, count in blocks:
        if life.stop:
            return
        out.block(lines, count)
