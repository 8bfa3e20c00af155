"""How often something may be done by all processes of a user on this machine together: turns, kept in a small file.

The file holds the moments of the turns that still count, under a file lock that is held for microseconds. Where no
such file can be had, or its lock is stuck, the process keeps its own account: slower is better than not at all.
"""

import contextlib
import fcntl
import logging
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_log = logging.getLogger(__name__)

_LOCK_PATIENCE_S = 0.5
#: A turn further ahead than this cannot be: the clock began anew (a restart of the machine) or the file is not ours.
_NONSENSE_NS = 120 * 10**9
#: Accounts that nobody has touched for so long are thrown away.
_STALE_S = 3600.0
_MAX_BYTES = 1 << 16


def folder() -> Path | None:
    """Return the user's folder for such files: $XDG_RUNTIME_DIR/okx, else /tmp/okx-UID, ours alone (0700).

    None when it cannot be made or belongs to somebody else.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    candidates = [Path(runtime) / "okx"] if runtime.startswith("/") else []
    for path in [*candidates, Path("/tmp") / f"okx-{os.getuid()}"]:
        with contextlib.suppress(FileExistsError, OSError):
            path.mkdir(mode=0o700)
        try:
            found = path.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return path
    return None


def file_for(name: str) -> Path | None:
    """Return the account file called `name` (any text), None when there is no folder for it."""
    base = folder()
    if base is None:
        return None
    path = base / f"budget-{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:180]}"
    if not path.exists():
        _sweep(base)
    return path


def slot(turns: Sequence[int], earliest: int, count: int, period: int) -> int:
    """Return the first moment from `earliest` on at which one more turn keeps every `period` at `count` or fewer.

    `turns` are the moments of the other turns, sorted; some may lie ahead.
    """
    at = earliest
    while True:
        near = [turn for turn in turns if at - period < turn < at + period]
        merged = sorted([*near, at])
        crowded = next((i for i in range(len(merged) - count) if merged[i + count] - merged[i] < period), None)
        if crowded is None:
            return at
        # Whichever turn of the crowd is the oldest must have left the window.
        at = max(merged[crowded] + period, at + 1)


class Budget:
    """At most `per_window` turns in any `window_s` for all who use the same file; None: for this process alone.

    With a `share` below 1 its user takes at most that part, together with all others that have a share below 1.
    `clock` returns nanoseconds that all processes see alike and that never step back.
    """

    def __init__(
        self,
        path: Path | None,
        per_window: int,
        window_s: float,
        share: float = 1.0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._path = path
        self._count = max(1, per_window)
        self._period = round(window_s * 1e9)
        self._part = max(1, int(per_window * share)) if share < 1 else None
        self._clock = clock
        self._lock = threading.Lock()
        self._own: list[int] = []

    def turn(self) -> float:
        """Take a turn and return how many seconds to wait for it."""
        with self._account() as turns:
            now = self._clock()
            at = now
            if self._part is not None:
                at = slot([turn for turn in turns if turn & 1], at, self._part, self._period)
            at = slot(turns, at, self._count, self._period)
            turns.append(at | 1 if self._part is not None else at & ~1)
            turns.sort()
        return max(0, at - now) / 1e9

    def pause(self, seconds: float) -> None:
        """Give no turn for so long: whoever counts on the other side says that it is too much."""
        with self._account() as turns:
            now = self._clock()
            until = now + round(seconds * 1e9) - self._period + 1
            # No window before it may have room, or turns pass before a pause that is longer than the window.
            for at in range(until, now - self._period, -self._period):
                turns.extend([at & ~1] * self._count)
            turns.sort()

    @contextlib.contextmanager
    def _account(self) -> Iterator[list[int]]:
        """Give the turns that still count, sorted, to be changed; the lowest bit marks those of a part."""
        with self._lock, self._opened() as fd:
            found = self._own or (self._read(fd) if fd is not None else [])
            now = self._clock()
            turns = [turn for turn in found if now - self._period <= turn <= now + _NONSENSE_NS]
            yield turns
            del turns[: -_MAX_BYTES // 8]
            self._own = turns if fd is None or not self._write(fd, turns) else []

    @staticmethod
    def _read(fd: int) -> list[int]:
        data = os.pread(fd, _MAX_BYTES, 0)
        return sorted(struct.unpack(f"<{len(data) // 8}q", data[: len(data) // 8 * 8]))

    def _write(self, fd: int, turns: list[int]) -> bool:
        """Write the account; False if there is no room for it, which leaves it to this process until there is."""
        data = struct.pack(f"<{len(turns)}q", *turns)
        try:
            os.ftruncate(fd, os.pwrite(fd, data, 0))
        except OSError as error:
            _log.debug("no shared account of requests at %s: %s", self._path, error)
            return False
        return True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """Open and lock the file; None when that cannot be."""
        with contextlib.ExitStack() as held:
            locked = None
            try:
                if self._path is not None:
                    fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                    held.callback(os.close, fd)  # and with it the lock
                    _flock(fd)
                    locked = fd
            except OSError as error:
                _log.debug("no shared account of requests at %s: %s", self._path, error)
            yield locked


def _flock(fd: int) -> None:
    """Lock a file, without waiting for ever for a process that was stopped while it held the lock.

    Raises:
        OSError: somebody has it for too long.
    """
    end = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.002)
        else:
            return


def _sweep(base: Path) -> None:
    """Remove accounts that nobody uses any more (each exchange on a port of its own leaves some)."""
    now = time.time()
    with contextlib.suppress(OSError):
        for path in base.glob("budget-*"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > _STALE_S:
                    path.unlink()
