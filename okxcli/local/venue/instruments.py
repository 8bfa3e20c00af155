"""Instrument rows of the local exchange, and what a size means by them.

`instruments.json` holds full rows (49 fields) as OKX's `public/instruments` answered on 2026-04-27, taken unchanged
from burakoner/OKX.Api (MIT), OKX.Api.Tests/Fixtures/Live/Production/Public, commit 9a07ae8cdc3c. A symbol that is not
among them gets a made-up row of the same shape, modelled on the row of its kind.
"""

import json
import re
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from okxcli.core.decimals import EXACT, quotient
from okxcli.errors import UsageError

Row = dict[str, Any]

_NAME = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9_]{1,20}(-SWAP)?", re.ASCII)


class Contract(NamedTuple):
    """What a size of an instrument stands for: `worth` is the contract value times its multiplier (1 for spot)."""

    kind: str  # "spot", "linear", "inverse", or "" (options: their premium is in coin, as if linear)
    worth: Decimal

    def volumes(self, price: Decimal, size: Decimal) -> tuple[Decimal, Decimal]:
        """Return a fill's `volCcy` and `volCcyQuote`, as OKX's candles define them.

        Spot: both are quote currency. Derivatives: base currency, then quote currency. The base amount of an inverse
        contract is a quotient, rounded at 18 places for each fill; all else is exact.
        """
        if self.kind == "spot":
            quote = EXACT.multiply(price, size)
            return quote, quote
        amount = EXACT.multiply(size, self.worth)
        if self.kind != "inverse":
            return amount, EXACT.multiply(amount, price)
        return quotient(amount, price), amount


@cache
def known_rows() -> dict[str, Row]:
    """Return the recorded rows by instrument id; callers copy before they change one."""
    text = files("okxcli.local.venue").joinpath("instruments.json").read_text(encoding="utf-8")
    return {row["instId"]: row for row in json.loads(text)}


def row_of(symbol: str) -> Row:
    """Return the recorded row of `symbol`, or a made-up one.

    Raises:
        UsageError: `symbol` is not the name of a spot pair or a perpetual swap.
    """
    if symbol not in known_rows() and _NAME.fullmatch(symbol) is None:
        raise UsageError(f"not an instrument: {symbol!r}. Write BASE-QUOTE or BASE-QUOTE-SWAP, such as BTC-USDT")
    return any_row(symbol)


def any_row(symbol: str) -> Row:
    """Return the recorded row of any name, or one made up: two parts are spot, `-SWAP` a swap, five parts an option.

    The rest are futures.
    """
    rows = known_rows()
    if symbol in rows:
        return dict(rows[symbol])
    parts = symbol.split("-")
    base, quote = parts[0], parts[1] if len(parts) > 1 else "USDT"
    number = 900_000 + sum(ord(letter) * (place + 1) for place, letter in enumerate(symbol))
    if len(parts) <= 2:
        pair: Row = {"baseCcy": base, "quoteCcy": quote, "tradeQuoteCcyList": [quote]}
        return {**rows["UNI-USDT"], **pair, "instIdCode": number, "instId": symbol}
    inverse = quote == "USD"
    family = f"{base}-{quote}"
    row = {
        **rows["ETH-USD-SWAP" if inverse else "SOL-USDT-SWAP"],
        "instId": symbol,
        "instIdCode": number,
        "instFamily": family,
        "uly": family,
        "settleCcy": base if inverse else quote,
        "ctValCcy": "USD" if inverse else base,
    }
    if len(parts) == 5:
        option: Row = {"ctType": "", "ctVal": "1", "ctMult": "0.01", "ctValCcy": base, "stk": parts[3]}
        return {**row, **option, "instType": "OPTION", "optType": parts[4]}
    return row if parts[-1] == "SWAP" else {**row, "instType": "FUTURES"}


def contract_of(row: Row) -> Contract:
    """Return what a size of the instrument `row` stands for."""
    if row["instType"] in ("SPOT", "MARGIN"):
        return Contract("spot", Decimal(1))
    return Contract(row["ctType"], EXACT.multiply(Decimal(row["ctVal"]), Decimal(row["ctMult"] or "1")))
