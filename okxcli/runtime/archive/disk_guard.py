"""What an archive does when the disk gets full."""

import logging
import os
from dataclasses import dataclass
from typing import Literal

from okxcli.errors import OutputError
from okxcli.runtime.archive.file_names import FileNames

_log = logging.getLogger(__name__)

WhenLow = Literal["stop", "pause", "drop-oldest"]
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class DiskGuard:
    """Leaves `min_free` bytes of the disk to everybody else.

    `when_low` says how: `stop` and `pause` are the archive's to do; with `drop-oldest` its oldest files go, as long as
    there are others than the one that is written.
    """

    min_free: int = 1 << 30
    when_low: WhenLow = "stop"

    def has_room(self, names: FileNames) -> bool:
        """Whether there is as much room as is to be left, after deleting what may be deleted.

        Raises:
            OutputError: the disk does not tell, or a file cannot be deleted.
        """
        try:
            return self._makes_room(names)
        except OSError as error:
            raise OutputError(f"cannot make room at {names.root()}: {error.strerror}") from None

    def _makes_room(self, names: FileNames) -> bool:
        if self._free(names) >= self.min_free:
            return True
        if self.when_low != "drop-oldest":
            return False
        for path in names.whole():
            path.unlink(missing_ok=True)
            _log.warning("less than %s free: %s is deleted, the oldest of the archive", spelled(self.min_free), path)
            if self._free(names) >= self.min_free:
                return True
        return False

    def told(self, names: FileNames) -> str:
        """Return what is wrong, in a user's words."""
        hint = ": make room, or have it pause or drop-oldest" if self.when_low == "stop" else ""
        return f"less than {spelled(self.min_free)} free at {names.root()}, where the archive is{hint}"

    @staticmethod
    def _free(names: FileNames) -> int:
        disk = os.statvfs(names.root())
        return disk.f_bavail * disk.f_frsize


def size_of(text: str) -> int:
    """Return the bytes of `1GiB`, `500MiB`, `0`; powers of 1,024.

    Raises:
        ValueError: it is none.
    """
    number, unit = text.removesuffix("B").removesuffix("i"), ""
    if number[-1:] in ("K", "M", "G", "T"):
        number, unit = number[:-1], number[-1]
    if not (number.isascii() and number.isdigit() and len(number) < 8):
        raise ValueError(f"{text[:20]} is no size; write 1GiB or 500MiB")
    return int(number) * _UNITS[unit]


def spelled(size: int) -> str:
    """Return a size as `size_of` reads it."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}iB"
    return f"{size}B"
