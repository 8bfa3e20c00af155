"""JSON lines to model types and back: one strict decoder, one canonical encoder.

`decode` accepts any line type of `core/model.py` and checks every value; unknown keys are ignored. `encode` writes
the keys in their documented order, decimals as strings in canonical form, so that equal objects are equal bytes.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from okxcli.core.decimals import check_range, parse, plain
from okxcli.core.model import (
    MAX_ID,
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    Absent,
    BookSnapshot,
    Instrument,
    Levels,
    Line,
    OHLCVCandle,
    StandardizedTrade,
    Ticker,
)
from okxcli.errors import InvalidLine


class UnknownType(InvalidLine):
    """A well-formed JSON object whose `type` is none of ours: a filter drops it, `--pass` keeps it."""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_TIMEFRAME = re.compile(r"[1-9][0-9]{0,5}[smhdwM](?:\+8)?", re.ASCII)
_OF_ITS_TYPE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(
    StandardizedTrade | OHLCVCandle | BookSnapshot | Ticker | Instrument | Absent, strict=True
)
_ANY = msgspec.json.Decoder()


def decode(line: bytes) -> Line:
    """Return the object that `line` (one JSON object, UTF-8, with or without its newline) describes.

    Raises:
        UnknownType: a JSON object of a type that is not ours.
        InvalidLine: not JSON, not an object, a missing or wrong value; the text names it.
    """
    try:
        found = _OF_ITS_TYPE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _reason(line, error) from None
    kind = type(found)
    if not line.isascii() or b" " in line or line.count(b"_") != _underscores(kind, line, found.symbol):
        _strict_numbers(line)
    _CHECK[kind](found)
    return found


def _reason(line: bytes, error: Exception) -> InvalidLine:
    """Say in a user's words why `line` could not be decoded."""
    if b"\0" in line:
        return InvalidLine("NUL bytes")
    try:
        line.decode()
    except UnicodeDecodeError:
        return InvalidLine("not UTF-8")
    try:
        value = _ANY.decode(line)
    except (msgspec.DecodeError, RecursionError) as reason:
        return InvalidLine(f"not JSON: {reason}")
    if not isinstance(value, dict):
        return InvalidLine("not a JSON object")
    kind = value.get("type")
    if kind is None:
        return InvalidLine("no type: not a line of okx normalize")
    if kind not in _TAGS:
        return UnknownType(f"unknown type {str(kind)[:40]!r}")
    return InvalidLine(f"{kind}: {error}")


def _underscores(kind: type, line: bytes, symbol: str) -> int:
    """Return how many underscores a line of `kind` has where all its numbers are spelt plainly; -1: look closer."""
    if kind is StandardizedTrade:
        return 1 + symbol.count("_")
    if kind is OHLCVCandle:
        return 8 + symbol.count("_")
    if kind is BookSnapshot:
        return (b'"seq_id"' in line) + symbol.count("_")
    return -1


def _strict_numbers(line: bytes) -> None:
    """Refuse spellings of a number that Decimal takes and JSON lines do not: blanks, underscores, foreign digits.

    Raises:
        InvalidLine: with the number; or the line is not UTF-8 in a place that the typed decoder skipped.
    """

    def walk(value: Any) -> None:
        if isinstance(value, str):
            if value and (value.strip() != value or "_" in value or not value.isascii()) and _decimal_takes(value):
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


def _decimal_takes(text: str) -> bool:
    try:
        Decimal(text)
    except ArithmeticError:
        return False
    return True


@lru_cache(4096)
def _name(symbol: str) -> bool:
    if _NAME.fullmatch(symbol) is None:
        raise InvalidLine(f"not a symbol: {symbol[:40]!r}")
    return True


@lru_cache(256)
def _label(text: str) -> bool:
    if _LABEL.fullmatch(text) is None:
        raise InvalidLine(f"not an exchange or origin: {text[:40]!r}")
    return True


