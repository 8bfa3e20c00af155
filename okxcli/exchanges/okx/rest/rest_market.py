"""OKX as it answers requests: the parts of its REST that the rest of the package asks for, over one client."""

import time
from collections.abc import Callable, Iterable
from typing import Unpack

from okxcli.core.model import Instrument
from okxcli.errors import UsageError
from okxcli.exchanges.interface import MarketOptions
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.rest.exchange_bars import ExchangeBars
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.exchanges.okx.rest.history_stream import Past
from okxcli.exchanges.okx.rest.instrument_list import Catalogue, instrument_line, listed
from okxcli.runtime.clock import SteadyClock
from okxcli.runtime.proxy import Proxies


class RestMarket:
    """See `interface.Market`. `sleep` is called wherever there is something to wait for."""

    def __init__(self, base_url: str, proxies: Proxies, **options: Unpack[MarketOptions]) -> None:
        self._rest = RestClient(base_url, proxies=proxies, **options)
        self._sleep = options.get("sleep", time.sleep)
        self.base_url = self._rest.base_url

    def clock(self) -> SteadyClock:
        """Return a clock that goes by OKX's."""
        return self._rest.clock()

    def history(self, clock: Callable[[], int]) -> TradeHistory:
        """Return the fills, by id."""
        return TradeHistory(self._rest, sleep=self._sleep, clock=clock)

    def past(
        self,
        symbols: Iterable[str],
        channel: str,
        span: tuple[int, int],
        clock: Callable[[], int],
        progress: Callable[[int, int | None], None],
    ) -> Past:
        """Return what `trades-all` or a channel of candles would have pushed in a span of time (ms)."""
        return Past(self.history(clock), symbols, channel, *span, progress)

    def bars(self) -> ExchangeBars:
        """Return OKX's own candles."""
        return ExchangeBars(self._rest)

    def listed(self, kinds: Iterable[str], family: str | None) -> list[Instrument]:
        """Return the instruments of some kinds, by symbol."""
        return listed(self._rest, kinds, family)

    def describe(self, symbols: Iterable[str]) -> list[bytes]:
        """Return the lines that tell what `symbols` are; an unknown one is told with the name nearest to it."""
        wanted = list(dict.fromkeys(symbols))
        catalogue = Catalogue(self._rest)
        rows = catalogue.find(wanted)
        unknown = [symbol for symbol in wanted if symbol not in rows]
        if unknown:
            near = catalogue.nearest(unknown[0])
            hint = f" Did you mean {near}?" if near else ""
            raise UsageError(f"OKX has no {unknown[0]}.{hint} All names: okx instruments --symbols")
        return [instrument_line(row) for row in rows.values()]

    def known(self, symbols: Iterable[str]) -> list[bytes]:
        """Return the same of those that exist."""
        return [instrument_line(row) for row in Catalogue(self._rest).find(symbols).values()]

    def close(self) -> None:
        """Give the connections back."""
        self._rest.close()
