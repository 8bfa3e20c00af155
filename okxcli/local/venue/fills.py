"""The list of fills of one instrument: the truth from which the local exchange derives everything else.

Ids rise by one, except where the exchange itself lost a fill (`Tape.absent`). Fills stand in id order; times may step
back. What is kept is bounded: beyond the cap the oldest fills go, their minute bars stay.
"""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import reduce
from itertools import groupby, takewhile
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


def merged(fills: Iterable[Fill]) -> Iterator[Fill]:
    """Yield `fills` (of one instrument, in id order) as the `trades` channel shows them.

    Consecutive fills of one taker order at one price and of one source are one trade, with the id of the last of them;
    `matches` is how many they are, OKX's `count`.
    """
    for _, group in groupby(fills, key=lambda fill: (fill.order, fill.price, fill.source)):
        *before, last = group
        if before:
            size = reduce(EXACT.add, (Decimal(part.size) for part in before), Decimal(last.size))
            last = last._replace(size=plain(size), matches=last.matches + sum(part.matches for part in before))
        yield last


class Tape:
    """The fills of one instrument, oldest first.

    `absent` holds the ids that were given out and lost: no channel and no page ever shows them.
    """

    def __init__(self, symbol: str, keep: int = KEEP) -> None:
        self.symbol = symbol
        self.fills: list[Fill] = []
        self.absent: list[int] = []
        self._keep = keep

    def append(self, fill: Fill) -> None:
        """Add the next fill.

        Raises:
            ValueError: its id does not rise.
        """
        if self.fills and fill.trade_id <= self.fills[-1].trade_id:
            raise ValueError(f"{self.symbol}: id {fill.trade_id} after {self.fills[-1].trade_id}")
        self.fills.append(fill)
        if len(self.fills) > self._keep + self._keep // 4 + 1:  # in strides: deleting from the front costs the rest
            del self.fills[: -self._keep]

    @property
    def last(self) -> Fill | None:
        """The newest fill, if there is one."""
        return self.fills[-1] if self.fills else None

    @property
    def last_id(self) -> int:
        """The newest id that was given out, to a fill or to nobody; 0 before the first."""
        return max(self.fills[-1].trade_id if self.fills else 0, self.absent[-1] if self.absent else 0)

    def page(self, after: int | None, before: int | None, limit: int, until: int = sys.maxsize) -> list[Fill]:
        """Return at most `limit` fills with ids below `after` and above `before`, newest first.

        Fills later than the time `until` (ms) are left out: those that the cache which answers does not know yet.
        """
        low = 0 if before is None else bisect_right(self.fills, before, key=_id)
        high = len(self.fills) if after is None else bisect_left(self.fills, after, key=_id)
        known = len(self.fills)
        while known and self.fills[known - 1].ts > until:  # times may step back: walk, do not bisect
            known -= 1
        high = min(high, known)
        return self.fills[max(low, high - limit) : high][::-1]

    def last_group(self) -> Fill | None:
        """Return the newest merged trade, if there is one."""
        newest = list(takewhile(lambda fill: fill.order == self.fills[-1].order, reversed(self.fills)))
        return list(merged(reversed(newest)))[-1] if newest else None


def _id(fill: Fill) -> int:
    return fill.trade_id
