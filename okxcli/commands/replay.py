"""`okx replay`: recordings served as if they were OKX."""

from pathlib import Path
from typing import Annotated

import typer

from okxcli.commands import serving
from okxcli.options import Verbose


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("replay", cls=serving.RunsCommand)(replay)


def replay(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recordings, .gz and .zst by name; played by their times.")
    ],
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="How many times as fast as recorded; 0: as fast as clients take it.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop/--no-loop", help="Begin again at the end, with the same ids.")] = False,
    port: serving.Port = 0,
    fault: serving.Fault = None,
    limits: serving.Limits = True,
    idle: serving.Idle = "30s",
    cert: serving.Cert = None,
    key: serving.Key = None,
    database: serving.Database = True,
    data: serving.Data = None,
    verbose: Verbose = False,
) -> int:
    """Serve what okx stream recorded as if it were OKX, or run a command against it.

    In: raw lines of OKX, with or without the times that okx stream --stamp adds. The exchange waits for the first
    subscriber and then sends each message to whoever is subscribed to its channel, at the recorded pace; trades and
    candles of the recording are there by REST as they happen. With a command after -- it runs with OKX_WS_URL,
    OKX_REST_URL and the OKX_DSN of a fresh database, and everything ends with it; without one the two URLs go to
    standard output for the shell, and the exchange serves until Ctrl-C.
    """
    from okxcli.local.network.engine import Options
    from okxcli.local.replay import LocalReplay
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_duration

    log.setup("replay", verbose)
    options = Options(port=port, idle_s=parse_duration(idle), limits=float(limits), cert=cert, key=key)
    exchange = LocalReplay(files, speed=speed, loop=loop, faults=fault or (), options=options)
    return serving.serve(ctx, exchange, database, data)
