"""Runs a command beside the local exchange, as ssh-agent runs one: with an environment, to its end."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Self

from okxcli.errors import UsageError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal came while no command was running. Not an Exception: nothing but clean-up shall catch it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Child:
    """A context in which signals are for the command: it gets them, and we wait for its end.

    Ctrl-C reaches the command from the terminal without us. Before and after the command a signal raises
    `Interrupted`, so that everything is cleaned up, and the process then ends with 128 plus its number.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
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
        process = self._process
        if process is None:
            raise Interrupted(signum)
        if process.poll() is None and not (signum == signal.SIGINT and _in_foreground()):
            process.send_signal(signum)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run `command` with `environment` on top of ours; return its exit status (128 and more: died by a signal).

        Raises:
            UsageError: there is no such command.
        """
        try:
            self._process = subprocess.Popen(list(command), env={**os.environ, **environment})
        except OSError as error:
            raise UsageError(f"cannot run {shlex.quote(command[0])}: {error.strerror}") from None
        try:
            status = self._process.wait()
        finally:
            self._process = None
        return status if status >= 0 else 128 - status


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
