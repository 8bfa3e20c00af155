"""Channels that are acked and mute: suspected on evidence alone, and what is done about them. Pure.

Silence is no fault, for a market may be quiet. A channel is mute when somebody else (REST, or another channel) shows
something newer than all that it has brought, and it still has brought nothing when that is looked at again some
seconds later. Then it is subscribed anew; if that does not help, its connection is replaced.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import orjson

from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.subscribed import Seen

#: Silent for so long, a channel is looked at, and again every so often while it stays silent.
SILENCE_MS = 20_000
#: Between the look that shows something newer and the one that makes sure: what is under way has come by then.
AGAIN_MS = 5_000
#: After a replacement the channel is left alone for so long, doubled each time: the fault may not be the connection's.
HOLD_MS = 60_000
MAX_HOLD_MS = 600_000
#: A channel that was last mute so long ago is as good as any other; so is one that brought more than these since.
FORGET_MS = 3_600_000
HEALED = 10

#: Channels whose fills are numbered: what is newer shows at once.
BY_ID = frozenset({"trades-all", "trades"})
#: Channels of which REST has the present state: what is newer shows by a change between two looks.
BY_STATE = frozenset({"tickers", "books5", "bbo-tbt", "books"})
#: The same, and what of a row tells that it is another state. These are slow, and there may be many of them: the
#: factors say how many times as long one may be silent before it is looked at, and how much more rarely then.
BY_VALUE = {
    "funding-rate": ("fundingRate",),
    "mark-price": ("markPx",),
    "index-tickers": ("idxPx",),
    "open-interest": ("oi",),
    "price-limit": ("buyLmt", "sellLmt"),
}
_SLOWNESS = {"funding-rate": 15, "mark-price": 3, "index-tickers": 6, "open-interest": 6, "price-limit": 15}
#: A volume as an integer, so that it can stand behind the time of its bar in one number.
_PLACES = 10
_DIGITS = 40


class Position(NamedTuple):
    """How far somebody is: an id of a fill (`state` is empty), or a moment and the state that was there then."""

    number: int
    state: tuple[str, ...] = ()

    def newer_than(self, other: "Position") -> bool:
        """Whether something has happened in between; a state that is as it was tells nothing, however young."""
        return self.number > other.number and (not self.state or self.state != other.state)


class Verdict(Enum):
    """What to do about a mute channel."""

    RENEW = "subscribing again"
    REPLACE = "replacing the connection"


def watched(channel: str) -> bool:
    """Whether there is evidence about a channel: about its fills, its state, or OKX's bars."""
    return channel in BY_ID or channel in BY_STATE or channel in BY_VALUE or channel.startswith("candle")


def of_instrument(channel: str) -> bool:
    """Whether a channel that is `watched` is named by an instrument, and not by an index."""
    return watched(channel) and channel != "index-tickers"


