"""What `okx simulate` and `okx replay` share: the options of a server, and the command that runs against it."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from okxcli import options
from okxcli.errors import UsageError

if TYPE_CHECKING:
    from okxcli.local.network.engine import Options
    from okxcli.local.server import LocalServer

_COMMAND = "okx command after --"

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port for WebSocket and REST; 0: any free one.")]


class Manners(NamedTuple):
    """The options that say what the exchange puts up with, and what breaks."""

    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="SPEC",
            help="Let something break: NAME[=VALUE][:SYMBOL][@WHEN], WHEN being 10s or every:30s. Repeatable. Names: "
            "cut, notice, mute, unmute, drop, lose, duplicate, book-gap, book-reset, book-cross, no-snapshot, delay, "
            "refuse, freeze, no-pong, no-ack, busy, html, stale-rest, slow-rest.",
        ),
    ] = None
    limits: Annotated[bool, options.switch("limits", "Enforce OKX's rate limits.")] = True
    idle: Annotated[str, options.time_option("--idle", "Close a connection (4004) that is silent for this long.")] = (
        "30s"
    )


class Setting(NamedTuple):
    """The options that say how clients reach the exchange, and what the command has beside it."""

    cert: Annotated[
        Path | None,
        typer.Option("--cert", metavar="FILE", help="Speak TLS with this certificate (PEM): wss and https."),
    ] = None
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="The private key of --cert, if it is not in the same file."),
    ] = None
    database: Annotated[
        bool, options.switch("database", "Give the command a database of its own (OKX_DSN), thrown away at the end.")
    ] = True
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Keep the command's database here, and use it again the next time."),
    ] = None


class RunsCommand(TyperCommand):
    """A command line whose part after `--` is another command, put aside before the options are parsed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put what follows `--` into `ctx.meta` and parse the rest."""
        if "--" in args:
            place = args.index("--")
            ctx.meta[_COMMAND] = args[place + 1 :]
            args = args[:place]
            if not ctx.meta[_COMMAND]:
                raise UsageError("there is no command after --")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Show the command in the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


def options_of(port: int, manners: Manners, setting: Setting, seed: int = 1) -> "Options":
    """Return where the server listens and how strict it is, as the options of the command line say.

    Raises:
        UsageError: `idle` is no duration.
    """
    from okxcli.local.network.engine import Options
    from okxcli.runtime.clock import parse_duration

    scale = 1.0 if manners.limits else 0.0
    idle_s = parse_duration(manners.idle)
    return Options(port=port, idle_s=idle_s, limits=scale, seed=seed, cert=setting.cert, key=setting.key)


def serve(exchange: "LocalServer", ctx: typer.Context, setting: Setting) -> int:
    """Run the command after `--` against `exchange` and return its exit status; without one serve until a signal."""
    if command := ctx.meta.get(_COMMAND):
        return _run(exchange, command, setting)
    if setting.data is not None:
        raise UsageError("--data is for the database of a command: give one after --")
    from okxcli.runtime.signals import Lifecycle

    with Lifecycle("server") as life, exchange:
        for name, value in _environment(exchange).items():
            typer.echo(f"export {name}={value}")
        while not life.stop and not exchange.failed:
            life.wait(None, 0.5)
    return 0


def _environment(exchange: "LocalServer") -> dict[str, str]:
    """Return what leads a command to the exchange."""
    return {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url, **exchange.environment}


def make_tables(dsn: str) -> None:
    """Have a database that every command can use from the start, and that takes no data of the real exchange."""
    from okxcli.storage.database import Database, resolve
    from okxcli.storage.schema import versions

    with Database(resolve(dsn, None, {"OKX_DSN": dsn}), "okx simulate") as database, database.session() as connection:
        versions.migrate(connection, database.where)
        versions.guard_origin(connection, "local", database.where)


def _run(exchange: "LocalServer", command: list[str], setting: Setting) -> int:
    import tempfile

    from okxcli.local.child import Child

    with Child() as child, ExitStack() as stack:
        environment: dict[str, str] = {}
        if setting.database:
            from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer

            if setting.data is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="okx-", ignore_cleanup_errors=True))
                server = stack.enter_context(EmbeddedServer(Path(folder) / "db", THROWAWAY))
            else:
                server = stack.enter_context(EmbeddedServer(setting.data, named_by="--data"))
            environment["OKX_DSN"] = server.dsn
            make_tables(server.dsn)
        stack.enter_context(exchange)
        environment |= _environment(exchange)
        return child.run(command, environment)
