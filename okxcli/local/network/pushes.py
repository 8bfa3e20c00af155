"""The messages of every channel, each at its pace, and who gets them.

The paces are those of the wall clock: `books`, `books5` and `tickers` at most every 100 ms, `bbo-tbt` every 10 ms,
candles once a second and at their end; an unchanged book is repeated after a minute.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from okxcli.local.faults import Faults, use_up
from okxcli.local.network.conversation import PRIVATE, Key, arg_of
from okxcli.local.network.rest_answers import STATUS
from okxcli.local.network.websocket_connection import Connection, Message
from okxcli.local.venue.account import UID, Account
from okxcli.local.venue.bars import bar_end, bar_start
from okxcli.local.venue.books import SEQ_EPOCH_MS, Snapshots
from okxcli.local.venue.contracts import LIQUIDATIONS, PACES
from okxcli.local.venue.fills import Fill, merged
from okxcli.local.venue.venue import Listing, Venue

PACE_S = {"books": 0.1, "books-l2-tbt": 0.01, "books50-l2-tbt": 0.01, "books5": 0.1, "tickers": 0.1, "bbo-tbt": 0.01}
CANDLE_PACE_S = 1.0
CONFIRM_LAG_MS = 600  # recorded: the final push of a bar comes 0.6 to 1.7 s after its end
REPEAT_S = 60.0


@dataclass(slots=True)
class _Paced:
    """When a channel may speak next, when it changed last, what it said last; the bar whose final push is to come."""

    next_s: float
    changed_s: float
    state: object = None
    bar: int = 0


class Channels:
    """Makes the messages of a venue's channels and publishes them to the subscribers.

    `first_push`: a new subscription of `trades` or `trades-all` gets the newest trade at once, however old it is.
    """

    def __init__(
        self, venue: Venue, first_push: bool = True, books_snapshot: bool = True, account: Account | None = None
    ) -> None:
        self.venue = venue
        self._account = account
        self.faults = Faults()
        self.subscribers: dict[Key, dict[Connection, None]] = {}
        self.changes = 0  # grows with every subscription
        self._late: deque[tuple[float, Key, Message]] = deque()
        self._first_push = first_push
        self._books_snapshot = books_snapshot
        self._paced: dict[Key, _Paced] = {}
        self.confirm_lag_ms = CONFIRM_LAG_MS
        #: Whether a channel is made from the fills; a recording plays some of them as they were.
        self.makes: Callable[[Key], bool] = lambda key: True

    def subscribe(self, key: Key, connection: Connection, now_s: float) -> None:
        """Begin to push a channel to a connection, with what it gets at once: the state of the channel."""
        first = key not in self.subscribers
        self.changes += 1
        self.subscribers.setdefault(key, {})[connection] = None
        channel, subject = key
        now = self.venue.clock.now_ms()
        if channel == "status" and self.makes(key):
            connection.push(_message(key, [STATUS]))
        rows = self._account.state(channel, subject) if self._account is not None and channel in PRIVATE else None
        if rows is not None:
            connection.push(_message(key, rows))
        listing = self.venue.subject(channel, subject)
        if listing is None or not self.makes(key):
            return
        paced = self._paced.get(key)
        if paced is None:
            due_s = now_s + (PACES[channel][0] if channel in PACES else PACE_S.get(channel, CANDLE_PACE_S))
            paced = self._paced[key] = _Paced(due_s, due_s)
        if self.faults.is_muted(*key):
            return
        if channel in ("trades", "trades-all") and self._first_push:
            last = listing.tape.last if channel == "trades-all" else listing.tape.last_group()
            if last is not None:
                connection.push(trade_message(channel, listing, last))
        elif channel in PACES:
            told = listing.states.data(channel, now)
            if told is not None:
                paced.state = listing.states.state(channel)
                connection.push(_message(key, [told]))
        elif channel == "tickers":
            connection.push(_message(key, [listing.ticker.data(now)]))
        elif channel in ("books5", "bbo-tbt"):
            state = listing.snapshots[channel]
            if first:
                state.advance(now)
            connection.push(_message(key, [state.data()]))
        elif channel in listing.increments:
            whole = listing.increments[channel]
            if first:
                whole.advance(now)
            if self._books_snapshot and now_s >= self.faults.no_snapshot_until:
                connection.push(_message(key, [whole.snapshot()], "snapshot"))
        elif channel.startswith("candle"):
            name = channel.removeprefix("candle")
            row = listing.bars.row(name, bar_start(name, now), now)
            paced.bar = paced.bar or bar_start(name, now)
            if row is not None:
                connection.push(_message(key, [row]))

    def unsubscribe(self, key: Key, connection: Connection) -> None:
        """Push a channel to a connection no more."""
        held = self.subscribers.get(key, {})
        held.pop(connection, None)
        if not held:
            self.subscribers.pop(key, None)
            self._paced.pop(key, None)

    def backlog(self) -> int:
        """Return how many bytes the slowest subscriber has not taken yet."""
        return max((one.backlog for held in self.subscribers.values() for one in held), default=0)

    def publish(self, key: Key, message: Message) -> None:
        """Send `message` to every subscriber of `key`: at once, late where a delay is on, never where it is muted."""
        if self.faults.delay_s or self._late:
            self._late.append((time.monotonic() + self.faults.delay_s, key, message))
        else:
            self._send(key, message)

    def release(self, now_s: float) -> float | None:
        """Send what was delayed until `now_s`, in its order; return when the next is due."""
        while self._late and self._late[0][0] <= now_s:
            _, key, message = self._late.popleft()
            self._send(key, message)
        return self._late[0][0] if self._late else None

    def _send(self, key: Key, message: Message) -> None:
        if not self.faults.is_muted(*key):
            for connection in self.subscribers.get(key, ()):
                connection.push(message)

    def fills(self, listing: Listing, fills: list[Fill], silent: set[int]) -> None:
        """Publish new fills of one instrument, one by one and merged; those with ids in `silent` are left out."""
        symbol = listing.symbol
        if not listing.live:
            return
        if self._account is not None and fills:
            for key, rows in self._account.fill(listing.row, fills[-1]).items():
                self._publish(key, rows)
        for kind in (listing.row["instType"], "ANY"):
            if (LIQUIDATIONS, kind) in self.subscribers and self.makes((LIQUIDATIONS, kind)):
                for row in listing.states.liquidations(fills):
                    self._publish((LIQUIDATIONS, kind), [row])
        if ("trades-all", symbol) in self.subscribers:
            for fill in fills:
                if fill.trade_id in silent:
                    continue
                message = trade_message("trades-all", listing, fill)
                self.publish(("trades-all", symbol), message)
                if use_up(self.faults.duplicate, symbol):
                    self.publish(("trades-all", symbol), message)
        if ("trades", symbol) in self.subscribers:
            for trade in merged(fills):
                ids = range(trade.trade_id - trade.matches + 1, trade.trade_id + 1)
                if not silent or silent.isdisjoint(ids):
                    self.publish(("trades", symbol), trade_message("trades", listing, trade))

    def pump(self, now_s: float) -> float:
        """Publish what is due on the paced channels at `now_s`; return the moment when it is to be called again."""
        now = self.venue.clock.now_ms()
        wake = now_s + 1.0
        for key, paced in self._paced.items():
            listing = self.venue.subject(*key)
            if listing is None or key[0].startswith("trades"):
                continue
            if paced.next_s <= now_s:
                paced.next_s = now_s + self._step(key, paced, listing, now, now_s)
            wake = min(wake, paced.next_s)
        return wake

    def _step(self, key: Key, paced: _Paced, listing: Listing, now: int, now_s: float) -> float:
        channel = key[0]
        if channel in PACES:
            return self._state(key, paced, listing, now, now_s)
        if channel.startswith("candle"):
            return self._candle(key, paced, listing, now)
        if channel == "tickers":
            state = listing.ticker.state(now)
            if state != paced.state:
                paced.state = state
                self._publish(key, [listing.ticker.data(now)])
        elif channel in listing.increments:
            self._books(key, paced, listing, now, now_s)
        else:
            self._snapshot(key, paced, listing.snapshots[channel], now, now_s)
        return PACE_S.get(channel, 0.1)

    def _state(self, key: Key, paced: _Paced, listing: Listing, now: int, now_s: float) -> float:
        channel = key[0]
        shortest_s, longest_s = PACES[channel]
        state = listing.states.state(channel)
        idle = longest_s is not None and now_s - paced.changed_s >= longest_s
        data = listing.states.data(channel, now) if idle or state != paced.state else None
        if data is not None:
            paced.changed_s, paced.state = now_s, state
            self._publish(key, [data])
        return shortest_s

    def _snapshot(self, key: Key, paced: _Paced, state: Snapshots, now: int, now_s: float) -> None:
        if state.advance(now) or now_s - paced.changed_s >= REPEAT_S:
            paced.changed_s = now_s
            self._publish(key, [state.data()])

    def _books(self, key: Key, paced: _Paced, listing: Listing, now: int, now_s: float) -> None:
        listing.book.crossed = now_s < self.faults.book_cross.get(listing.symbol, 0.0)
        state = listing.increments[key[0]]
        if use_up(self.faults.book_reset, listing.symbol):
            state.reset()
        update = state.advance(now)
        if update is None:
            if now_s - paced.changed_s < REPEAT_S:
                return
            update = state.unchanged(now)
        paced.changed_s = now_s
        if not use_up(self.faults.book_gap, listing.symbol):
            self._publish(key, [update], "update")

    def _candle(self, key: Key, paced: _Paced, listing: Listing, now: int) -> float:
        """Publish the final push of every bar that is over, and the running bar if it changed."""
        name = key[0].removeprefix("candle")
        # A bar may be over long before its final push: the running one is then pushed first, as OKX does.
        while paced.bar and bar_end(name, paced.bar) + self.confirm_lag_ms <= now:
            final = listing.bars.row(name, paced.bar, now)
            if final is not None:
                self._publish(key, [final])
            paced.bar = bar_end(name, paced.bar)
        row = listing.bars.row(name, bar_start(name, now), now)
        if row is not None and row != paced.state:
            paced.state = row
            paced.bar = paced.bar or bar_start(name, now)
            self._publish(key, [row])
        if not paced.bar:
            return CANDLE_PACE_S
        until_final = self.venue.clock.seconds_until(bar_end(name, paced.bar) + self.confirm_lag_ms)
        return min(CANDLE_PACE_S, max(0.005, until_final))

    def books_now(self, listing: Listing) -> None:
        """Bring the `books` state up to date for REST, telling its subscribers of the step."""
        now = self.venue.clock.now_ms()
        if listing.books.ts + 50 <= now:  # OKX refreshes the REST book every 50 ms
            update = listing.books.advance(now)
            if update is not None:
                self._publish(("books", listing.symbol), [update], "update")

    def instruments(self, rows: Iterable[dict[str, Any]]) -> None:
        """Publish changed instrument rows on the `instruments` channel of their type."""
        for row in rows:
            for kind in (row["instType"], "ANY"):
                self._publish(("instruments", kind), [row])

    def _publish(self, key: Key, data: list[Any], action: str | None = None) -> None:
        if key in self.subscribers:
            self.publish(key, _message(key, data, action))


def trade_message(channel: str, listing: Listing, trade: Fill) -> Message:
    """Return the push of one fill (`trades-all`) or of one merged trade (`trades`); built by hand, being hot."""
    symbol = listing.symbol
    text = (
        f'{{"arg":{{"channel":"{channel}","instId":"{symbol}"}},"data":[{{"instId":"{symbol}",'
        f'"tradeId":"{trade.trade_id}","px":"{trade.price}","sz":"{trade.size}","side":"{trade.side}",'
    )
    if channel == "trades-all":
        text += f'"source":"{trade.source}","ts":"{trade.ts}"}}]}}'
    else:
        seq = trade.ts - SEQ_EPOCH_MS
        text += f'"ts":"{trade.ts}","count":"{trade.matches}","source":"{trade.source}","seqId":{seq}}}]}}'
    return Message(text.encode())


def _message(key: Key, data: list[Any], action: str | None = None) -> Message:
    named = {} if action is None else {"action": action}
    whose = {"uid": UID} if key[0] in PRIVATE else {}
    return Message(orjson.dumps({"arg": arg_of(key) | whose, **named, "data": data}))
