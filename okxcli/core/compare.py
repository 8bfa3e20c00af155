"""Two candles of one bar side by side: which numbers differ, and what simple mistakes look like."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from okxcli.core.decimals import EXACT, plain
from okxcli.core.model import OHLCVCandle

#: What two makers of a bar can be compared by: everything that both of them know.
FIELDS = ("open", "high", "low", "close", "volume", "base_volume", "quote_volume")


def differing(ours: OHLCVCandle, theirs: OHLCVCandle, rounded: frozenset[str] = frozenset()) -> list[str]:
    """Return the fields whose numbers differ; a number that one side does not know is not compared.

    Those in `rounded` are quotients, which the other side may have rounded: they agree within one unit of the last
    place that it shows.
    """
    found = []
    for name in FIELDS:
        a: Decimal | None = getattr(ours, name)
        b: Decimal | None = getattr(theirs, name)
        if a is None or b is None or a == b:
            continue
        if name in rounded and abs(EXACT.subtract(a, b)) <= Decimal(1).scaleb(min(int(b.as_tuple().exponent), 0)):
            continue
        found.append(name)
    return found


def values(candle: OHLCVCandle, names: Iterable[str] = FIELDS) -> dict[str, str | None]:
    """Return fields of a candle as a line spells them."""
    numbers = {name: getattr(candle, name) for name in names}
    return {name: None if number is None else plain(number) for name, number in numbers.items()}


def is_flat(candle: OHLCVCandle) -> bool:
    """Whether nothing was traded in the bar."""
    return not candle.volume


def is_swapped(ours: OHLCVCandle, theirs: OHLCVCandle) -> bool:
    """Whether all that is wrong is that open and close stand in each other's place."""
    return (
        ours.open == theirs.close and ours.close == theirs.open and not {*differing(ours, theirs)} - {"open", "close"}
    )


def is_shared_edge(a: OHLCVCandle, b: OHLCVCandle, their_a: OHLCVCandle, their_b: OHLCVCandle) -> bool:
    """Whether two bars that follow each other hold together what theirs hold, and only the edge is elsewhere."""
    return a.volume != their_a.volume and EXACT.add(a.volume, b.volume) == EXACT.add(their_a.volume, their_b.volume)


def merged(parts: Iterable[OHLCVCandle], like: OHLCVCandle) -> OHLCVCandle | None:
    """Return the bar of `like`'s time that smaller bars of a maker without ids come to; None without any trade."""
    traded = sorted((part for part in parts if not is_flat(part)), key=lambda part: part.start)
    if not traded:
        return None
    return msgspec.structs.replace(
        like,
        open=traded[0].open,
        high=max(part.high for part in traded),
        low=min(part.low for part in traded),
        close=traded[-1].close,
        volume=_sum(part.volume for part in traded),
        base_volume=_sum(part.base_volume for part in traded),
        quote_volume=_sum(part.quote_volume for part in traded),
    )


def _sum(numbers: Iterable[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for number in numbers:
        if number is None:
            return None
        total = EXACT.add(total, number)
    return total
