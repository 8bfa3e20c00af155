"""The local exchange that plays recordings instead of a simulated market."""

import heapq
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from okxcli.errors import UsageError
from okxcli.local.network.conversation import Key
from okxcli.local.network.engine import Feed, Options
from okxcli.local.network.pushes import Channels
from okxcli.local.network.websocket_connection import Message
from okxcli.local.recording import Contents, Push, fills_in, read_pushes, survey
from okxcli.local.server import LocalServer
from okxcli.local.venue.contracts import LIQUIDATIONS
from okxcli.local.venue.instruments import Row, any_row, known_rows
from okxcli.local.venue.venue import Listing, MarketClock, Venue

_log = logging.getLogger(__name__)

#: The clock is that of receipt: a bar is over for good when no trade in it can still be on its way.
LATEST_MS = 10_000
#: Between the last subscription and the first message: clients subscribe on several connections.
SETTLE_S = 0.5
_AT_ONCE = 1_000  # messages between two looks at the network
_BACKLOG = 1 << 20
#: A step of price or size beyond this is none.
_WIDEST = Decimal(10**15)


@dataclass
class ReplayFeed:
    """Plays recordings at their own pace, times `speed` (0: as fast as the clients take it), from the first subscriber.

    With `loop` it begins again at the end. `played` messages were played so far; `over` tells that it was all of them.
    """

    paths: Sequence[Path]
    contents: Contents
    channels: Channels
    speed: float = 1.0
    loop: bool = False
    played: int = 0
    over: bool = False
    _pushes: Iterator[Push] | None = None
    _next: Push | None = None
    _began_s: float = 0.0
    _settled: tuple[int, float] = (0, 0.0)

    def step(self, now_s: float) -> float | None:
        """Play what is due."""
        if self.over:
            return None
        if self._pushes is None:
            return self._wait_for_clients(now_s)
        for _ in range(_AT_ONCE):
            if self._next is None:
                return self._end(now_s)
            due_s = self._began_s
            if self.speed:
                due_s += (self._next.when - self.contents.start_ms) / 1000 / self.speed
            if due_s > now_s:
                return due_s
            self._play(self._next)
            self._next = next(self._pushes, None)
        # Going on at once would starve the network; a slow client holds the recording up, nothing is lost.
        return now_s + (0.005 if self.channels.backlog() > _BACKLOG else 0.0)

    def _wait_for_clients(self, now_s: float) -> float | None:
        if not self.channels.subscribers:
            return None
        if self._settled[0] != self.channels.changes:
            self._settled = (self.channels.changes, now_s)
        ready_s = self._settled[1] + SETTLE_S
        if now_s < ready_s:
            return ready_s
        return self._begin(now_s)

    def _begin(self, now_s: float) -> float:
        self._pushes = heapq.merge(*map(read_pushes, self.paths), key=lambda push: push.when)
        self._next = next(self._pushes, None)
        self._began_s = now_s
        return now_s

    def _end(self, now_s: float) -> float | None:
        _log.info("the recording is over: %d messages played", self.played)
        self.over = not self.loop
        return None if self.over else self._begin(now_s)

    def _play(self, push: Push) -> None:
        self.channels.venue.clock.set(push.when)
        channel, symbol = push.key
        lone = channel == "trades" and ("trades-all", symbol) not in self.contents.keys
        if channel == "trades-all" or lone:
            for fill in fills_in(push):
                listing = self.channels.venue.listings[symbol]
                if fill.trade_id > listing.tape.last_id:
                    listing.add(fill)
        self.channels.publish(push.key, Message(push.payload))
        self.played += 1

    def close(self) -> None:
        """Nothing is held back."""


class LocalReplay(LocalServer):
    """Serves what `okx stream` wrote, at `speed` times its own pace (0: as fast as clients take it).

    Playing begins half a second after the last subscription of the first clients. The channels that were recorded can
    be subscribed, and candles of symbols whose trades were. The market's clock is the recording's. `feed` tells how far
    it is.

    Raises:
        UsageError: a file cannot be read or holds no push; a fault or a speed that cannot be.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        speed: float = 1.0,
        loop: bool = False,
        faults: Iterable[str] = (),
        options: Options | None = None,
    ) -> None:
        if speed < 0:
            raise UsageError("speed must not be negative")
        self.contents = survey(paths)
        clock = MarketClock(self.contents.start_ms)
        clock.set(self.contents.start_ms)
        channels = Channels(Venue(_rows(self.contents), clock), first_push=False)
        channels.makes = self._derived
        channels.confirm_lag_ms = LATEST_MS
        super().__init__(channels, options or Options(), faults)
        self._engine.offers = self._offers
        self.feed = ReplayFeed(paths, self.contents, channels, speed, loop)

    def _feed(self) -> Feed:
        return self.feed

    def _derived(self, key: Key) -> bool:
        channel, symbol = key
        traded = {("trades", symbol), ("trades-all", symbol)} & self.contents.keys
        return channel.startswith("candle") and key not in self.contents.keys and bool(traded)

    def _offers(self, channel: str, symbol: str) -> bool:
        return (channel, symbol) in self.contents.keys or self._derived((channel, symbol))


def _rows(contents: Contents) -> list[Row]:
    """Return a row for every symbol: as recorded, else as known, else made up."""
    symbols = sorted(
        {subject for channel, subject in contents.keys if subject and channel not in ("instruments", LIQUIDATIONS)}
    )
    template = known_rows()["BTC-USDT"]
    rows = []
    for symbol in symbols:
        row = {**template, **contents.rows[symbol]} if symbol in contents.rows else None
        if row is not None and not _sound(row):
            _log.warning("%s: its recorded instrument is damaged: another is made up", symbol)
            row = None
        rows.append(row or any_row(symbol))
    return rows


def _sound(row: Row) -> bool:
    """Whether an instrument can be listed by what its row says."""
    try:
        Listing(row)
        numbers = [Decimal(row[key]) for key in ("tickSz", "lotSz", "minSz")]
        return isinstance(row["instType"], str) and all(0 < number < _WIDEST for number in numbers)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return False
