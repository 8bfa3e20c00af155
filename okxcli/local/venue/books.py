"""A plausible order book around the last fill, as a pure function of the fills and the market's time.

The last fill sets the best bid or ask; the other side is one tick away. What stands at a level comes from a hash of
its price and of a slot of time, levels change at different moments, and the same moment shows the same book to
everybody: in `books`, `books5`, `bbo-tbt`, `tickers` and REST.
"""

from decimal import Decimal
from typing import Any, NamedTuple
from zlib import crc32

from okxcli.core.decimals import EXACT, plain
from okxcli.local.venue.fills import Tape
from okxcli.local.venue.instruments import Row

#: Levels of the `books` channel and the most that REST gives.
DEPTH = 400

#: Sequence numbers are milliseconds since 2020: real-looking, rising, the same on every connection.
SEQ_EPOCH_MS = 1_577_836_800_000

Level = list[str]  # [price, size, "0", number of orders]


class Sides(NamedTuple):
    """Asks ascending and bids descending, best first."""

    asks: list[Level]
    bids: list[Level]


class Book:
    """The order book of one instrument at any time."""

    def __init__(self, tape: Tape, row: Row) -> None:
        self._tape = tape
        self._tick = Decimal(row["tickSz"])
        self._lot = Decimal(row["lotSz"])
        self._least = max(1, int(Decimal(row["minSz"]) / self._lot))
        self._salt = crc32(row["instId"].encode())
        self._prices: dict[int, str] = {}
        self.crossed = False

    def best(self) -> tuple[int, int] | None:
        """Return best bid and best ask in ticks; None before the first fill."""
        last = self._tape.last
        if last is None:
            return None
        ticks = max(2, int(Decimal(last.price) / self._tick))
        if self.crossed:
            return ticks + 2, ticks
        return (ticks - 1, ticks) if last.side == "buy" else (ticks, ticks + 1)

    def sides(self, depth: int, now: int) -> Sides:
        """Return the best `depth` levels of both sides at the time `now` (ms); empty before the first fill."""
        best = self.best()
        if best is None:
            return Sides([], [])
        return Sides(self._side(best[1], 1, depth, now), self._side(best[0], -1, depth, now))

    def _side(self, best: int, step: int, depth: int, now: int) -> list[Level]:
        levels: list[Level] = []
        ticks = best
        while len(levels) < depth and ticks > 0:
            place = (ticks * 0x9E3779B1 ^ self._salt) & 0xFFFFFFFF
            place ^= place >> 15
            if ticks == best or place & 3:  # one price in four has no orders
                levels.append(self._level(ticks, place, now))
            ticks += step
        return levels

    def _level(self, ticks: int, place: int, now: int) -> Level:
        life = 150 << (place >> 4 & 7)  # a level stays as it is for 0.15 to 19 seconds
        noise = (place + (now + (place >> 8)) // life * 0x85EBCA6B) & 0xFFFFFFFF
        noise = (noise ^ noise >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        lots = self._least * (1 + (noise & 0xFFF) * (1 + (noise >> 12 & 0xF)))
        lots += noise % self._least if self._least > 1 else 0
        price = self._prices.get(ticks)
        if price is None:
            if len(self._prices) > 20_000:
                self._prices.clear()
            price = self._prices[ticks] = plain(EXACT.multiply(self._tick, Decimal(ticks)))
        return [price, plain(EXACT.multiply(self._lot, Decimal(lots))), "0", str(1 + (noise >> 16) % 23)]


class Snapshots:
    """The state of a channel that sends whole books (`books5`, `bbo-tbt`): changed or not, and its sequence number.

    `named` is what the channel says beside: `books5` repeats the instrument.
    """

    def __init__(self, book: Book, depth: int, **named: str) -> None:
        self._book = book
        self._depth = depth
        self._named = named
        self.sides = Sides([], [])
        self.seq = 0
        self.ts = 0

    def advance(self, now: int) -> bool:
        """Move to the time `now` (ms) and tell whether the book changed; the first one did, empty as it may be."""
        sides = self._book.sides(self._depth, now)
        if sides == self.sides and self.seq:
            return False
        self.sides, self.ts = sides, now
        self.seq = max(self.seq + 1, now - SEQ_EPOCH_MS)
        return True

    def data(self) -> dict[str, Any]:
        """Return the element of a push."""
        return {"asks": self.sides.asks, "bids": self.sides.bids, **self._named, "ts": str(self.ts), "seqId": self.seq}


class Increments:
    """The state of `books` or a channel like it: `depth` levels a side, and what changed since the last step."""

    def __init__(self, book: Book, depth: int = DEPTH) -> None:
        self._book = book
        self._depth = depth
        self._levels: tuple[dict[str, Level], dict[str, Level]] = ({}, {})
        self._behind = 0  # how far the numbers have been set back
        self.seq = 0
        self.ts = 0

    def reset(self) -> None:
        """Let the numbers begin anew with the next step, as after maintenance."""
        self._behind += 1 << 30

    def advance(self, now: int) -> dict[str, Any] | None:
        """Move to the time `now` (ms); return the update that describes the step, None where nothing changed.

        A book that is empty has a time and a number from the first step on.
        """
        if not self.seq:
            self.ts, self.seq = now, now - SEQ_EPOCH_MS
        before = self.seq
        new = tuple({level[0]: level for level in side} for side in self._book.sides(self._depth, now))
        changes = [_changes(old, now_) for old, now_ in zip(self._levels, new, strict=True)]
        if not any(changes):
            return None
        self._levels = (new[0], new[1])
        self.ts = now
        number = now - SEQ_EPOCH_MS - self._behind
        self.seq = number if number < self.seq - (1 << 29) else max(self.seq + 1, number)
        return self._message(changes[0], changes[1], before)

    def snapshot(self) -> dict[str, Any]:
        """Return the whole book as the first message of a subscription."""
        asks, bids = (list(side.values()) for side in self._levels)
        return self._message(asks, bids, -1)

    def unchanged(self, now: int) -> dict[str, Any]:
        """Return the empty update that OKX sends after a minute without change."""
        self.ts = now
        return self._message([], [], self.seq)

    def sides(self, depth: int) -> Sides:
        """Return the best `depth` levels as of the last step."""
        asks, bids = (list(side.values())[:depth] for side in self._levels)
        return Sides(asks, bids)

    def _message(self, asks: list[Level], bids: list[Level], before: int) -> dict[str, Any]:
        # The checksum is dead since 2026: always the integer 0.
        return {
            "asks": asks,
            "bids": bids,
            "ts": str(self.ts),
            "checksum": 0,
            "seqId": self.seq,
            "prevSeqId": before,
        }


def _changes(old: dict[str, Level], new: dict[str, Level]) -> list[Level]:
    gone = [[price, "0", "0", "0"] for price in old if price not in new]
    return [level for price, level in new.items() if old.get(price) != level] + gone
