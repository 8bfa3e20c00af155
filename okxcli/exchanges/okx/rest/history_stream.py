"""The past of several symbols as one stream of raw lines, oldest first, from OKX's REST."""

from collections.abc import Iterable, Iterator
from heapq import merge

from okxcli.core.model import TAPE
from okxcli.errors import UsageError
from okxcli.exchanges.interface import Missing, Progress
from okxcli.exchanges.okx.channels import path_of
from okxcli.exchanges.okx.rest.history import TradeHistory, settlement_line

#: The channel of funding, of which there are settlements in the past.
FUNDING = "funding-rate"

_TIME = b'"ts":"'
_BAR = b'"data":[["'


class Past:
    """The fills (`trades-all`), funding or OKX's own bars (`candle1m`...) of `symbols` in a span of time (ms).

    Fills begin with the one before the span, which is the link that proves the first bar. `missing` has what REST
    does not show. `progress` is called with what is done and, where that is known, what there is to do.

    Raises:
        UsageError: no such channel, or one without a past.
    """

    def __init__(
        self,
        history: TradeHistory,
        symbols: Iterable[str],
        channel: str,
        span: tuple[int, int],
        progress: Progress = lambda done, total: None,
    ) -> None:
        path_of(channel)
        if channel not in (TAPE, FUNDING) and not channel.startswith("candle"):
            raise UsageError(
                f"OKX keeps no past of {channel}: only of {TAPE}, of {FUNDING} and of candles (candle1m, candle1H ...)"
            )
        if span[0] >= span[1]:
            raise UsageError("--since is not before --until: there is nothing between them")
        self.missing: list[Missing] = []
        self._history = history
        self.symbols = list(dict.fromkeys(symbols))
        self._channel = channel
        self._span = span
        self._progress = progress
        self._done = 0
        self._total = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, those of several symbols merged by time.

        Raises:
            NoSuchInstrument: OKX has no such symbol.
            ExchangeUnavailable: REST does not answer.
        """
        one = {TAPE: self._fills, FUNDING: self._settlements}.get(self._channel, self._bars)
        for _, line in merge(*(one(symbol) for symbol in self.symbols), key=lambda found: found[0]):
            yield line

    def _fills(self, symbol: str) -> Iterator[tuple[int, bytes]]:
        first, last = self._history.span(symbol, *self._span)
        self._total += max(0, last - first + 1)
        for page in self._history.range(symbol, first, last):
            self.missing += [Missing(symbol, *part) for part in page.missing]
            self._done += page.last - page.first + 1
            self._progress(self._done, self._total)
            for line in page.lines:
                at = line.find(_TIME) + len(_TIME)
                yield int(line[at : line.find(b'"', at)]), line

    def _settlements(self, symbol: str) -> Iterator[tuple[int, bytes]]:
        for row in self._history.rest.settlements(symbol, *self._span):
            self._done += 1
            self._progress(self._done, None)
            yield int(row["fundingTime"]), settlement_line(row)

    def _bars(self, symbol: str) -> Iterator[tuple[int, bytes]]:
        bar = self._channel.removeprefix("candle")
        for line in self._history.candles(symbol, bar, *self._span):
            self._done += 1
            self._progress(self._done, None)
            at = line.find(_BAR) + len(_BAR)
            yield int(line[at : line.find(b'"', at)]), line
