"""`okx simulate`: an OKX of one's own on this machine, and a command that runs against it."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from okxcli.errors import UsageError
from okxcli.options import Verbose

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


_Traded = Annotated[
    list[str], typer.Argument(metavar="SYMBOL...", help="Instruments to trade: BTC-USDT, BTC-USDT-SWAP, any pair.")
]
_Rate = Annotated[
    float, typer.Option("--rate", min=0, help="Fills per second of the market's clock, on average, over all symbols.")
]
_Seed = Annotated[int, typer.Option("--seed", help="The same seed, --start and --history give the same fills.")]
_Start = Annotated[
    str | None, typer.Option("--start", metavar="TIME", help="When the market's clock begins; default: now.")
]
_Speed = Annotated[float, typer.Option("--speed", help="How many times as fast as ours the market's clock runs.")]
_History = Annotated[
    str, typer.Option("--history", metavar="TIME", help="How much trading precedes the start, for REST; 0s: none.")
]
_Quiet = Annotated[
    float,
    typer.Option("--quiet-minutes", min=0, max=0.99, help="Share of a symbol's minutes in which nobody trades."),
]
_Fills = Annotated[
    Path | None,
    typer.Option("--fills", metavar="FILE", help="Write every fill here as it happens, one JSON object a line."),
]
_Keep = Annotated[
    int, typer.Option("--keep", min=1000, metavar="N", help="Fills of a symbol that the exchange remembers.")
]
_FirstPush = Annotated[
    bool, typer.Option("--first-push/--no-first-push", help="Push the newest old trade after a subscription.")
]
_BooksSnapshot = Annotated[
    bool, typer.Option("--books-snapshot/--no-books-snapshot", help="Begin a books subscription with a snapshot.")
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


def command_of(ctx: typer.Context) -> list[str]:
    """Return the command after `--`, empty if there is none."""
    return list(ctx.meta.get(_COMMAND, []))


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("simulate", cls=RunsCommand)(simulate)


def simulate(
    ctx: typer.Context,
    symbols: _Traded,
    rate: _Rate = 10.0,
    seed: _Seed = 1,
    start: _Start = None,
    speed: _Speed = 1.0,
    history: _History = "10m",
    quiet_minutes: _Quiet = 0.05,
    port: Port = 0,
    fills: _Fills = None,
    keep: _Keep = 100_000,
    fault: Fault = None,
    limits: Limits = True,
    idle: Idle = "30s",
    first_push: _FirstPush = True,
    books_snapshot: _BooksSnapshot = True,
    cert: Cert = None,
    key: Key = None,
    database: Database = True,
    data: Data = None,
    verbose: Verbose = False,
) -> int:
    """Serve a simulated OKX on this machine, or run a command against it.

    With a command after -- the exchange starts, the command runs with OKX_WS_URL, OKX_REST_URL and the OKX_DSN of a
    fresh database, and everything ends with it, with its exit status. Without one, two lines for the shell go to
    standard output (export OKX_WS_URL=..., export OKX_REST_URL=...), and the exchange serves until Ctrl-C. WebSocket
    channels, candles and REST pages all come from one list of fills, which --fills writes out: what a client makes of
    the market can be checked to the last digit.
    """
    from okxcli.local.engine import Options
    from okxcli.local.exchange import LocalExchange
    from okxcli.runtime import log
    from okxcli.runtime.clock import now_ms, parse_duration, parse_time

    log.setup("simulate", verbose)
    scale = 1.0 if limits else 0.0
    options = Options(port=port, idle_s=parse_duration(idle), limits=scale, seed=seed, cert=cert, key=key)
    exchange = LocalExchange(
        symbols,
        rate=rate,
        seed=seed,
        start_ms=None if start is None else parse_time(start, now_ms()),
        speed=speed,
        history_s=0.0 if history in ("0", "0s") else parse_duration(history),
        quiet=quiet_minutes,
        keep=keep,
        fills_file=fills,
        faults=fault or (),
        first_push=first_push,
        books_snapshot=books_snapshot,
        options=options,
    )
    return serve(exchange, command_of(ctx), database, data)


def serve(exchange: "LocalServer", command: Sequence[str], database: bool, data: Path | None) -> int:
    """Run `command` against `exchange` and return its exit status; without one serve until a signal comes."""
    if command:
        return _run(exchange, command, database, data)
    if data is not None:
        raise UsageError("--data is for the database of a command: give one after --")
    from okxcli.runtime.signals import Lifecycle

    with Lifecycle("server") as life, exchange:
        typer.echo(f"export OKX_WS_URL={exchange.ws_url}\nexport OKX_REST_URL={exchange.rest_url}")
        while not life.stop and not exchange.failed:
            life.wait(None, 0.5)
    return 0


def _run(exchange: "LocalServer", command: Sequence[str], database: bool, data: Path | None) -> int:
    import tempfile

    from okxcli.local.child import Child

    with Child() as child, ExitStack() as stack:
        environment: dict[str, str] = {}
        if database:
            from okxcli.storage.embedded import THROWAWAY, EmbeddedServer

            if data is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="okx-", ignore_cleanup_errors=True))
                server = stack.enter_context(EmbeddedServer(Path(folder) / "db", THROWAWAY))
            else:
                server = stack.enter_context(EmbeddedServer(data))
            environment["OKX_DSN"] = server.dsn
        stack.enter_context(exchange)
        environment |= {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
        return child.run(command, environment)
