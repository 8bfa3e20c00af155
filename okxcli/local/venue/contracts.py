"""What OKX says of an instrument beside its trades: funding, mark and index price, open interest, price limits.

All of it follows from the fills and the market's time alone: the mark and the index are the last price, open interest
grows with what takers buy and shrinks with what they sell, limits stand two percent away, a funding rate is a hash of
its eight hours, and every 97th fill of a contract closes somebody's position by force.
"""

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any
from zlib import crc32

from okxcli.core.decimals import EXACT, ZERO, plain
from okxcli.local.venue.fills import Fill, Tape
from okxcli.local.venue.instruments import Contract, Row
from okxcli.local.venue.tickers import Ticker

#: Channel: the shortest time between two pushes, and the longest (None: a change is waited for). Seconds.
PACES: dict[str, tuple[float, float | None]] = {
    "funding-rate": (30.0, 30.0),
    "mark-price": (0.2, 10.0),
    "index-tickers": (0.1, 60.0),
    "open-interest": (3.0, None),
    "price-limit": (0.2, None),
}
#: Those of them that spot markets have not.
OF_CONTRACTS = ("funding-rate", "open-interest")
#: The channel of positions closed by force.
LIQUIDATIONS = "liquidation-orders"

FUNDING_MS = 8 * 3_600_000
_LIQUIDATED = 97
_FIRST_OPEN = Decimal(1_000_000)
_DAY = ("open24h", "high24h", "low24h", "sodUtc0", "sodUtc8")


class States:
    """The states of one instrument. `add` sees each fill."""

    def __init__(self, row: Row, tape: Tape, contract: Contract, ticker: Ticker) -> None:
        self._row = row
        self._tape = tape
        self._contract = contract
        self._ticker = ticker
        self._open = _FIRST_OPEN
        self._tick = Decimal(row["tickSz"])
        self._names = {"instType": row["instType"], "instId": row["instId"]}

    def add(self, fill: Fill) -> None:
        """Take a new fill in."""
        size = Decimal(fill.size)
        self._open = max(ZERO, EXACT.add(self._open, size if fill.side == "buy" else -size))

    def data(self, channel: str, now: int) -> dict[str, Any] | None:
        """Return the row of a channel at the time `now` (ms); None before the first fill."""
        last = self._tape.last
        if last is None:
            return None
        at = {"ts": str(now)}
        if channel == "mark-price":
            return {**self._names, "markPx": last.price, **at}
        if channel == "index-tickers":
            day = self._ticker.data(now)
            name = "-".join(self._row["instId"].split("-")[:2])
            return {"instId": name, "idxPx": last.price, **{key: day[key] for key in _DAY}, **at}
        if channel == "open-interest":
            base, quote = self._contract.volumes(Decimal(last.price), self._open)
            return {**self._names, "oi": plain(self._open), "oiCcy": plain(base), "oiUsd": plain(quote), **at}
        if channel == "price-limit":
            buy, sell = (plain(self._near(last, share)) for share in ("1.02", "0.98"))
            return {**self._names, "buyLmt": buy, "sellLmt": sell, **at, "enabled": True}
        return self._funding(now)

    def state(self, channel: str) -> object:
        """Return what must change for a channel to be pushed before its longest pause is over."""
        last = self._tape.last
        return last and (self._open if channel == "open-interest" else last.price)

    def _near(self, last: Fill, share: str) -> Decimal:
        ticks = EXACT.multiply(Decimal(last.price), Decimal(share)) / self._tick
        return EXACT.multiply(ticks.to_integral_value(ROUND_HALF_EVEN), self._tick)

    def _rate(self, period: int) -> str:
        """Return the rate that is paid at the end of a period of eight hours."""
        number = crc32(f"{self._row['instId']}/{period}".encode()) % 750_001 - 375_000
        return plain(Decimal(number).scaleb(-9))

    def _funding(self, now: int) -> dict[str, Any]:
        period = now // FUNDING_MS
        return {
            "formulaType": "noRate",
            "fundingRate": self._rate(period),
            "fundingTime": str((period + 1) * FUNDING_MS),
            "impactValue": "",
            "instId": self._row["instId"],
            "instType": self._row["instType"],
            "interestRate": "",
            "method": "current_period",
            "maxFundingRate": "0.00375",
            "minFundingRate": "-0.00375",
            "nextFundingRate": "",
            "nextFundingTime": str((period + 2) * FUNDING_MS),
            "premium": "",
            "prevFundingTime": str(period * FUNDING_MS),
            "settFundingRate": self._rate(period - 1),
            "settState": "settled",
            "ts": str(now),
        }

    def settlements(self, after: int, before: int, limit: int) -> list[dict[str, Any]]:
        """Return the settlements later than `before` and earlier than `after` (ms), newest first, at most `limit`."""
        newest = (after - 1) // FUNDING_MS
        oldest = max(before // FUNDING_MS + 1, newest - limit + 1)
        return [
            {
                **self._names,
                "formulaType": "noRate",
                "fundingRate": self._rate(period - 1),
                "fundingTime": str(period * FUNDING_MS),
                "method": "current_period",
                "realizedRate": self._rate(period - 1),
            }
            for period in range(newest, oldest - 1, -1)
        ]

    def liquidations(self, fills: list[Fill]) -> list[dict[str, Any]]:
        """Return the rows of those of some fills that closed a position by force; none for a spot market."""
        if self._contract.kind == "spot":
            return []
        events = [
            {
                "bkLoss": "0",
                "bkPx": fill.price,
                "ccy": "",
                "posSide": "short" if fill.side == "buy" else "long",
                "side": fill.side,
                "sz": fill.size,
                "ts": str(fill.ts),
            }
            for fill in fills
            if fill.trade_id % _LIQUIDATED == 0
        ]
        family = {key: self._row[key] for key in ("instFamily", "instId", "instType", "uly")}
        return [{"details": events, **family}] if events else []