def _time(key: str, value: int) -> None:
    if not MIN_TIMESTAMP <= value < MAX_TIMESTAMP:
        raise InvalidLine(f"{key} out of range: {value}")


def check_trade(trade: StandardizedTrade) -> None:
    """Refuse a trade that cannot be one.

    Raises:
        InvalidLine: with the reason.
    """
    _name(trade.symbol)
    _label(trade.exchange)
    _label(trade.origin)
    if not 1 <= trade.trade_id <= MAX_ID:
        raise InvalidLine(f"trade_id out of range: {trade.trade_id}")
    if not 1 <= trade.count <= trade.trade_id:
        raise InvalidLine(f"count out of range: {trade.count}")
    if trade.side not in ("buy", "sell"):
        raise InvalidLine(f"side is neither buy nor sell: {trade.side[:20]!r}")
    check_range(trade.price)
    check_range(trade.size)
    if not trade.price > 0:
        raise InvalidLine(f"price is not positive: {plain(trade.price)}")
    if not trade.size > 0:
        raise InvalidLine(f"size is not positive: {plain(trade.size)}")
    _time("timestamp", trade.timestamp)
    if trade.received is not None:
        _time("received", trade.received)
    if trade.source is not None and not 0 <= trade.source < 1000:
        raise InvalidLine(f"source out of range: {trade.source}")


def check_candle(candle: OHLCVCandle) -> None:
    """Refuse a candle that cannot be one: low above open, ids of nothing, an end before its start.

    Raises:
        InvalidLine: with the reason.
    """
    _name(candle.symbol)
    _label(candle.exchange)
    _label(candle.origin)
    if _TIMEFRAME.fullmatch(candle.timeframe) is None:
        raise InvalidLine(f"not a timeframe: {candle.timeframe[:20]!r}")
    _time("start", candle.start)
    _time("timestamp", candle.timestamp)
    if candle.start >= candle.timestamp:
        raise InvalidLine("candle ends before it starts")
    for price in (candle.open, candle.high, candle.low, candle.close):
        check_range(price)
        if not price > 0:
            raise InvalidLine(f"price is not positive: {plain(price)}")
    if candle.low > min(candle.open, candle.close) or candle.high < max(candle.open, candle.close):
        raise InvalidLine("high and low do not hold open and close")
    for volume in (candle.volume, candle.base_volume, candle.quote_volume, candle.buy_volume):
        if volume is not None:
            if not volume.is_finite():
                raise InvalidLine(f"not a number: {volume}")
            if volume < 0 or volume.adjusted() >= 60 or len(str(volume)) > 160:
                raise InvalidLine("volume out of range")
    if (candle.first_trade_id is None) != (candle.last_trade_id is None):
        raise InvalidLine("one of first_trade_id and last_trade_id is missing")
    if candle.first_trade_id is not None and candle.last_trade_id is not None:
        if not 1 <= candle.first_trade_id <= candle.last_trade_id <= MAX_ID:
            raise InvalidLine("trade ids out of range")
        if candle.trade_count is None or candle.trade_count < 1:
            raise InvalidLine("trade ids, but no trade_count")
    if candle.trade_count is not None and not 0 <= candle.trade_count <= MAX_ID:
        raise InvalidLine("trade_count out of range")
    if not 0 <= candle.revision < 2**31:
        raise InvalidLine("revision out of range")


def check_book(book: BookSnapshot) -> None:
    """Refuse a book with an impossible level, time or sequence.

    Raises:
        InvalidLine: with the reason.
    """
    _name(book.symbol)
    _label(book.exchange)
    _label(book.origin)
    _time("timestamp", book.timestamp)
    if book.received is not None:
        _time("received", book.received)
    if book.seq_id is not None and not -1 <= book.seq_id <= MAX_ID:
        raise InvalidLine(f"seq_id out of range: {book.seq_id}")
    for side in (book.bids, book.asks):
        if len(side) > 5000:
            raise InvalidLine("book side of more than 5000 levels")
        for price, size in side:
            check_range(price)
            check_range(size)
            if not price > 0 or size < 0:
                raise InvalidLine("book level out of range")


