"""OKX's rows to the types of `core/model.py`: one converter a form, each refusing what cannot be (`InvalidLine`)."""

from decimal import Decimal

from okxcli.core import checks
from okxcli.core.codec import ODD_POINT
from okxcli.core.decimals import parse, python_takes
from okxcli.core.model import BookSnapshot, Instrument, Levels, OHLCVCandle, StandardizedTrade, Ticker
from okxcli.errors import InvalidLine
from okxcli.exchanges.okx.normalize.row_forms import (
    NO_TIMEFRAME,
    TIMEFRAMES,
    BookRow,
    Head,
    InstrumentRow,
    Level,
    TickerRow,
    TradeRow,
)

EXCHANGE = "okx"

_BLANK, _UNDERSCORE, _PLUS, _BACKSLASH = b" _+\\"


def trade(row: TradeRow, head: Head) -> StandardizedTrade:
    """Return the fill, or the merged fills, of a row."""
    same_symbol(row.instId, head)
    try:
        identity, timestamp = int(row.tradeId), int(row.ts)
        count = 1 if row.count == "1" else int(row.count)
        source = int(row.source) if row.source else None
    except ValueError:
        raise _which(tradeId=row.tradeId, ts=row.ts, count=row.count, source=row.source) from None
    found = StandardizedTrade(
        EXCHANGE,
        row.instId,
        identity,
        row.side,
        row.px,
        row.sz,
        timestamp,
        count,
        head.received,
        source,
        head.origin,
    )
    checks.check(found, head.now_ms)
    return found


def book(row: BookRow, head: Head) -> BookSnapshot:
    """Return a snapshot of the best levels; each side must be sorted, best first."""
    if row.instId:
        same_symbol(row.instId, head)
    bids, asks = levels(row)
    symbol = head.symbol or row.instId
    found = BookSnapshot(EXCHANGE, symbol, whole("ts", row.ts), bids, asks, row.seqId, head.received, head.origin)
    checks.check(found, head.now_ms)
    return found


def ticker(row: TickerRow, head: Head, spot: bool | None) -> Ticker:
    """Return a ticker. `volCcy24h` is in quote currency for spot, in base currency for all else; `spot` None: unknown.

    Source: tickers channel; checked against real turnover of spot and inverse futures.
    """
    same_symbol(row.instId, head)
    kind = row.instType.lower()
    spot = kind in ("spot", "margin") if kind else spot
    volume, turnover = _number(row.vol24h), _number(row.volCcy24h)
    found = Ticker(
        exchange=EXCHANGE,
        symbol=row.instId,
        timestamp=whole("ts", row.ts),
        received=head.received,
        last=_number(row.last),
        last_size=_number(row.lastSz),
        bid=_number(row.bidPx),
        bid_size=_number(row.bidSz),
        ask=_number(row.askPx),
        ask_size=_number(row.askSz),
        open_24h=_number(row.open24h),
        high_24h=_number(row.high24h),
        low_24h=_number(row.low24h),
        volume_24h=volume,
        base_volume_24h=volume if spot else turnover if spot is False else None,
        quote_volume_24h=turnover if spot else None,
        open_utc0=_number(row.sodUtc0),
        open_utc8=_number(row.sodUtc8),
    )
    checks.check(found, head.now_ms)
    return found


def candle(row: list[str], head: Head, spot: bool | None) -> OHLCVCandle:
    """Return a bar, right-aligned: OKX labels it by its open. `spot` None: what the volumes mean is not known.

    Nine elements since 2023 (`ts o h l c vol volCcy volCcyQuote confirm`), seven in 2022 (without the last two, so
    nothing says that the bar is over). `vol` is base currency for spot and contracts for all else, `volCcy` quote
    and base currency.
    """
    timeframe = TIMEFRAMES.get(head.channel)
    if timeframe is None:
        raise InvalidLine(f"{head.channel}: {NO_TIMEFRAME.get(head.channel, 'no bar of OKX')}")
    if len(row) not in (7, 9):
        raise InvalidLine(f"candle of {len(row)} elements, not 9")
    start = whole("ts", row[0])
    if timeframe.start_of(start) != start:
        raise InvalidLine(f"no bar of {timeframe.name} starts at {start}")
    opened, high, low, close, volume, turnover = (parse(text) for text in row[1:7])
    quote = parse(row[7]) if len(row) == 9 else turnover if spot else None
    confirm = row[8] if len(row) == 9 else "0"
    if confirm not in ("0", "1"):
        raise InvalidLine(f"confirm is neither 0 nor 1: {confirm[:20]!r}")
    found = OHLCVCandle(
        exchange=EXCHANGE,
        symbol=head.symbol,
        timeframe=timeframe.name,
        start=start,
        timestamp=timeframe.end_of(start),
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=volume,
        base_volume=volume if spot else turnover if spot is False else None,
        quote_volume=quote,
        buy_volume=None,
        trade_count=None,
        first_trade_id=None,
        last_trade_id=None,
        closed=confirm == "1",
        complete=confirm == "1",
        origin="exchange",
    )
    checks.check(found, head.now_ms)
    return found


