"""JSON lines to model types and back: one strict decoder, one canonical encoder.

`decode` accepts any line type of `core/model.py` and checks every value; unknown keys are ignored. `encode` writes
the keys in their documented order, decimals as strings in canonical form, so that equal objects are equal bytes.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from okxcli.core import states
from okxcli.core.checks import check, check_trades
from okxcli.core.decimals import parse, plain, python_takes
from okxcli.core.model import (
    Absent,
    BookSnapshot,
    BookUpdate,
    Instrument,
    Levels,
    Line,
    OHLCVCandle,
    StandardizedTrade,
)
from okxcli.errors import InvalidLine


class UnknownType(InvalidLine):
    """A well-formed JSON object whose `type` is none of ours: a filter drops it, `--pass` keeps it."""


_OF_ITS_TYPE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line, strict=True)
_ANY = msgspec.json.Decoder()
_TRADES = msgspec.json.Decoder(StandardizedTrade, strict=True)
_STATES = [one.kind for one in states.STATES]
#: Of each type of state: the keys with underscores, and how many.
_STATE_KEYS: dict[type, list[tuple[bytes, int]]] = {
    kind: [(f'"{name}"'.encode(), name.count("_")) for name in kind.__struct_fields__ if "_" in name]
    for kind in _STATES
}
_TRADE_HEAD, _NEXT_TRADE = b'{"type":"trade"', b'}\n{"type":"trade"'
_PLUS, _BACKSLASH = b"+\\"
#: A point without a digit on both sides. The search begins at points, of which a line has few.
ODD_POINT = re.compile(rb"\.(?:(?<![0-9]\.)|(?![0-9]))").search


def decode(line: bytes, now_ms: int | None = None) -> Line:
    """Return the object that `line` (one JSON object, UTF-8, with or without its newline) describes.

    With `now_ms` a time without a stamp of receipt must have come by then, give or take a day.

    Raises:
        UnknownType: a JSON object of a type that is not ours.
        InvalidLine: not JSON, not an object, a missing or wrong value; the text names it.
    """
    try:
        found = _OF_ITS_TYPE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _reason(line, error) from None
    kind = type(found)
    if (
        not line.isascii()
        or b" " in line
        or _PLUS in line
        or _BACKSLASH in line
        or ODD_POINT(line) is not None
        or line.count(b"_") != _underscores(kind, line, found.symbol)
    ):
        _strict_numbers(line)
    check(found, now_ms)
    return found


def decode_trades(lines: bytes, now_ms: int | None = None) -> list[StandardizedTrade] | None:
    """Return the trades of whole lines, each with its newline, as `decode` reads them; None: look at each by itself.

    That is where one of them is no trade, is refused, or is spelt in any but the everyday way. Half again as fast.
    """
    count = lines.count(b"\n")
    if (
        not lines.startswith(_TRADE_HEAD)
        or lines.count(_NEXT_TRADE) != count - 1  # each begins and ends on its line
        or lines.count(b"_") != count  # that of `trade_id`
        or not lines.isascii()
        or b" " in lines
        or _PLUS in lines
        or _BACKSLASH in lines
        or ODD_POINT(lines) is not None
    ):
        return None
    try:
        found = _TRADES.decode_lines(lines)
        check_trades(found, now_ms)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidLine):
        return None
    return found if len(found) == count else None


def _reason(line: bytes, error: Exception) -> InvalidLine:
    """Say in a user's words why `line` could not be decoded."""
    try:
        kind = any_json(line, dict).get("type")
    except InvalidLine as reason:
        return reason
    if kind is None:
        return InvalidLine("no type: not a line of okx normalize")
    if not isinstance(kind, str) or kind not in _TAGS:
        return UnknownType(f"unknown type {str(kind)[:40]!r}")
    return InvalidLine(f"{kind}: {error}")


