"""`okx books`: lines of snapshots and updates in, order books out."""

import logging
from typing import Annotated

import typer

from okxcli import options

_Pass = Annotated[
    bool, options.switch("pass", "Let every input line through, a book before the line that ended its interval.")
]


def books(
    *,
    files: options.Files = None,
    depth: Annotated[
        int | None,
        typer.Option("--depth", min=1, max=5000, metavar="N", help="The best N levels of each side. Default: all."),
    ] = None,
    every: Annotated[
        str,
        typer.Option(
            "--every", metavar="TIME", help="change: a book at each change; 100ms, 1s, 1m: one at the end of each such "
            "interval of the exchange's time in which something came."
        ),
    ] = "change",
    fill: Annotated[
        bool, options.switch("fill", "With an interval: a book too where the chain proves that nothing came.")
    ] = False,
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure", metavar="LIST", help="Further keys: spread, microprice, imbalance, depth=10 (what stands "
            "within 10 basis points of the middle)."
        ),
    ] = None,
    pass_lines: _Pass = False,
    output: options.Output = None,
    filtering: options.Filtering,
) -> int:  # fmt: skip
    """Keep order books from their snapshots and updates, and write them.

    Reads the book_update lines that okx normalize makes of the channel books, and writes book lines. Each update names
    the one before it: where that chain breaks the book is invalid at once, which is told, and nothing of it is written
    until the next snapshot (okx stream asks for one by itself). A book that is crossed, one-sided or empty is told and
    not written either. With an interval the book is as it was at `timestamp`, the end of the interval, by the
    messages before that moment alone; it is written when the next message has proved that no other is missing. The
    same input gives the same bytes, however it arrives.
    """
    from okxcli.core.books.book_maker import BookMaker
    from okxcli.core.books.measures import parse_measures
    from okxcli.core.codec import UnknownType, decode
    from okxcli.core.model import BookUpdate
    from okxcli.core.origin import site_told
    from okxcli.errors import InvalidLine, UsageError
    from okxcli.runtime import log
    from okxcli.runtime.clock import now_ms, parse_interval, passed_ms
    from okxcli.runtime.filters import LineFilter

    log.setup("books", quiet=filtering.quiet)
    logger = logging.getLogger(__name__)
    interval = None if every == "change" else parse_interval(every)
    if fill and interval is None:
        raise UsageError("--fill is for an interval: add --every 1s")
    try:
        measures = parse_measures(measure) if measure is not None else []
    except InvalidLine as reason:
        raise UsageError(str(reason)) from None
    run = LineFilter("books", files, output, *filtering)
    write = run.out.line
    maker = BookMaker(
        lambda book, at, known: write(book.line(at, known, depth, "".join([one(book) for one in measures]))),
        lambda book, text: logger.warning("%s %s: %s", book.symbol, book.origin, text),
        every_ms=interval,
        depth=depth,
        fill=fill,
    )

    def handle(line: bytes) -> None:
        try:
            found = decode(line, now_ms())
        except UnknownType:
            if pass_lines or site_told(line) is not None:
                write(line)
            return
        if isinstance(found, BookUpdate):
            maker.take(found)
        if pass_lines:
            write(line)

    def tick() -> float:
        maker.advance(passed_ms())
        return 1.0

    return run.run(handle, tick, counts=maker.counts)
