"""Two candles of one bar side by side: which is the better one, what differs, what simple mistakes look like."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from okxcli.core.decimals import EXACT, plain, total
from okxcli.core.model import OHLCVCandle

#: What two makers of a bar can be compared by: everything that both of them know.
FIELDS = ("open", "high", "low", "close", "volume", "base_volume", "quote_volume")

#: What may be unknown at first (the instrument was) and known later, of the same fills.
_AMOUNTS = ("base_volume", "quote_volume", "buy_volume")


def same(a: OHLCVCandle, b: OHLCVCandle) -> bool:
    """Whether two candles say the same, whatever their revision."""
    return msgspec.structs.replace(a, revision=b.revision) == b


def beats(new: OHLCVCandle, old: OHLCVCandle, proven: bool = False) -> bool:
    """Whether `new` is to take the place of `old`, a bar of the same exchange, symbol, origin, timeframe and time.

    A bar that is over beats a running one and never the other way round. A rebuild from rows that the ledger proves
    (`proven`) beats anything else. One with fewer fills over the same ids, or over some of them, never wins, whatever
    it says of itself. Then complete beats incomplete; then the one with more fills; of two versions of the exchange's
    own bar, which do not count fills, the one with more volume, for that only grows. With as many the newer wins if
    it is running, if it is the exchange's, or if it knows an amount that the other does not. One that says the same
    never wins.
    """
    if same(new, old):
        return False
    if new.closed != old.closed:
        return new.closed
    if proven:
        return True
    if _holds_more(new, old):
        return True
    if _holds_more(old, new):
        return False
    if new.complete != old.complete:
        return new.complete
    if new.trade_count != old.trade_count:
        return (new.trade_count or 0) > (old.trade_count or 0)
    if new.trade_count is None:
        return new.volume >= old.volume
    return not new.closed or _knows_more(new, old)


def fills(candle: OHLCVCandle) -> int:
    """Return how many fills a bar holds, no more than it can by its ids; 0 where nobody counted."""
    if candle.first_trade_id is None or candle.last_trade_id is None:
        return candle.trade_count or 0
    return min(candle.trade_count or 0, candle.last_trade_id - candle.first_trade_id + 1)


def _holds_more(one: OHLCVCandle, other: OHLCVCandle) -> bool:
    """Whether a bar has more fills than another, over all of its ids."""
    if fills(one) <= fills(other) or one.first_trade_id is None or one.last_trade_id is None:
        return False
    if other.first_trade_id is None or other.last_trade_id is None:
        return True
    return one.first_trade_id <= other.first_trade_id and other.last_trade_id <= one.last_trade_id


def _knows_more(new: OHLCVCandle, old: OHLCVCandle) -> bool:
    gained = False
    for name in _AMOUNTS:
        before, after = getattr(old, name), getattr(new, name)
        if before is not None and after != before:
            return False
        gained = gained or (before is None and after is not None)
    return gained


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
        volume=total(part.volume for part in traded),
        base_volume=total(part.base_volume for part in traded),
        quote_volume=total(part.quote_volume for part in traded),
    )
