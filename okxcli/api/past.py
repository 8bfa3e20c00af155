"""What was traded before now, from the exchange's REST."""

from collections.abc import Generator

from okxcli.api.through import Lines, Moment, milliseconds, way_to
from okxcli.core.model import TAPE
from okxcli.errors import UsageError


def history(
    *symbols: str,
    since: Moment,
    until: Moment | None = None,
    channel: str = TAPE,
    rest_url: str | None = None,
    proxy: str | None = None,
) -> Lines[bytes]:
    """Return raw lines of a span of time, oldest first, those of several symbols by time.

    As `okx history`: fills of the last three months, or with a `channel` such as `candle1m` the exchange's own bars.
    They begin with the fill before `since`, so that the first bar can be proved complete.

    Raises:
        UsageError: no symbol, no such channel, an empty span; from the loop: no such instrument.
        ExchangeUnavailable: from the loop.
    """
    if not symbols:
        raise UsageError("no symbol given, such as BTC-USDT")
    way = way_to(None, rest_url, proxy)

    def run() -> Generator[bytes, None, None]:
        market = way.market()
        try:
            clock = market.clock()
            now = clock()
            span = milliseconds(since, now), now if until is None else milliseconds(until, now)
            past = market.past(list(symbols), channel, span, clock, lambda done, of: None)
            yield from way.first_lines(market.base_url)
            yield from market.describe(past.symbols)
            yield from past.lines()
        finally:
            market.close()

    return Lines(run)
