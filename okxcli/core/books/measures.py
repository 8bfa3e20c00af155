"""What follows from a book: spread, microprice, imbalance, and how much stands near the middle. Exact decimals."""

import re
from collections.abc import Callable
from decimal import Decimal

from okxcli.core.books.local_book import LocalBook, Side
from okxcli.core.decimals import EXACT, ZERO, plain, quotient
from okxcli.errors import InvalidLine

#: A measure: further keys of the line of a good book, in their spelling, each after a comma.
Measure = Callable[[LocalBook], str]

_DEPTH = re.compile(r"depth=([1-9][0-9]{0,4})", re.ASCII)
_BASIS = 10_000
_TWICE = Decimal(2 * _BASIS)  # the middle is half of a sum
#: What a book has of a side at most on the channels of 400 levels: what lies beyond is not known.
_KNOWN = {"books": 400, "books-l2-tbt": 400, "books50-l2-tbt": 50}


def parse_measures(text: str) -> list[Measure]:
    """Return the measures that a list with commas names: `spread`, `microprice`, `imbalance`, `depth=10`.

    Raises:
        InvalidLine: one of them is none.
    """
    found: list[Measure] = []
    for name in dict.fromkeys(part.strip() for part in text.split(",")):
        depth = _DEPTH.fullmatch(name)
        if depth is not None:
            found.append(_within(int(depth[1])))
        elif name in _PLAIN:
            found.append(_PLAIN[name])
        else:
            raise InvalidLine(f"no such measure: {name!r}. There are {', '.join(_PLAIN)} and depth=10 (basis points)")
    return found


def _spread(book: LocalBook) -> str:
    return f',"spread":"{plain(EXACT.subtract(book.asks.best, book.bids.best))}"'


def _microprice(book: LocalBook) -> str:
    """The middle, nearer to the side on which less stands; rounded to 18 places."""
    bid, ask = book.bids.best, book.asks.best
    bids, asks = book.bids.best_size, book.asks.best_size
    weighed = EXACT.add(EXACT.multiply(bid, asks), EXACT.multiply(ask, bids))
    return f',"microprice":"{plain(quotient(weighed, EXACT.add(bids, asks)))}"'


def _imbalance(book: LocalBook) -> str:
    """From -1 (nothing is bid) to 1 at the best prices; rounded to 18 places."""
    bids, asks = book.bids.best_size, book.asks.best_size
    return f',"imbalance":"{plain(quotient(EXACT.subtract(bids, asks), EXACT.add(bids, asks)))}"'


def _within(points: int) -> Measure:
    """Return what sums the sizes up to so many basis points from the middle of the best prices, each side by itself."""

    def measure(book: LocalBook) -> str:
        both = EXACT.add(book.bids.best, book.asks.best)
        low, high = (EXACT.multiply(both, Decimal(_BASIS + away)) for away in (-points, points))
        known = _KNOWN.get(book.origin)
        bids, asks = _total(book.bids, low, known, falling=True), _total(book.asks, high, known, falling=False)
        return f',"bid_depth_{points}bp":{bids},"ask_depth_{points}bp":{asks}'

    return measure


def _total(side: Side, bound: Decimal, known: int | None, falling: bool) -> str:
    """Return the sum of a side up to `bound`, 20,000 times a price; null where the book may not reach that far."""
    total = ZERO
    for price, size in side.levels():
        scaled = EXACT.multiply(price, _TWICE)
        if scaled < bound if falling else scaled > bound:
            return f'"{plain(total)}"'
        total = EXACT.add(total, size)
    return "null" if known is not None and len(side) >= known else f'"{plain(total)}"'


_PLAIN: dict[str, Measure] = {"spread": _spread, "microprice": _microprice, "imbalance": _imbalance}
