"""OKX's rows of funding, prices, open interest, limits and liquidations to the states of `core/states.py`.

A form says for each field of ours which key of OKX's row spells it; what is not there, or empty, is None. Field by
field: `https://www.okx.com/docs-v5/en/`, public data, WebSocket.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec

from okxcli.core import checks, states
from okxcli.core.decimals import parse
from okxcli.core.model import (
    Funding,
    Index,
    Instrument,
    Liquidation,
    Mark,
    OpenInterest,
    PriceLimit,
    State,
    amounts,
)
from okxcli.errors import InvalidLine
from okxcli.exchanges.okx.normalize.converters import EXCHANGE, same_symbol, whole
from okxcli.exchanges.okx.normalize.row_forms import Head


@dataclass(frozen=True, eq=False)
class Form:
    """How OKX spells a type of state: fields of ours by its keys. `at` is the key of the time."""

    kind: type[State]
    keys: Mapping[str, str]
    at: str = "ts"


_DAY = {
    "open_24h": "open24h",
    "high_24h": "high24h",
    "low_24h": "low24h",
    "open_utc0": "sodUtc0",
    "open_utc8": "sodUtc8",
}
#: By channel; tickers, of which there are many, have a converter of their own.
FORMS: Mapping[str, Form] = {
    "funding-rate": Form(
        Funding,
        {
            "rate": "fundingRate", "funding_time": "fundingTime", "next_rate": "nextFundingRate",
            "next_funding_time": "nextFundingTime", "min_rate": "minFundingRate", "max_rate": "maxFundingRate",
            "settled_rate": "settFundingRate", "premium": "premium", "interest_rate": "interestRate",
            "method": "method",
        },
    ),
    "mark-price": Form(Mark, {"price": "markPx"}),
    "index-tickers": Form(Index, {"price": "idxPx", **_DAY}),
    "open-interest": Form(
        OpenInterest, {"open_interest": "oi", "base_open_interest": "oiCcy", "usd_open_interest": "oiUsd"}
    ),
    "price-limit": Form(PriceLimit, {"buy_limit": "buyLmt", "sell_limit": "sellLmt", "enabled": "enabled"}),
    "liquidation-orders": Form(
        Liquidation,
        {
            "side": "side", "position": "posSide", "size": "sz", "bankruptcy_price": "bkPx", "loss": "bkLoss",
            "currency": "ccy",
        },
    ),
}  # fmt: skip
#: A settlement of the past as REST tells it: no time but its own.
_SETTLED = Form(
    Funding,
    {"rate": "fundingRate", "funding_time": "fundingTime", "settled_rate": "realizedRate", "method": "method"},
    at="fundingTime",
)
#: The origin of what REST tells.
REST = "rest"
#: The channel whose rows hold several events each.
LIQUIDATIONS = "liquidation-orders"

_ROW = msgspec.json.Decoder(dict[str, Any])


def details(rows: Iterable[msgspec.Raw]) -> Iterator[bytes]:
    """Yield the events of rows of liquidations, each with what its row says of all; a row without any as it is."""
    for raw in rows:
        try:
            row = _ROW.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = {}
        events = row.pop("details", None)
        if not isinstance(events, list) or not events:
            yield bytes(raw)
            continue
        for event in events:
            yield msgspec.json.encode({**row, **event} if isinstance(event, dict) else event)


def state(row: bytes, head: Head, known: Mapping[str, Instrument]) -> State:
    """Return what a row of a channel in `FORMS` says, `known` being what instruments are.

    Raises:
        InvalidLine: it says nothing that can be.
    """
    return state_of(_ROW.decode(row), head, known)


def state_of(found: dict[str, Any], head: Head, known: Mapping[str, Instrument]) -> State:
    """Return the same of a row that is taken apart already.

    Raises:
        InvalidLine: it says nothing that can be.
    """
    past = head.channel == "funding-rate" and head.origin == REST
    form = _SETTLED if past else FORMS[head.channel]
    symbol = _text(found, "instId")
    same_symbol(symbol, head)
    if head.channel == LIQUIDATIONS and "details" in found:
        raise InvalidLine("details are none")
    fields: dict[str, Any] = {name: read(found, key) for name, key, read in _reads(form)}
    if "origin" in form.kind.__struct_fields__:
        fields["origin"] = head.origin
    if form.kind is Liquidation:
        price, size = fields["bankruptcy_price"], fields["size"]
        fields["base_size"], fields["quote_size"] = (
            amounts(known.get(symbol), symbol, price, size) if price else (None, None)
        )
    made = form.kind(
        exchange=EXCHANGE,
        symbol=symbol,
        timestamp=whole(form.at, _text(found, form.at)),
        received=head.received,
        **fields,
    )
    checks.check(made, head.now_ms)
    return made


@cache
def _reads(form: Form) -> list[tuple[str, str, Callable[[dict[str, Any], str], Any]]]:
    """Return what reads each field, by the type that it has here."""
    kind = form.kind
    how: dict[str, Callable[[dict[str, Any], str], Any]] = dict.fromkeys(states.texts(kind), _word)
    how |= dict.fromkeys(states.numbers(kind), _number) | dict.fromkeys(states.times(kind), _time)
    how |= dict.fromkeys(states.flags(kind), _flag)
    needed = {name: _needed(read) for name, read in how.items() if not states.may_lack(kind, name)}
    return [(name, key, (how | needed)[name]) for name, key in form.keys.items()]


def _needed(read: Callable[[dict[str, Any], str], Any]) -> Callable[[dict[str, Any], str], Any]:
    def found(row: dict[str, Any], key: str) -> Any:
        if row.get(key, "") == "":
            raise InvalidLine(f"{key} is {'empty' if key in row else 'missing'}")
        return read(row, key)

    return found


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise InvalidLine(f"{key} is no text: {'null' if value is None else str(value)[:40]}")
    return value


def _word(row: dict[str, Any], key: str) -> str | None:
    return _text(row, key) or None


def _number(row: dict[str, Any], key: str) -> Decimal | None:
    text = _text(row, key)
    return parse(text) if text else None


def _time(row: dict[str, Any], key: str) -> int | None:
    text = _text(row, key)
    return whole(key, text) if text else None


def _flag(row: dict[str, Any], key: str) -> bool | None:
    value = row.get(key)
    if (value is not None and not isinstance(value, bool)) or (value is None and key in row):
        raise InvalidLine(f"{key} is neither true nor false: {'null' if value is None else str(value)[:40]}")
    return value