def any_json(data: bytes, *kinds: type) -> Any:
    """Return what JSON of one of these kinds (dict, list) says, whatever it is.

    Raises:
        InvalidLine: it is none, in a user's words. Numbers without end are JSON all the same.
    """
    if b"\0" in data:
        raise InvalidLine("NUL bytes")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise InvalidLine("not UTF-8") from None
    try:
        value = _ANY.decode(data)
    except RecursionError:
        raise InvalidLine("not JSON: nested too deep") from None
    except msgspec.DecodeError as error:
        text = str(error)
        known = "out of range" in text
        raise InvalidLine(text.replace(" - at", ", at").replace("`", "") if known else f"not JSON: {text}") from None
    if not isinstance(value, kinds):
        raise InvalidLine("not a JSON object")
    return value


def _underscores(kind: type, line: bytes, symbol: str) -> int:
    """Return how many underscores a line of `kind` has where all its numbers are spelt plainly; -1: look closer."""
    if kind is StandardizedTrade:
        return 1 + symbol.count("_")
    if kind is OHLCVCandle:
        return 8 + symbol.count("_")
    if kind is BookSnapshot:
        return (b'"seq_id"' in line) + symbol.count("_")
    if kind is BookUpdate:
        return 1 + (b'"seq_id"' in line) + 2 * (b'"prev_seq_id"' in line) + symbol.count("_")
    if kind in _STATE_KEYS:
        named = states.BY_KIND[kind].tag.count("_") + symbol.count("_")
        return sum(count for key, count in _STATE_KEYS[kind] if key in line) + named
    return -1


def _strict_numbers(line: bytes) -> None:
    """Refuse spellings of a number that Decimal takes and lines do not: blanks, `_`, `+`, `.5`, foreign digits.

    Raises:
        InvalidLine: with the number; or the line is not UTF-8 in a place that the typed decoder skipped.
    """

    def walk(value: Any) -> None:
        if isinstance(value, str):
            if python_takes(value):
                parse(value)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    try:
        values = _ANY.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _reason(line, error) from None
    for key, value in values.items():
        if key in _NUMBERS:
            walk(value)


#: Keys whose values are numbers in text; other keys, unknown ones too, may hold any text.
_NUMBERS = frozenset(
    (
        "price", "size", "open", "high", "low", "close", "volume", "base_volume", "quote_volume", "buy_volume", "bids",
        "asks", "contract_value", "contract_multiplier", "tick_size", "lot_size", "min_size",
        *(name for kind in _STATES for name in states.numbers(kind)),
    )
)  # fmt: skip
_TAGS = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (StandardizedTrade, OHLCVCandle, BookSnapshot, BookUpdate, Instrument, Absent, *_STATES)
)


def _integer(value: int | None) -> str:
    return "null" if value is None else str(value)


def _number(value: Decimal | None) -> str:
    return "null" if value is None else f'"{plain(value)}"'


def _text(value: str | None) -> str:
    return "null" if value is None else f'"{value}"'


def _levels(levels: Levels) -> str:
    return "[" + ",".join(f'["{plain(price)}","{plain(size)}"]' for price, size in levels) + "]"


# Names are checked when they come in (`_name`, `_label`): none holds a character that JSON would escape.


def _trade(t: StandardizedTrade) -> str:
    return (
        f'{{"type":"trade","exchange":"{t.exchange}","symbol":"{t.symbol}","trade_id":{t.trade_id},"count":{t.count},'
        f'"side":"{t.side}","price":"{plain(t.price)}","size":"{plain(t.size)}","timestamp":{t.timestamp},'
        f'"received":{_integer(t.received)},"source":{_integer(t.source)},"origin":"{t.origin}"}}'
    )


