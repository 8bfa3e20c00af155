"""`Watch`: asks REST now and then whether a feed is what it seems, in a thread of its own.

Looks at silent channels for `mute_channels.Watchdog`, at the instruments (`instrument_watch`), and at OKX's clock. What
it finds is done by the feed that owns it: nothing here touches a socket.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from okxcli.errors import NoSuchInstrument, OkxError
from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.clock_offset import WARN_MS, ClockJudge, Measured, Sample, measure
from okxcli.exchanges.okx.connection.subscribed import Seen
from okxcli.exchanges.okx.feed.instrument_watch import Listings
from okxcli.exchanges.okx.feed.mute_channels import (
    BY_ID,
    Position,
    Verdict,
    Watchdog,
    by_ticker,
    delivered,
    of_instrument,
    position_of,
)
from okxcli.exchanges.okx.rest.endpoints import RestClient, Row
from okxcli.exchanges.okx.rest.history import trade_line
from okxcli.runtime.clock import SteadyClock, now_ms, passed_ms

_log = logging.getLogger(__name__)

#: Looks in a row, each a request, before time is taken for anything else.
_LOOKS = 20
#: More silent channels of trades than this are looked at by one request for the tickers of their kind, which is
#: large: its answer serves for a while.
_MANY = 10
_TICKERS_MS = 10_000
#: Questions of one measurement of the clock: the quickest answer counts.
_SAMPLES = 3
#: When the clock could not be compared it is tried again, ever more rarely; pushes agree on it within a minute.
_UNMEASURED_MS = 5_000
_ALIKE_MS = 60_000
#: Pushes that are older than this by our clock say nothing of it: it may be ahead.
_OLD_MS = 3_600_000
_STOP_S = 1.0
#: Where REST has what a channel of states pushes.
_STATES = {
    "funding-rate": "/api/v5/public/funding-rate",
    "mark-price": "/api/v5/public/mark-price",
    "index-tickers": "/api/v5/market/index-tickers",
    "open-interest": "/api/v5/public/open-interest",
    "price-limit": "/api/v5/public/price-limit",
}
#: What a bad answer looks like to who reads it.
_BAD = (KeyError, TypeError, ValueError, IndexError)


@dataclass(frozen=True, slots=True)
class Times:
    """How often things are looked at, in milliseconds; the watchdog's own are in `mute_channels`.

    `gone_ms`: all channels of a symbol are silent for so long before it is asked whether it is still listed, and
    `listed_ms` later again. `clock_ms`: between two measurements of the clock; None: it is not measured. `local`: the
    exchange's time is that of a market on this machine, which may lie in the past, and run many times as fast: it
    says nothing about people's clocks, and the clock is never set back to it.
    """

    tick_ms: int = 1_000
    gone_ms: int = 60_000
    listed_ms: int = 300_000
    clock_ms: int | None = 600_000
    local: bool = False


@dataclass(frozen=True, slots=True)
class Hands:
    """What the watch may do to its feed; called in the watch's thread.

    `seen` tells what the standing channels have brought; `renew` and `replace` act on mute ones; `put` adds lines;
    `retire` ends a symbol that OKX does not list any more, with the reason; `retry` has what was put off tried at once.
    """

    seen: Callable[[], Mapping[Subscription, Seen]]
    renew: Callable[[list[Subscription]], None]
    replace: Callable[[list[Subscription]], None]
    put: Callable[[list[bytes]], None]
    retire: Callable[[str, str], None]
    retry: Callable[[], None] = lambda: None


class Watch:
    """Watches the feed that `hands` are of. `fill`: bring the newest fill of a mute `trades-all` by REST.

    `clock` is corrected whenever OKX's own is known better. `wall` is what people's clocks show.
    """

    def __init__(
        self,
        rest: RestClient,
        hands: Hands,
        clock: SteadyClock,
        *,
        fill: bool = True,
        dog: Watchdog | None = None,
        times: Times | None = None,
        wall: Callable[[], int] = now_ms,
    ) -> None:
        self._rest = rest
        self._hands = hands
        self._clock = clock
        self._wall = wall
        self._fill = fill
        self._dog = dog or Watchdog()
        self._times = times or Times()
        self._judge = ClockJudge()
        self.measured = False
        self.wall_offset_ms: int | None = None  # what must be added to people's clock; None: not known
        self._pushed: dict[tuple[Subscription, int], int] = {}  # how far ahead the newest pushes were, by their times
        self._wall_ahead_ms = 0
        self._clock_due_ms = 0
        self._retry_ms = _UNMEASURED_MS
        self.listings = Listings(rest, hands.put, hands.retire, hands.retry, self._times.gone_ms, self._times.listed_ms)
        self._tickers: dict[str, Row] = {}
        self._tickers_ms = 0
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="okx watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def told(self, row: Row) -> None:
        """Take note of what OKX itself says of an instrument, which is on its way as a line; from any thread."""
        self.listings.told(row)
        self._wake.set()  # by the next look the instrument may be back

    def forget(self, subscriptions: Iterable[Subscription]) -> None:
        """Drop what is known of channels that nobody wants any more."""
        self._dog.forget(subscriptions)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look(passed_ms())
            except Exception:
                if not self._stopping.is_set():
                    _log.exception("a bug of okx in the watch over the connections")
            self._wake.wait(self._times.tick_ms / 1000)
            self._wake.clear()

    def look(self, now: int) -> None:
        """Do what is due at `now` (`passed_ms`)."""
        self.listings.take_told()
        self._look_at_clock(now)
        seen = self._hands.seen()
        for subscription in self._dog.recovered(seen):
            _log.info("%s brings data again", subscription)
        due = self._dog.due(seen, now)[:_LOOKS]
        if now - self._tickers_ms >= _TICKERS_MS:
            self._tickers = {}
        if not self._tickers and sum(subscription.channel in BY_ID for subscription in due) > _MANY:
            self._tickers_ms = now
            self._ask_for_tickers(seen)
        verdicts: dict[Verdict, list[Subscription]] = {}
        for subscription in due:
            verdict = self._look_at(subscription, seen)
            if verdict is not None:
                verdicts.setdefault(verdict, []).append(subscription)
            if self._stopping.is_set():
                return
        for verdict, mute in verdicts.items():
            self._act(verdict, mute)
        self.listings.look(seen, now)

    # Mute channels

    def _look_at(self, subscription: Subscription, before: Mapping[Subscription, Seen]) -> Verdict | None:
        channel, symbol, _ = subscription
        witness, position = "", Position(0)
        try:
            witness, position = self._ask(channel, symbol, before)
            self.listings.found(symbol)
        except NoSuchInstrument:
            if of_instrument(channel):
                self.listings.missed(symbol)
        except (OkxError, *_BAD) as error:
            _log.debug("no look at %s: %s", subscription, error)
        after = self._hands.seen().get(subscription)
        if after is None:
            return None
        if not witness:
            self._dog.failed(subscription, after, passed_ms())
            return None
        return self._dog.found(subscription, witness, position, after, passed_ms())

    def _ask(self, channel: str, symbol: str, seen: Mapping[Subscription, Seen]) -> tuple[str, Position]:
        """Return who says how far the market is, and how far: another channel if that is ahead, else REST.

        Raises:
            OkxError: REST does not answer, and no other channel tells.
        """
        if channel in BY_ID:
            own = self._reached(channel, symbol, seen)
            peer = self._reached("trades" if channel == "trades-all" else "trades-all", symbol, seen)
            if own is not None and peer is not None and peer.newer_than(own):
                return "id", peer
            if symbol in self._tickers:
                return "ticker", by_ticker(self._tickers[symbol])
            try:
                return "id", position_of(channel, self._rest.trades(symbol, limit=1)[0])
            except NoSuchInstrument:
                raise
            except OkxError:
                ticker = seen.get(Subscription("tickers", symbol))
                if ticker is None or not ticker.frame:
                    raise
                return "push", by_ticker(orjson.loads(ticker.frame)["data"][0])
        return "state", position_of(channel, self._state(channel, symbol))

    @staticmethod
    def _reached(channel: str, symbol: str, seen: Mapping[Subscription, Seen]) -> Position | None:
        one = seen.get(Subscription(channel, symbol))
        return None if one is None else delivered(channel, one.frame)

    def _state(self, channel: str, symbol: str) -> Any:
        """Return REST's newest row for a channel of states or bars."""
        if channel == "tickers":
            return self._rest.get("/api/v5/market/ticker", {"instId": symbol})[0]
        if channel.startswith("candle"):
            parameters = {"instId": symbol, "bar": channel.removeprefix("candle"), "limit": 1}
            return self._rest.get("/api/v5/market/candles", parameters)[0]
        if channel in _STATES:
            return self._rest.get(_STATES[channel], {"instId": symbol, "instType": self.listings.kind_of(symbol)})[0]
        return self._rest.books(symbol, depth=1)

    def _ask_for_tickers(self, some: Iterable[Subscription]) -> None:
        """Have one request for a kind of instrument answer for all of its silent channels of trades."""
        kinds = {self.listings.kind_of(s.value) for s in some if s.channel in BY_ID} - {"OPTION"}  # those want a family
        for kind in sorted(kinds):
            try:
                self._tickers |= {str(row.get("instId")): row for row in self._rest.tickers(kind)}
            except OkxError as error:
                _log.debug("no tickers of %s: %s", kind, error)

    def _act(self, verdict: Verdict, mute: list[Subscription]) -> None:
        names = ", ".join(str(s) for s in mute[:5]) + (f" and {len(mute) - 5} more" if len(mute) > 5 else "")
        _log.warning("acked, but mute: %s, though OKX has newer data: %s", names, verdict.value)
        (self._hands.renew if verdict is Verdict.RENEW else self._hands.replace)(mute)
        for subscription in mute:
            if self._fill and subscription.channel == "trades-all":
                self._bring(subscription.value)

    def _bring(self, symbol: str) -> None:
        """Put the newest fill into the feed: its repair then fetches those before it."""
        try:
            self._hands.put([trade_line(row) for row in self._rest.trades(symbol, limit=1)])
        except (OkxError, *_BAD) as error:
            _log.debug("the newest fill of %s comes later: %s", symbol, error)

    # The clock

    def _look_at_clock(self, now: int) -> None:
        ahead = self._wall() - self._clock()
        stepped = self.measured and abs(ahead - self._wall_ahead_ms) > WARN_MS
        if self._times.clock_ms is None or (now < self._clock_due_ms and not stepped):
            return
        first = not self._clock_due_ms and self.measured  # by the feed, a moment ago
        self._clock_due_ms = now + self._times.clock_ms
        if not first:
            self.measure()
        if not self.measured:
            self._clock_due_ms = now + min(self._times.clock_ms, self._retry_ms)
            self._retry_ms = min(2 * self._retry_ms, 60_000)

    def measure(self, again: bool = True) -> None:
        """Compare the clock with OKX's and correct it, unless that is not wanted, or was done and not to be `again`."""
        if self._times.clock_ms is None or (self.measured and not again):
            return
        samples: list[Sample] = []
        for _ in range(_SAMPLES):
            asked = self._clock()
            try:
                server = self._rest.time_ms()
            except (OkxError, *_BAD) as error:
                _log.debug("OKX's clock cannot be had: %s", error)
                break
            samples.append(Sample(asked, self._clock(), server))
        found = measure(samples) or self._by_pushes()
        if found is None:
            return
        wall = Measured(found.offset_ms - (self._wall() - self._clock()), found.error_ms)
        self.measured = True
        self.wall_offset_ms = None if self._times.local else wall.offset_ms
        self._clock.correct(found.offset_ms if not self._times.local or found.offset_ms > WARN_MS else 0)
        self._wall_ahead_ms = self._wall() - self._clock()
        text = None if self._times.local else self._judge.say(wall)
        if text is not None:
            _log.warning("%s", text)
        _log.debug("OKX's clock less ours: %d ms, give or take %d", *wall)

    def _by_pushes(self) -> Measured | None:
        """Return by how much the clock is behind at least: no push comes before it is made, and none long after it.

        Two of different times must say so, of this look or the one before: one alone may be wild. Where they have just
        been made by the clock, it is right, if not to the second.
        """
        before, self._pushed = self._pushed, {}
        for subscription, one in self._hands.seen().items():
            if subscription.channel in BY_ID and one.frame:
                try:
                    made = int(orjson.loads(one.frame)["data"][-1]["ts"])
                except (orjson.JSONDecodeError, *_BAD):
                    continue
                self._pushed[subscription, made] = made - (self._clock() - (passed_ms() - one.since_ms))
        every = sorted((before | self._pushed).values())
        ahead = max((low for low, high in pairwise(every) if high - low <= _ALIKE_MS), default=-_OLD_MS)
        if -_OLD_MS < ahead <= WARN_MS:
            self._clock.correct(0)
        return Measured(ahead, 0) if ahead > WARN_MS else None
