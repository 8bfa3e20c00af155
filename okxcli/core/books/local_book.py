"""One order book, kept from a snapshot and the updates that follow on each other. No clock, no I/O.

Each update names the one before it. As long as that chain holds the book is the exchange's own, to the last digit;
where it breaks nothing is known any more, until the next snapshot. Only the levels that an update names are touched.
"""

from bisect import bisect_left, insort
from collections import deque
from decimal import Decimal
from enum import Enum

from okxcli.core.checks import MAX_LEVELS
from okxcli.core.decimals import plain
from okxcli.core.model import BookSnapshot, BookUpdate, Levels

#: Messages whose numbers are remembered: one of them that comes again is no gap.
_REMEMBERED = 256
#: By how much an update may seem younger than a snapshot that has it already.
_YOUNGER_MS = 1_000


class Step(Enum):
    """What a message was to a book."""

    SNAPSHOT = "snapshots"
    UPDATE = "updates"
    KEEP_ALIVE = "keep_alives"  # nothing has changed
    RESET = "resets"  # the exchange counts from a lower number on; the book goes on
    OLD = "duplicates"  # it was in the book already
    GAP = "gaps"  # the book is not known from here on
    IGNORED = "ignored"  # the book is not known yet, or not any more


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

    __slots__ = (
        "_joining_ms",
        "_recent",
        "_standing",
        "asks",
        "bids",
        "exchange",
        "origin",
        "reason",
        "seq_id",
        "symbol",
    )

    def __init__(self, exchange: str, symbol: str, origin: str) -> None:
        self.exchange, self.symbol, self.origin = exchange, symbol, origin
        self.bids, self.asks = Side(rising=False), Side(rising=True)
        self.seq_id: int | None = None
        self.reason = "its snapshot has not come"
        self._standing: bool | None = None  # None: there was no snapshot yet
        self._joining_ms: int | None = None  # when the snapshot was made that the next update joins
        self._recent: deque[tuple[int | None, int | None]] = deque(maxlen=_REMEMBERED)

    @property
    def state(self) -> State:
        """What the book is worth now."""
        if not self._standing:
            return State.WAITING if self._standing is None else State.INVALID
        bids, asks = self.bids, self.asks
        if not len(bids) or not len(asks):
            return State.ONE_SIDED if len(bids) or len(asks) else State.EMPTY
        return State.CROSSED if bids.best >= asks.best else State.GOOD

    def expected(self, update: BookUpdate) -> Step:
        """Say what a message will be to the book, which stays as it is."""
        seq, before = update.seq_id, update.prev_seq_id
        if update.action == "snapshot":
            return Step.SNAPSHOT
        if not self._standing:
            return Step.IGNORED
        if seq is None or before is None or self.seq_id is None:
            return Step.UPDATE if seq is None and self.seq_id is None else Step.GAP
        if self._joining_ms is not None:
            return self._joined(update, seq, before, self.seq_id)
        if before != self.seq_id:
            return Step.OLD if (before, seq) in self._recent else Step.GAP
        if seq == before:
            return Step.UPDATE if update.bids or update.asks else Step.KEEP_ALIVE
        return Step.RESET if seq < before else Step.UPDATE

    def _joined(self, update: BookUpdate, seq: int, before: int, fetched: int) -> Step:
        """Say the same right after a snapshot that was fetched: it stands at one of the updates, or between two."""
        if seq < before:
            return Step.RESET if before == fetched else Step.GAP
        if seq < fetched or (seq == fetched and before < seq):
            # A lower number that is younger was counted anew: what that snapshot has to do with it nobody knows.
            return Step.OLD if update.timestamp <= (self._joining_ms or 0) + _YOUNGER_MS else Step.GAP
        if before > fetched:
            return Step.GAP
        return Step.UPDATE if seq > before else Step.KEEP_ALIVE

    def take(self, update: BookUpdate) -> Step:
        """Take in the next message of the channel; say what it was."""
        step = self.expected(update)
        if step is Step.SNAPSHOT:
            self.bids.set(update.bids)
            self.asks.set(update.asks)
            self._standing = True
            self._recent.clear()
            fetched = update.seq_id is not None and update.prev_seq_id is None
            self._joining_ms = update.timestamp if fetched else None
        elif step is Step.GAP:
            self.drop(self._why(update))
        elif step not in (Step.OLD, Step.IGNORED):
            self.bids.change(update.bids)
            self.asks.change(update.asks)
            self._recent.append((update.prev_seq_id, update.seq_id))
            self._joining_ms = None
        if step in (Step.OLD, Step.IGNORED, Step.GAP):
            return step
        self.seq_id = update.seq_id
        if len(self.bids) > MAX_LEVELS or len(self.asks) > MAX_LEVELS:
            self.drop(f"more than {MAX_LEVELS} levels on a side")
            return Step.GAP
        return step

    def drop(self, reason: str) -> None:
        """Know the book no longer, until the next snapshot."""
        self._standing = False
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

    def _why(self, update: BookUpdate) -> str:
        if update.seq_id is None or self.seq_id is None:
            return "messages with and without numbers follow on each other"
        if self._joining_ms is not None:
            return (
                f"the snapshot of {self.seq_id} was fetched before {update.prev_seq_id}, and what is between is missing"
            )
        return f"an update that follows on {update.prev_seq_id}, and the book is at {self.seq_id}"
