"""Each option that several commands share, spelled and explained once.

A name here is an annotated type: `def store(dsn: Dsn = None)`. Where only the explanation differs it is a function that
takes it: `strict: Annotated[bool, switch("strict", "Stop at the first bad line.")] = False`. Options that go together
are a record, which a command takes whole. Precedence: the flag, its `OKX_*` variable, the configuration, the
default.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

if TYPE_CHECKING:
    from okxcli.runtime.archive.disk_guard import DiskGuard


def types_of(text: str | None) -> tuple[str, ...]:
    """Return the types of instrument that `Types` names.

    Raises:
        UsageError: there is no such type.
    """
    from okxcli.core.selection import TYPES
    from okxcli.errors import UsageError

    found = tuple(dict.fromkeys(word.strip().lower() for word in (text or "").split(",") if word.strip()))
    unknown = [word for word in found if word not in TYPES]
    if unknown or (text is not None and not found):
        raise UsageError(f"no type of instrument: {unknown[0] if unknown else text!r}. There are {', '.join(TYPES)}")
    return found


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command as Typer takes it: each field of a record among its parameters is an option, in its place."""
    parameters = inspect.signature(command).parameters
    records = {name: one.annotation for name, one in parameters.items() if hasattr(one.annotation, "_fields")}

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        for name, record in records.items():
            given[name] = record(**{field: given.pop(field) for field in record._fields})
        return command(**given)

    flat: list[inspect.Parameter] = []
    for name, one in parameters.items():
        flat += inspect.signature(one.annotation).parameters.values() if name in records else [one]
    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature([one.replace(kind=keyword) for one in flat])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in flat}
    return run


class Group(typer.Typer):
    """A command of several: `@group.subcommand` makes a function one of them, under its own name."""

    def __init__(self, text: str) -> None:
        super().__init__(no_args_is_help=True, rich_markup_mode=None, help=text)

    def subcommand(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Add a function, which may take records of options."""
        return self.command()(grouped(function))


def switch(name: str, text: str) -> Any:
    """Return an option that is on or off: `--NAME`, and its twin `--no-NAME`."""
    return typer.Option(f"--{name}/--no-{name}", help=text)


def time_option(name: str, text: str) -> Any:
    """Return an option that takes a moment or a length of time, which `runtime.clock` reads."""
    return typer.Option(name, metavar="TIME", help=text)


def some_symbols(text: str) -> Any:
    """Return the argument of symbols that need not be given."""
    return typer.Argument(metavar="[SYMBOL]...", help=text)


def bulk_files(text: str) -> Any:
    """Return the option that names bulk files of the exchange."""
    return typer.Option("--files", metavar="PATH", help=text)


def _or_variable(name: str, variable: str, metavar: str, text: str) -> Any:
    """Return an option that a variable of the environment stands in for."""
    return typer.Option(name, envvar=variable, show_envvar=True, metavar=metavar, help=text)


def _base_url(name: str, variable: str, what: str) -> Any:
    text = f"{what} base, without the path. Default: the configuration, else the exchange's own."
    return _or_variable(name, variable, "URL", text)


SomeSymbols = Annotated[
    list[str] | None,
    typer.Argument(metavar="SYMBOL...", help="Instruments, as the exchange names them: BTC-USDT; none with --private."),
]
Symbols = Annotated[
    list[str], typer.Argument(metavar="SYMBOL...", help="Instruments, as the exchange names them: BTC-USDT.")
]
Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE]...", help="Files to read, .gz and .zst by name; - or none: standard input."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write here, .gz and .zst by name; else to stdout. Until it is whole the file is FILE.part.",
    ),
]
Archived = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write here, .gz and .zst by name; else to stdout. Until it is whole the file is FILE.part. With times in "
        "its name, as raw/%Y-%m-%d/%H.jsonl.zst, it is an archive: a file for each, by the UTC time of receipt.",
    ),
]
Types = Annotated[
    str | None,
    typer.Option(
        "--type",
        metavar="LIST",
        help="Types of instrument that patterns select, with commas: spot, swap, futures (all three are the default), "
        "option; without SYMBOL all of these.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No closing line of counts on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more: every change of state with its cause.")]
Count = Annotated[int | None, typer.Option("--count", "-n", min=1, metavar="N", help="End after N data messages.")]
Duration = Annotated[str | None, time_option("--duration", "End after this long: 30s, 10m, 2h, 1d.")]
ConnectTimeout = Annotated[
    float, typer.Option("--connect-timeout", min=0.1, metavar="SECONDS", help="Give up (exit 69) if never connected.")
]
Table = Annotated[
    bool | None, typer.Option("--table/--lines", help="A table, or JSON lines. Default: a table on a terminal.")
]
Strict = Annotated[bool, switch("strict", "Stop at the first bad line (exit 65).")]
Rejects = Annotated[
    Path | None, typer.Option("--rejects", metavar="FILE", help="Keep bad lines here, as JSON lines with their reason.")
]
Stats = Annotated[
    Path | None, typer.Option("--stats", metavar="FILE", help="Write the counts at the end as one JSON object.")
]


class Filtering(NamedTuple):
    """What a filter does about bad lines, and where its counts go."""

    strict: Strict = False
    rejects: Rejects = None
    stats: Stats = None
    quiet: Quiet = False


Dsn = Annotated[
    str | None,
    _or_variable(
        "--dsn",
        "OKX_DSN",
        "DSN",
        "Postgres, as URL or keywords; no password in it: use ~/.pgpass or PGPASSWORD. "
        "Default: the configuration, PGSERVICE, PGHOST or PGDATABASE, else the embedded server.",
    ),
]
Config = Annotated[
    Path | None,
    _or_variable(
        "--config",
        "OKX_CONFIG",
        "FILE",
        "Configuration. Default: $XDG_CONFIG_HOME/okx/okx.json, else /etc/okx/okx.json.",
    ),
]


class Stored(NamedTuple):
    """Which database, and what a configuration says of it."""

    config: Config = None
    dsn: Dsn = None


FilesUrl = Annotated[
    str | None,
    _or_variable("--files-url", "OKX_FILES_URL", "URL", "Where the bulk files are. Default: the exchange's own place."),
]
RowsAs = Annotated[
    Literal["fills", "aggregates"] | None,
    typer.Option(
        "--as",
        help="What the rows of trade files are. Default: merged trades (aggregates) where the name says so, or where "
        "more ids are missing between the rows than files of fills lack.",
    ),
]


class BulkFiles(NamedTuple):
    """Where the exchange's files are, and what they hold."""

    files_url: FilesUrl = None
    rows_as: RowsAs = None


WsUrl = Annotated[str | None, _base_url("--ws-url", "OKX_WS_URL", "WebSocket")]
RestUrl = Annotated[str | None, _base_url("--rest-url", "OKX_REST_URL", "REST")]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="URL",
        help="Reach the exchange through this proxy, http://, socks5:// (names resolved here) or socks5h://; none: "
        "straight. Default: the configuration, else HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, and NO_PROXY.",
    ),
]


