"""The exit codes and the exceptions that carry them.

A leaf: imports nothing of the package, anyone may import it. Library code raises one of these; `cli.main` alone
prints it, as one line on standard error, and exits with its code.
"""

from enum import IntEnum
from typing import NamedTuple


class ExitCode(IntEnum):
    """How an `okx` process ends; the numbers follow sysexits.h where it has one. Repeated in every man page."""

    OK = 0  # done
    NO = 1  # ran, and the answer is no
    USAGE = 2  # wrong option or argument
    DATA = 65  # bad input lines were skipped
    UNAVAILABLE = 69  # exchange or Postgres unreachable
    SOFTWARE = 70  # our bug
    OUTPUT = 74  # output cannot be written
    TRY_LATER = 75  # another run holds the lock, or data is spooled
    LOGIN = 77  # login refused
    CONFIG = 78  # bad configuration
    INTERRUPTED = 130  # SIGINT
    PIPE = 141  # nobody reads our output any more
    TERMINATED = 143  # SIGTERM


EXIT_MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "Done.",
    ExitCode.NO: "It ran, and the answer is no (stale, missing, different).",
    ExitCode.USAGE: "Wrong option or argument.",
    ExitCode.DATA: "Bad input lines were reported and passed over.",
    ExitCode.UNAVAILABLE: "The exchange or Postgres could not be reached.",
    ExitCode.SOFTWARE: "A bug of okx.",
    ExitCode.OUTPUT: "Output could not be written: the disk is full, the file or folder cannot be written.",
    ExitCode.TRY_LATER: "Another run holds the lock, or data is spooled: try again later.",
    ExitCode.LOGIN: "Login refused.",
    ExitCode.CONFIG: "Bad configuration.",
    ExitCode.INTERRUPTED: "Ended by an interrupt (Ctrl-C).",
    ExitCode.PIPE: "The reader of the output went away.",
    ExitCode.TERMINATED: "Ended by SIGTERM.",
}


class OkxError(Exception):
    """Base of every error that a user is told in one line.

    The message says what failed, on what, and what to try; it never holds a secret.
    """

    exit_code = ExitCode.SOFTWARE


class UsageError(OkxError):
    """A wrong option or argument that the option parser itself cannot see."""

    exit_code = ExitCode.USAGE


class InputError(OkxError):
    """Input that cannot be used at all (with `--strict`: the first bad line)."""

    exit_code = ExitCode.DATA


class ExchangeUnavailable(OkxError):
    """The exchange cannot be reached, or refuses what we ask for good."""

    exit_code = ExitCode.UNAVAILABLE


class Refused(ExchangeUnavailable):
    """The exchange answered, and the answer is no; `code` is its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NoSuchInstrument(Refused):
    """The exchange has no such instrument, or has it no longer."""


class DatabaseUnavailable(OkxError):
    """Postgres cannot be reached or started."""

    exit_code = ExitCode.UNAVAILABLE


class NoData(DatabaseUnavailable):
    """There is no database of ours yet, or nothing in it."""


class OutputError(OkxError):
    """Standard output or a file cannot be written."""

    exit_code = ExitCode.OUTPUT


class TryLater(OkxError):
    """Somebody else holds the lock, or data waits in the spool."""

    exit_code = ExitCode.TRY_LATER


class LoginRefused(OkxError):
    """The exchange refuses our credentials."""

    exit_code = ExitCode.LOGIN


class ConfigError(OkxError):
    """The configuration is wrong, or does not fit the database it names."""

    exit_code = ExitCode.CONFIG


class AnswerNo(OkxError):
    """The command ran and its answer is no."""

    exit_code = ExitCode.NO


#: What our own code raises when it is wrong about its input. A line that causes one is treated like a bad line: a bug
#: must not cost its neighbours. Whatever says that the world is wrong (files, sockets, databases) is none of these.
BUGS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Early(NamedTuple):
    """A trade from the future: the ids that it covers, and how far its time is ahead of our clock (ms)."""

    symbol: str
    first: int
    last: int
    ahead_ms: int


class InvalidLine(ValueError):
    """One line, message or row is not what it should be; its neighbours are unharmed.

    The text is the reason, without the place: whoever read the line knows its number. `early` are the trades in it
    whose time has not come yet: they are well-formed, and either they are wrong or our clock is.
    """

    def __init__(self, reason: str, early: tuple[Early, ...] = ()) -> None:
        super().__init__(reason)
        self.early = early
