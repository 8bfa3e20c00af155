"""The spool: lines that wait on disk while Postgres is away, as plain JSON-lines files.

A batch is written and fsynced before it counts as kept. Files are read back oldest first and deleted only after their
lines are committed; a crash in between makes duplicates, which the ledger and the keys pass over. `okx store FILE` is
the recovery by hand. Several processes may share a folder: each writes files of its own, and takes a lock on a file
before it reads it.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from okxcli.runtime.files import private_folder
from okxcli.storage.server.known_databases import name_of, state_folder

#: A file is closed, so that it can be drained and deleted, when it is this large.
FILE_BYTES = 16 << 20
#: What the folder may hold: hours of nine busy symbols. The disk's own end may come first.
MAX_BYTES = 4 << 30
#: Room that is always left on the disk, for Postgres and for everybody else.
SPARE_BYTES = 64 << 20
_SUFFIX = ".jsonl"


def default_folder(where: str, env: Mapping[str, str] = os.environ) -> Path:
    """Return the spool of one database, below `state_folder`."""
    return state_folder(env) / "spool" / name_of(where)


class SpoolFull(OSError):
    """The spool has reached its bound, or the disk its end."""


class Spool:
    """The waiting lines of one database. Nothing is made on disk before the first line waits."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._file: BinaryIO | None = None

    def write(self, lines: list[bytes]) -> None:
        """Keep lines, given without newlines; when this returns they outlive a power cut.

        Raises:
            SpoolFull: no room; none of the lines is kept.
            OSError: the folder cannot be written.
        """
        data = b"\n".join([*lines, b""])
        if self._file is not None and not os.fstat(self._file.fileno()).st_nlink:
            self.rotate()  # somebody has deleted it
        size = self.size()
        if size + len(data) > self.max_bytes:
            raise SpoolFull(f"the spool {self.folder} is full: {size >> 20} MiB")
        file = self._open()
        if self._free() < len(data):
            raise SpoolFull(f"the disk of {self.folder} is full")
        start = file.tell()
        try:
            _write_all(file, data)
            os.fsync(file.fileno())
        except OSError:
            # Half a line must not stay: what is read back later would be torn, and the lines are kept elsewhere.
            os.ftruncate(file.fileno(), start)
            file.seek(start)
            raise
        if file.tell() >= FILE_BYTES:
            self.rotate()

    def _open(self) -> BinaryIO:
        if self._file is None:
            new = [place.parent for place in (self.folder, *self.folder.parents) if not place.exists()]
            private_folder(self.folder)
            self._file = os.fdopen(self._make(), "wb", buffering=0)
            for folder in (self.folder, *new):
                _sync_names(folder)
        return self._file

    def _make(self) -> int:
        """Make a new file and lock it; return its descriptor.

        Between the two another process may find it, empty, and delete it: what were written then would be lost.
        """
        while True:
            # After those that wait, though the wall clock may have been set back since.
            newest = max((int(stem) for path in self._paths() if (stem := path.name[:20]).isdecimal()), default=0)
            path = self.folder / f"{max(time.time_ns(), newest + 1):020d}-{os.getpid()}{_SUFFIX}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)

    def rotate(self) -> None:
        """Close the file at hand, so that it can be drained; what waits stays."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def obstacle(self) -> str | None:
        """Return why nothing could be kept here, None if something could; makes nothing."""
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            return f"{place} is no folder"
        return None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"

    def room(self) -> int:
        """Return how many bytes can still be kept, up to the bound or to the end of the disk; the folder is there."""
        return max(min(self.max_bytes - self.size(), self._free()), 0)

    def _free(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize - SPARE_BYTES

    def size(self) -> int:
        """Return how many bytes wait, those of other processes included."""
        total = 0
        for path in self._paths():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def lines(self) -> int:
        """Return how many lines wait; reads them."""
        found = 0
        for path in self._paths():
            with suppress(FileNotFoundError):  # another process has stored them
                found += path.read_bytes().count(b"\n")
        return found

    def files(self) -> Iterator["SpoolFile"]:
        """Yield the files that wait, oldest first, each locked; those that are being written are left alone."""
        for path in self._paths():
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            if path.exists():
                yield SpoolFile(path, file)
            else:  # drained by another process while we waited
                file.close()

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == _SUFFIX)
        except (FileNotFoundError, NotADirectoryError):
            return []


@dataclass
class SpoolFile:
    """One file of waiting lines, locked until `done` or `leave`."""

    path: Path
    file: BinaryIO
    mark: int = 0

    def read(self, count: int) -> list[bytes]:
        """Return the next lines, without newlines; none at the end. A last line without newline was torn by a crash."""
        self.mark = self.file.tell()
        found: list[bytes] = []
        while len(found) < count:
            line = self.file.readline()
            if not line.endswith(b"\n"):
                break
            found.append(line[:-1])
        return found

    def again(self) -> None:
        """Take back the last `read`: its lines are not committed."""
        self.file.seek(self.mark)

    def done(self) -> None:
        """Delete the file: its lines are committed."""
        self.path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Let go of it; it is drained another time, from its beginning."""
        self.file.close()


def _sync_names(folder: Path) -> None:
    """Have the names in a folder outlive a power cut, as the files do."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`. On a disk that becomes full the system takes a part of it without an error."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
