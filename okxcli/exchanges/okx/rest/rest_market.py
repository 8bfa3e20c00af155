"""OKX as it answers requests: the parts of its REST that the rest of the package asks for, over one client."""

import logging
from collections.abc import Iterable

from okxcli.core.model import Instrument
from okxcli.errors import InvalidLine, UsageError
from okxcli.exchanges.interface import Clock, Progress
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.rest.exchange_bars import ExchangeBars
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.exchanges.okx.rest.history_stream import Past
from okxcli.exchanges.okx.rest.instrument_list import Catalogue, instrument_line

_log = logging.getLogger(__name__)


class RestMarket(RestClient):
    """See `interface.Market`."""

    def history(self, clock: Clock) -> TradeHistory:
        """Return the fills, by id."""
        return TradeHistory(self, sleep=self.sleep, clock=clock)

    def past(
        self, symbols: Iterable[str], channel: str, span: tuple[int, int], clock: Clock, progress: Progress
    ) -> Past:
        """Return what `trades-all` or a channel of candles would have pushed in a span of time (ms)."""
        return Past(self.history(clock), symbols, channel, span, progress)

    def bars(self) -> ExchangeBars:
        """Return OKX's own candles."""
        return ExchangeBars(self)

    def listed(self, kinds: Iterable[str], family: str | None = None) -> list[Instrument]:
        """Return the instruments of `kinds` (`spot`, `swap`, `futures`; `option` with its family), sorted by symbol.

        Rows that cannot be instruments are left out, and the log says so.

        Raises:
            ExchangeUnavailable: a list could not be had.
        """
        normalizer = Normalizer()
        found: list[Instrument] = []
        for kind in kinds:
            for row in self.instruments(kind.upper(), family if kind == "option" else None):
                try:
                    found += [line for line in normalizer.feed(instrument_line(row)) if isinstance(line, Instrument)]
                except InvalidLine as reason:
                    _log.warning("an instrument is left out: %s", reason)
        return sorted(found, key=lambda instrument: instrument.symbol)

    def describe(self, symbols: Iterable[str]) -> list[bytes]:
        """Return the lines that tell what `symbols` are; an unknown one is told with the name nearest to it."""
        wanted = list(dict.fromkeys(symbols))
        catalogue = Catalogue(self)
        rows = catalogue.find(wanted)
        unknown = [symbol for symbol in wanted if symbol not in rows]
        if unknown:
            near = catalogue.nearest(unknown[0])
            hint = f" Did you mean {near}?" if near else ""
            raise UsageError(f"OKX has no {unknown[0]}.{hint} All names: okx instruments --symbols")
        return [instrument_line(row) for row in rows.values()]

    def known(self, symbols: Iterable[str]) -> list[bytes]:
        """Return the same of those that exist."""
        return [instrument_line(row) for row in Catalogue(self).find(symbols).values()]
