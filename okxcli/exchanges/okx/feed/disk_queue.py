"""Lines that wait on disk while the past of their symbol is fetched, which may take hours: first in, first out.

They are in files without a name, which are gone when their process is, however it ends. What does not find room is
refused; ids tell later what it was.
"""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO

from okxcli.runtime.files import private_folder, user_folder

#: What may wait, of all symbols of a feed together: a day of the busiest market.
MAX_BYTES = 256 << 20
#: Room that is left on the disk for everybody else.
_SPARE_BYTES = 64 << 20
#: Lines are written so many bytes at a time.
_BLOCK = 1 << 16


class Room:
    """How many bytes may still be kept, by all that share it."""

    def __init__(self, left: int = MAX_BYTES) -> None:
        self.left = left


class DiskQueue:
    """The waiting lines of one symbol, given and returned without newlines. Used by one thread."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._new: list[bytes] = []  # not written yet
        self._new_bytes = 0
        self._file: BinaryIO | None = None
        self._read = self._written = 0

    def put(self, line: bytes) -> bool:
        """Add a line; False: there is no room, or the disk takes none."""
        if len(line) + 1 > self._room.left or (self._new_bytes >= _BLOCK and not self._write()):
            return False
        self._new.append(line)
        self._new_bytes += len(line) + 1
        self._room.left -= len(line) + 1
        return True

    def take(self, size: int) -> list[bytes]:
        """Return the first lines, `size` bytes or, of a long line, more, and forget them; none: it is empty."""
        if self._file is None or self._read == self._written:
            lines, self._new, self._new_bytes = self._new, [], 0
        else:
            lines = self._stored(size)
        self._room.left += sum(map(len, lines)) + len(lines)
        return lines

    def _write(self) -> bool:
        data = b"\n".join([*self._new, b""])
        try:
            self._file = self._file or _unnamed()
            disk = os.fstatvfs(self._file.fileno())
            if disk.f_bavail * disk.f_frsize < len(data) + _SPARE_BYTES:
                return False
            done = 0
            while done < len(data):
                done += os.pwrite(self._file.fileno(), data[done:], self._written + done)
        except OSError:
            return False  # what is half written is written over
        self._written += len(data)
        self._new, self._new_bytes = [], 0
        return True

    def _stored(self, size: int) -> list[bytes]:
        assert self._file is not None
        data = b""
        while b"\n" not in data:
            at = self._read + len(data)
            data += os.pread(self._file.fileno(), min(size, self._written - at), at)
        data = data[: data.rindex(b"\n") + 1]
        self._read += len(data)
        if self._read == self._written:
            os.ftruncate(self._file.fileno(), 0)
            self._read = self._written = 0
        return data[:-1].split(b"\n")


def _unnamed(env: Mapping[str, str] = os.environ) -> BinaryIO:
    """Return a new file without a name: below $XDG_CACHE_HOME/okx, for /tmp may be memory; else there.

    Raises:
        OSError: neither can be written.
    """
    with suppress(OSError):
        folder = user_folder("XDG_CACHE_HOME", ".cache", env) / "okx"
        private_folder(folder)
        return tempfile.TemporaryFile(dir=folder)
    return tempfile.TemporaryFile()
