"""What `okx simulate` and `okx replay` share: the options of a server, and the command that runs against it."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from okxcli.errors import UsageError

if TYPE_CHECKING:
    from okxcli.local.server import LocalServer

_COMMAND = "okx command after --"

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port for WebSocket and REST; 0: any free one.")]
Fault = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        metavar="SPEC",
        help="Let something break: NAME[=VALUE][:SYMBOL][@WHEN], WHEN being 10s or every:30s. Repeatable. Names: cut, "
        "notice, mute, unmute, drop, lose, duplicate, delay, refuse, freeze, no-pong, no-ack, busy, html, stale-rest, "
        "slow-rest.",
    ),
]
Limits = Annotated[bool, typer.Option("--limits/--no-limits", help="Enforce OKX's rate limits.")]
Idle = Annotated[
    str, typer.Option("--idle", metavar="TIME", help="Close a connection (4004) that is silent for this long.")
]
Cert = Annotated[
    Path | None, typer.Option("--cert", metavar="FILE", help="Speak TLS with this certificate (PEM): wss and https.")
]
Key = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The private key of --cert, if it is not in the same file.")
]
Database = Annotated[
    bool,
    typer.Option(
        "--database/--no-database", help="Give the command a database of its own (OKX_DSN), thrown away at the end."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Keep the command's database here, and use it again the next time."),
]


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


def serve(ctx: typer.Context, exchange: "LocalServer", database: bool, data: Path | None) -> int:
    """Run the command after `--` against `exchange`, return its exit status; without one serve until a signal comes."""
    if _COMMAND in ctx.meta:
        return _run(exchange, ctx.meta[_COMMAND], database, data)
    if data is not None:
        raise UsageError("--data is for the database of a command: give one after --")
    from okxcli.runtime.signals import Lifecycle

    with Lifecycle("server") as life, exchange:
        typer.echo(f"export OKX_WS_URL={exchange.ws_url}\nexport OKX_REST_URL={exchange.rest_url}")
        while not life.stop and not exchange.failed:
            life.wait(None, 0.5)
    return 0


def _make_tables(dsn: str) -> None:
    """Have a database that every command can use from the start, and that takes no data of the real exchange."""
    from okxcli.storage.database import Database, resolve
    from okxcli.storage.schema import versions

    with Database(resolve(dsn, None, {"OKX_DSN": dsn}), "okx simulate") as database, database.session() as connection:
        versions.migrate(connection, database.where)
        versions.guard_origin(connection, "local", database.where)


def _run(exchange: "LocalServer", command: Sequence[str], database: bool, data: Path | None) -> int:
    import tempfile

    from okxcli.local.child import Child

    with Child() as child, ExitStack() as stack:
        environment: dict[str, str] = {}
        if database:
            from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer

            if data is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="okx-", ignore_cleanup_errors=True))
                server = stack.enter_context(EmbeddedServer(Path(folder) / "db", THROWAWAY))
            else:
                server = stack.enter_context(EmbeddedServer(data, named_by="--data"))
            environment["OKX_DSN"] = server.dsn
            _make_tables(server.dsn)
        stack.enter_context(exchange)
        environment |= {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
        return child.run(command, environment)
