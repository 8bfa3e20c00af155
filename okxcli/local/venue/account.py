"""An account at the local exchange: now and then a fill of the market was ours, and its private channels say so.

It takes at the market's price, with an order of the fill's size that is filled at once; a fee of a thousandth goes off
what it gets. Spot changes its balances, a contract its position. Rows have the keys of OKX's that clients look at.
"""

from decimal import Decimal
from typing import Any

from okxcli.core.decimals import EXACT, ZERO, plain
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.instruments import Row

#: The key that logs in, as the environment of a command has it. It opens nothing but a simulation.
KEY = {"OKX_API_KEY": "simulated-key", "OKX_SECRET_KEY": "simulated-secret", "OKX_PASSPHRASE": "simulated-phrase"}
UID = "44705892343619584"
#: Of each currency it has so much at the start.
_BEGIN = Decimal(1_000_000)
_FEE = Decimal("0.001")
_ANY = "ANY"
#: Time between two fills of ours.
_PAUSE_MS = 1_000

_Pushes = dict[tuple[str, str], list[Any]]


class Account:
    """What is owned, and what became of it by fills; `kinds` of channels as `conversation` names them."""

    def __init__(self) -> None:
        self._balances: dict[str, Decimal] = {}
        self._positions: dict[str, tuple[Decimal, Row, Fill]] = {}
        self._orders = 0
        self._next_ms = 0
        self._changed_ms = 0

    def state(self, channel: str, kind: str) -> list[Any] | None:
        """Return the rows with which a subscription begins; None: with nothing."""
        if channel == "account":
            return [self._money(list(self._balances))]
        if channel == "positions":
            held = [self._position(symbol) for symbol in self._positions]
            return [row for row in held if kind in (_ANY, row["instType"])]
        return None

    def fill(self, row: Row, fill: Fill) -> _Pushes:
        """Have taken a fill of an instrument, unless that was done a moment ago; return what each channel pushes."""
        if fill.ts < self._next_ms:
            return {}
        self._next_ms = fill.ts + _PAUSE_MS
        self._changed_ms = fill.ts
        self._orders += 1
        order = str(3_000_000_000_000_000_000 + self._orders)
        kinds = (row["instType"], _ANY)
        pushes: _Pushes = {
            **{("orders", kind): [self._order(row, fill, order)] for kind in kinds},
            ("fills", ""): [
                {
                    "instId": row["instId"], "fillSz": fill.size, "fillPx": fill.price, "side": fill.side,
                    "ts": str(fill.ts), "ordId": order, "tradeId": str(fill.trade_id), "execType": "T", "count": "1",
                }
            ],
        }  # fmt: skip
        if row["instType"] == "SPOT":
            pushes["account", ""] = [self._money(self._pay(row, fill))]
        else:
            self._take(row, fill)
            pushes |= {("positions", kind): [self._position(row["instId"])] for kind in kinds}
        return pushes

    def _pay(self, row: Row, fill: Fill) -> list[str]:
        """Move the balances of both currencies; return their names."""
        base, quote = row["baseCcy"], row["quoteCcy"]
        size, worth = Decimal(fill.size), EXACT.multiply(Decimal(fill.size), Decimal(fill.price))
        gets, gives = ((base, size), (quote, worth)) if fill.side == "buy" else ((quote, worth), (base, size))
        kept = EXACT.multiply(gets[1], 1 - _FEE)
        for currency, change in ((gets[0], kept), (gives[0], -gives[1])):
            self._balances[currency] = EXACT.add(self._balances.get(currency, _BEGIN), change)
        return [base, quote]

    def _take(self, row: Row, fill: Fill) -> None:
        held = self._positions.get(row["instId"], (ZERO, row, fill))[0]
        size = Decimal(fill.size)
        self._positions[row["instId"]] = EXACT.add(held, size if fill.side == "buy" else -size), row, fill

    def _order(self, row: Row, fill: Fill, order: str) -> Row:
        spot = row["instType"] == "SPOT"
        gets = row["baseCcy"] if spot and fill.side == "buy" else row["quoteCcy"] if spot else row["settleCcy"]
        got = Decimal(fill.size)
        if spot and fill.side == "sell":
            got = EXACT.multiply(got, Decimal(fill.price))
        fee = plain(-EXACT.multiply(got, _FEE)) if spot else ""
        at = str(fill.ts)
        return {
            "instType": row["instType"], "instId": row["instId"], "ordId": order, "clOrdId": "", "tag": "", "px": "",
            "sz": fill.size, "ordType": "market", "side": fill.side, "posSide": "" if spot else "net",
            "tdMode": "cash" if spot else "cross", "fillPx": fill.price, "tradeId": str(fill.trade_id),
            "fillSz": fill.size, "fillTime": at, "fillFee": fee, "fillFeeCcy": gets, "execType": "T",
            "accFillSz": fill.size, "avgPx": fill.price, "state": "filled", "lever": "" if spot else "3",
            "feeCcy": gets, "fee": fee, "rebateCcy": "", "rebate": "", "pnl": "0", "source": "", "category": "normal",
            "reduceOnly": "false", "cTime": at, "uTime": at, "reqId": "", "amendResult": "", "code": "0", "msg": "",
        }  # fmt: skip

    def _money(self, currencies: list[str]) -> Row:
        at = str(self._changed_ms)
        details = [
            {"ccy": one, "eq": plain(self._balances[one]), "cashBal": plain(self._balances[one]),
             "availBal": plain(self._balances[one]), "frozenBal": "0", "ordFrozen": "0", "liab": "0", "uTime": at}
            for one in currencies
        ]  # fmt: skip
        return {"uTime": at, "totalEq": "", "adjEq": "", "imr": "", "mmr": "", "mgnRatio": "", "details": details}

    def _position(self, symbol: str) -> Row:
        held, row, fill = self._positions[symbol]
        return {
            "instType": row["instType"], "mgnMode": "cross", "posId": str(1_000_000 + sum(map(ord, symbol))),
            "posSide": "net", "pos": plain(held), "ccy": row["settleCcy"], "avgPx": fill.price, "upl": "",
            "instId": symbol, "lever": "3", "liqPx": "", "markPx": fill.price, "margin": "",
            "tradeId": str(fill.trade_id), "cTime": str(fill.ts), "uTime": str(fill.ts),
        }  # fmt: skip
