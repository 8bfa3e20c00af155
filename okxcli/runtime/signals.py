"""How a command ends: signals as a flag and a byte in a pipe, never as an exception in the middle of a write.

A `source` or `server` stops at the first INT or TERM. A `filter` that reads a pipe reads on to end of input at the
first INT, since the terminal sent it to the source as well and what is in the pipe must not be lost; TERM or a second
INT stops it. A third signal ends any of them at once. One that comes again within a moment is the same one: sent to a
group, and passed on by a program in it. After its clean end the process dies by the signal that stopped
it, so that shells, make and systemd understand. HUP asks a command that `reloads` to read its configuration again;
where it comes because the terminal has gone, it ends the command as ever.
"""

import os
import select
import signal
import stat
import sys
import time
from types import FrameType
from typing import Literal, NoReturn, Self

#: As long after a signal its echo may come; nobody presses Ctrl-C twice as fast.
_ECHO_S = 0.25

Role = Literal["source", "filter", "server"]


class OutputClosed(Exception):
    """Nobody reads our standard output any more. Not an OSError: Typer turns a broken pipe into exit 1."""


class Lifecycle:
    """Watches INT and TERM, and HUP where the command `reloads`, for the length of a `with` block.

    `stop` turns True when the command is to end, `signum` says by which signal. `reload` turns True at a HUP; who acts
    on it sets it back. At the end of the block the process dies by that signal, or by SIGPIPE after `OutputClosed`;
    every other exception passes.
    """

    def __init__(self, role: Role, reloads: bool = False) -> None:
        self.stop = False
        self.reload = False
        self.signum = 0
        self._reloads = reloads
        self._terminal = next((fd for fd in (0, 1, 2) if os.isatty(fd)), None)
        mode = os.fstat(0).st_mode
        self._drains = role == "filter" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))
        self._seen = 0
        self._last = (0, 0.0)  # the last signal, and when it came
        self._old: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for signum in (signal.SIGINT, signal.SIGTERM):
            old = signal.getsignal(signum)
            if old is not signal.SIG_IGN:  # nohup, and `command &` in a script, mean it
                self._old[signum] = old
                signal.signal(signum, self._on_signal)
        if self._reloads:  # under nohup too: it does not end us
            self._old[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hangup)
        return self

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        last, self._last = self._last, (signum, time.monotonic())
        if signum == last[0] and self._last[1] - last[1] < _ECHO_S:
            return
        self._seen += 1
        if self._seen >= 3:
            die(signum)
        if signum == signal.SIGINT and self._drains and self._seen == 1:
            return
        self.stop = True
        self.signum = signum

    def _on_hangup(self, signum: int, frame: FrameType | None) -> None:
        if self._terminal is not None and not os.isatty(self._terminal) and self._old[signum] is not signal.SIG_IGN:
            self._on_signal(signum, frame)
        else:
            self.reload = True

    def wait(self, fd: int | None, timeout_s: float | None) -> bool:
        """Wait until `fd` has something to read; return False on a signal or when `timeout_s` is over."""
        watched = [self._wake_read] if fd is None else [fd, self._wake_read]
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if self._wake_read in ready:
            os.read(self._wake_read, 512)
        return fd is not None and fd in ready

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        signal.set_wakeup_fd(-1)
        for signum, old in self._old.items():
            signal.signal(signum, old)  # type: ignore[arg-type]
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)
        if isinstance(error, OutputClosed):
            die(signal.SIGPIPE)
        if error is None and self.signum:
            die(self.signum)


def die(signum: int) -> NoReturn:
    """End the process as if `signum` had killed it; what is unflushed on standard output is dropped."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # the signal may be ignored by our parent's doing