class Rest(NamedTuple):
    """The way to what the exchange answers."""

    rest_url: RestUrl = None
    proxy: Proxy = None


class Addresses(NamedTuple):
    """The way to all that the exchange has."""

    ws_url: WsUrl = None
    rest_url: RestUrl = None
    proxy: Proxy = None


class ArchiveRoom(NamedTuple):
    """What an archive leaves of the disk."""

    min_free: Annotated[
        str, typer.Option("--min-free", metavar="SIZE", help="Of an archive: leave so much of the disk free.")
    ] = "1GiB"
    when_low: Annotated[
        Literal["stop", "pause", "drop-oldest"],
        typer.Option(
            "--when-low",
            help="Of an archive, when less is free: stop (exit 74), pause until there is more (what comes meanwhile is "
            "counted, and in no file), or drop-oldest: delete its oldest files.",
        ),
    ] = "stop"

    def guard(self) -> "DiskGuard":
        """Return what looks after the disk.

        Raises:
            UsageError: the size is none.
        """
        from okxcli.errors import UsageError
        from okxcli.runtime.archive.disk_guard import DiskGuard, size_of

        try:
            return DiskGuard(size_of(self.min_free), self.when_low)
        except ValueError as reason:
            raise UsageError(f"--min-free: {reason}") from None


class Account(NamedTuple):
    """Whose data it is, and on which site of the exchange."""

    private: Annotated[bool, switch("private", "Log in, and stream the channels of your account. It only reads.")] = (
        False
    )
    credentials: Annotated[
        Path | None,
        _or_variable(
            "--credentials",
            "OKX_CREDENTIALS",
            "FILE",
            "The key to log in with: a JSON object with api_key, secret_key and passphrase, of mode 600. Default: "
            "OKX_API_KEY, OKX_SECRET_KEY and OKX_PASSPHRASE, else the credential okx of systemd.",
        ),
    ] = None
    site: Annotated[
        Literal["global", "eea", "us"] | None,
        typer.Option("--site", help="The site of the exchange that has your account. Default: global."),
    ] = None
    demo: Annotated[bool, switch("demo", "Its demo trading.")] = False
