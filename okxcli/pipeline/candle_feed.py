"""What `okx candles` reads: lines of ours and, named as such, bulk files of an exchange, all of their symbols.

Rows of fills that stand in order go to the kernel as they are; every other row becomes the raw line that it stands for,
and takes the way of the pipe of commands.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from okxcli.core.candles.block_processor import BlockCandleProcessor
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.candles.rollup import CandleRollup
from okxcli.core.codec import UnknownType, encode
from okxcli.core.model import Line
from okxcli.core.origin import site_told
from okxcli.core.trade_pieces import TradePieces
from okxcli.runtime.clock import now_ms
from okxcli.runtime.lines import Block, LineReader, Output
from okxcli.runtime.signals import Lifecycle

if TYPE_CHECKING:
    from okxcli.exchanges.file_interface import FileRows
    from okxcli.exchanges.interface import Exchange, Normalizer


class CandleFeed:
    """Gives a maker of candles what is read; with `passing` every line goes out too, a bar before the line closing it.

    `rows` is the block of a bulk file that is read, None while lines are.
    """

    def __init__(self, maker: RealTimeCandleProcessor | CandleRollup, out: Output, passing: bool) -> None:
        self.rows: FileRows | None = None
        self._maker = maker
        self._by_block = maker if isinstance(maker, BlockCandleProcessor) else None
        self._out = out
        self._passing = passing
        self._pieces = TradePieces(now_ms)
        self._normalizer: Normalizer | None = None
        self._exchange = ""

    @property
    def by_block(self) -> bool:
        """Whether blocks of lines are taken, not lines alone."""
        return self._by_block is not None

    def names_bulk(self, files: list[Path]) -> bool:
        """Whether any of some files is a bulk file by its name."""
        if not files:
            return False
        from okxcli.exchanges.registry import exchange_of_file

        return any(exchange_of_file(path) for path in files)

    def reader(self, life: Lifecycle, files: list[Path] | None) -> LineReader:
        """Return what reads the files."""
        return _Reader(self, life, files)

    def read(self, source: "Exchange", paths: list[Path]) -> "_Rows":
        """Return the rows of bulk files."""
        if self._exchange != source.name:
            self._exchange, self._normalizer = source.name, source.normalizer()
        plain = self._by_block is None or self._passing
        return _Rows(source, paths, plain, isinstance(self._maker, CandleRollup))

    def look(self, block: bytes) -> None:
        """Take note of a block whose lines come next."""
        if self.rows is None:
            self._pieces.look(block)

    def take(self, block: bytes, at: int) -> tuple[int, int]:
        """Take what is of an everyday form from an offset on; return the offset of what is left, and how many lines."""
        if self.rows is None:
            return self._take(block, at)
        if self.rows.columns and self._by_block is not None:
            rows = self.rows
            return self._by_block.take_rows(block, at, now_ms(), self._exchange, rows.columns, rows.symbol)
        if self._normalizer is None:
            return at, 0
        made = self._normalizer.take(block, at)
        if made.made:
            self._made(made.lines + b"\n")
        return made.next, made.taken

    def handle(self, line: bytes) -> None:
        """Take one line.

        Raises:
            InvalidLine: it is a bad one.
        """
        if self.rows is None or self._normalizer is None:
            self._line(line)
            return
        for raw in self.rows.raw(line):
            for found in self._normalizer.feed(raw):
                self._feed(found)

    def _take(self, block: bytes, at: int) -> tuple[int, int]:
        if self._by_block is None:
            return at, 0
        end, taken = self._by_block.take(block, at, now_ms())
        if self._passing and taken:
            self._out.block(block[at : end - 1], taken)
        return end, taken

    def _made(self, lines: bytes) -> None:
        """Take lines that are good."""
        self._pieces.look(lines)
        at = 0
        while at < len(lines):
            at, _ = self._take(lines, at)
            if at < len(lines):
                end = lines.index(b"\n", at)
                self._line(lines[at:end])
                at = end + 1

    def _feed(self, found: Line) -> None:
        self._maker.feed(found)
        if self._passing:
            self._out.line(encode(found))

    def _line(self, line: bytes) -> None:
        try:
            self._maker.feed(self._pieces.decode(line))
        except UnknownType:
            if not self._passing and site_told(line) is None:  # bars of a simulation are none of the market either
                return
            self._out.line(line)
            return
        if self._passing:
            self._out.line(line)


class _Rows:
    """The rows of bulk files; `unread` counts rows and files that could not be read, which was told.

    `plain`: raw lines alone. `bars`: those of one minute, not fills.
    """

    def __init__(self, source: "Exchange", paths: list[Path], plain: bool, bars: bool) -> None:
        from okxcli.exchanges.registry import files_of

        files = files_of(source)
        self._archive = files.archive(paths, None, channel=files.bars) if bars else files.archive(paths, None)
        self._plain = plain or bars

    @property
    def unread(self) -> int:
        return self._archive.damaged + self._archive.unreadable

    def blocks(self) -> Iterator["FileRows"]:
        """Yield them, oldest first."""
        from okxcli.exchanges.file_interface import FileRows

        if not self._plain:
            yield from self._archive.blocks()
            return
        number = 1
        for lines, count in self._archive.pushes():
            yield FileRows("row", number, lines + b"\n", b"", b"", lambda line: [line])
            number += count


class _Reader(LineReader):
    """Reads files of lines and bulk files, in the order in which they are named, those together that stand together."""

    def __init__(self, feed: CandleFeed, life: Lifecycle, files: list[Path] | None) -> None:
        super().__init__(life, files)
        self._feed = feed

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of lines or of rows."""
        if not self._files:
            yield from super().blocks()
            return
        from okxcli.exchanges.registry import exchange_of_file

        for source, paths in groupby(self._files, exchange_of_file):
            if source is None:
                yield from self._lines_of(list(paths))
            else:
                yield from self._rows_of(source, list(paths))

    def _rows_of(self, source: "Exchange", paths: list[Path]) -> Iterator[Block]:
        rows, before = self._feed.read(source, paths), self.unread
        try:
            for block in rows.blocks():
                if self._life.stop:
                    return
                self._feed.rows, self.source = block, block.source
                self.unread = before + rows.unread
                yield Block(block.number, block.data)
        finally:
            self._feed.rows, self.source = None, "line"
            self.unread = before + rows.unread
