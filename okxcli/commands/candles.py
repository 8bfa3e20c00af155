"""`okx candles`: trade lines in, right-aligned candle lines out."""

from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options

if TYPE_CHECKING:
    from okxcli.core.candles.block_processor import BlockCandleProcessor
    from okxcli.runtime.filters import Taking
    from okxcli.runtime.lines import Output as LinesOut

_TF = Annotated[
    str, typer.Option("--tf", metavar="LIST", help="Timeframes to make: 30s, 1m, 4h, 1d, 1w, 1M; 1d+8 for UTC+8 days.")
]


def candles(
    tf: _TF,
    files: options.Files = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="TF", help="Aggregate candle lines of this timeframe, not trades.")
    ] = None,
    pass_lines: Annotated[
        bool, options.switch("pass", "Let every input line through, a bar before the line that closed it.")
    ] = False,
    fill: Annotated[bool, options.switch("fill", "Write flat bars where the ids prove that nothing traded.")] = False,
    partial: Annotated[
        bool, options.switch("partial", "Write running bars too, once a second, as not closed.")
    ] = False,
    lateness: Annotated[
        str, options.time_option("--lateness", "How late a trade may come and still change a final bar.")
    ] = "10s",
    grace: Annotated[str, options.time_option("--grace", "On live input, close a bar this long after its end.")] = "2s",
    live: Annotated[
        bool | None,
        options.switch("live", "Close bars by the wall clock too. Default: when trades are a minute young."),
    ] = None,
    output: options.Output = None,
    strict: options.Strict = False,
    rejects: options.Rejects = None,
    stats: options.Stats = None,
    quiet: options.Quiet = False,
) -> None:
    """Aggregate trades into right-aligned OHLCV candles.

    Reads trade lines (and instrument and absent lines, which say what sizes mean and which ids never were) and writes
    a candle line for every bar that is over, in every timeframe asked for. A bar covers [start, timestamp) and is
    never written before it has ended. Other lines are dropped unless --pass keeps them. The same input gives the same
    bytes, however it arrives.
    """
    from okxcli.core.candles.block_processor import BlockCandleProcessor
    from okxcli.core.candles.processor import RealTimeCandleProcessor
    from okxcli.core.candles.rollup import CandleRollup
    from okxcli.core.codec import UnknownType, encode
    from okxcli.core.model import OHLCVCandle
    from okxcli.core.origin import site_told
    from okxcli.core.trade_pieces import TradePieces
    from okxcli.errors import InvalidLine, UsageError
    from okxcli.runtime import log
    from okxcli.runtime.clock import SteadyClock, now_ms, parse_duration
    from okxcli.runtime.filters import LineFilter
    from okxcli.runtime.road import kernel

    log.setup("candles", quiet=quiet)
    late_ms, grace_ms = (round(parse_duration(text) * 1000) for text in (lateness, grace))
    run = LineFilter("candles", files, output, strict, rejects, stats, quiet)
    write = run.out.line

    def emit(candle: OHLCVCandle) -> None:
        write(encode(candle))

    maker: RealTimeCandleProcessor | CandleRollup
    runs = kernel("core.candles._runs")
    rules = (tf, emit, late_ms, grace_ms, fill, partial, live)
    try:
        if source is not None:
            maker = CandleRollup(source, *rules)
        elif runs is not None:
            maker = BlockCandleProcessor(runs.Folder(), *rules)
        else:
            maker = RealTimeCandleProcessor(*rules)
    except InvalidLine as reason:
        raise UsageError(str(reason)) from None
    pieces = TradePieces(now_ms)
    feed, read = maker.feed, pieces.decode

    def handle(line: bytes) -> None:
        try:
            feed(read(line))
        except UnknownType:
            if not pass_lines and site_told(line) is None:  # bars of a simulation are none of the market either
                return
            write(line)
            return
        if pass_lines:
            write(line)

    clock = SteadyClock()  # a wall clock that is set ahead must not end all bars at once

    def tick() -> float | None:
        now = clock()
        due = maker.advance(now)
        return None if due is None else max(due - now, 0) / 1000

    take = _taking(maker, run.out if pass_lines else None) if isinstance(maker, BlockCandleProcessor) else None
    raise typer.Exit(run.run(handle, tick, maker.finish, maker.counts, take, pieces.look))


def _taking(maker: "BlockCandleProcessor", out: "LinesOut | None") -> "Taking":
    """Return how `maker` takes blocks, whose lines go to `out` as well."""
    from okxcli.runtime.clock import now_ms

    def take(block: bytes, at: int) -> tuple[int, int]:
        end, taken = maker.take(block, at, now_ms())
        if out is not None and taken:
            out.block(block[at : end - 1], taken)
        return end, taken

    return take
