"""The Typer app and the only error boundary: errors become one line on standard error and an exit code.

Only the module of the command that was asked for is imported, so that a filter in a pipe starts fast; help, the man
pages and a mistyped command load them all.
"""

import errno
import importlib
import signal
import sys
import traceback
from typing import Annotated, Any

import typer
import typer.core

from okxcli import __version__
from okxcli.errors import ExitCode, OkxError
from okxcli.options import grouped
from okxcli.runtime.files import usable_streams
from okxcli.runtime.log import printable
from okxcli.runtime.signals import OutputClosed, die

# Typer vendors Click and exports no base class of its usage errors; BadParameter's parent is it.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

#: What a full or broken disk says, to whatever writes without a word of its own (temporary files of libraries).
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}

#: The commands in the order of the help page, each with a few words for its list; without any it shows the first
#: sentence of its help. A command is what has its name in the module of its name below okxcli.commands.
COMMANDS: dict[str, str | None] = {
    "stream": "What OKX pushes, verbatim, one message a line.",
    "history": "The past as the lines that stream writes.",
    "normalize": "Validate OKX's messages, turn them into lines.",
    "candles": "Make right-aligned candles of trades.",
    "books": "Keep order books of updates.",
    "store": "Store lines in Postgres, each once, durably.",
    "collect": "All of it in one process, from a configuration.",
    "backfill": "Fill the holes of the tape, mend the candles.",
    "read": "Stored rows back as the lines they were.",
    "status": "How fresh and how whole the stored data is.",
    "gaps": "Is every fill there? By their ids.",
    "verify": None,
    "instruments": "What can be streamed.",
    "simulate": "A simulated OKX on this machine.",
    "replay": "A recording served as if it were OKX.",
    "config": "Write, check and show the configuration.",
    "db": "Start, stop and open the database.",
    "man": "The manual.",
}

_DESCRIPTION = """OKX market data as commands that each do one step and speak JSON lines.

    okx stream BTC-USDT | okx normalize | okx candles --tf 1m,5m | okx store

`okx man COMMAND` shows a command's manual, `okx simulate BTC-USDT -- COMMAND...` tries one offline.
"""


def _version(value: bool) -> None:
    if value:
        from okxcli.runtime.road import road

        typer.echo(f"okx {__version__} ({'; '.join(filter(None, road()))})")
        raise typer.Exit


class _InOrder(typer.core.TyperGroup):
    """Lists the commands in the order of `COMMANDS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]


def build_app(only: str | None = None) -> typer.Typer:
    """Return the app with every command, or with the command `only` alone."""
    app = typer.Typer(
        name="okx",
        cls=_InOrder,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(help=_DESCRIPTION)
    def okx(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Print a traceback with an error.")] = False,
    ) -> None:
        """The options before the command; `main` reads --debug from the arguments itself."""

    for name in [only] if only else COMMANDS:
        module = importlib.import_module(f"okxcli.commands.{name}")
        command = getattr(module, name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, short_help=COMMANDS[name])
        else:
            as_class = getattr(module, "COMMAND_CLASS", None)
            app.command(name, cls=as_class, short_help=COMMANDS[name])(grouped(command))
    return app


def main() -> None:
    """Run the command line and end the process with its exit code."""
    usable_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line, print its error if it has one, and return the exit code."""
    debug = "--debug" in arguments[: arguments.index("--") if "--" in arguments else None]
    if debug:
        arguments = [a for i, a in enumerate(arguments) if a != "--debug" or "--" in arguments[:i]]
    name = next((a for a in arguments if not a.startswith("-")), None)
    command = f"okx {name}" if name in COMMANDS else "okx"
    try:
        app = build_app(name if name in COMMANDS and arguments[0] == name else None)
        result = app(args=arguments, prog_name="okx", standalone_mode=False)
        return int(result) if isinstance(result, int) else ExitCode.OK
    except OkxError as error:
        if debug:
            traceback.print_exc()
        _say(f"{command}: {error}")
        return error.exit_code
    except _UsageError as error:
        return _usage(command, error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except OutputClosed:
        die(signal.SIGPIPE)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            _say(f"{command}: cannot write {error.filename or 'a file'}: {error.strerror}")
            return ExitCode.OUTPUT
        if isinstance(error, PermissionError):
            place = error.filename or "a file"
            _say(f"{command}: no permission for {place}. Who may use it: ls -ld {place}")
            return ExitCode.OUTPUT
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            _say(f"{command}: too many open files. Raise the limit: ulimit -n 1024")
            return ExitCode.UNAVAILABLE
        _say(f"{command}: a bug of okx: {type(error).__name__}: {error}. Run it with --debug for the traceback")
        return ExitCode.SOFTWARE


def _usage(command: str, error: Exception) -> int:
    """Print a wrong option in one line with the help to look at; a bare command gets its help instead."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else command
    if type(error).__name__ == "NoArgsIsHelpError":
        _say(message)
        return ExitCode.USAGE
    text = " ".join(message.split()).removesuffix(".")
    _say(f"{path}: {text}{'' if text.endswith('?') else '.'} Try: {path} --help")
    return ExitCode.USAGE


def _say(text: str) -> None:
    # The mistakes of a configuration are a line each.
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)