def _candle(c: OHLCVCandle) -> str:
    return (
        f'{{"type":"candle","exchange":"{c.exchange}","symbol":"{c.symbol}","timeframe":"{c.timeframe}",'
        f'"start":{c.start},"timestamp":{c.timestamp},"open":"{plain(c.open)}","high":"{plain(c.high)}",'
        f'"low":"{plain(c.low)}","close":"{plain(c.close)}","volume":"{plain(c.volume)}",'
        f'"base_volume":{_number(c.base_volume)},"quote_volume":{_number(c.quote_volume)},'
        f'"buy_volume":{_number(c.buy_volume)},"trade_count":{_integer(c.trade_count)},'
        f'"first_trade_id":{_integer(c.first_trade_id)},"last_trade_id":{_integer(c.last_trade_id)},'
        f'"closed":{"true" if c.closed else "false"},"complete":{"true" if c.complete else "false"},'
        f'"revision":{c.revision},"origin":"{c.origin}"}}'
    )


def _book(b: BookSnapshot) -> str:
    sides = f'"bids":{_levels(b.bids)},"asks":{_levels(b.asks)}'
    return (
        f'{{"type":"book","exchange":"{b.exchange}","symbol":"{b.symbol}","timestamp":{b.timestamp},'
        f'"received":{_integer(b.received)},"seq_id":{_integer(b.seq_id)},{sides},"origin":"{b.origin}"}}'
    )


def _book_update(u: BookUpdate) -> str:
    return (
        f'{{"type":"book_update","exchange":"{u.exchange}","symbol":"{u.symbol}","timestamp":{u.timestamp},'
        f'"received":{_integer(u.received)},"action":"{u.action}","seq_id":{_integer(u.seq_id)},'
        f'"prev_seq_id":{_integer(u.prev_seq_id)},"bids":{_levels(u.bids)},"asks":{_levels(u.asks)},'
        f'"origin":"{u.origin}"}}'
    )


def _flag(value: bool | None) -> str:
    return "null" if value is None else "true" if value else "false"


def _state(kind: type[msgspec.Struct]) -> Callable[[Any], str]:
    """Return what spells lines of a type of state, its fields in their order."""
    spelt: dict[str, Callable[[Any], str]] = dict.fromkeys(kind.__struct_fields__, _integer)
    spelt |= dict.fromkeys(states.numbers(kind), _number)
    spelt |= dict.fromkeys(("exchange", "symbol", *states.texts(kind)), _text)
    spelt |= dict.fromkeys(states.flags(kind), _flag)
    keys = [(f'"{name}":', name, spell) for name, spell in spelt.items()]
    head = f'{{"type":"{states.BY_KIND[kind].tag}",'
    return lambda line: head + ",".join([key + spell(getattr(line, name)) for key, name, spell in keys]) + "}"


def _instrument(i: Instrument) -> str:
    return (
        f'{{"type":"instrument","exchange":"{i.exchange}","symbol":"{i.symbol}","kind":"{i.kind}","state":"{i.state}",'
        f'"base":{_text(i.base)},"quote":{_text(i.quote)},"settle":{_text(i.settle)},'
        f'"contract_type":{_text(i.contract_type)},"contract_value":{_number(i.contract_value)},'
        f'"contract_multiplier":{_number(i.contract_multiplier)},"contract_currency":{_text(i.contract_currency)},'
        f'"tick_size":{_number(i.tick_size)},"lot_size":{_number(i.lot_size)},"min_size":{_number(i.min_size)},'
        f'"listed":{_integer(i.listed)},"expires":{_integer(i.expires)},"received":{_integer(i.received)}}}'
    )


def _absent(a: Absent) -> str:
    return f'{{"type":"absent","exchange":"{a.exchange}","symbol":"{a.symbol}","first":{a.first},"last":{a.last}}}'


_ENCODE: dict[type, Callable[[Any], str]] = {
    StandardizedTrade: _trade,
    OHLCVCandle: _candle,
    BookSnapshot: _book,
    BookUpdate: _book_update,
    Instrument: _instrument,
    Absent: _absent,
    **{kind: _state(kind) for kind in _STATES},
}


def encode(line: Line) -> bytes:
    """Return `line` as one canonical JSON line, without its newline."""
    return _ENCODE[type(line)](line).encode()
