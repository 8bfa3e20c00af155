"""Raw lines, as `stream` writes them, to the types of `core/model.py`. Pure but for the clock that it is given.

Takes pushes of trades, books, states, candles and instruments, and the `absent` event. Passes over
OKX's control messages. Counts pushes of other channels by name. Refuses everything else with a reason.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from okxcli.core import checks
from okxcli.core.codec import any_json
from okxcli.core.model import Absent, Instrument, Line
from okxcli.errors import Early, InvalidLine
from okxcli.exchanges.interface import PartlyInvalid, Taken
from okxcli.exchanges.okx.channels import BOOK_CHANNELS, PUSH_HEAD
from okxcli.exchanges.okx.normalize import book_updates, converters, state_rows
from okxcli.exchanges.okx.normalize.row_forms import (
    NO_TIMEFRAME,
    TIMEFRAMES,
    BookRow,
    Head,
    InstrumentRow,
    TickerRow,
    TradeRow,
)
from okxcli.exchanges.okx.normalize.state_rows import FORMS
from okxcli.runtime.clock import now_ms
from okxcli.runtime.road import kernel

_NAME_AT = len(PUSH_HEAD)
_SPOT_KINDS = ("spot", "margin")
#: Names kept, of channels and of instruments: a flood of made-up ones shall not fill the memory.
_MAX_CHANNELS = 200
_MAX_INSTRUMENTS = 100_000


class _Arg(msgspec.Struct, gc=False):
    channel: str
    instId: str = ""


class _Trades(msgspec.Struct, gc=False):
    arg: _Arg
    data: list[TradeRow]
    received: int | None = None
    origin: str | None = None


class _Books(msgspec.Struct):
    arg: _Arg
    data: list[BookRow]
    received: int | None = None
    origin: str | None = None
    action: str = ""


class _States(msgspec.Struct):
    """A push of states, its rows as they are spelt."""

    arg: _Arg
    data: list[dict[str, Any]]
    received: int | None = None
    origin: str | None = None


class _Push(msgspec.Struct):
    """Any push: its rows are left as they are."""

    arg: _Arg
    data: list[msgspec.Raw]
    received: int | None = None
    origin: str | None = None
    action: str = ""


# strict=False would take "1.0" for a whole number; the rows read whole numbers as text.
_TRADES = msgspec.json.Decoder(_Trades)
_BOOKS = msgspec.json.Decoder(_Books)
_STATES = msgspec.json.Decoder(_States)
_PUSH = msgspec.json.Decoder(_Push)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_ANY = msgspec.json.Decoder()
_TRADE_ROW = msgspec.json.Decoder(TradeRow)
_BOOK_ROW = msgspec.json.Decoder(BookRow)
_TICKER_ROW = msgspec.json.Decoder(TickerRow)
_CANDLE_ROW = msgspec.json.Decoder(list[str])
_INSTRUMENT_ROW = msgspec.json.Decoder(InstrumentRow)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Normalizer:
    """Turns raw lines into lines of ours. Remembers the instruments, for what volumes and sizes mean.

    `control` counts messages passed over, `others` pushes of channels that are not taken, by name. `clock` is asked
    for the time of pushes that tell not when they were received: a row from the future is refused.
    """

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self.control = 0
        self._clock = clock
        self.others: Counter[str] = Counter()
        self._known: dict[str, Instrument] = {}
        self._pushes: Any = kernel("exchanges.okx.normalize._pushes") or _pattern()
        self._whole: dict[bytes, tuple[Any, Callable[[Any, Head], Line]]] = {
            b"trades-all": (_TRADES, converters.trade),
            b"trades": (_TRADES, converters.trade),
            b"books5": (_BOOKS, converters.book),
            b"bbo-tbt": (_BOOKS, converters.book),
            **{name.encode(): (_STATES, self._state_of) for name in FORMS if name != state_rows.LIQUIDATIONS},
            **{name.encode(): (_BOOKS, book_updates.book_update) for name in BOOK_CHANNELS},
        }
        self._by_row: dict[str, Callable[[bytes, Head], Line]] = {
            "trades-all": lambda row, head: converters.trade(_TRADE_ROW.decode(row), head),
            "trades": lambda row, head: converters.trade(_TRADE_ROW.decode(row), head),
            "books5": lambda row, head: converters.book(_BOOK_ROW.decode(row), head),
            "bbo-tbt": lambda row, head: converters.book(_BOOK_ROW.decode(row), head),
            **dict.fromkeys(BOOK_CHANNELS, lambda row, head: book_updates.book_update(_BOOK_ROW.decode(row), head)),
            "tickers": lambda row, head: converters.ticker(_TICKER_ROW.decode(row), head, self._spot(head.symbol)),
            "instruments": self._instrument,
            **dict.fromkeys(FORMS, self._state),
            **dict.fromkeys([*TIMEFRAMES, *NO_TIMEFRAME], self._candle),
        }

    def feed(self, line: bytes) -> list[Line]:
        """Return what one raw line (with or without its newline) says: nothing, one thing, or several in their order.

        Raises:
            PartlyInvalid: some of its rows are bad; its `lines` are those of the good ones.
            InvalidLine: it is not a raw line, or all of it is bad.
        """
        if line.startswith(PUSH_HEAD):
            whole = self._whole.get(line[_NAME_AT : line.find(b'"', _NAME_AT)])
            if whole is not None and not converters.is_odd(line):
                return self._typed(line, *whole)
            return self._push(line)
        return self._message(line)

    def take(self, block: bytes, at: int) -> Taken:
        """Turn raw lines from an offset on into lines of ours, up to the first that is no everyday push."""
        return Taken(*self._pushes.normalize(block, at, self._clock()))

    def counts(self) -> dict[str, int]:
        """Return the counts for the closing line of a filter."""
        return {"control": self.control, "other_channels": self.others.total()}

    def notes(self) -> list[str]:
        """Say in words which channels came that are not taken."""
        return [
            f"{channel}: {count} messages of a channel that okx does not normalize"
            for channel, count in sorted(self.others.items())
        ]

    # Whole pushes in one typed decode; whatever is wrong is found, and its good rows saved, row by row.

    def _typed(self, line: bytes, decoder: Any, convert: Callable[[Any, Head], Line]) -> list[Line]:
        try:
            push = decoder.decode(line)
            head = self._head(push)
            if not line.startswith(head.channel.encode(), _NAME_AT):  # named twice, and the last one counts
                return self._push(line)
            lines = [convert(row, head) for row in push.data]
        except (*_UNDECODABLE, InvalidLine):
            lines = []
        return lines or self._push(line)

    def _push(self, line: bytes) -> list[Line]:
        try:
            if not line.isascii():
                line.decode()  # msgspec looks at no text that it does not need
            push = _PUSH.decode(line)
        except _UNDECODABLE as error:
            raise _why(line, error, dict) from None
        channel = push.arg.channel
        convert = self._by_row.get(channel)
        if convert is None:
            name = channel[:40] if channel in self.others or len(self.others) < _MAX_CHANNELS else "others"
            self.others[name] += 1
            return []
        if not push.data:
            raise InvalidLine(f"{channel}: a push without data")
        head = self._head(push)
        lines: list[Line] = []
        reasons: list[str] = []
        early: tuple[Early, ...] = ()
        rows = [*(state_rows.details(push.data) if channel == state_rows.LIQUIDATIONS else map(bytes, push.data))]
        for number, row in enumerate(rows, 1):
            try:
                if converters.is_odd(row):
                    converters.refuse_odd_numbers(_ANY.decode(row))
                lines.append(convert(row, head))
            except (*_UNDECODABLE, InvalidLine) as error:
                error = error if isinstance(error, InvalidLine) else _why(row, error, dict, list)
                early += error.early
                reason = str(error)
                reasons.append(f"{channel}: {reason}" if len(rows) == 1 else f"{channel}, row {number}: {reason}")
        if reasons:
            text = "; ".join(reasons[:5]) + (f"; and {len(reasons) - 5} more rows" if len(reasons) > 5 else "")
            raise PartlyInvalid(text, lines, early) if lines else InvalidLine(text, early)
        return lines

    def _head(self, push: _Trades | _Books | _States | _Push) -> Head:
        received = push.received
        now = self._clock() if received is None else received
        action = "" if isinstance(push, (_Trades, _States)) else push.action
        return Head(push.arg.channel, push.arg.instId, received, push.origin or push.arg.channel, now, action)

    # The rest

    def _message(self, line: bytes) -> list[Line]:
        if line.strip() in (b"ping", b"pong"):
            self.control += 1
            return []
        try:
            message = _OBJECT.decode(line)
        except _UNDECODABLE as error:
            raise _why(line, error, dict) from None
        event = message.get("event")
        if event == "absent":
            return [_absent(message)]
        if isinstance(event, str):
            self.control += 1
            return []
        if "arg" in message and "data" in message:
            return self._push(line)
        if "type" in message:
            raise InvalidLine("not a raw line of OKX: okx normalize or another command has written it")
        if "code" in message and "data" in message:
            raise InvalidLine("an answer of OKX's REST, not a push")
        raise InvalidLine("neither a push nor an event of OKX")

    def _candle(self, row: bytes, head: Head) -> Line:
        return converters.candle(_CANDLE_ROW.decode(row), head, self._spot(head.symbol))

    def _instrument(self, row: bytes, head: Head) -> Instrument:
        found = converters.instrument(_INSTRUMENT_ROW.decode(row), head)
        if len(self._known) < _MAX_INSTRUMENTS or found.symbol in self._known:
            self._known[found.symbol] = found
        return found

    def _state_of(self, row: dict[str, Any], head: Head) -> Line:
        return state_rows.state_of(row, head, self._known)

    def _state(self, row: bytes, head: Head) -> Line:
        return state_rows.state(row, head, self._known)

    def _spot(self, symbol: str) -> bool | None:
        """Whether sizes of `symbol` are base currency; None: not known. Two parts without an instrument are spot."""
        known = self._known.get(symbol)
        if known is not None:
            return known.kind in _SPOT_KINDS
        dashes = symbol.count("-")
        return None if dashes == 0 else dashes == 1


def _pattern() -> Any:
    from okxcli.exchanges.okx.normalize.push_pattern import PushPattern  # its expression takes a while to compile

    return PushPattern()


def _absent(message: dict[str, Any]) -> Absent:
    argument = message.get("arg")
    symbol = argument.get("instId") if isinstance(argument, dict) else None
    if not isinstance(symbol, str):
        raise InvalidLine("absent: no instrument")
    first, last = (converters.whole(name, str(message.get(name, ""))) for name in ("first", "last"))
    found = Absent(converters.EXCHANGE, symbol, first, last)
    checks.check_absent(found)
    return found


def _why(data: bytes, error: Exception, *kinds: type) -> InvalidLine:
    """Say in a user's words why `data`, a line or a row of it, could not be decoded."""
    try:
        any_json(data, *kinds)
    except InvalidLine as reason:
        return reason
    return InvalidLine(str(error).replace("`", "").replace("$.", "").replace(" - at", ", at"))
