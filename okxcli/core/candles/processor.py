"""Candles from trades: right-aligned bars in any number of timeframes at once, deterministic, never from the future.

The rules stand in okx-candles(7). In short: a symbol's own trades are its only clock; a bar is final when its symbol
trades at or past its end; what comes late is folded in for a while and then left to repair; ids prove completeness.
Trades go into bars of the greatest common smaller timeframe, larger bars are merged from those.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from heapq import heappop, heappush, merge
from typing import Unpack

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.candles.fill_run import FillRun
from okxcli.core.candles.outlet import Emit, Outlet, Rules
from okxcli.core.candles.series import Series
from okxcli.core.decimals import ONE
from okxcli.core.model import FILE_MERGED, MAX_ID, Absent, Instrument, Line, OHLCVCandle, StandardizedTrade, amounts
from okxcli.core.tape import IdRanges, Run
from okxcli.core.timeframes import common

#: A symbol whose newest trade is younger than this is live: its bars are also closed by the wall clock.
LIVE_MS = 60_000


def _by_end(candle: OHLCVCandle) -> tuple[int, int]:
    return candle.timestamp, -candle.start


class Market:
    """The bars and ids of one symbol; `number` is its place among the symbols, `due` when time makes it due."""

    def __init__(self, exchange: str, symbol: str, number: int, owner: "RealTimeCandleProcessor") -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.number = number
        self.due: int | None = None
        self.clock = 0  # the newest timestamp seen
        self.live = False
        self.ids = IdRanges()
        self._absent = IdRanges()  # those of the known ids that are absent at the exchange
        self._merged = IdRanges()  # ids of merged trades of which nobody knows how many fills they are
        self.instrument: Instrument | None = None
        self._owner = owner
        self._base = owner.base
        self._parts: dict[int, TimeframeBucket] = {}  # bars of the base timeframe that may still change
        self._part: TimeframeBucket | None = None  # the one that holds the clock
        self._action = 0  # a trade of `_part` before this moment makes nothing due
        self._mended = False  # ids came out of order since the last step
        self.series = [
            Series(exchange, symbol, tf, self.ids, self._parts, owner.lateness_ms, owner.fill, owner.partial)
            for tf in owner.timeframes
        ]

    def seed(self, known: Iterable[Run], step: int, parts: Iterable[TimeframeBucket], until: int) -> None:
        """Take in ids, and what traded before `until` in bars that end after it."""
        for run in known:
            self.ids.add(run.first, run.last, run.low if run.high >= 0 else None, run.high)
        self.ids.step = max(self.ids.step, step)
        for part in parts:
            for series in self.series:
                if series.timeframe.end_of(series.timeframe.start_of(part.start)) > until:
                    series.open_bar(part.start, until).merge(part)
        self._owner.schedule(self)

    def trade(self, trade: StandardizedTrade) -> None:
        """Fold one trade in and write what it makes due."""
        owner = self._owner
        ids = self.ids
        last = trade.trade_id
        first = last - trade.count + 1
        timestamp = trade.timestamp
        if trade.origin == FILE_MERGED or trade.count > 1 or self._merged.top:
            if not self._take_merged(trade, first, last):
                return
        elif not ids.add(first, last, timestamp) and not self._take_again(trade, first, last):
            return
        owner.trades += 1
        for hook in owner.trade_hooks:
            hook(trade)
        if last != ids.top:
            self._mended = True
        base, quote = amounts(self.instrument, self.symbol, trade.price, trade.size)
        part = self._part
        if part is not None and part.start <= timestamp < self._action:
            part.add(trade, base, quote)
            if timestamp > self.clock:  # noqa: PLR1730 -- max() costs a call on the hot path
                self.clock = timestamp
            return
        bucket = self._find(timestamp)
        if bucket is None:
            self._late(trade, base, quote)
        else:
            bucket.add(trade, base, quote)
        if timestamp > self.clock:
            self.clock, self._part = timestamp, bucket
        self.step()

    def outlook(self) -> tuple[int, int, int]:
        """Return which fills would go into the newest bar and make nothing due: from an id on, in times [since, until).

        There are none where each is to be looked at: beside merged trades of files, if the base amount is a quotient.
        """
        part, instrument = self._part, self.instrument
        if (
            part is None
            or self._merged.top
            or self.ids.top == MAX_ID
            or (instrument is not None and instrument.contract_type == "inverse")
        ):
            return 0, 0, 0
        return self.ids.top + 1, part.start, self._action

    def fold(self, run: FillRun) -> None:
        """Take in fills that `outlook` promised."""
        part = self._part
        if part is None:
            raise RuntimeError("a run of fills without a bar")
        self._owner.trades += run.trades
        self.ids.extend(run.last, run.low, run.high, run.step)
        base, _ = amounts(self.instrument, self.symbol, ONE, run.volume)
        _, quote = amounts(self.instrument, self.symbol, ONE, run.quote)
        part.merge(run.bucket(part.start, part.end, base, quote))
        self.clock = max(self.clock, run.high)

    def _take_again(self, trade: StandardizedTrade, first: int, last: int) -> bool:
        """Return whether a trade of known ids is to be taken all the same: they were called absent, and are not."""
        owner = self._owner
        if first <= self.ids.floor:  # what is known that far down was forgotten
            owner.late += 1
            for series in self.series:
                series.lack(trade.timestamp, trade.trade_id)
            return False
        known = self.ids.overlap(first, last)
        if known != self._absent.overlap(first, last):
            if known == trade.count and not self._absent.touches(first, last):
                owner.duplicates += 1
                return False
            # Ids known in part: it cannot be cut into its fills, of which some are in no bar.
            owner.overlapping += 1
            for series in self.series:
                series.lack(trade.timestamp, trade.trade_id)
            return False
        self._absent.discard(first, last)
        self.ids.add(first, last, sure=False)
        return True

    def _take_merged(self, trade: StandardizedTrade, first: int, last: int) -> bool:
        """Return whether a merged trade, or any beside merged ones, is new, and take its ids.

        Of one from a file nobody knows how many fills it is of: its id proves nothing, and no bar with it is whole.
        """
        if self._merged.touches(first, last):
            self._owner.duplicates += 1
            return False
        if self.ids.touches(first, last) or first <= self.ids.floor:
            return self._take_again(trade, first, last)
        if trade.origin != FILE_MERGED:
            self.ids.add(first, last, trade.timestamp, sure=trade.count == 1)
            return True
        self._merged.add(first, last)
        for series in self.series:
            series.lack(trade.timestamp, trade.trade_id)
        return True

    def _find(self, timestamp: int) -> TimeframeBucket | None:
        """Return the base bar for a trade at `timestamp`; None when that is over and the window for late trades too."""
        start = self._base.start_of(timestamp)
        bucket = self._parts.get(start)
        end = self._base.end_of(start) if bucket is None else bucket.end
        if end <= self.clock and timestamp < self.clock - self._owner.lateness_ms:
            return None
        if bucket is None:
            bucket = self._parts[start] = TimeframeBucket(start, end)
            for series in self.series:
                series.open_bar(timestamp, self.clock)
        return bucket

    def _late(self, trade: StandardizedTrade, base: Decimal | None, quote: Decimal | None) -> None:
        """Fold a late trade into the bars that are still running; those that are over leave it to repair."""
        lost = False
        for series in self.series:
            if series.timeframe.end_of(series.timeframe.start_of(trade.timestamp)) <= self.clock:
                series.lack(trade.timestamp, trade.trade_id)
                lost = True
            else:
                series.open_bar(trade.timestamp, self.clock).add(trade, base, quote)
        self._owner.late += lost

    def absent(self, first: int, last: int) -> None:
        """Count ids that the exchange does not have as known; bars that waited for them are written again."""
        new = list(self.ids.unknown(first, last))
        for low, high in new:
            self._absent.add(low, high)
            self.ids.add(low, high)
        if new:
            self._mended = True
            self.step()

    def step(self) -> None:
        """Settle, finalise and write whatever the clock has made due."""
        clock, lateness = self.clock, self._owner.lateness_ms
        for start in sorted(self._parts):
            part = self._parts[start]
            if clock >= part.end + lateness:
                for series in self.series:
                    series.settle(part)
                del self._parts[start]
        mended, self._mended = self._mended, False
        self._owner.write(series.step(clock, mended) for series in self.series)
        action = self._part.end if self._part is not None else 0
        for series in self.series:
            if series.due is not None and series.due < action:
                action = series.due
        self._action = min(action, clock - clock % 1000 + 1000) if self._owner.partial else action
        self._owner.schedule(self)


class RealTimeCandleProcessor(Outlet):
    """Makes candles from trades, for any number of symbols and timeframes at once.

    Candles go to `emit` (and to the hooks) the moment they are due, those of one moment in the order of their ends.
    The only clock is the trades'; `advance` adds the wall clock for symbols that are live. Counts are attributes:
    `trades`, `duplicates`, `overlapping` (ids known in part), `late`, `candles`.

    Raises:
        InvalidLine: from the constructor, when a timeframe is none.
    """

    def __init__(self, timeframes: str | Iterable[str], emit: Emit | None = None, **rules: Unpack[Rules]) -> None:
        super().__init__(timeframes, emit, **rules)
        self.base = common(self.timeframes)
        self.trades = self.duplicates = self.overlapping = self.late = 0
        self.trade_hooks: list[Callable[[StandardizedTrade], None]] = []
        self._markets: dict[tuple[str, str], Market] = {}
        self._made = 0
        self._dormant: dict[Market, None] = {}  # those that are not live
        self._dues: list[tuple[int, int, Market]] = []  # a heap; who is due at another time by now is passed over
        self._scheduled = 0

    def on_trade(self, hook: Callable[[StandardizedTrade], None]) -> None:
        """Have `hook` called with every trade that is new, before the candles it makes due."""
        self.trade_hooks.append(hook)

    def feed(self, line: Line) -> None:
        """Take one line: trades, instruments and absent ids; others are ignored."""
        if type(line) is StandardizedTrade:
            self.trade(line)
        elif type(line) is Instrument:
            self.instrument(line)
        elif type(line) is Absent:
            self.absent(line)

    def trade(self, trade: StandardizedTrade) -> None:
        """Fold one trade in. Duplicates, by id, change nothing."""
        market = self._markets.get((trade.exchange, trade.symbol))
        if market is None:
            market = self._market(trade.exchange, trade.symbol)
        market.trade(trade)

    def seed(
        self,
        exchange: str,
        symbol: str,
        known: Iterable[Run],
        step: int,
        parts: Iterable[TimeframeBucket],
        until: int,
    ) -> None:
        """Take in what is known of a symbol from before its first trade, so that its open bars come out whole.

        `known` are ids that are stored or absent, `step` is how far time was seen to step back (ms), `parts` are what
        traded before `until` (ms, an edge of `base`), each within one bar of `base`. Of bars that were over by then
        nothing is made. The trades from `until` on are to be fed next, the newest of them at least `lateness_ms` after
        it: what is older is too late for `parts` to change.
        """
        self._market(exchange, symbol).seed(known, step, parts, until)

    def instrument(self, instrument: Instrument) -> None:
        """Learn what a size of this symbol means, from here on."""
        self._market(instrument.exchange, instrument.symbol).instrument = instrument

    def absent(self, absent: Absent) -> None:
        """Count ids that the exchange itself does not have as known."""
        self._market(absent.exchange, absent.symbol).absent(absent.first, absent.last)

    def _market(self, exchange: str, symbol: str) -> Market:
        key = (exchange, symbol)
        if key not in self._markets:
            self._made += 1
            market = self._markets[key] = Market(exchange, symbol, self._made, self)
            self._dormant[market] = None
        return self._markets[key]

    def forget(self, exchange: str, symbol: str) -> None:
        """Drop a symbol: write what late trades changed, then know nothing of it any more."""
        market = self._markets.pop((exchange, symbol), None)
        if market is not None:
            self.write(series.finish() for series in market.series)
            self._dormant.pop(market, None)
            market.due = None

    def advance(self, now_ms: int) -> int | None:
        """Write the bars of live symbols that the wall clock says are over; return when to call again, or None.

        They are written as not complete, and again when final, if anything differs.
        """
        if self._live is not False:
            self._wake(now_ms)
        ready: list[Market] = []
        while self._dues and (self._dues[0][0] <= now_ms or self._dues[0][0] != self._dues[0][2].due):
            due, _, market = heappop(self._dues)
            if due == market.due:
                market.due = None
                ready.append(market)
        for market in sorted(ready, key=lambda one: one.number):
            self._catch_up(market)
            self.write(series.provisional(now_ms, self.grace_ms) for series in market.series)
            self.schedule(market)
        return self._dues[0][0] if self._dues else None

    def _wake(self, now_ms: int) -> None:
        """Find out who is live by now."""
        for market in list(self._dormant):
            self._catch_up(market)
            if market.clock > 0 and (self._live or now_ms - market.clock < LIVE_MS):
                market.live = True
                del self._dormant[market]
                self.schedule(market)

    def schedule(self, market: Market) -> None:
        """Note when a live market is to be looked at by the wall clock."""
        if market.live:
            ends = [end for series in market.series if (end := series.next_end()) is not None]
            due = min(ends) + self.grace_ms if ends else None
            if due is not None and due != market.due:
                self._scheduled += 1
                heappush(self._dues, (due, self._scheduled, market))
            market.due = due

    def _catch_up(self, market: Market) -> None:
        """Fold in what is held back of a market, before it is looked at."""

    def finish(self) -> None:
        """Write, at end of input, what late trades changed; running bars are not written, unless `partial`."""
        for market in self._markets.values():
            self.write(series.finish() for series in market.series)

    def write(self, outputs: Iterable[Iterable[OHLCVCandle]]) -> None:
        """Hand candles out, several streams in time order merged into one by their ends."""
        self._hand_out(merge(*outputs, key=_by_end))

    def counts(self) -> dict[str, int]:
        """Return all counts: those of the attributes, ids missing, bars revised, bars running, symbols."""
        series = [s for market in self._markets.values() for s in market.series]
        return {
            "trades": self.trades,
            "candles": self.candles,
            "duplicates": self.duplicates,
            "overlapping": self.overlapping,
            "missing_fills": sum(market.ids.missing() for market in self._markets.values()),
            "late": self.late,
            "revised": sum(s.revised for s in series),
            "long_quiets": sum(s.long_quiets for s in series),
            "open_bars": sum(s.running() for s in series),
            "symbols": sum(market.clock > 0 for market in self._markets.values()),
        }
