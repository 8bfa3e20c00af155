"""The log of a command: short lines on standard error, everything in a file if one is named."""

import logging
import sys
from pathlib import Path
from typing import Any

from okxcli.errors import OutputError
from okxcli.runtime.files import private

_log = logging.getLogger(__name__)


class _Brief(logging.Formatter):
    """`okx stream: connected to ...`; the level is named only where it warns."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return f"okx {self._command}: {mark}{printable(record.getMessage())}"


def printable(text: str) -> str:
    """Return `text` with every character escaped that would move a terminal's cursor, colour it or end the line.

    What a message quotes (a name, a line, an answer) was written by others.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class _Full(logging.Formatter):
    """ISO time in UTC with milliseconds, level, logger, message, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        from okxcli.runtime.clock import iso

        text = f"{iso(int(record.created * 1000))} {record.levelname} {record.name}: {printable(record.getMessage())}"
        # A traceback quotes what others wrote too: no line of it can be taken for one of the log.
        lines = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n    ".join([text, *map(printable, lines)])


class _PrivateFile(logging.FileHandler):
    """A log that, if it is made, is its owner's alone: it tells what is collected, and quotes lines.

    Where it cannot be written the work goes on, and standard error says so once, until it could be again.
    """

    lost = 0
    _reason: BaseException | None = None

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=private)

    def emit(self, record: logging.LogRecord) -> None:
        before, self._reason = self._reason, None
        super().emit(record)
        if self._reason is not None:
            self.lost += 1
            if before is None:
                why = getattr(self._reason, "strerror", None) or self._reason
                _log.error("cannot write the log file %s: %s. Going on without it", self.baseFilename, why)

    def handleError(self, record: logging.LogRecord) -> None:
        """Remember why; `emit` tells."""
        del record
        self._reason = sys.exc_info()[1]


def setup(
    command: str, verbose: bool = False, quiet: bool = False, log_file: Path | None = None, file_level: str = "debug"
) -> None:
    """Send the log to standard error, brief, and to `log_file`, in full.

    Standard error gets changes of state (`quiet`: warnings only; `verbose`: all there is); the file gets everything
    from `file_level` on.

    Raises:
        OutputError: the file cannot be written.
    """
    root = logging.getLogger("okxcli")
    root.propagate = False
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    brief = logging.StreamHandler(sys.stderr)
    brief.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    brief.setFormatter(_Brief(command))
    root.addHandler(brief)
    root.setLevel(logging.DEBUG if verbose or log_file else logging.INFO)
    if log_file is not None:
        try:
            full = _PrivateFile(log_file, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write the log file {log_file}: {error.strerror}") from None
        full.setLevel(file_level.upper())
        full.setFormatter(_Full())
        root.addHandler(full)


def check() -> None:
    """Raise OutputError if lines of the log file could not be written."""
    for handler in logging.getLogger("okxcli").handlers:
        if isinstance(handler, _PrivateFile) and handler.lost:
            raise OutputError(f"{handler.lost} lines of the log could not be written to {handler.baseFilename}")
