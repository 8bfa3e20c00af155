"""JSON lines in and out: blocks are read as they come, lines are handed on whole, output goes in blocks.

A flood is written 64 KiB at a time, a trickle at once: `Output.flush` is called whenever input runs dry. No line is
ever held that is longer than `MAX_LINE`, whatever comes in. A pipe that a flood goes through is made larger: in 64 KiB
two commands wait for each other at every block, and take a third longer.
"""

import fcntl
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from okxcli.errors import InputError, OutputError, UsageError
from okxcli.runtime.files import STDOUT, OutputFile, Sink, open_input, read_some
from okxcli.runtime.signals import Lifecycle, OutputClosed

_log = logging.getLogger(__name__)

__all__ = ["MAX_LINE", "Block", "LineReader", "Output", "OutputClosed", "Overlong"]

MAX_LINE = 1 << 20
_READ = 1 << 18
_HELD = 1 << 16
_PIPE = 1 << 19
_HEAD = 200


class Overlong(bytes):
    """The first bytes of a line that was longer than `MAX_LINE`; the rest of it was thrown away."""


def _widen(fd: int) -> None:
    """Give a pipe room for 512 KiB. Where that is refused, or it is no pipe, everything works as well, if slower."""
    if sys.platform == "linux":
        with suppress(OSError):
            if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _PIPE:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)


class Block(NamedTuple):
    """Whole lines, each with its newline; `number` is that of the first one, counted from 1. Empty: nothing to read."""

    number: int
    data: bytes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line number, line without its newline), empty lines left out."""
        if isinstance(self.data, Overlong):
            yield self.number, self.data
            return
        for number, line in enumerate(self.data.split(b"\n"), self.number):
            if line and line != b"\r":
                yield number, line


class Output:
    """Lines to standard output or, within a `with` block, to a file; at most 64 KiB are held back.

    The end of the block writes what is held; a file has its name then, but not after an error: see OutputFile.

    Raises:
        OutputClosed: nobody reads any more.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.lines = 0
        self._file = None if path is None or str(path) == "-" else OutputFile(path)
        self._out: OutputFile | Sink = self._file or Sink(1, STDOUT)
        self._held: list[bytes] = []
        self._size = self._count = 0
        self._narrow = self._file is None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        if self._file is not None:
            self._stack.enter_context(self._file)
        self._stack.push(self._end)
        return self

    def _end(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(error, OutputError | OutputClosed | UsageError):  # what was asked for wrongly gives nothing
            self.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def line(self, line: bytes) -> None:
        """Write one line, given without its newline."""
        self.block(line, 1)

    def block(self, lines: bytes, count: int) -> None:
        """Write `count` lines that are joined by newlines, without that of the last."""
        self._held.append(lines)
        self._count += count
        self._size += len(lines) + 1
        if self._size >= _HELD:
            if self._narrow:
                _widen(1)
                self._narrow = False
            self.flush()

    def due_in(self) -> float | None:
        """Return the seconds until `flush` wants to be called by time alone: None, never."""
        return None

    def flush(self) -> None:
        """Hand everything held back to the operating system."""
        if not self._held:
            return
        self._held.append(b"")
        lines, count = self._held, self._count
        self._held, self._size, self._count = [], 0, 0
        self._out.write(b"\n".join(lines))
        self.lines += count


class LineReader:
    """Whole lines from standard input or from files, one after the other.

    `blocks` yields blocks of lines, and an empty one whenever input has run dry or `due_s` is over. A line longer than
    `MAX_LINE` is a block of its own, its first bytes as an `Overlong`. `source` says where the lines are from, `unread`
    how much was left out by the reader itself, which was told: the rest of a packed file that is torn, for instance.
    """

    def __init__(self, life: Lifecycle, files: list[Path] | None = None) -> None:
        self.source = "line"
        self.unread = 0
        self.due_s: float | None = None
        self._life = life
        self._files = files or []
        self._rest = b""
        self._skipping: bytes | None = None
        self._next = 1  # the number of the first line of the last block, or of the one behind it
        self._uncounted = b""  # that block, as long as its lines are not counted

    def told(self, lines: int) -> None:
        """Take note of how many lines the last block had, from who has looked at each: counting them takes time."""
        self._next += lines
        self._uncounted = b""

    def blocks(self) -> Iterator[Block]:
        """Yield blocks in order, until the end of input or a stop."""
        if not self._files:
            yield from self._from_fd(0)
            return
        yield from self._lines_of(self._files)

    def _lines_of(self, files: list[Path]) -> Iterator[Block]:
        for path in files:
            self._next, self._uncounted = 1, b""
            if str(path) == "-":
                yield from self._from_fd(0)
            else:
                self.source = f"{path}: line"
                yield from self._from_file(path)

    def _from_fd(self, fd: int) -> Iterator[Block]:
        life, dry, narrow = self._life, Block(0, b""), True
        while not life.stop:
            if not select.select([fd], [], [], 0)[0]:
                yield dry
                while not life.stop and not life.wait(fd, self.due_s):
                    if not life.stop:
                        yield dry
                if life.stop:
                    break
            try:
                chunk = os.read(fd, _READ)
            except OSError as error:
                raise InputError(f"cannot read on in standard input: {error.strerror}") from None
            if not chunk:
                break
            if narrow and len(chunk) >= _HELD:  # as much as a pipe holds at first: its writer waits for us
                _widen(fd)
                narrow = False
            yield from self._split(chunk)
        if not life.stop:
            yield from self._last()

    def _from_file(self, path: Path) -> Iterator[Block]:
        with open_input(path) as stream:
            while not self._life.stop:
                try:
                    chunk = read_some(stream, _READ, path)
                except (
                    InputError
                ) as error:  # of a run that was killed, for instance: all lines before the tear are good
                    _log.warning("%s; the %d lines before that are read", error, self._seen())
                    self.unread += 1
                    self._rest, self._skipping = b"", None
                    return
                if not chunk:
                    break
                yield from self._split(chunk)
        if not self._life.stop:
            yield from self._last()

    def _split(self, chunk: bytes) -> Iterator[Block]:
        """Yield the whole lines of a chunk, keeping the last, unfinished one for later."""
        if self._skipping is not None:
            end = chunk.find(b"\n") + 1
            if not end:
                return
            yield self._numbered(Overlong(self._skipping))
            self._skipping = None
            chunk = chunk[end:]
        end = chunk.rfind(b"\n") + 1
        data, self._rest = (self._rest + chunk[:end], chunk[end:]) if end else (b"", self._rest + chunk)
        if len(data) <= MAX_LINE:
            if data:
                yield self._numbered(data)
        else:
            for line in data[:-1].split(b"\n"):
                yield self._numbered(line + b"\n" if len(line) <= MAX_LINE else Overlong(line[:_HEAD]))
        if len(self._rest) > MAX_LINE:
            self._skipping, self._rest = self._rest[:_HEAD], b""

    def _seen(self) -> int:
        return self._next - 1 + (1 if isinstance(self._uncounted, Overlong) else self._uncounted.count(b"\n"))

    def _numbered(self, data: bytes) -> Block:
        self.told(1 if isinstance(self._uncounted, Overlong) else self._uncounted.count(b"\n"))
        self._uncounted = data
        return Block(self._next, data)

    def _last(self) -> Iterator[Block]:
        """Yield a last line that has no newline."""
        rest, skipping = self._rest, self._skipping
        self._rest, self._skipping = b"", None
        if skipping is not None:
            yield self._numbered(Overlong(skipping))
        elif rest:
            yield self._numbered(rest + b"\n")