def check_ticker(ticker: Ticker) -> None:
    """Refuse a ticker with an impossible number or time.

    Raises:
        InvalidLine: with the reason.
    """
    _name(ticker.symbol)
    _label(ticker.exchange)
    _time("timestamp", ticker.timestamp)
    if ticker.received is not None:
        _time("received", ticker.received)
    for field in _TICKER_NUMBERS:
        number = getattr(ticker, field)
        if number is not None:
            check_range(number)
            if number < 0:
                raise InvalidLine(f"{field} is negative")


def check_instrument(instrument: Instrument) -> None:
    """Refuse an instrument with an impossible name or number.

    Raises:
        InvalidLine: with the reason.
    """
    _name(instrument.symbol)
    _label(instrument.exchange)
    _label(instrument.kind)
    _label(instrument.state)
    for field in ("contract_value", "contract_multiplier", "tick_size", "lot_size", "min_size"):
        number = getattr(instrument, field)
        if number is not None:
            check_range(number)
            if not number > 0:
                raise InvalidLine(f"{field} is not positive")
    for field in ("base", "quote", "settle", "contract_currency", "contract_type"):
        text = getattr(instrument, field)
        if text is not None:
            _name(text)


def check_absent(absent: Absent) -> None:
    """Refuse a range of ids that is none.

    Raises:
        InvalidLine: with the reason.
    """
    _name(absent.symbol)
    _label(absent.exchange)
    if not 1 <= absent.first <= absent.last <= MAX_ID:
        raise InvalidLine("absent ids out of range")


_TICKER_NUMBERS = tuple(f for f in Ticker.__struct_fields__ if f not in ("exchange", "symbol", "timestamp", "received"))
#: Keys whose values are numbers in text; other keys, unknown ones too, may hold any text.
_NUMBERS = frozenset(
    (
        *_TICKER_NUMBERS, "price", "size", "open", "high", "low", "close", "volume", "base_volume", "quote_volume",
        "buy_volume", "bids", "asks", "contract_value", "contract_multiplier", "tick_size", "lot_size", "min_size",
    )
)  # fmt: skip
_TAGS = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (StandardizedTrade, OHLCVCandle, BookSnapshot, Ticker, Instrument, Absent)
)
_CHECK: dict[type, Callable[[Any], None]] = {
    StandardizedTrade: check_trade,
    OHLCVCandle: check_candle,
    BookSnapshot: check_book,
    Ticker: check_ticker,
    Instrument: check_instrument,
    Absent: check_absent,
}


def check(line: Line) -> None:
    """Refuse an object of any line type whose values are impossible.

    Raises:
        InvalidLine: with the reason.
    """
    _CHECK[type(line)](line)


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
    return (
        f'{{"type":"book","exchange":"{b.exchange}","symbol":"{b.symbol}","timestamp":{b.timestamp},'
        f'"received":{_integer(b.received)},"seq_id":{_integer(b.seq_id)},"bids":{_levels(b.bids)},'
        f'"asks":{_levels(b.asks)},"origin":"{b.origin}"}}'
    )


def _ticker(t: Ticker) -> str:
    numbers = ",".join(f'"{field}":{_number(getattr(t, field))}' for field in _TICKER_NUMBERS)
    return (
        f'{{"type":"ticker","exchange":"{t.exchange}","symbol":"{t.symbol}","timestamp":{t.timestamp},'
        f'"received":{_integer(t.received)},{numbers}}}'
    )


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
    Ticker: _ticker,
    Instrument: _instrument,
    Absent: _absent,
}


def encode(line: Line) -> bytes:
    """Return `line` as one canonical JSON line, without its newline."""
    return _ENCODE[type(line)](line).encode()
