"""What values a line may hold: names, numbers and times that can be. Each check refuses with its reason."""

import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

from okxcli.core import states
from okxcli.core.decimals import MAX_DIGITS, MAX_MAGNITUDE, check_range, plain
from okxcli.core.model import (
    AHEAD_MS,
    MAX_ID,
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    UNSTAMPED_AHEAD_MS,
    Absent,
    BookSnapshot,
    BookUpdate,
    Instrument,
    Levels,
    Line,
    OHLCVCandle,
    StandardizedTrade,
    State,
)
from okxcli.core.states import STATES, Described
from okxcli.core.timeframes import Timeframe
from okxcli.errors import Early, InvalidLine

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,31}", re.ASCII)
#: Levels of one side of a book at most.
MAX_LEVELS = 5000
_LEAST, _MOST = Decimal(1).scaleb(-MAX_MAGNITUDE), Decimal(1).scaleb(MAX_MAGNITUDE)
#: The year 10000.
_FAR = 253_402_300_800_000


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


@lru_cache(4096)
def _whose(symbol: str, *labels: str) -> None:
    _name(symbol)
    for label in labels:
        _label(label)


_timeframe = lru_cache(256)(Timeframe.parse)


def _time(key: str, value: int) -> None:
    if not MIN_TIMESTAMP <= value < MAX_TIMESTAMP:
        raise InvalidLine(f"{key} out of range: {value}")


def check_trade(trade: StandardizedTrade) -> None:
    """Refuse a trade that cannot be one.

    Raises:
        InvalidLine: with the reason.
    """
    _whose(trade.symbol, trade.exchange, trade.origin)
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
    """Refuse a candle that cannot be one: low above open, ids of nothing, edges that are none of its timeframe.

    Raises:
        InvalidLine: with the reason.
    """
    _whose(candle.symbol, candle.exchange, candle.origin)
    frame = _timeframe(candle.timeframe)
    _time("start", candle.start)
    _time("timestamp", candle.timestamp)
    if frame.start_of(candle.start) != candle.start or frame.end_of(candle.start) != candle.timestamp:
        raise InvalidLine(f"no bar of {frame.name} starts at {candle.start} and ends at {candle.timestamp}")
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
            # A sum of products of two numbers: twice as wide as one.
            if volume < 0 or not -60 <= volume.adjusted() < 60 or len(str(volume)) > 160:
                raise InvalidLine("volume out of range")
    if (candle.first_trade_id is None) != (candle.last_trade_id is None):
        raise InvalidLine("one of first_trade_id and last_trade_id is missing")
    if candle.first_trade_id is not None and candle.last_trade_id is not None:
        if not 1 <= candle.first_trade_id <= candle.last_trade_id <= MAX_ID:
            raise InvalidLine("trade ids out of range")
        if candle.trade_count is None or candle.trade_count < 1:
            raise InvalidLine("trade ids, but no trade_count")
        if candle.trade_count > candle.last_trade_id - candle.first_trade_id + 1:
            raise InvalidLine("more trades than ids")
    if candle.trade_count is not None and not 0 <= candle.trade_count <= MAX_ID:
        raise InvalidLine("trade_count out of range")
    if not 0 <= candle.revision < 2**31:
        raise InvalidLine("revision out of range")


def check_book(book: BookSnapshot) -> None:
    """Refuse a book with an impossible level, time or sequence.

    Raises:
        InvalidLine: with the reason.
    """
    _whose(book.symbol, book.exchange, book.origin)
    _time("timestamp", book.timestamp)
    if book.received is not None:
        _time("received", book.received)
    if book.seq_id is not None and not -1 <= book.seq_id <= MAX_ID:
        raise InvalidLine(f"seq_id out of range: {book.seq_id}")
    _levels(book.bids)
    _levels(book.asks)


def check_book_update(update: BookUpdate) -> None:
    """Refuse an update of a book with an impossible level, time or sequence, or a chain that nobody could check.

    Raises:
        InvalidLine: with the reason.
    """
    _name(update.symbol)
    _label(update.exchange)
    _label(update.origin)
    _time("timestamp", update.timestamp)
    if update.received is not None:
        _time("received", update.received)
    if update.action not in ("snapshot", "update"):
        raise InvalidLine(f"action is neither snapshot nor update: {update.action[:20]!r}")
    seq, before = update.seq_id, update.prev_seq_id
    if seq is not None and not 0 <= seq <= MAX_ID:
        raise InvalidLine(f"seq_id out of range: {seq}")
    if before is not None and not -1 <= before <= MAX_ID:
        raise InvalidLine(f"prev_seq_id out of range: {before}")
    if update.action == "update" and (seq is None) != (before is None):
        raise InvalidLine(f"an update without {'seq_id' if seq is None else 'prev_seq_id'}")
    if update.action == "snapshot" and before not in (None, -1):
        raise InvalidLine(f"a snapshot that follows on another message: prev_seq_id {before}")
    if update.action == "snapshot" and before is not None and seq is None:
        raise InvalidLine("a snapshot without seq_id")
    _levels(update.bids)
    _levels(update.asks)


def _levels(side: Levels) -> None:
    if len(side) > MAX_LEVELS:
        raise InvalidLine(f"book side of more than {MAX_LEVELS} levels")
    try:
        for price, size in side:
            if (
                not _LEAST <= price < _MOST
                or (size and not _LEAST <= size < _MOST)
                or len(str(price)) > MAX_DIGITS
                or len(str(size)) > MAX_DIGITS
            ):
                _level(price, size)
    except ArithmeticError:  # one of them is no number, which does not compare
        for price, size in side:
            _level(price, size)