def instrument(row: InstrumentRow, head: Head) -> Instrument:
    """Return an instrument; base and quote of a derivative come from its family (`BTC-USD_UM` is BTC and USD)."""
    family = (row.instFamily or row.uly).split("_")[0].split("-")
    base, quote = (family[0], family[1]) if len(family) == 2 else (None, None)
    found = Instrument(
        exchange=EXCHANGE,
        symbol=row.instId,
        kind=row.instType.lower(),
        state=row.state,
        base=row.baseCcy or base,
        quote=row.quoteCcy or quote,
        settle=row.settleCcy or None,
        contract_type=row.ctType or None,
        contract_value=_number(row.ctVal),
        contract_multiplier=_number(row.ctMult),
        contract_currency=row.ctValCcy or None,
        tick_size=_number(row.tickSz),
        lot_size=_number(row.lotSz),
        min_size=_number(row.minSz),
        listed=whole("listTime", row.listTime) if row.listTime else None,
        expires=whole("expTime", row.expTime) if row.expTime else None,
        received=head.received,
    )
    checks.check_instrument(found)
    return found


def whole(name: str, text: str) -> int:
    """Return the whole number that `text` spells.

    Raises:
        InvalidLine: it spells none.
    """
    try:
        return int(text)
    except ValueError:
        raise _which(**{name: text}) from None


def levels(row: BookRow, ordered: bool = True) -> tuple[Levels, Levels]:
    """Return the bids and asks of a row.

    Raises:
        InvalidLine: they are to be `ordered`, best first, and are not.
    """
    bids, asks = _levels(row.bids), _levels(row.asks)
    if ordered and any(bids[i][0] <= bids[i + 1][0] for i in range(len(bids) - 1)):
        raise InvalidLine("bids do not descend")
    if ordered and any(asks[i][0] >= asks[i + 1][0] for i in range(len(asks) - 1)):
        raise InvalidLine("asks do not ascend")
    return bids, asks


def refuse_odd_numbers(value: object) -> None:
    """Refuse what Python takes for a number and OKX never writes: blanks, `_`, `+`, `.5`, digits of other scripts.

    Raises:
        InvalidLine: `value`, a decoded row, has one.
    """
    if isinstance(value, str):
        if is_odd(value.encode(errors="replace")) and python_takes(value):
            parse(value)
    elif isinstance(value, dict):
        for item in value.values():
            refuse_odd_numbers(item)
    elif isinstance(value, list):
        for item in value:
            refuse_odd_numbers(item)


def is_odd(data: bytes) -> bool:
    """Whether `data` holds bytes without which no number can be spelt oddly."""
    # Looking for an integer is a memchr: six times as fast as looking for a one-byte string.
    return (
        not data.isascii()
        or _BLANK in data
        or _UNDERSCORE in data
        or _PLUS in data
        or _BACKSLASH in data
        or ODD_POINT(data) is not None
    )


def same_symbol(symbol: str, head: Head) -> None:
    """Refuse a row about another symbol than its push.

    Raises:
        InvalidLine: that is so.
    """
    if symbol != head.symbol and head.symbol:
        raise InvalidLine(f"a row of {symbol[:40]} in a push of {head.symbol[:40]}")


def _which(**fields: str) -> InvalidLine:
    """Return the reason that names the first of `fields` that is no whole number."""
    for name, text in fields.items():
        if not text.lstrip("-").isdigit():
            return InvalidLine(f"{name} is not a whole number: {text[:40]!r}")
    return InvalidLine(f"{', '.join(fields)}: not whole numbers")


def _number(text: str) -> Decimal | None:
    return parse(text) if text else None


def _levels(side: list[Level]) -> Levels:
    return tuple([(level.price, level.size) for level in side])
