"""A whole market, kept in plain integers: every fill that there is, and what each bar of it truly comes to.

Shares nothing with okx: lines are JSON text, numbers are digits, and a bar is a loop over the fills with its times.
`Market.judge` holds a candle line against it.
"""

import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate, combinations, islice
from typing import NamedTuple

PRICE_PLACES, SIZE_PLACES = 4, 8
#: Lengths of the timeframes that are used, in ms; all of them begin at 1970.
LENGTHS = {"1s": 1_000, "2s": 2_000, "3s": 3_000, "5s": 5_000, "6s": 6_000, "15s": 15_000, "1m": 60_000}
LENGTHS |= {"5m": 300_000, "15m": 900_000, "1h": 3_600_000}

_TRADE = (
    '{{"type":"trade","exchange":"okx","symbol":"{}","trade_id":{},"count":{},"side":"{}","price":"{}","size":"{}",'
    '"timestamp":{},"received":{},"source":0,"origin":"{}"}}'
)


class Fill(NamedTuple):
    """A fill; price and size in units of their last place, time in ms."""

    id: int
    ts: int
    price: int
    size: int
    side: str


class Figures(NamedTuple):
    """What a bar comes to, in units of the last place."""

    open: int
    high: int
    low: int
    close: int
    volume: int
    quote: int
    buy: int
    count: int
    first: int
    last: int


def text(units: int, places: int) -> str:
    """Return a number of units as decimal digits."""
    return f"{units // 10**places}.{units % 10**places:0{places}}"


def units(digits: str, places: int) -> int:
    """Return decimal digits as a number of units; -1 for a number that is no whole number of them."""
    whole, _, part = digits.partition(".")
    if part[places:].strip("0"):
        return -1
    return int(whole + part[:places].ljust(places, "0"))


def figures(fills: Iterable[Fill]) -> Figures:
    """Return what fills, of which there must be one, come to."""
    inside = sorted(fills)
    return Figures(
        inside[0].price,
        max(f.price for f in inside),
        min(f.price for f in inside),
        inside[-1].price,
        sum(f.size for f in inside),
        sum(f.size * f.price for f in inside),
        sum(f.size for f in inside if f.side == "buy"),
        len(inside),
        inside[0].id,
        inside[-1].id,
    )