def delivered(channel: str, frame: bytes) -> Position | None:
    """Return how far a channel is by its last push; None where only a change of state tells, or there was none."""
    if channel not in BY_ID or not frame:
        return None
    try:
        return Position(max(int(row["tradeId"]) for row in orjson.loads(frame)["data"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def position_of(channel: str, row: Any) -> Position:
    """Return how far REST is, or another channel, by its newest row for `channel`.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it is no such row.
    """
    if channel in BY_ID:
        return Position(int(row["tradeId"]))
    if channel == "tickers":
        return Position(int(row["ts"]), tuple(str(row[key]) for key in ("last", "lastSz", "bidPx", "askPx")))
    if channel in BY_VALUE:
        return Position(int(row["ts"]), tuple(str(row[key]) for key in BY_VALUE[channel]))
    if channel in BY_STATE:
        levels = [row[side][0][:2] if row[side] else ["", ""] for side in ("bids", "asks")]
        return Position(int(row["ts"]), tuple(str(part) for level in levels for part in level))
    # A bar of OKX: what is traded in it grows, and then the next one begins. One without trades says nothing.
    whole, _, rest = str(row[5]).partition(".")
    traded = int(whole + rest.ljust(_PLACES, "0")[:_PLACES])
    return Position(int(row[0]) * 10**_DIGITS + traded if traded else 0, (str(row[0]), str(row[5])))


def by_ticker(row: Any) -> Position:
    """Return what a ticker says about trades: when it was made, and the last trade.

    Raises:
        KeyError, TypeError, ValueError: it is no ticker.
    """
    return Position(int(row["ts"]), (str(row["last"]), str(row["lastSz"])))


@dataclass(slots=True)
class _Silence:
    """A channel that is silent: what it stood at, and what has been seen beside it since."""

    pushes: int
    looked_ms: int
    floors: dict[str, Position] = field(default_factory=dict)
    suspected_ms: int | None = None


@dataclass(slots=True)
class _Record:
    """A channel that has been mute."""

    strikes: int
    acted_ms: int
    hold_until_ms: int = 0
    pushes: int = 0
    told: bool = False  # that it brings something again


@dataclass(eq=False, slots=True)
class Watchdog:
    """Watches all channels of a feed. Its times replace the constants above, in milliseconds."""

    silence_ms: int = SILENCE_MS
    again_ms: int = AGAIN_MS
    hold_ms: int = HOLD_MS
    forget_ms: int = FORGET_MS
    _silent: dict[Subscription, _Silence] = field(default_factory=dict, init=False)
    _records: dict[Subscription, _Record] = field(default_factory=dict, init=False)

    def due(self, seen: Mapping[Subscription, Seen], now: int) -> list[Subscription]:
        """Return the channels to look at now, those that are suspected first.

        `seen` has those that stand and are being read; what is missing in it is not looked at.
        """
        for subscription in [s for s, one in self._silent.items() if s in seen and seen[s].pushes != one.pushes]:
            del self._silent[subscription]
        found: list[tuple[bool, int, Subscription]] = []
        for subscription, one in seen.items():
            record = self._records.get(subscription)
            if not watched(subscription.channel) or (record is not None and now < record.hold_until_ms):
                continue
            silence = self._silent.get(subscription)
            if silence is not None:
                suspected = silence.suspected_ms is not None
                due_ms = silence.looked_ms + (self.again_ms if suspected else self._silence(subscription))
            else:  # of what has brought nothing yet it must be known soon where the market stands
                due_ms = one.since_ms + (self._silence(subscription) if one.frame else self.again_ms)
            if now >= due_ms:
                found.append((silence is None or silence.suspected_ms is None, due_ms, subscription))
        return [subscription for _, _, subscription in sorted(found)]

    def _silence(self, subscription: Subscription) -> int:
        """Return for how long a channel may be silent before it is looked at."""
        return self.silence_ms * _SLOWNESS.get(subscription.channel, 1)

    def found(
        self, subscription: Subscription, witness: str, position: Position, seen: Seen, now: int
    ) -> Verdict | None:
        """Take what `witness` shows of a channel; return what to do, if it is mute.

        `seen` is as it was when the witness was asked, or later.
        """
        silence = self._silent.get(subscription)
        if silence is None or silence.pushes != seen.pushes:
            silence = self._silent[subscription] = _Silence(seen.pushes, now)
        first, silence.looked_ms = not silence.floors, now
        if witness not in silence.floors:
            reached = delivered(subscription.channel, seen.frame) if witness == "id" else None
            silence.floors[witness] = position if reached is None else reached
            if reached is None and first:
                silence.looked_ms = now + self.again_ms - self._silence(subscription)  # it takes two to compare
        if not position.newer_than(silence.floors[witness]):
            return None
        if silence.suspected_ms is None:
            silence.suspected_ms = now
        if now - silence.suspected_ms < self.again_ms:
            return None
        return self._act(subscription, silence, witness, position, now)

    def failed(self, subscription: Subscription, seen: Seen, now: int) -> None:
        """Take note that there was no answer: it is looked at again at its time."""
        silence = self._silent.setdefault(subscription, _Silence(seen.pushes, now))
        silence.looked_ms = now

    def _act(
        self, subscription: Subscription, silence: _Silence, witness: str, position: Position, now: int
    ) -> Verdict:
        before = self._records.get(subscription)
        strikes = 1 if before is None or now - before.acted_ms >= self.forget_ms else before.strikes + 1
        record = self._records[subscription] = _Record(strikes, now, pushes=silence.pushes)
        silence.floors = {witness: position}  # from here on only what comes later counts
        silence.suspected_ms = None
        silence.looked_ms = now + self.again_ms - self._silence(subscription)
        if strikes == 1:
            return Verdict.RENEW
        record.hold_until_ms = now + min(self.hold_ms << min(strikes - 2, 10), MAX_HOLD_MS)
        return Verdict.REPLACE

    def recovered(self, seen: Mapping[Subscription, Seen]) -> list[Subscription]:
        """Return the channels that were mute and bring something again; each is told once."""
        found = []
        for subscription, record in list(self._records.items()):
            one = seen.get(subscription)
            if one is None:
                continue
            if one.pushes < record.pushes:
                record.pushes = 0  # on another connection
            if not record.told and one.frame and one.pushes != record.pushes:
                record.told = True
                found.append(subscription)
            if one.pushes - record.pushes > HEALED:
                del self._records[subscription]
        return found

    def forget(self, subscriptions: Iterable[Subscription]) -> None:
        """Drop what is known of channels that nobody wants any more."""
        for subscription in subscriptions:
            self._silent.pop(subscription, None)
            self._records.pop(subscription, None)
