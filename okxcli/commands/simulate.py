"""`okx simulate`: an OKX of one's own on this machine, and a command that runs against it."""

from pathlib import Path
from typing import Annotated

import typer

from okxcli import options
from okxcli.commands import serving

_Traded = Annotated[
    list[str], typer.Argument(metavar="SYMBOL...", help="Instruments to trade: BTC-USDT, BTC-USDT-SWAP, any pair.")
]
_Rate = Annotated[
    float, typer.Option("--rate", min=0, help="Fills per second of the market's clock, on average, over all symbols.")
]
_Seed = Annotated[int, typer.Option("--seed", help="The same seed, --start and --history give the same fills.")]
_Start = Annotated[str | None, options.time_option("--start", "When the market's clock begins; default: now.")]
_Speed = Annotated[float, typer.Option("--speed", help="How many times as fast as ours the market's clock runs.")]
_History = Annotated[str, options.time_option("--history", "How much trading precedes the start, for REST; 0s: none.")]
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
_FirstPush = Annotated[bool, options.switch("first-push", "Push the newest old trade after a subscription.")]
_BooksSnapshot = Annotated[bool, options.switch("books-snapshot", "Begin a books subscription with a snapshot.")]
_Account = Annotated[
    bool,
    options.switch(
        "account", "Have an account that trades now and then, for okx stream --private; the command gets its key."
    ),
]

#: What follows `--` is a command line of its own.
COMMAND_CLASS = serving.RunsCommand


def simulate(
    *,
    ctx: typer.Context,
    symbols: _Traded,
    rate: _Rate = 10.0,
    seed: _Seed = 1,
    start: _Start = None,
    speed: _Speed = 1.0,
    history: _History = "10m",
    quiet_minutes: _Quiet = 0.0,
    port: serving.Port = 0,
    fills: _Fills = None,
    keep: _Keep = 100_000,
    manners: serving.Manners,
    first_push: _FirstPush = True,
    books_snapshot: _BooksSnapshot = True,
    account: _Account = False,
    setting: serving.Setting,
    verbose: options.Verbose = False,
) -> int:
    """Serve a simulated OKX on this machine, or run a command against it.

    With a command after -- the exchange starts, the command runs with OKX_WS_URL, OKX_REST_URL and the OKX_DSN of a
    fresh database, and everything ends with it, with its exit status. Without one, two lines for the shell go to
    standard output (export OKX_WS_URL=..., export OKX_REST_URL=...), and the exchange serves until Ctrl-C. WebSocket
    channels, candles and REST pages all come from one list of fills, which --fills writes out: what a client makes of
    the market can be checked to the last digit.
    """
    from okxcli.local.exchange import LocalExchange
    from okxcli.runtime import log
    from okxcli.runtime.clock import now_ms, parse_duration, parse_time

    log.setup("simulate", verbose)
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
        faults=manners.fault or (),
        first_push=first_push,
        books_snapshot=books_snapshot,
        account=account,
        options=serving.options_of(port, manners, setting, seed),
    )
    return serving.serve(exchange, ctx, setting)