def _level(price: Decimal, size: Decimal) -> None:
    """Look closely at a level that is not of the everyday kind."""
    check_range(price)
    check_range(size)
    if not price > 0 or size < 0:
        raise InvalidLine("book level out of range")


def check_state(state: State) -> None:
    """Refuse a state with an impossible number, time or word, by what `states` says of its type.

    Raises:
        InvalidLine: with the reason.
    """
    _whose(state.symbol, state.exchange)
    _time("timestamp", state.timestamp)
    if state.received is not None:
        _time("received", state.received)
    numbers, times, texts, described = _rules(type(state))
    for field in numbers:
        number = getattr(state, field)
        if number is None:
            continue
        check_range(number)
        if number < 0 and field not in described.signed:
            raise InvalidLine(f"{field} is negative")
        if not number and field in described.above_zero:
            raise InvalidLine(f"{field} is not positive: 0")
    for field in times:
        moment = getattr(state, field)
        if moment is not None:
            _time(field, moment)
    for field in texts:
        word = getattr(state, field)
        if word is not None:
            _word(field, word, described.words.get(field, ()))
    for fields in described.rising:
        _rising(state, fields)


def _word(field: str, word: str, allowed: tuple[str, ...]) -> None:
    if allowed and word not in allowed:
        raise InvalidLine(f"{field} is none of {', '.join(allowed)}: {word[:20]!r}")
    if _WORD.fullmatch(word) is None:
        raise InvalidLine(f"{field} is no word: {word[:40]!r}")


def _rising(state: State, fields: tuple[str, ...]) -> None:
    """Refuse fields of which one is below the one before it; those that are not known say nothing."""
    known = [(field, found) for field in fields if (found := getattr(state, field)) is not None]
    for (low, first), (high, second) in pairwise(known):
        if second < first:
            raise InvalidLine(f"{high} is below {low}")


@cache
def _rules(kind: type[State]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], Described]:
    return states.numbers(kind), states.times(kind), states.texts(kind), states.BY_KIND[kind]


def check_instrument(instrument: Instrument) -> None:
    """Refuse an instrument with an impossible name or number.

    Raises:
        InvalidLine: with the reason.
    """
    _whose(instrument.symbol, instrument.exchange, instrument.kind, instrument.state)
    for field in ("contract_value", "contract_multiplier", "tick_size", "lot_size", "min_size"):
        number = getattr(instrument, field)
        if number is not None:
            check_range(number)
            if not number > 0:
                raise InvalidLine(f"{field} is not positive")
    if instrument.received is not None:
        _time("received", instrument.received)
    for field in ("listed", "expires"):
        moment = getattr(instrument, field)
        if moment is not None and not 0 <= moment < _FAR:  # an instrument may be listed or expire in any year
            raise InvalidLine(f"{field} out of range: {moment}")
    for field in ("base", "quote", "settle", "contract_currency", "contract_type"):
        text = getattr(instrument, field)
        if text is not None:
            _name(text)


def check_absent(absent: Absent) -> None:
    """Refuse a range of ids that is none.

    Raises:
        InvalidLine: with the reason.
    """
    _whose(absent.symbol, absent.exchange)
    if not 1 <= absent.first <= absent.last <= MAX_ID:
        raise InvalidLine("absent ids out of range")


_CHECK: dict[type, Callable[[Any], None]] = {
    StandardizedTrade: check_trade,
    OHLCVCandle: check_candle,
    BookSnapshot: check_book,
    BookUpdate: check_book_update,
    Instrument: check_instrument,
    Absent: check_absent,
    **dict.fromkeys((one.kind for one in STATES), check_state),
}


def check(line: Line, now_ms: int | None = None) -> None:
    """Refuse an object of any line type whose values are impossible, or whose time has not come by `now_ms`.

    Raises:
        InvalidLine: with the reason.
    """
    _CHECK[type(line)](line)
    if isinstance(line, (Absent, Instrument)):
        return
    received, at = (None, line.start) if isinstance(line, OHLCVCandle) else (line.received, line.timestamp)
    if received is not None:
        if at > received + AHEAD_MS:
            raise _early(line, at - received, "received")
    elif now_ms is not None and at > now_ms + UNSTAMPED_AHEAD_MS:
        raise _early(line, at - now_ms, "this machine's clock")


def check_trades(trades: list[StandardizedTrade], now_ms: int | None = None) -> None:
    """Refuse trades of which one cannot be, or has not come, as `check` does; without the words for the latter.

    Raises:
        InvalidLine: with the reason, if there is one to tell.
    """
    latest = _FAR if now_ms is None else now_ms + UNSTAMPED_AHEAD_MS
    for trade in trades:
        check_trade(trade)
        received = trade.received
        if trade.timestamp > (latest if received is None else received + AHEAD_MS):
            raise InvalidLine("")


def _early(
    line: StandardizedTrade | OHLCVCandle | BookSnapshot | BookUpdate | State, ahead_ms: int, clock: str
) -> InvalidLine:
    """Return the reason for which a line from the future is refused; a trade would end every bar of its symbol."""
    name, at = ("start", line.start) if isinstance(line, OHLCVCandle) else ("timestamp", line.timestamp)
    found = (Early(line.symbol, line.first_id, line.trade_id, ahead_ms),) if isinstance(line, StandardizedTrade) else ()
    return InvalidLine(f"{name} {at} is {ahead_ms / 3_600_000:,.1f} h ahead of {clock}", found)
