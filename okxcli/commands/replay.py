"""`okx replay`: recordings served as if they were OKX."""

from pathlib import Path
from typing import Annotated

import typer

from okxcli import options
from okxcli.commands import serving

#: What follows `--` is a command line of its own.
COMMAND_CLASS = serving.RunsCommand


def replay(
    *,
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recordings, .gz and .zst by name; played by their times.")
    ],
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="How many times as fast as recorded; 0: as fast as clients take it.")
    ] = 1.0,
    loop: Annotated[bool, options.switch("loop", "Begin again at the end, with the same ids.")] = False,
    port: serving.Port = 0,
    manners: serving.Manners,
    setting: serving.Setting,
    verbose: options.Verbose = False,
) -> int:
    """Serve what okx stream recorded as if it were OKX, or run a command against it.

    In: raw lines of OKX, with or without the times that okx stream --stamp adds. The exchange waits for the first
    subscriber and then sends each message to whoever is subscribed to its channel, at the recorded pace; trades and
    candles of the recording are there by REST as they happen. With a command after -- it runs with OKX_WS_URL,
    OKX_REST_URL and the OKX_DSN of a fresh database, and everything ends with it; without one the two URLs go to
    standard output for the shell, and the exchange serves until Ctrl-C.
    """
    from okxcli.local.replay import LocalReplay
    from okxcli.runtime import log

    log.setup("replay", verbose)
    listening = serving.options_of(port, manners, setting)
    exchange = LocalReplay(files, speed=speed, loop=loop, faults=manners.fault or (), options=listening)
    return serving.serve(exchange, ctx, setting)
