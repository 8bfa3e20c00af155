"""Candles from blocks of trade lines: what makes nothing due is folded by the block, all else is looked at by the line.

The kernel beside this module folds the fills of each symbol into a run as long as they follow on each other and lie
before the next moment at which a bar is due. The run is handed over before anything else happens to its symbol, so that
what is made, and when, is what a processor makes of the lines one by one.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Protocol, Unpack

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.candles.fill_run import FillRun
from okxcli.core.candles.outlet import Emit, Rules
from okxcli.core.candles.processor import Market, RealTimeCandleProcessor
from okxcli.core.model import Absent, Instrument, StandardizedTrade
from okxcli.core.tape import Run

#: Time between two looks at symbols that are not live: of old trades there may be thousands, and a block every few ms.
_WAKE_MS = 250


class Folder(Protocol):
    """What the kernel `_runs` gives."""

    def take(self, block: bytes, at: int, now_ms: int, /) -> tuple[int, int]:
        """Fold the lines of a block from an offset on, up to the first that no run may hold; return where, how many."""

    def take_rows(
        self, block: bytes, at: int, now_ms: int, exchange: bytes, columns: bytes, symbol: bytes, /
    ) -> tuple[int, int]:
        """Do the same with rows of cells; `columns` tells by a letter each what they hold (core/cells.h)."""

    def watch(self, exchange: str, symbol: str, next_id: int, since: int, until: int, /) -> None:
        """Fold fills of a symbol from here on whose ids follow on from `next_id`, in times `[since, until)`."""

    def run(self, exchange: str, symbol: str, /) -> tuple[Any, ...] | None:
        """Hand out what was folded for a symbol, in the order of `FillRun`, and begin anew."""


class BlockCandleProcessor(RealTimeCandleProcessor):
    """A processor that takes blocks of trade lines as well as lines.

    The other parameters are those of `RealTimeCandleProcessor`.
    """

    def __init__(self, folder: Folder, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._folder = folder
        self._woken_ms = 0
        self._wake_ms: int | None = None  # when to find out who is live, if that was put off

    def take(self, block: bytes, at: int, now_ms: int) -> tuple[int, int]:
        """Fold the lines of a block from an offset on; return that of the first to be fed as a line, and how many.

        A line is folded if it is spelt as ours are, and has come by `now_ms`, as `codec.decode` says.
        Nothing is folded where a hook wants to see every trade.
        """
        return (at, 0) if self.trade_hooks else self._folder.take(block, at, now_ms)

    def take_rows(
        self, block: bytes, at: int, now_ms: int, exchange: str, columns: bytes, symbol: bytes
    ) -> tuple[int, int]:
        """Fold rows of cells of one exchange, as `take` does lines.

        `columns` tells by a letter each what the cells hold (core/cells.h), `symbol` is that of all rows where none
        does.
        """
        if self.trade_hooks:
            return at, 0
        return self._folder.take_rows(block, at, now_ms, exchange.encode(), columns, symbol)

    def trade(self, trade: StandardizedTrade) -> None:
        """Fold one trade in. Duplicates, by id, change nothing."""
        self._settle(trade.exchange, trade.symbol)
        super().trade(trade)
        self._watch(trade.exchange, trade.symbol)

    def seed(
        self, exchange: str, symbol: str, known: Iterable[Run], step: int, parts: Iterable[TimeframeBucket], until: int
    ) -> None:
        """Take in what is known of a symbol from before its first trade."""
        self._settle(exchange, symbol)
        super().seed(exchange, symbol, known, step, parts, until)
        self._watch(exchange, symbol)

    def instrument(self, instrument: Instrument) -> None:
        """Learn what a size of this symbol means, from here on."""
        self._settle(instrument.exchange, instrument.symbol)
        super().instrument(instrument)
        self._watch(instrument.exchange, instrument.symbol)

    def absent(self, absent: Absent) -> None:
        """Count ids that the exchange itself does not have as known."""
        self._settle(absent.exchange, absent.symbol)
        super().absent(absent)
        self._watch(absent.exchange, absent.symbol)

    def forget(self, exchange: str, symbol: str) -> None:
        """Drop a symbol."""
        self._settle(exchange, symbol)
        super().forget(exchange, symbol)
        self._folder.watch(exchange, symbol, 0, 0, 0)

    def advance(self, now_ms: int) -> int | None:
        """Write the bars of live symbols that the wall clock says are over; return when to call again, or None."""
        due = super().advance(now_ms)
        return due if self._wake_ms is None else self._wake_ms if due is None else min(due, self._wake_ms)

    def _wake(self, now_ms: int) -> None:
        """Find out who is live by now, unless that was done a moment ago: it takes what was folded of every symbol."""
        if self._dormant and 0 <= now_ms - self._woken_ms < _WAKE_MS:
            self._wake_ms = self._woken_ms + _WAKE_MS
            return
        self._woken_ms, self._wake_ms = now_ms, None
        super()._wake(now_ms)

    def _catch_up(self, market: Market) -> None:
        self._settle(market.exchange, market.symbol)

    def finish(self) -> None:
        """Write, at end of input, what late trades changed."""
        self._settle_all()
        super().finish()

    def counts(self) -> dict[str, int]:
        """Return all counts."""
        self._settle_all()
        return super().counts()

    def _settle_all(self) -> None:
        for exchange, symbol in self._markets:
            self._settle(exchange, symbol)

    def _settle(self, exchange: str, symbol: str) -> None:
        """Hand over what was folded for a symbol."""
        run = self._folder.run(exchange, symbol)
        if run is not None:
            self._market(exchange, symbol).fold(FillRun(*run[:7], *map(Decimal, run[7:])))

    def _watch(self, exchange: str, symbol: str) -> None:
        self._folder.watch(exchange, symbol, *self._market(exchange, symbol).outlook())


def processor(
    runs: Any, timeframes: str | Iterable[str], emit: Emit | None, **rules: Unpack[Rules]
) -> RealTimeCandleProcessor:
    """Return a maker of candles from trades, which takes blocks where there is the kernel `runs`."""
    if runs is None:
        return RealTimeCandleProcessor(timeframes, emit, **rules)
    return BlockCandleProcessor(runs.Folder(), timeframes, emit, **rules)
