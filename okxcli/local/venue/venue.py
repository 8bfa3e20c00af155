"""What the local exchange lists: each instrument with its fills, bars, book and ticker. Pure state, no I/O."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from okxcli.local.venue.bars import Bars
from okxcli.local.venue.books import Book, Increments, Snapshots
from okxcli.local.venue.contracts import OF_CONTRACTS, States
from okxcli.local.venue.fills import KEEP, Fill, Tape
from okxcli.local.venue.instruments import Row, contract_of
from okxcli.local.venue.tickers import Ticker


class MarketClock:
    """The market's own time: it begins at `start_ms` and runs `speed` times as fast as the wall clock.

    It goes by the monotonic clock, so that a step of the wall clock does not reach it; `stop` freezes it. What is done
    within `moment` is done at one time, however long it takes: no bar is over whose fills are still to come.
    """

    def __init__(self, start_ms: int, speed: float = 1.0) -> None:
        self._start_ms = start_ms
        self._speed = speed
        self._began = time.monotonic()
        self._stopped_ms: int | None = None
        self._moment_ms: int | None = None

    @property
    def stopped(self) -> bool:
        """Whether time stands still."""
        return self._stopped_ms is not None

    def now_ms(self) -> int:
        """Return the market's time in milliseconds since the epoch."""
        if self._stopped_ms is not None:
            return self._stopped_ms
        if self._moment_ms is not None:
            return self._moment_ms
        return self._start_ms + int((time.monotonic() - self._began) * 1000 * self._speed)

    def seconds_until(self, ms: int) -> float:
        """Return how many seconds of the wall clock pass until the market's time is `ms`."""
        if self._stopped_ms is not None:
            return 3600.0
        return (ms - self._start_ms) / 1000 / self._speed - (time.monotonic() - self._began)

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Have time stand still for what is done inside."""
        self._moment_ms = self.now_ms()
        try:
            yield
        finally:
            self._moment_ms = None

    def run(self, ms: int, speed: float) -> None:
        """Run on from `ms`, `speed` times as fast as the wall clock."""
        self._start_ms, self._speed = ms, speed
        self._began = time.monotonic()
        self._stopped_ms = None

    def set(self, ms: int) -> None:
        """Stand still at `ms`, which may be ahead of or behind the time now."""
        self._stopped_ms = ms

    def stop(self) -> None:
        """Stand still from now on."""
        self._stopped_ms = self.now_ms()


class Listing:
    """One instrument: its row, and everything that is derived from its fills."""

    def __init__(self, row: Row, keep: int = KEEP) -> None:
        self.row = row
        self.symbol: str = row["instId"]
        self.tape = Tape(self.symbol, keep)
        contract = contract_of(row)
        self.bars = Bars(contract)
        self.book = Book(self.tape, row)
        self.ticker = Ticker(row, self.tape, self.bars, self.book)
        self.states = States(row, self.tape, contract, self.ticker)
        self.snapshots = {"books5": Snapshots(self.book, 5, instId=self.symbol), "bbo-tbt": Snapshots(self.book, 1)}
        self.books = Increments(self.book)
        fast = {"books-l2-tbt": Increments(self.book), "books50-l2-tbt": Increments(self.book, 50)}
        self.increments = {"books": self.books, **fast}

    @property
    def live(self) -> bool:
        """Whether it can be subscribed and asked for."""
        return str(self.row["state"]) not in ("expired", "preopen")

    def add(self, fill: Fill) -> None:
        """Append a fill."""
        self.tape.append(fill)
        self.bars.add(fill)
        self.states.add(fill)


class Venue:
    """All listings by symbol, and the market's clock."""

    def __init__(self, rows: Iterable[Row], clock: MarketClock, keep: int = KEEP) -> None:
        self.clock = clock
        self.listings = {row["instId"]: Listing(row, keep) for row in rows}

    def find(self, symbol: object) -> Listing | None:
        """Return the live listing of `symbol`, None when there is none."""
        listing = self.listings.get(symbol) if isinstance(symbol, str) else None
        return listing if listing is not None and listing.live else None

    def index(self, name: object) -> Listing | None:
        """Return the live listing whose price is that of an index: a spot market, else a contract of the pair."""
        spot = self.find(name)
        pair = f"{name}-"
        others = (one for one in self.listings.values() if one.live and one.symbol.startswith(pair))
        return spot or next(others, None)

    def subject(self, channel: str, name: object) -> Listing | None:
        """Return the listing that a channel of `name` is about, None when there is none."""
        found = self.index(name) if channel == "index-tickers" else self.find(name)
        if found is not None and channel in OF_CONTRACTS and found.row["instType"] == "SPOT":
            return None
        return found

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of the instruments of the type `kind` (`SPOT`, `SWAP`...) that are not expired."""
        return [
            listing.row
            for listing in self.listings.values()
            if listing.row["instType"] == kind and listing.row["state"] != "expired"
        ]
