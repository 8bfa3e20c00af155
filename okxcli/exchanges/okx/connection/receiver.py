"""`Receiver`: one thread that reads all sockets of a feed and drives the clients that they belong to.

Whatever the sockets have is read at once and handed on as one batch. Dials, REST and whoever takes the batches have
threads of their own: nothing here waits for anything but the sockets and the time.
"""

import contextlib
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Protocol

from okxcli.exchanges.okx.connection.live_session import Link
from okxcli.runtime.clock import passed_ms

_log = logging.getLogger(__name__)


class Driven(Protocol):
    """What a receiver drives, in its thread. `due_ms`: when `work` is wanted at the latest (`passed_ms`)."""

    due_ms: int | None

    def read(self, link: Link, now: int, pushes: list[bytes]) -> bool:
        """Add what a socket has brought to `pushes`; tell whether there is `work`."""

    def work(self, now: int, behind: bool) -> bool:
        """Do what is due; False: that was the end. `behind`: more may have come than was read."""

    def fail(self, error: Exception) -> None:
        """End: `read` or `work` raised this."""


class Receiver:
    """Reads what `drive` is given until it has ended; the thread lasts as long as there is something to drive.

    `deliver(frames)` gets the pushes, those of one socket in their order, in this thread. While `full()` nothing is
    read: whoever makes room calls `wake`. With `pause_s` it lets that much time pass after each batch, so that the next
    one is larger: what comes after a silence is still read at once.
    """

    def __init__(
        self, deliver: Callable[[list[bytes]], None], full: Callable[[], bool] = lambda: False, pause_s: float = 0.0
    ) -> None:
        self.full = full
        self._deliver = deliver
        self._pause_s = pause_s
        self._driven: list[Driven] = []
        self._new: list[Driven] = []
        self._unread: dict[Link, Driven] = {}  # read in part
        self._lock = threading.Lock()
        self._running = False
        self._selector: selectors.BaseSelector
        self._bell: selectors.BaseSelector
        self._wake_read = self._wake_write = -1

    # From any thread

    def drive(self, one: Driven) -> None:
        """Drive this one too, until it has ended."""
        with self._lock:
            self._new.append(one)
            if self._running:
                self._ring()
                return
            self._running = True
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_read, False)
            os.set_blocking(self._wake_write, False)
            self._selector, self._bell = selectors.DefaultSelector(), selectors.DefaultSelector()
            for selector in (self._selector, self._bell):
                selector.register(self._wake_read, selectors.EVENT_READ)
            threading.Thread(target=self._run, name="okx receiver", daemon=True).start()

    def wake(self) -> None:
        """Look around at once: there is room, or something to do."""
        with self._lock:
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            if self._wake_write >= 0:
                os.write(self._wake_write, b"!")

    # In the thread, for those that are driven

    def watch(self, link: Link, owner: Driven) -> None:
        """Read this socket from now on."""
        self._selector.register(link.wire.fileno(), selectors.EVENT_READ, (link, owner))

    def unwatch(self, link: Link) -> None:
        """Read it no more; to be called before it is closed."""
        self._selector.unregister(link.wire.fileno())
        self._unread.pop(link, None)

    # The thread

    def _run(self) -> None:
        while self._take_new():
            try:
                self._round()
            except Exception as error:
                _log.exception("a bug of okx where sockets are read")
                for one in self._driven:
                    one.fail(error)
                self._driven = []

    def _take_new(self) -> bool:
        """Take in what is to be driven; False: there is nothing left, and this was the end of the thread."""
        with self._lock:
            self._driven += self._new
            self._new = []
            if self._driven:
                return True
            self._running = False
            for selector in (self._selector, self._bell):
                selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_read = self._wake_write = -1
            return False

    def _round(self) -> None:
        """Wait for the sockets, the time or another thread; read, hand on, and have done what is due."""
        paused = self.full()
        due = min((one.due_ms for one in self._driven if one.due_ms is not None), default=None)
        wait_s = None if due is None else max(0, due - passed_ms()) / 1000
        if self._unread and not paused:
            wait_s = 0
        found = (self._bell if paused else self._selector).select(wait_s)
        now = passed_ms()
        woken = any(key.data is None for key, _ in found)
        if woken:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        busy: set[Driven] = set()
        pushes: list[bytes] = []
        if not paused:
            readable = self._unread | dict(key.data for key, _ in found if key.data is not None)
            busy = {owner for link, owner in readable.items() if self._read(owner, link, now, pushes)}
            self._unread = {link: owner for link, owner in readable.items() if link.wire.pending}
        if pushes:
            self._deliver(pushes)
        for one in list(self._driven):
            if woken or one in busy or (one.due_ms is not None and now >= one.due_ms):
                self._work(one, now, paused)
        if pushes and self._pause_s and not self._unread:
            time.sleep(self._pause_s)

    def _read(self, one: Driven, link: Link, now: int, pushes: list[bytes]) -> bool:
        try:
            return one.read(link, now, pushes)
        except Exception as error:
            self._failed(one, error)
            return False

    def _work(self, one: Driven, now: int, behind: bool) -> None:
        try:
            if not one.work(now, behind):
                self._driven.remove(one)
        except Exception as error:
            self._failed(one, error)

    def _failed(self, one: Driven, error: Exception) -> None:
        if one in self._driven:
            self._driven.remove(one)
            one.fail(error)
