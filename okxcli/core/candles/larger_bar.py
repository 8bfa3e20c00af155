"""One larger bar and the parts that it is made of."""

from typing import NamedTuple

import msgspec

from okxcli.core.decimals import ZERO, total
from okxcli.core.model import OHLCVCandle


class _Hull(NamedTuple):
    """The lowest and the highest id of any version of a part; `mixed`: of several that do not hold the same ids."""

    first: int
    last: int
    fills: int
    mixed: bool = False


def _lacks_ids(part: OHLCVCandle, hull: _Hull) -> bool:
    if (part.first_trade_id, part.last_trade_id) != (hull.first, hull.last):
        return True
    return hull.mixed and part.trade_count != hull.last - hull.first + 1


class Whole:
    """A larger bar: recent parts by their start, older ones folded into `folded`.

    `short`: a version of a part came that has ids which are not in the bar.
    """

    __slots__ = ("count", "end", "final", "folded", "folded_until", "hulls", "parts", "revision", "short", "start",
                 "written")  # fmt: skip

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.parts: dict[int, OHLCVCandle] = {}
        self.folded: OHLCVCandle | None = None
        self.folded_until = start
        self.count = 0  # parts in `folded`
        self.hulls: dict[int, _Hull] = {}  # of any version of a part
        self.short = False
        self.final = False
        self.written: OHLCVCandle | None = None
        self.revision = 0

    def note(self, part: OHLCVCandle) -> None:
        """Remember which ids a part has, whether or not it is taken."""
        if part.first_trade_id is not None and part.last_trade_id is not None:
            new = _Hull(part.first_trade_id, part.last_trade_id, part.trade_count or 0)
            old = self.hulls.get(part.start, new)
            more = old.mixed or old[:3] != new[:3]
            self.hulls[part.start] = _Hull(min(old.first, new.first), max(old.last, new.last), new.fills, more)

    def lacks_ids(self) -> bool:
        """Whether ids came, or may have come, for the time of this bar that are not in it."""
        return self.short or any(
            start not in self.parts or _lacks_ids(self.parts[start], hull) for start, hull in self.hulls.items()
        )

    def fold(self, before: int) -> None:
        """Merge the parts that start before `before`; they cannot be replaced any more."""
        self.short = self.lacks_ids()
        old = sorted(start for start in self.parts if start < before)
        if old:
            pieces = [] if self.folded is None else [self.folded]
            self.folded = combine([*pieces, *(self.parts.pop(start) for start in old)])
            self.folded_until = before
            self.hulls = {start: hull for start, hull in self.hulls.items() if start >= before}
            self.count += len(old)


def combine(parts: list[OHLCVCandle]) -> OHLCVCandle:
    """Merge candles, oldest first, into one that spans them; `complete` if all of them are.

    Open comes from the part with the lowest first id, close from the one with the highest last id; where there are no
    ids, from the first and the last part. Parts in which nothing traded have no say beside others that have ids.
    """
    traded = [part for part in parts if part.first_trade_id is not None]
    if traded:
        opener = min(traded, key=_first_id)
        closer = max(traded, key=last_id)
    else:
        traded = parts
        opener, closer = parts[0], parts[-1]
    return msgspec.structs.replace(
        parts[0],
        timestamp=parts[-1].timestamp,
        open=opener.open,
        high=max(part.high for part in traded),
        low=min(part.low for part in traded),
        close=closer.close,
        volume=total(part.volume for part in parts) or ZERO,
        base_volume=total(part.base_volume for part in parts),
        quote_volume=total(part.quote_volume for part in parts),
        buy_volume=total(part.buy_volume for part in parts),
        trade_count=_count(parts),
        first_trade_id=opener.first_trade_id,
        last_trade_id=closer.last_trade_id,
        complete=all(part.complete for part in parts),
        revision=0,
    )


def _first_id(part: OHLCVCandle) -> int:
    return part.first_trade_id or 0


def last_id(part: OHLCVCandle) -> int:
    """Return the highest id in a bar; 0 where it has none."""
    return part.last_trade_id or 0


def _count(parts: list[OHLCVCandle]) -> int | None:
    counts = [part.trade_count for part in parts]
    return None if None in counts else sum(count for count in counts if count is not None)
