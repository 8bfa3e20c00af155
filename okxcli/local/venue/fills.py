"""The list of fills of one instrument: the truth from which the local exchange derives everything else.

Ids rise by one, except where the exchange itself lost a fill (`Tape.absent`). Fills stand in id order; times may step
back. What is kept is bounded: beyond the cap the oldest fills go, their minute bars stay.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import reduce
from itertools import groupby
from typing import NamedTuple

from okxcli.core.decimals import EXACT, plain

#: Fills kept for each symbol unless told otherwise; about 350 bytes each.
KEEP = 100_000


class Fill(NamedTuple):
    """One fill. `price` and `size` are canonical decimals as text, `side` is the taker's, `ts` is in milliseconds.

    `order` numbers the taker orders of an instrument: the fills of one order stand together and share `ts`. The
    exchange does not tell it; it decides which fills the `trades` channel merges. `matches` is above 1 only for what a
    recording holds in merged form.
    """

    trade_id: int
    price: str
    size: str
    side: str
    ts: int
    source: int
    order: int
    matches: int = 1


class Merged(NamedTuple):
    """Consecutive fills of one taker order at one price and of one source, as the `trades` channel shows them."""

    trade_id: int  # of the last fill
    price: str
    size: str
    side: str
    ts: int
    source: int
    matches: int  # how many fills, OKX's `count`


def merged(fills: Iterable[Fill]) -> Iterator[Merged]:
    """Yield `fills` (of one instrument, in id order) merged by taker order, price and source."""
    for _, group in groupby(fills, key=lambda fill: (fill.order, fill.price, fill.source)):
        parts = list(group)
        last = parts[-1]
        if len(parts) == 1:
            yield Merged(last.trade_id, last.price, last.size, last.side, last.ts, last.source, last.matches)
            continue
        size = plain(reduce(EXACT.add, (Decimal(part.size) for part in parts)))
        matches = sum(part.matches for part in parts)
        yield Merged(last.trade_id, last.price, size, last.side, last.ts, last.source, matches)


class Tape:
    """The fills of one instrument, oldest first.

    `absent` holds the ids that were given out and lost: no channel and no page ever shows them. `total` counts every
    fill ever appended, kept or not.
    """

    def __init__(self, symbol: str, keep: int = KEEP) -> None:
        self.symbol = symbol
        self.fills: list[Fill] = []
        self.absent: list[int] = []
        self.total = 0
        self._keep = keep
        self._ids: list[int] = []

    def append(self, fill: Fill) -> None:
        """Add the next fill.

        Raises:
            ValueError: its id does not rise.
        """
        if self._ids and fill.trade_id <= self._ids[-1]:
            raise ValueError(f"{self.symbol}: id {fill.trade_id} after {self._ids[-1]}")
        self.fills.append(fill)
        self._ids.append(fill.trade_id)
        self.total += 1
        if len(self._ids) > self._keep + self._keep // 4 + 1:  # in strides: deleting from the front costs the rest
            del self.fills[: -self._keep], self._ids[: -self._keep]

    @property
    def last(self) -> Fill | None:
        """The newest fill, if there is one."""
        return self.fills[-1] if self.fills else None

    def page(self, after: int | None, before: int | None, limit: int, until: int | None = None) -> list[Fill]:
        """Return at most `limit` fills with ids below `after` and above `before`, newest first.

        `until` is the age of the cache that answers: fills later than that time (ms) are not in it yet.
        """
        high = len(self._ids) if after is None else bisect_left(self._ids, after)
        low = 0 if before is None else bisect_right(self._ids, before)
        high = min(high, self._known_until(until))
        return self.fills[max(low, high - limit) : high][::-1] if high > low else []

    def page_by_time(self, after: int | None, limit: int, until: int | None = None) -> list[Fill]:
        """Return at most `limit` fills older than the time `after` (ms), newest first."""
        high = self._known_until(until)
        if after is not None:
            while high and self.fills[high - 1].ts >= after:  # times may step back: walk, do not bisect
                high -= 1
        return self.fills[max(0, high - limit) : high][::-1]

    def since(self, ts: int) -> list[Fill]:
        """Return the kept fills from the first one at or after the time `ts` (ms) on."""
        return self.fills[bisect_left(self.fills, ts, key=lambda fill: fill.ts) :]

    def last_group(self) -> Merged | None:
        """Return the newest merged trade, if there is one."""
        if not self.fills:
            return None
        start = len(self.fills) - 1
        while start > 0 and self.fills[start - 1].order == self.fills[start].order:
            start -= 1
        return list(merged(self.fills[start:]))[-1]

    def _known_until(self, until: int | None) -> int:
        high = len(self.fills)
        if until is not None:
            while high and self.fills[high - 1].ts > until:
                high -= 1
        return high
