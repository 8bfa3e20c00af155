"""The `tickers` channel and `market/ticker`: last price, best levels and the rolling day, from the fills."""

from functools import reduce
from typing import Any

from okxcli.core.decimals import plain
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
        self._closed: tuple[tuple[int, int, int], list[Bar]] | None = None

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
        newest = minutes.starts[-1]
        key = (first, newest, minutes.revisions)
        if self._closed is None or self._closed[0] != key:  # the minutes before the newest, summed once
            closed = minutes.between(first, newest)
            self._closed = key, [reduce(Bar.plus, closed)] if closed else []
        day = reduce(Bar.plus, [*self._closed[1], *minutes.between(newest, now + 1)])
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
        return plain(min(parts, key=lambda part: part.first).open) if parts else ""