class Market:
    """The `fills` of one symbol by rising id, and the ranges of ids that no fill has (`absent`).

    Times step back over ids by `step` ms at most; the ids `shown` do so, at the very beginning and over an edge. Ids of
    a sweep are of one order at one price and moment.
    """

    def __init__(
        self,
        symbol: str,
        fills: Iterable[Fill],
        absent: Iterable[tuple[int, int]] = (),
        step: int = 0,
        sweeps: Iterable[tuple[int, int]] = (),
        shown: Iterable[int] = (),
    ) -> None:
        self.symbol = symbol
        self.fills = {fill.id: fill for fill in sorted(fills)}
        self.ids = list(self.fills)
        self.absent = list(absent)
        self.step = step
        self.sweeps = list(sweeps)
        self.shown = list(shown)
        self._bars: dict[int, dict[int, list[Fill]]] = {}
        self._times = sorted(fill.ts for fill in self.fills.values())
        by_time = sorted(self.fills.values(), key=lambda fill: fill.ts)
        self._tops = list(accumulate(by_time, max))  # the fill with the highest id up to each of these times

    # ---- lines

    def trade(self, first: int, last: int | None = None) -> str:
        """Return a fill, or those of a sweep in one, as a line."""
        inside = [self.fills[number] for number in range(first, (last or first) + 1)]
        size = text(sum(f.size for f in inside), SIZE_PLACES)
        price, ts = text(inside[0].price, PRICE_PLACES), inside[0].ts
        origin = "trades-all" if len(inside) == 1 else "trades"
        values = (self.symbol, inside[-1].id, len(inside), inside[0].side, price, size, ts, ts + 40, origin)
        return _TRADE.format(*values)

    def nobody(self, first: int, last: int) -> str:
        """Return the line that says that ids are nobody's."""
        names = {"type": "absent", "exchange": "okx", "symbol": self.symbol}
        return json.dumps(names | {"first": first, "last": last})

    def candle(self, name: str, start: int, fills: Iterable[Fill], complete: bool, revision: int = 0) -> str:
        """Return a closed bar of these fills as a line."""
        bar = figures(fills)
        prices = {key: text(getattr(bar, key), PRICE_PLACES) for key in ("open", "high", "low", "close")}
        line = {"type": "candle", "exchange": "okx", "symbol": self.symbol, "timeframe": name, "start": start}
        line |= {"timestamp": start + LENGTHS[name], **prices, "volume": text(bar.volume, SIZE_PLACES)}
        line |= {"base_volume": text(bar.volume, SIZE_PLACES), "buy_volume": text(bar.buy, SIZE_PLACES)}
        line |= {"quote_volume": text(bar.quote, PRICE_PLACES + SIZE_PLACES), "trade_count": bar.count}
        line |= {"first_trade_id": bar.first, "last_trade_id": bar.last, "closed": True, "complete": complete}
        return json.dumps(line | {"revision": revision, "origin": "trades"})

    # ---- the truth

    def bars(self, length: int) -> dict[int, list[Fill]]:
        """Return the fills of every bar of this length (ms), by its start."""
        if length not in self._bars:
            found: dict[int, list[Fill]] = {}
            for fill in self.fills.values():
                found.setdefault(fill.ts - fill.ts % length, []).append(fill)
            self._bars[length] = found
        return self._bars[length]

    def judge(self, line: dict[str, object], without: Collection[int] = ()) -> str:
        """Return what is wrong with a candle that claims to be whole; nothing where it is right.

        `without` are ids that the exchange itself has denied so far.
        """
        start, end = line["start"], line["timestamp"]
        if not isinstance(start, int) or not isinstance(end, int) or end - start != LENGTHS[str(line["timeframe"])]:
            return "no such bar"
        inside = [fill for fill in self.bars(end - start).get(start, ()) if fill.id not in without]
        if not line["trade_count"]:
            return self._judge_flat(line, start, [fill.id for fill in inside], without)
        if not inside:
            return "nothing traded in it"
        right = figures(inside)
        if line["first_trade_id"] != right.first or line["last_trade_id"] != right.last:
            return f"ids {line['first_trade_id']}..{line['last_trade_id']}, not {right.first}..{right.last}"
        if line["trade_count"] != right.count:
            return f"{line['trade_count']} fills, not {right.count}"
        said = [units(str(line[key]), PRICE_PLACES) for key in ("open", "high", "low", "close")]
        said += [units(str(line[key]), SIZE_PLACES) for key in ("volume", "base_volume", "buy_volume")]
        said.append(units(str(line["quote_volume"]), PRICE_PLACES + SIZE_PLACES))
        wanted = [*right[:5], right.volume, right.buy, right.quote]
        return "" if said == wanted else f"{said}, not {wanted}"

    def excuse(self, line: dict[str, object], without: Collection[int], perhaps: Collection[int]) -> bool:
        """Whether a candle is right that lacks, besides those `without`, some of the ids that it `perhaps` lacks."""
        start, end = int(str(line["start"])), int(str(line["timestamp"]))
        open_ids = {fill.id for fill in self.bars(end - start).get(start, ())} & {*perhaps}
        if not line["trade_count"]:
            return self._excuse_flat(line, {*without, *open_ids}, perhaps)
        some = (chosen for size in range(len(open_ids) + 1) for chosen in combinations(sorted(open_ids), size))
        return any(not self.judge(line, {*without, *chosen}) for chosen in islice(some, 4_096))

    def _excuse_flat(self, line: dict[str, object], lacked: set[int], perhaps: Collection[int]) -> bool:
        while self.judge(line, lacked):
            before = self._before(int(str(line["start"])), lacked)
            if before is None or before.id not in perhaps:
                return False
            lacked.add(before.id)
        return True

    def _before(self, moment: int, without: Collection[int]) -> Fill | None:
        """Return the fill with the highest id of those before a moment."""
        if without:
            fills = (fill for fill in self.fills.values() if fill.ts < moment and fill.id not in without)
            return max(fills, default=None)
        at = bisect_left(self._times, moment)
        return self._tops[at - 1] if at else None

    def _judge_flat(self, line: dict[str, object], start: int, inside: list[int], without: Collection[int]) -> str:
        if inside:
            return f"flat, and {len(inside)} fills traded, {inside[0]} one of them"
        before = self._before(start, without)
        prices = {units(str(line[key]), PRICE_PLACES) for key in ("open", "high", "low", "close")}
        if before is None or prices != {before.price}:
            return f"flat at {prices}, not at {before and before.price}"
        return "" if units(str(line["volume"]), SIZE_PLACES) == 0 else "flat with a volume"


class Known:
    """What somebody holds of a market: `fills` by id, and the ids (`nobody`) that he was told to be nobody's.

    The strict rule of completeness, in its simplest form: ids are known in runs; a run proves a bar if it holds a fill
    from before it, or begins at 1, and one from past it, both by more than times step back.
    """

    def __init__(self, market: Market, fills: Iterable[int], nobody: Iterable[tuple[int, int]] = ()) -> None:
        self._market = market
        self._held = set(fills)
        known = sorted(self._held | {number for first, last in nobody for number in range(first, last + 1)})
        self._runs: list[list[int]] = []  # lowest id, highest id, smallest time, largest time
        for number in known:
            if not self._runs or self._runs[-1][1] != number - 1:
                self._runs.append([number, number, 1 << 62, 0])
            run = self._runs[-1]
            run[1] = number
            if number in self._held:
                ts = market.fills[number].ts
                run[2], run[3] = min(run[2], ts), max(run[3], ts)
        self._ends = [run[1] for run in self._runs]

    def proves(self, start: int, end: int, number: int) -> bool:
        """Whether the bar `[start, end)` with the held fill `number` is proved whole."""
        first, _, low, high = self._runs[bisect_left(self._ends, number)]
        return (first == 1 or low < start - self._market.step) and high >= end + self._market.step

    def bars(self, length: int) -> Iterator[tuple[int, list[Fill], bool]]:
        """Yield, oldest first, (start, fills held, whether they are proved to be all) of each bar with one of them."""
        for start, inside in sorted(self._market.bars(length).items()):
            held = [fill for fill in inside if fill.id in self._held]
            if held:
                yield start, held, self.proves(start, start + length, held[0].id)
