"""JSON lines in and out: blocks are read as they come, lines are handed on whole, output goes in blocks.

A flood is written 64 KiB at a time, a trickle at once: `Output.flush` is called whenever input runs dry. No line is
ever held that is longer than `MAX_LINE`, whatever comes in.
"""

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from okxcli.errors import InputError, OutputError, UsageError
from okxcli.runtime.files import STDOUT, OutputFile, Sink, open_input, read_some
from okxcli.runtime.signals import Lifecycle, OutputClosed

__all__ = ["MAX_LINE", "LineReader", "Output", "OutputClosed", "Overlong"]

MAX_LINE = 1 << 20
_READ = 1 << 18
_HELD = 1 << 16
_HEAD = 200


class Overlong(bytes):
    """The first bytes of a line that was longer than `MAX_LINE`; the rest of it was thrown away."""


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
        self._size = 0

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
        self._held.append(line)
        self._size += len(line) + 1
        if self._size >= _HELD:
            self.flush()

    def flush(self) -> None:
        """Hand everything held back to the operating system."""
        if not self._held:
            return
        self._held.append(b"")
        lines, self._held, self._size = self._held, [], 0
        self._out.write(b"\n".join(lines))
        self.lines += len(lines) - 1


class LineReader:
    """Whole lines from standard input or from files, one after the other.

    `blocks` yields lists of lines without their newlines, empty lines left out, and an empty list whenever input has
    run dry or `due_s` is over. `number` is the number of the last line handed out in the current file, counted from 1.
    """

    def __init__(self, life: Lifecycle, files: list[Path] | None = None) -> None:
        self.source = "line"
        self.due_s: float | None = None
        self._life = life
        self._files = files or []
        self._rest = b""
        self._skipping: bytes | None = None
        self._next = 1

    def blocks(self) -> Iterator[list[tuple[int, bytes]]]:
        """Yield (line number, line) pairs block by block, in order, until the end of input or a stop."""
        if not self._files:
            yield from self._from_fd(0)
            return
        for path in self._files:
            if str(path) == "-":
                yield from self._from_fd(0)
            else:
                self.source = f"{path}: line"
                yield from self._from_file(path)
            self._next = 1

    def _from_fd(self, fd: int) -> Iterator[list[tuple[int, bytes]]]:
        life = self._life
        while not life.stop:
            if not select.select([fd], [], [], 0)[0]:
                yield []
                while not life.stop and not life.wait(fd, self.due_s):
                    if not life.stop:
                        yield []
                if life.stop:
                    break
            try:
                chunk = os.read(fd, _READ)
            except OSError as error:
                raise InputError(f"cannot read on in standard input: {error.strerror}") from None
            if not chunk:
                break
            yield self._split(chunk)
        if not life.stop:
            yield self._last()

    def _from_file(self, path: Path) -> Iterator[list[tuple[int, bytes]]]:
        with open_input(path) as stream:
            while not self._life.stop:
                chunk = read_some(stream, _READ, path)
                if not chunk:
                    break
                yield self._split(chunk)
        if not self._life.stop:
            yield self._last()

    def _split(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Cut a chunk into lines, keeping the last, unfinished one for later."""
        if self._skipping is not None:
            end = chunk.find(b"\n")
            if end < 0:
                return []
            done: list[tuple[int, bytes]] = [(self._next, Overlong(self._skipping))]
            self._skipping = None
            self._next += 1
            return done + self._split(chunk[end + 1 :])
        pieces = (self._rest + chunk).split(b"\n")
        self._rest = pieces.pop()
        if len(self._rest) > MAX_LINE:
            self._skipping, self._rest = self._rest[:_HEAD], b""
        first = self._next
        self._next += len(pieces)
        return [
            (number, line if len(line) <= MAX_LINE else Overlong(line[:_HEAD]))
            for number, line in enumerate(pieces, first)
            if line and line != b"\r"
        ]

    def _last(self) -> list[tuple[int, bytes]]:
        """Hand out a last line that has no newline."""
        rest, skipping = self._rest, self._skipping
        self._rest, self._skipping = b"", None
        number = self._next
        if skipping is not None:
            return [(number, Overlong(skipping))]
        return [(number, rest)] if rest else []
