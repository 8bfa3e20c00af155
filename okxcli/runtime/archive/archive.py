"""The archive that a feed writes: raw lines in files by the time of receipt, whole whatever ends the process.

A file is `NAME.part` until its span is over. Every second what came is handed to the operating system, so that a kill
costs that second at most; the next run makes a whole file of what a killed one left. Each file begins with what
explains it (instruments), so that it can be read alone.
"""

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from okxcli.errors import OutputError
from okxcli.runtime.archive.disk_guard import DiskGuard
from okxcli.runtime.archive.file_names import FileNames
from okxcli.runtime.archive.recovery import recover
from okxcli.runtime.clock import now_ms
from okxcli.runtime.files import PART, Sink, packed

_log = logging.getLogger(__name__)

#: So long a line may wait to be handed to the operating system.
_FLUSH_S = 1.0
#: Time between two tries after a file could not be written.
_RETRY_S = 10.0
#: What was received before the end of a span is written so long after it at most, and a clock is set back at most.
_LATE_MS, _SET_BACK_MS = 2_000, 60_000
#: Lines that explain the others, kept for the next file: more than an exchange has instruments.
_MAX_PREFACE = 20_000
_RECEIVED = re.compile(rb',"received":([0-9]{13})\}$')


class Archive:
    """Writes lines to the files that `names` gives.

    `preface` are the beginnings of lines that explain others; each file begins with those that came so far. Where
    `guard` says `stop` a file that cannot be written, and a disk that is nearly full, end the command. Else that is
    told, and tried again some seconds later; what comes meanwhile is left out and counted.

    Raises:
        OutputError: by any method, if that is to end the command.
    """

    def __init__(
        self,
        names: FileNames,
        preface: tuple[bytes, ...],
        guard: DiskGuard,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.lines = 0  # those that are in a file, or wait for its next flush
        self._given = 0
        self._names = names
        self._preface = preface
        self._guard = guard
        self._clock = clock
        self._explained: dict[bytes, None] = {}
        self._file: _PartFile | None = None
        self._begin_ms = self._end_ms = 0
        self._next_flush = self._next_try = 0.0
        self._failed = False

    @property
    def left_out(self) -> int:
        """How many of the lines that were given are in no file."""
        return self._given - self.lines

    def __enter__(self) -> Self:
        self._guarded(lambda: recover(self._names))
        return self

    def __exit__(self, *_: object) -> None:
        self._guarded(self._close)
        if self.left_out:
            _log.warning("%d lines are not in the archive %s", self.left_out, self._names.template)

    def line(self, line: bytes) -> None:
        """Keep a line, given without its newline: in the file of its `received`, or of now."""
        self.take([line])

    def take(self, lines: list[bytes]) -> None:
        """Keep lines, in their order."""
        if not lines:
            return
        self._given += len(lines)
        if self._may_write():
            self._guarded(lambda: self._write(lines))
        else:
            self.explain(lines)

    def flush(self) -> None:
        """Do what is due: hand over what waits for a second, end a file whose span is over, look at the disk."""
        if time.monotonic() < self._next_flush:
            return
        self._next_flush = time.monotonic() + _FLUSH_S
        if self._failed:
            self._may_write()
            return
        self._guarded(self._look)

    def hand_over(self) -> None:
        """Hand everything to the operating system now: it outlives this process."""
        if self._file is not None:
            self._guarded(self._file.flush)

    def due_in(self) -> float:
        """Return the seconds until `flush` wants to be called."""
        return max(self._next_flush - time.monotonic(), 0)

    def explain(self, lines: list[bytes]) -> None:
        """Remember which of these lines explain those that follow: each file begins with them."""
        for line in lines:
            if line.startswith(self._preface):
                told = _RECEIVED.sub(b"}", line)
                self._explained.pop(told, None)
                self._explained[told] = None
                if len(self._explained) > _MAX_PREFACE:
                    del self._explained[next(iter(self._explained))]

    def _write(self, lines: list[bytes]) -> None:
        if self._file is not None and self._fits(self._moment(lines[-1])):
            self._put(self._file, lines)
        else:
            for line in lines:
                moment = self._moment(line)
                file = self._file if self._file is not None and self._fits(moment) else self._begin(moment)
                self._put(file, [line])

    def _put(self, file: "_PartFile", lines: list[bytes]) -> None:
        self.lines += len(lines)
        file.waiting += len(lines)
        self.explain(lines)
        file.write(lines)

    def _fits(self, moment: int) -> bool:
        """Whether a line of a moment goes into the file at hand; a clock that is set back a little begins none."""
        return self._begin_ms - _SET_BACK_MS <= moment < self._end_ms

    def _moment(self, line: bytes) -> int:
        found = _RECEIVED.search(line, max(len(line) - 40, 0))
        return int(found[1]) if found is not None else self._clock()

    def _begin(self, moment: int) -> "_PartFile":
        """Begin the file of a moment, with what explains it."""
        self._close()
        self._file = _PartFile.of(self._names, moment)
        self._begin_ms, self._end_ms = moment, self._names.end_ms(moment)
        self._file.write(list(self._explained))
        return self._file

    def _look(self) -> None:
        if self._file is not None and self._clock() >= self._end_ms + _LATE_MS:
            self._close()
        if self._file is not None:
            self._file.flush()
        if not self._guard.has_room(self._names):
            self._close()
            raise OutputError(self._guard.told(self._names))

    def _close(self) -> None:
        if self._file is not None:
            self._file.end()
            self._file = None

    def _may_write(self) -> bool:
        """Whether lines can be kept, which is tried now and then after it failed."""
        if not self._failed:
            return True
        if time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + _RETRY_S
        try:
            if not self._guard.has_room(self._names):
                return False
            recover(self._names)
        except OutputError as error:
            _log.debug("no archive yet: %s", error)
            return False
        self._failed = False
        _log.info("the archive %s goes on; %d lines are not in it", self._names.template, self.left_out)
        return True

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OutputError as error:
            self._fail(error)

    def _fail(self, error: OutputError) -> None:
        """Let go of the file, and either go on without an archive for a while or end."""
        file, self._file = self._file, None
        if file is not None:
            self.lines -= file.waiting
            file.leave()
        if self._guard.when_low == "stop":
            raise error
        self._failed = True
        self._next_try = time.monotonic() + _RETRY_S
        _log.error("%s: nothing goes into the archive until that is over; all else goes on", error)


class _PartFile:
    """A file that is being written, under a lock that ends with the process.

    `waiting` are lines that were not handed to the operating system: they are lost where it cannot be written.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.waiting = 0
        self._path = path
        self._fd = fd
        self._sink = Sink(fd, str(path))
        self._packer: Any = packed(cast(BinaryIO, self._sink), path)
        self._held: list[bytes] = []

    @classmethod
    def of(cls, names: FileNames, moment: int) -> Self:
        """Make the next file of a span.

        Raises:
            OutputError: it cannot be made.
        """
        for path in names.paths(moment):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                fd = _new(path)
            except OSError as error:
                raise OutputError(f"cannot write {path}: {error.strerror}") from None
            if fd is not None:
                return cls(path, fd)
        raise AssertionError("there are names without end")

    def write(self, lines: list[bytes]) -> None:
        self._held += lines
        if len(self._held) > 1_000:
            self._pack()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._pack()
        if self._packer is not None and self.waiting:  # else each silent second would add some bytes
            self._packer.flush()
        self.waiting = 0

    def _pack(self) -> None:
        if self._held:
            self._held.append(b"")
            data, self._held = b"\n".join(self._held), []
            (self._packer or self._sink).write(data)
            if self._packer is None:
                self.waiting = 0

    def end(self) -> None:
        """Give the file its name; it is whole, and on the disk. One that fails is left as it is, still open."""
        self._pack()
        if self._packer is not None:
            self._packer.close()
        self.waiting = 0
        try:
            os.fsync(self._fd)
            self._path.with_name(self._path.name + PART).rename(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from None
        os.close(self._fd)

    def leave(self) -> None:
        """Let go of a file that cannot be written: what is in it is made whole later."""
        os.close(self._fd)


def _new(path: Path) -> int | None:
    """Make the unfinished file of a path and lock it; None if another process has, or had, a file of this name."""
    part = path.with_name(path.name + PART)
    if path.exists() or os.path.lexists(part):
        return None
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():
            return fd
        part.unlink()  # the other process has just ended it
    except BlockingIOError:
        _log.debug("%s is looked at by another process as one that was left", part)
    os.close(fd)
    return None
