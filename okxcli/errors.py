"""The exit codes and the exceptions that carry them.

A leaf: imports nothing of the package, anyone may import it. Library code raises one of these; `cli.main` alone
prints it, as one line on standard error, and exits with its code.
"""

from enum import IntEnum
from signal import SIGINT, SIGPIPE, SIGTERM
from typing import NamedTuple, Self


class ExitCode(IntEnum):
    """How an `okx` process ends, and what that means in every man page; numbers of sysexits.h where it has one."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Self:
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code

    OK = 0, "Done."
    NO = 1, "It ran, and the answer is no (stale, missing, different)."
    USAGE = 2, "Wrong option or argument."
    DATA = 65, "Bad input lines were reported and passed over."
    UNAVAILABLE = 69, "The exchange or Postgres could not be reached."
    SOFTWARE = 70, "A bug of okx."
    OUTPUT = 74, "Output could not be written: the disk is full, the file or folder cannot be written."
    TRY_LATER = 75, "Another run holds the lock, or data is spooled: try again later."
    LOGIN = 77, "Login refused."
    CONFIG = 78, "Bad configuration."
    INTERRUPTED = 128 + SIGINT, "Ended by an interrupt (Ctrl-C)."
    PIPE = 128 + SIGPIPE, "The reader of the output went away."
    TERMINATED = 128 + SIGTERM, "Ended by SIGTERM."


class OkxError(Exception):
    """Base of every error that a user is told in one line.

    The message says what failed, on what, and what to try; it never holds a secret. Each class names its `exit_code`,
    or has that of its base.
    """

    exit_code = ExitCode.SOFTWARE

    def __init_subclass__(cls, exit_code: ExitCode | None = None) -> None:
        cls.exit_code = exit_code or cls.exit_code


class UsageError(OkxError, exit_code=ExitCode.USAGE):
    """A wrong option or argument that the option parser itself cannot see."""


class InputError(OkxError, exit_code=ExitCode.DATA):
    """Input that cannot be used at all (with `--strict`: the first bad line)."""


class LoginRefused(OkxError, exit_code=ExitCode.LOGIN):
    """No login: the exchange refuses it, or there is nothing to log in with."""


class ExchangeUnavailable(OkxError, exit_code=ExitCode.UNAVAILABLE):
    """The exchange cannot be reached, or refuses what we ask for good."""


class Refused(ExchangeUnavailable):
    """The exchange answered, and the answer is no; `code` is its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NoSuchInstrument(Refused):
    """The exchange has no such instrument, or has it no longer."""


class DatabaseUnavailable(OkxError, exit_code=ExitCode.UNAVAILABLE):
    """Postgres cannot be reached or started."""


class NoData(DatabaseUnavailable):
    """There is no database of ours yet, or nothing in it."""


class OutputError(OkxError, exit_code=ExitCode.OUTPUT):
    """Standard output or a file cannot be written."""


class TryLater(OkxError, exit_code=ExitCode.TRY_LATER):
    """Somebody else holds the lock, or data waits in the spool."""


class ConfigError(OkxError, exit_code=ExitCode.CONFIG):
    """The configuration is wrong, or does not fit the database it names."""


class AnswerNo(OkxError, exit_code=ExitCode.NO):
    """The command ran and its answer is no."""


#: What our own code raises when it is wrong about its input. A line that causes one is treated like a bad line: a bug
#: must not cost its neighbours. Whatever says that the world is wrong (files, sockets, databases) is none of these.
BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


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
