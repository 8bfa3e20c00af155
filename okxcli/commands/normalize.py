"""`okx normalize`: raw lines of OKX in, our lines out."""

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
    """Validate OKX's messages and turn them into lines of one simple form.

    In: raw lines, as okx stream and okx history write them: one push of OKX a line. Out: trade, candle, book, ticker,
    instrument and absent lines. Control messages are passed over, messages of channels that have no line are counted
    and told at the end. A bad line is reported with its number and reason and passed over; its neighbours are
    unharmed.
    """
    from okxcli.core.codec import encode
    from okxcli.exchanges.okx.normalize.normalizer import Normalizer, PartlyInvalid
    from okxcli.exchanges.okx.sites import site_line, site_told
    from okxcli.runtime import log
    from okxcli.runtime.filters import LineFilter

    log.setup("normalize", quiet=quiet)
    run = LineFilter("normalize", files, output, strict, rejects, stats, quiet)
    normalizer = Normalizer()
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
            for told in site_line(site):
                write(told)

    def finish() -> None:
        for note in normalizer.notes():
            logging.getLogger(__name__).info(note)

    return run.run(handle, finish=finish, counts=normalizer.counts)
