"""JSON lines in and out: blocks are read as they come, lines are handed on whole, output goes in blocks.

A flood is written 64 KiB at a time, a trickle at once: `Output.flush` is called whenever input runs dry. No line is
ever held that is longer than `MAX_LINE`, whatever comes in.
"""

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from okxcli.runtime.files import open_input, open_output, read_some
from okxcli.runtime.signals import Lifecycle, OutputClosed

__all__ = ["MAX_LINE", "LineReader", "Output", "OutputClosed", "Overlong"]

MAX_LINE = 1 << 20
_READ = 1 << 18
_HELD = 1 << 16
_HEAD = 200


class Overlong(bytes):
    """The first bytes of a line that was longer than `MAX_LINE`; the rest of it was thrown away."""


class Output:
    """Lines to standard output or a file; at most 64 KiB are held back.

    Raises `OutputClosed` from `line` and `flush` when nobody reads any more.
    """

    def __init__(self, fd: int = 1, path: Path | None = None) -> None:
        self.lines = 0
        self._fd = fd
        self._file: BinaryIO | None = None if path is None or str(path) == "-" else open_output(path)
        self._held: list[bytes] = []
        self._size = 0

    def line(self, line: bytes) -> None:
        """Write one line, given without its newline."""
        self._held.append(line)
        self.lines += 1
        self._size += len(line) + 1
        if self._size >= _HELD:
            self.flush()

    def flush(self) -> None:
        """Hand everything held back to the operating system."""
        if not self._held:
            return
        self._held.append(b"")
        data = b"\n".join(self._held)
        self._held, self._size = [], 0
        if self._file is not None:
            self._file.write(data)
            return
        try:
            _write_all(self._fd, data)
        except BrokenPipeError:
            raise OutputClosed from None

    def close(self) -> None:
        """Flush, and close the file if it is one."""
        self.flush()
        if self._file is not None:
            self._file.close()


def _write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, also to a descriptor that its owner made non-blocking (a shared terminal may be)."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


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
            chunk = os.read(fd, _READ)
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
