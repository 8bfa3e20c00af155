"""`okx candles`: trade lines in, right-aligned candle lines out."""

from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options

if TYPE_CHECKING:
    from okxcli.core.candles.outlet import Rules

_TF = Annotated[
    str, typer.Option("--tf", metavar="LIST", help="Timeframes to make: 30s, 1m, 4h, 1d, 1w, 1M; 1d+8 for UTC+8 days.")
]


def candles(
    *,
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
    filtering: options.Filtering,
) -> None:
    """Aggregate trades into right-aligned OHLCV candles.

    Reads trade lines (and instrument and absent lines, which say what sizes mean and which ids never were) and writes
    a candle line for every bar that is over, in every timeframe asked for. A bar covers [start, timestamp) and is
    never written before it has ended. Other lines are dropped unless --pass keeps them. The same input gives the same
    bytes, however it arrives. A FILE called .csv, .csv.gz or .zip is a bulk file of the exchange: its fills come as
    okx history --files and okx normalize would give them, of all symbols that it names (--from 1m: its bars). What a
    size of a contract is worth stands in no such file: name one with its instrument line before it, or - .
    """
    from okxcli.core.candles.block_processor import processor
    from okxcli.core.candles.processor import RealTimeCandleProcessor
    from okxcli.core.candles.rollup import CandleRollup
    from okxcli.core.codec import encode
    from okxcli.core.model import OHLCVCandle
    from okxcli.errors import InvalidLine, UsageError
    from okxcli.pipeline.candle_feed import CandleFeed
    from okxcli.runtime import log
    from okxcli.runtime.clock import SteadyClock, parse_duration
    from okxcli.runtime.filters import LineFilter
    from okxcli.runtime.road import kernel

    log.setup("candles", quiet=filtering.quiet)
    late_ms, grace_ms = (round(parse_duration(text) * 1000) for text in (lateness, grace))
    run = LineFilter("candles", files, output, *filtering)
    write = run.out.line

    def emit(candle: OHLCVCandle) -> None:
        write(encode(candle))

    maker: RealTimeCandleProcessor | CandleRollup
    rules: Rules = {"lateness_ms": late_ms, "grace_ms": grace_ms, "fill": fill, "partial": partial, "live": live}
    try:
        if source is not None:
            maker = CandleRollup(source, tf, emit, **rules)
        else:
            maker = processor(kernel("core.candles._runs"), tf, emit, **rules)
    except InvalidLine as reason:
        raise UsageError(str(reason)) from None
    feed = CandleFeed(maker, run.out, pass_lines)
    clock = SteadyClock()  # a wall clock that is set ahead must not end all bars at once

    def tick() -> float | None:
        now = clock()
        due = maker.advance(now)
        return None if due is None else max(due - now, 0) / 1000

    if (bulk := feed.names_bulk(files or [])) and source not in (None, "1m"):
        raise UsageError(f"bulk files hold bars of one minute: --from 1m, not --from {source}")
    take = feed.take if bulk or feed.by_block else None
    raise typer.Exit(run.run(feed.handle, tick, maker.finish, maker.counts, take, feed.look, feed.reader))
