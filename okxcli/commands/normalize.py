"""`okx normalize`: raw lines of the exchange in, our lines out."""

import logging
from collections import Counter
from typing import TYPE_CHECKING

from okxcli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from okxcli.core.model import Line
    from okxcli.exchanges.interface import Exchange, Normalizer, Taken


def normalize(
    *,
    files: options.Files = None,
    output: options.Output = None,
    filtering: options.Filtering,
) -> int:
    """Validate the exchange's messages and turn them into lines of one simple form.

    In: raw lines, as okx stream and okx history write them: one push of the exchange a line. Out: trade, candle, book,
    ticker, instrument and absent lines. Control messages are passed over, messages of channels that have no line are
    counted and told at the end. A bad line is reported with its number and reason and passed over; its neighbours are
    unharmed.
    """
    from okxcli.core.codec import encode
    from okxcli.core.origin import site_line, site_told
    from okxcli.errors import InvalidLine
    from okxcli.exchanges.interface import PartlyInvalid
    from okxcli.runtime import log
    from okxcli.runtime.filters import LineFilter

    log.setup("normalize", quiet=filtering.quiet)
    run = LineFilter("normalize", files, output, *filtering)
    reader = _Reader()
    write = run.out.line

    def handle(line: bytes) -> None:
        try:
            found = reader.feed(line)
        except PartlyInvalid as bad:
            for item in bad.lines:
                write(encode(item))
            raise
        except InvalidLine:
            if site_told(line) is None:
                if not reader.switched(line):
                    raise
                handle(line)
                return
            found = []
        for item in found:
            write(encode(item))
        if not found and (site := site_told(line)) is not None:
            write(site_line(site))

    def take(block: bytes, at: int) -> tuple[int, int]:
        found = reader.take(block, at)
        if found.taken:
            run.out.block(found.lines, found.made)
        return found.next, found.taken

    def finish() -> None:
        for note in reader.notes():
            logging.getLogger(__name__).info(note)

    return run.run(handle, finish=finish, counts=reader.counts, take=take)


class _Reader:
    """Reads raw lines as the exchange does whose lines they are, the default one's until another is met."""

    def __init__(self) -> None:
        from okxcli.exchanges.registry import exchange

        self._all: dict[str, Normalizer] = {}
        self._read_as(exchange())

    def _read_as(self, one: "Exchange") -> None:
        self._now = one
        if one.name not in self._all:
            self._all[one.name] = one.normalizer()
        normalizer = self._all[one.name]
        self.feed: Callable[[bytes], list[Line]] = normalizer.feed
        self.take: Callable[[bytes, int], Taken] = normalizer.take

    def switched(self, line: bytes) -> bool:
        """Read from here on as the exchange does whose line this is; False if that is nobody else."""
        from okxcli.exchanges.registry import exchange_of

        other = exchange_of(line)
        if other is None or other is self._now:
            return False
        self._read_as(other)
        return True

    def counts(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for one in self._all.values():
            found.update(one.counts())
        return dict(found)

    def notes(self) -> list[str]:
        return [note for one in self._all.values() for note in one.notes()]
