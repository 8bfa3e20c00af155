"""`okx instruments`: what the exchange lists."""

from typing import Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way_of_options


def instruments(
    *,
    wanted: Annotated[
        list[str] | None,
        options.some_symbols("Only these; * stands for any number of signs, ? for one: '*-USDT', 'BTC-*'."),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="LIST", help="Kinds, with commas: spot, swap, futures, option.")
    ] = "spot,swap,futures",
    quote: Annotated[
        str | None, typer.Option("--quote", metavar="LIST", help="Only these quote currencies: USDT,USDC.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="LIST", help="Only these base currencies: BTC,ETH.")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="The family of options, which they need: BTC-USD.")
    ] = None,
    every: Annotated[bool, options.switch("all", "Those too that do not trade: announced, suspended.")] = False,
    symbols: Annotated[bool, options.switch("symbols", "Write the names alone, one a line.")] = False,
    output: options.Output = None,
    rest: options.Rest,
) -> int:
    """List the instruments of the exchange that can be streamed.

    In: the exchange's REST. Out: instrument lines (what a size means: contract value, currency, steps), sorted by
    symbol; with --symbols the names alone.
    """
    from okxcli.core.codec import encode
    from okxcli.core.selection import Selection
    from okxcli.errors import UsageError
    from okxcli.runtime import log
    from okxcli.runtime.lines import Output as Lines
    from okxcli.runtime.signals import Lifecycle

    log.setup("instruments")
    kinds = _words(kind.lower())
    unknown = [name for name in kinds if name not in ("spot", "swap", "futures", "option")]
    if unknown:
        raise UsageError(f"no kind of instrument: {unknown[0]!r}. There are spot, swap, futures and option")
    if "option" in kinds and family is None:
        raise UsageError("options come by family: add --family BTC-USD, or another")
    selection = Selection(tuple(wanted or ()))
    with Lifecycle("source"), Lines(output) as out:
        for found in way_of_options(None, *rest).market().listed(kinds, family):
            if (
                (not wanted or found.symbol in selection.names or selection.selects(found.symbol))
                and (every or (found.state == "live" and found.tick_size is not None))
                and (quote is None or found.quote in _words(quote.upper()))
                and (base is None or found.base in _words(base.upper()))
            ):
                out.line(found.symbol.encode() if symbols else encode(found))
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
