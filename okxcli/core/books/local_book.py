"""One order book, kept from a snapshot and the updates that follow on each other. No clock, no I/O.

Each update names the one before it. As long as that chain holds the book is the exchange's own, to the last digit;
where it breaks nothing is known any more, until the next snapshot. Only the levels that an update names are touched.
"""

from bisect import bisect_left, insort
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


class Side:
    """The levels of one side; `rising`: the best is the lowest price."""

    __slots__ = ("_prices", "_rising", "_sizes", "_spelt")

    def __init__(self, rising: bool) -> None:
        self._rising = rising
        self._prices: list[Decimal] = []  # ascending
        self._sizes: dict[Decimal, Decimal] = {}
        self._spelt: dict[Decimal, str] = {}

    def __len__(self) -> int:
        return len(self._prices)

    @property
    def best(self) -> Decimal:
        """The best price; there must be one."""
        return self._prices[0 if self._rising else -1]

    @property
    def worst(self) -> Decimal:
        """The price that is furthest from the best one; there must be one."""
        return self._prices[-1 if self._rising else 0]

    def set(self, levels: Levels) -> None:
        """Have these levels and no others; a size of 0 is none."""
        self._sizes = {price: size for price, size in levels if size}
        self._prices = sorted(self._sizes)
        self._spelt.clear()

    def change(self, levels: Levels) -> None:
        """Let these sizes stand from now on; 0 deletes."""
        sizes, prices, spelt = self._sizes, self._prices, self._spelt
        for price, size in levels:
            known = price in sizes
            if known:
                spelt.pop(price, None)
            if size:
                sizes[price] = size
                if not known:
                    insort(prices, price)
            elif known:
                del sizes[price]
                del prices[bisect_left(prices, price)]

    def prices(self, depth: int | None = None) -> list[Decimal]:
        """Return the best prices, the best one first."""
        count = len(self._prices) if depth is None else depth
        return self._prices[:count] if self._rising else self._prices[: -count - 1 : -1]

    def levels(self, depth: int | None = None) -> Levels:
        """Return the best levels, the best one first."""
        return tuple([(price, self._sizes[price]) for price in self.prices(depth)])

    def size(self, price: Decimal) -> Decimal:
        """Return what stands at a price that has a level."""
        return self._sizes[price]

    def spelt(self, depth: int | None = None) -> str:
        """Return the best levels as a line has them; each is spelt once, until it changes."""
        spelt, sizes = self._spelt, self._sizes
        found = []
        for price in self.prices(depth):
            text = spelt.get(price)
            if text is None:
                text = spelt[price] = f'["{plain(price)}","{plain(sizes[price])}"]'
            found.append(text)
        return f"[{','.join(found)}]"


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
        """Take in the next message of the channel; say what it was."""
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
