"""One order book, kept from a snapshot and the updates that follow on each other. No clock, no I/O.

Each update names the one before it. As long as that chain holds the book is the exchange's own, to the last digit;
where it breaks nothing is known any more, until the next snapshot. Only the levels that an update names are touched.
"""

from bisect import bisect_left
from decimal import Decimal
from enum import Enum

from okxcli.core.books.chain import PASSED, Chain, Numbers, Step
from okxcli.core.checks import MAX_LEVELS
from okxcli.core.decimals import plain
from okxcli.core.model import BookSnapshot, BookUpdate, Levels


class State(Enum):
    """What a book is worth, in the words that people are told."""

    GOOD = "good"
    WAITING = "not known yet"
    INVALID = "invalid"
    EMPTY = "empty"
    ONE_SIDED = "one-sided"
    CROSSED = "crossed"


class _Level:
    """A level, and its spelling once that was wanted."""

    __slots__ = ("price", "size", "text")

    def __init__(self, price: Decimal, size: Decimal) -> None:
        self.price, self.size = price, size
        self.text: str | None = None


class Side:
    """The levels of one side; `rising`: the best is the lowest price.

    Prices and levels lie side by side, ascending, so that who reads them looks none up.
    """

    __slots__ = ("_known", "_levels", "_prices", "_rising")

    def __init__(self, rising: bool) -> None:
        self._rising = rising
        self._prices: list[Decimal] = []
        self._levels: list[_Level] = []
        self._known: dict[Decimal, _Level] = {}

    def __len__(self) -> int:
        return len(self._prices)

    @property
    def best(self) -> Decimal:
        """The best price; there must be one."""
        return self._prices[0 if self._rising else -1]

    @property
    def best_size(self) -> Decimal:
        """What stands at the best price; there must be one."""
        return self._levels[0 if self._rising else -1].size

    def set(self, levels: Levels) -> None:
        """Have these levels and no others; a size of 0 is none."""
        self._known = {price: _Level(price, size) for price, size in levels if size}
        self._prices = sorted(self._known)
        self._levels = [self._known[price] for price in self._prices]

    def change(self, levels: Levels) -> None:
        """Let these sizes stand from now on; 0 deletes."""
        known = self._known
        for price, size in levels:
            level = known.get(price)
            if level is None:
                if size:
                    at = bisect_left(self._prices, price)
                    level = known[price] = _Level(price, size)
                    self._prices.insert(at, price)
                    self._levels.insert(at, level)
            elif size:
                level.size, level.text = size, None
            else:
                at = bisect_left(self._prices, price)
                del known[price], self._prices[at], self._levels[at]

    def levels(self, depth: int | None = None) -> Levels:
        """Return the best levels, the best one first."""
        return tuple([(level.price, level.size) for level in self._best(depth)])

    def spelt(self, depth: int | None = None) -> str:
        """Return the best levels as a line has them; each is spelt once, until it changes."""
        found = []
        for level in self._best(depth):
            if level.text is None:
                level.text = f'["{plain(level.price)}","{plain(level.size)}"]'
            found.append(level.text)
        return f"[{','.join(found)}]"

    def _best(self, depth: int | None) -> list[_Level]:
        count = len(self._levels) if depth is None else depth
        return self._levels[:count] if self._rising else self._levels[: -count - 1 : -1]


class LocalBook:
    """The book of one symbol on one channel. `reason` says why it is not known, while it is not."""

    __slots__ = ("_chain", "asks", "bids", "exchange", "origin", "reason", "symbol")

    def __init__(self, exchange: str, symbol: str, origin: str) -> None:
        self.exchange, self.symbol, self.origin = exchange, symbol, origin
        self.bids, self.asks = Side(rising=False), Side(rising=True)
        self.reason = "its snapshot has not come"
        self._chain = Chain()

    @property
    def seq_id(self) -> int | None:
        """The number of the last message that is in it."""
        return self._chain.seq_id

    @property
    def state(self) -> State:
        """What the book is worth now."""
        if not self._chain.standing:
            return State.WAITING if self._chain.standing is None else State.INVALID
        bids, asks = self.bids, self.asks
        if not len(bids) or not len(asks):
            return State.ONE_SIDED if len(bids) or len(asks) else State.EMPTY
        return State.CROSSED if bids.best >= asks.best else State.GOOD

    def expected(self, update: BookUpdate) -> Step:
        """Say what a message will be to the book, which stays as it is."""
        return self._chain.expected(_numbers(update))

    def take(self, update: BookUpdate) -> Step:
        """Take in the next message of the channel; say what it was: `expected`, or a gap where levels have no end."""
        at = _numbers(update)
        step = self._chain.expected(at)
        if step in PASSED:
            return step
        if step is Step.GAP:
            self.drop(self._chain.why(at))
            return step
        self._chain.take(at)
        if step is Step.SNAPSHOT:
            self.bids.set(update.bids)
            self.asks.set(update.asks)
        else:
            self.bids.change(update.bids)
            self.asks.change(update.asks)
        if len(self.bids) > MAX_LEVELS or len(self.asks) > MAX_LEVELS:
            self.drop(f"more than {MAX_LEVELS} levels on a side")
            return Step.GAP
        return step

    def drop(self, reason: str) -> None:
        """Know the book no longer, until the next snapshot."""
        self._chain.standing = False
        self.reason = reason
        self.bids.set(())
        self.asks.set(())

    def snapshot(self, timestamp: int, received: int | None, depth: int | None = None) -> BookSnapshot:
        """Return the book as it is."""
        bids, asks = self.bids.levels(depth), self.asks.levels(depth)
        return BookSnapshot(self.exchange, self.symbol, timestamp, bids, asks, self.seq_id, received, self.origin)

    def line(self, timestamp: int, received: int | None, depth: int | None = None, more: str = "") -> bytes:
        """Return the book as its line, the bytes of `codec.encode`; `more` are further keys, each after a comma."""
        return (
            f'{{"type":"book","exchange":"{self.exchange}","symbol":"{self.symbol}","timestamp":{timestamp},'
            f'"received":{"null" if received is None else received},'
            f'"seq_id":{"null" if self.seq_id is None else self.seq_id},"bids":{self.bids.spelt(depth)},'
            f'"asks":{self.asks.spelt(depth)},"origin":"{self.origin}"{more}}}'
        ).encode()


def _numbers(update: BookUpdate) -> Numbers:
    return Numbers(update.action == "snapshot", update.seq_id, update.prev_seq_id, update.timestamp)
