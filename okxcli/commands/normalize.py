"""`okx normalize`: raw lines of the exchange in, our lines out."""

import logging

import typer

from okxcli.options import Files, Output, Quiet, Rejects, Stats, Strict


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("normalize")(normalize)


def normalize(
    files: Files = None,
    output: Output = None,
    strict: Strict = False,
    rejects: Rejects = None,
    stats: Stats = None,
    quiet: Quiet = False,
) -> int:
    """Validate the exchange's messages and turn them into lines of one simple form.

    In: raw lines, as okx stream and okx history write them: one push of the exchange a line. Out: trade, candle, book,
    ticker, instrument and absent lines. Control messages are passed over, messages of channels that have no line are
    counted and told at the end. A bad line is reported with its number and reason and passed over; its neighbours are
    unharmed.
    """
    from okxcli.core.codec import encode
    from okxcli.core.origin import site_line, site_told
    from okxcli.exchanges.interface import PartlyInvalid
    from okxcli.exchanges.registry import exchange
    from okxcli.runtime import log
    from okxcli.runtime.filters import LineFilter

    log.setup("normalize", quiet=quiet)
    run = LineFilter("normalize", files, output, strict, rejects, stats, quiet)
    normalizer = exchange().normalizer()
    feed, write = normalizer.feed, run.out.line

    def handle(line: bytes) -> None:
        try:
            found = feed(line)
        except PartlyInvalid as bad:
            for item in bad.lines:
                write(encode(item))
            raise
        for item in found:
            write(encode(item))
        if not found and (site := site_told(line)) is not None:
            write(site_line(site))

    def finish() -> None:
        for note in normalizer.notes():
            logging.getLogger(__name__).info(note)

    return run.run(handle, finish=finish, counts=normalizer.counts)
