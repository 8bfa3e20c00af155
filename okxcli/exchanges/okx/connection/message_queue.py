"""Messages on their way from connection threads to the one who takes them: bounded, in order, with a descriptor."""

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

_log = logging.getLogger(__name__)

#: Beyond either, connections are no longer read, until what waits is taken.
MAX_BYTES = 24 << 20
MAX_MESSAGES = 100_000


def lines_of(frames: list[bytes]) -> list[bytes]:
    """Return frames as lines: a break can only stand between JSON's tokens, where a blank means the same."""
    return [frame.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in frame else frame for frame in frames]


def stamped(lines: list[bytes], received_ms: int) -> list[bytes]:
    """Return lines with a last key that says when they were read."""
    tail = b',"received":%d}' % received_ms
    return [line[:-1] + tail if line.endswith(b"}") else line for line in lines]


class QueuedSource(ABC):
    """What streams lines from `with` to its end, by way of a queue of its own."""

    _inbox: "MessageQueue"

    @abstractmethod
    def start(self) -> None:
        """Begin to connect."""

    @abstractmethod
    def stop(self) -> None:
        """Close all connections; what has come can still be polled."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `poll` has lines or news."""
        return self._inbox.fileno()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()
        self._inbox.close()


class MessageQueue:
    """A queue of lines. Any thread puts, one takes; `fileno` is readable while lines or news wait.

    `put` never blocks and never refuses: who puts looks at `full` before it reads more. `on_room` is called, in the
    taking thread, when there is room again.
    """

    def __init__(
        self, on_room: Callable[[], None], max_bytes: int = MAX_BYTES, max_messages: int = MAX_MESSAGES
    ) -> None:
        self.full = False
        self.taken = 0
        self._on_room = on_room
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._lines: list[bytes] = []
        self._held = True
        self._bytes = 0
        self._lock = threading.Lock()
        self._signalled = False
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._read_fd

    def put(self, lines: list[bytes]) -> None:
        """Add lines at the end."""
        with self._lock:
            self._lines += lines
            self._bytes += sum(map(len, lines))
            if not self.full and (self._bytes > self._max_bytes or len(self._lines) > self._max_messages):
                self.full = True
                _log.warning("nobody takes the data: %d messages wait, reading no more of it", len(self._lines))
            if not self._held:
                self._signal()

    def release(self, first: list[bytes]) -> bool:
        """Let lines be taken, `first` before all others; until then they are held back. False: that was done before."""
        with self._lock:
            if not self._held:
                return False
            self._held = False
            self._lines[:0] = first
            self._signal()
            return True

    def poke(self) -> None:
        """Wake the one who takes: there are news."""
        with self._lock:
            self._signal()

    @property
    def held(self) -> bool:
        """Whether nothing may be taken yet."""
        return self._held

    def take(self) -> list[bytes]:
        """Return all lines that may be taken, in the order in which they came."""
        with self._lock:
            if self._signalled:
                os.read(self._read_fd, 16)
                self._signalled = False
            if self._held:
                return []
            lines, self._lines = self._lines, []
            self._bytes = 0
            self.taken += len(lines)
            room, self.full = self.full, False
        if room:
            _log.info("data is taken again: reading on")
            self._on_room()
        return lines

    def close(self) -> None:
        """Give the descriptor back. Nobody may put or take any more."""
        with self._lock:
            if self._read_fd >= 0:
                os.close(self._read_fd)
                os.close(self._write_fd)
                self._read_fd = self._write_fd = -1

    def _signal(self) -> None:
        if not self._signalled and self._write_fd >= 0:
            os.write(self._write_fd, b"!")
            self._signalled = True
