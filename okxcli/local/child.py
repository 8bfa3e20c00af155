"""Runs a command beside the local exchange, as ssh-agent runs one: with an environment, to its end."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from okxcli.errors import UsageError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal ends us before the command has begun. Not an Exception: nothing but clean-up shall catch it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Child:
    """A context in which signals are for the command: it and what it has started get them, and we wait for its end.

    Ctrl-C reaches the command from the terminal without us. A signal that comes while things are set up for the
    command is remembered, since an exception could leave them half made: `run` then raises `Interrupted`, and the
    process ends with 128 plus its number once all is cleaned up. A second one does not wait.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = 0
        self._done = False
        self._old: dict[int, object] = {}

    def __enter__(self) -> Self:
        for signum in _SIGNALS:
            old = signal.getsignal(signum)
            if old is not signal.SIG_IGN:  # nohup, and `command &` in a script, mean it
                self._old[signum] = old
                signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for signum, old in self._old.items():
            signal.signal(signum, old)  # type: ignore[arg-type]
        if isinstance(error, Interrupted):
            sys.exit(128 + error.signum)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self._done:
            return  # what is left is clean-up, and it is short
        if self._process is not None:
            self._forward(self._process, signum)
        elif self._pending:
            raise Interrupted(signum)
        else:
            self._pending = signum

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run `command` with `environment` on top of ours; return its exit status (128 and more: died by a signal).

        Raises:
            UsageError: there is no such command.
        """
        if self._pending:
            raise Interrupted(self._pending)
        try:
            process = self._process = subprocess.Popen(list(command), env={**os.environ, **environment})
        except OSError as error:
            raise UsageError(f"cannot run {shlex.quote(command[0])}: {error.strerror}") from None
        if self._pending:  # it came while the command was being started
            self._forward(process, self._pending)
        status = process.wait()
        self._done = True
        return status if status >= 0 else 128 - status

    @staticmethod
    def _forward(process: "subprocess.Popen[bytes]", signum: int) -> None:
        if process.poll() is None and not (signum == signal.SIGINT and _in_foreground()):
            for pid in _with_descendants(process.pid):  # a shell leaves its pipe behind when it is ended
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signum)


def _with_descendants(pid: int) -> list[int]:
    """Return a process and all below it, as /proc has them; itself alone where there is no /proc."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int(file.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _in_foreground() -> bool:
    """Tell whether a Ctrl-C on our terminal reaches the command as well: it is then in the terminal's own group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
