"""The `tickers` channel and `market/ticker`: last price, best levels and the rolling day, from the fills."""

from decimal import Decimal
from typing import Any, NamedTuple

from okxcli.core.decimals import EXACT, ZERO, plain
from okxcli.local.venue.bars import DAY, HOUR, MINUTE, Bar, Bars
from okxcli.local.venue.books import Book
from okxcli.local.venue.fills import Tape
from okxcli.local.venue.instruments import Row


class Ticker:
    """The ticker of one instrument.

    The rolling day ends now and begins at a whole minute: the minutes that lie in the last 24 hours altogether, and
    the running one. It reaches back no further than what the exchange remembers.
    """

    def __init__(self, row: Row, tape: Tape, bars: Bars, book: Book) -> None:
        self._row = row
        self._tape = tape
        self._bars = bars
        self._book = book
        self._closed: tuple[tuple[int, int, int], _Sum] | None = None

    def data(self, now: int) -> dict[str, Any]:
        """Return the ticker at the time `now` (ms); empty strings where a market without fills has nothing to say."""
        asks, bids = self._book.sides(1, now)
        ask, bid = (side[0] if side else ["", ""] for side in (asks, bids))
        last = self._tape.last
        return {
            "instType": self._row["instType"],
            "instId": self._row["instId"],
            "last": last.price if last else "",
            "lastSz": last.size if last else "0",
            "askPx": ask[0],
            "askSz": ask[1],
            "bidPx": bid[0],
            "bidSz": bid[1],
            **self._day(now),
            "sodUtc0": self._opening(now, 0),
            "sodUtc8": self._opening(now, -8 * HOUR),
            "ts": str(now),
        }

    def state(self, now: int) -> tuple[object, ...]:
        """Return what must change for a ticker to be pushed: the last fill, the best bid and ask."""
        last = self._tape.last
        asks, bids = self._book.sides(1, now)
        return (last.trade_id if last else None, *(level[0:2] for side in (asks, bids) for level in side))

    def _day(self, now: int) -> dict[str, str]:
        first = -(-(now - DAY) // MINUTE) * MINUTE
        minutes = self._bars.minutes
        if not minutes.between(first, now + 1):
            return {"open24h": "", "high24h": "", "low24h": "", "volCcy24h": "0", "vol24h": "0"}
        newest = minutes.last_start()
        key = (first, newest, minutes.revisions)
        if self._closed is None or self._closed[0] != key:  # the minutes before the newest, summed once
            self._closed = key, _sum(minutes.between(first, newest), _Sum())
        day = _sum(minutes.between(newest, now + 1), self._closed[1])
        return {
            "open24h": plain(day.open),
            "high24h": plain(day.high),
            "low24h": plain(day.low),
            "volCcy24h": plain(day.ccy),
            "vol24h": plain(day.vol),
        }

    def _opening(self, now: int, phase: int) -> str:
        midnight = (now - phase) // DAY * DAY + phase
        parts = self._bars.minutes.between(midnight, now + 1)
        return plain(_first(parts).open) if parts else ""


class _Sum(NamedTuple):
    """Minutes taken together; `first` is the lowest id in them, None for no minutes."""

    first: int | None = None
    open: Decimal = ZERO
    high: Decimal = ZERO
    low: Decimal = ZERO
    vol: Decimal = ZERO
    ccy: Decimal = ZERO


def _sum(parts: list[Bar], total: _Sum) -> _Sum:
    for part in parts:
        opens = total.first is None or part.first < total.first
        total = _Sum(
            part.first if opens else total.first,
            part.open if opens else total.open,
            max(total.high, part.high),
            part.low if total.first is None else min(total.low, part.low),
            EXACT.add(total.vol, part.vol),
            EXACT.add(total.ccy, part.ccy),
        )
    return total


def _first(parts: list[Bar]) -> Bar:
    return min(parts, key=lambda part: part.first)
