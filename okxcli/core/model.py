"""The types that travel between commands: trades, candles, books and their updates, tickers, instruments, absent
ids.

One definition each, whole, however much it is like another. Field names and order are the keys of the JSON lines and
the columns of the tables. Prices and sizes are `Decimal`, times are integer milliseconds since the epoch, UTC. Fields
that are None are unknown, never guessed. `core/codec.py` turns them into lines and back.
"""

from decimal import Decimal
from typing import Final

import msgspec

from okxcli.core.decimals import EXACT, quotient

# No trade is older than 2017; the upper bound catches microseconds taken for milliseconds.
MIN_TIMESTAMP = 1_262_304_000_000  # 2010-01-01
MAX_TIMESTAMP = 4_102_444_800_000  # 2100-01-01
MAX_ID = 2**63 - 1
#: What happened is known after it happened: by how much a clock may be behind the exchange's. The one that stamped
#: `received` was there; where there is no stamp the line may have been on its way for long, and any clock must do.
AHEAD_MS = 3_600_000
UNSTAMPED_AHEAD_MS = 86_400_000

#: The channel, and the origin, of fills that come one by one, each by its own id. Names of channels are words of the
#: lines, whatever an exchange calls them.
TAPE: Final = "trades-all"
#: The origin of a merged trade from a file: nothing tells how many fills it is of, so its id proves nothing.
FILE_MERGED = "file-merged"

#: Levels of a book: (price, size), best first.
Levels = tuple[tuple[Decimal, Decimal], ...]


class StandardizedTrade(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="trade"):
    """A fill, or several fills of one taker order at one price that the exchange merged.

    `count` fills are in it: it covers the ids `trade_id - count + 1 .. trade_id`. `side` is the taker's. `timestamp`
    is the exchange's time, `received` ours (None if nobody stamped it). `source` is the exchange's own flag. `origin`
    says where it came from: `trades-all`, `trades` (merged), `rest`, `file`, `file-merged` (`FILE_MERGED`).
    """

    exchange: str
    symbol: str
    trade_id: int
    side: str
    price: Decimal
    size: Decimal
    timestamp: int
    count: int = 1
    received: int | None = None
    source: int | None = None
    origin: str = TAPE

    @property
    def first_id(self) -> int:
        """The lowest id that this trade covers."""
        return self.trade_id - self.count + 1


class OHLCVCandle(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="candle"):
    """A bar over `[start, timestamp)`: right-aligned, labelled by its end.

    `volume` is in the exchange's own unit, `base_volume` and `quote_volume` in the two currencies (None when the
    instrument is not known), `buy_volume` the part of `volume` that takers bought. `trade_count` counts fills; ids
    are None in a bar without fills and in one that the exchange made. `closed` is False for a running bar, `complete`
    True when the ids prove that nothing is missing, `revision` counts how often this bar was written before.
    `origin`: `trades` (made here) or `exchange`.
    """

    exchange: str
    symbol: str
    timeframe: str
    start: int
    timestamp: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    base_volume: Decimal | None
    quote_volume: Decimal | None
    buy_volume: Decimal | None
    trade_count: int | None
    first_trade_id: int | None
    last_trade_id: int | None
    closed: bool = True
    complete: bool = False
    revision: int = 0
    origin: str = "trades"


class BookSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="book"):
    """The best levels of an order book at one moment, best first; a side may be empty.

    `seq_id` orders snapshots of one symbol and one `origin` (`books5`, `bbo-tbt`, or `books` where the book was kept
    from updates); None in old recordings.
    """

    exchange: str
    symbol: str
    timestamp: int
    bids: Levels
    asks: Levels
    seq_id: int | None = None
    received: int | None = None
    origin: str = "books5"


class BookUpdate(msgspec.Struct, frozen=True, tag_field="type", tag="book_update"):
    """What a channel of whole order books says of one: all of it (`snapshot`), or some levels (`update`).

    A size is what stands at a price from now on, 0 that nothing does. The levels of an update are in no order.
    `prev_seq_id` is the `seq_id` that it follows on; of a snapshot it is -1, or None where that was fetched and begins
    no chain of its own. Both are None in old recordings. `origin` is the channel.
    """

    exchange: str
    symbol: str
    timestamp: int
    action: str
    bids: Levels
    asks: Levels
    seq_id: int | None = None
    prev_seq_id: int | None = None
    received: int | None = None
    origin: str = "books"


class Ticker(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="ticker"):
    """Last price, best bid and ask, and the rolling day of an instrument; None where the exchange says nothing.

    `volume_24h` is in the exchange's own unit (as `OHLCVCandle.volume`); `base_volume_24h` and `quote_volume_24h` are
    None where its meaning is not known. `open_utc0` and `open_utc8` are the opens of the UTC and the UTC+8 day.
    """

    exchange: str
    symbol: str
    timestamp: int
    received: int | None = None
    last: Decimal | None = None
    last_size: Decimal | None = None
    bid: Decimal | None = None
    bid_size: Decimal | None = None
    ask: Decimal | None = None
    ask_size: Decimal | None = None
    open_24h: Decimal | None = None
    high_24h: Decimal | None = None
    low_24h: Decimal | None = None
    volume_24h: Decimal | None = None
    base_volume_24h: Decimal | None = None
    quote_volume_24h: Decimal | None = None
    open_utc0: Decimal | None = None
    open_utc8: Decimal | None = None


class Funding(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="funding"):
    """The funding of a perpetual contract: what one side pays the other, as a part of the position's worth.

    `rate` is that of the settlement at `funding_time`, as far as it is known at `timestamp`; `next_rate` that of the
    one after it, at `next_funding_time`. `settled_rate` is what was paid at the last settlement. A rate may be
    negative: the short side pays then. `origin`: the channel, or `rest` for a settlement of the past, whose
    `timestamp` is its `funding_time`.
    """

    exchange: str
    symbol: str
    timestamp: int
    received: int | None = None
    rate: Decimal | None = None
    funding_time: int | None = None
    next_rate: Decimal | None = None
    next_funding_time: int | None = None
    min_rate: Decimal | None = None
    max_rate: Decimal | None = None
    settled_rate: Decimal | None = None
    premium: Decimal | None = None
    interest_rate: Decimal | None = None
    method: str | None = None
    origin: str = "funding-rate"


class Mark(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="mark"):
    """The price by which the exchange values open positions, in quote currency (of an option as its trades)."""

    exchange: str
    symbol: str
    timestamp: int
    received: int | None = None
    price: Decimal


class Index(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="index"):
    """The price of an index, and its rolling day. `symbol` is the index, which is named as a spot market (BTC-USD)."""

    exchange: str
    symbol: str
    timestamp: int
    received: int | None = None
    price: Decimal
    open_24h: Decimal | None = None
    high_24h: Decimal | None = None
    low_24h: Decimal | None = None
    open_utc0: Decimal | None = None
    open_utc8: Decimal | None = None


class OpenInterest(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="open_interest"):
    """What is held open of an instrument: in its own unit, which is contracts; in base currency; in US dollars."""

    exchange: str
    symbol: str
    timestamp: int
    received: int | None = None
    open_interest: Decimal
    base_open_interest: Decimal | None = None
    usd_open_interest: Decimal | None = None


class PriceLimit(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="price_limit"):
    """The highest price at which the exchange lets buy and the lowest at which it lets sell; None: it sets none.

    `enabled` is False while it sets no limits.
    """

    exchange: str
    symbol: str
    timestamp: int
    received: int | None = None
    buy_limit: Decimal | None = None
    sell_limit: Decimal | None = None
    enabled: bool | None = None


class Liquidation(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="liquidation"):
    """A position that the exchange closed by force. What it tells is a sample, and not in the order of time.

    `side` is that of the closing order, `position` what is closed: `long`, `short` or `net`. `size` is in the
    exchange's own unit, `base_size` and `quote_size` what that is at `bankruptcy_price`, as far as the instrument is
    known. No price of execution is told. `loss` is in `currency`.
    """

    exchange: str
    symbol: str
    timestamp: int
    received: int | None = None
    side: str
    position: str | None = None
    size: Decimal
    base_size: Decimal | None = None
    quote_size: Decimal | None = None
    bankruptcy_price: Decimal
    loss: Decimal | None = None
    currency: str | None = None


class Instrument(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="instrument"):
    """What can be traded, and what a size of it means.

    `kind`: spot, margin, swap, futures, option, events. `contract_value` times `contract_multiplier` is the worth of
    one contract in `contract_currency`; `contract_type` is `linear`, `inverse` or None (spot, options). `listed` and
    `expires` are milliseconds. `received` is when we learned it.
    """

    exchange: str
    symbol: str
    kind: str
    state: str
    base: str | None = None
    quote: str | None = None
    settle: str | None = None
    contract_type: str | None = None
    contract_value: Decimal | None = None
    contract_multiplier: Decimal | None = None
    contract_currency: str | None = None
    tick_size: Decimal | None = None
    lot_size: Decimal | None = None
    min_size: Decimal | None = None
    listed: int | None = None
    expires: int | None = None
    received: int | None = None


class Absent(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="absent"):
    """The ids `first .. last` (both included) that the exchange itself does not have."""

    exchange: str
    symbol: str
    first: int
    last: int


#: What an exchange says of a symbol at a moment, beside trades, bars and books: `core/states.py` describes each.
State = Ticker | Funding | Mark | Index | OpenInterest | PriceLimit | Liquidation
Line = StandardizedTrade | OHLCVCandle | BookSnapshot | BookUpdate | State | Instrument | Absent


def amounts(
    instrument: Instrument | None, symbol: str, price: Decimal, size: Decimal
) -> tuple[Decimal | None, Decimal | None]:
    """Return what `size` at `price` is in base and in quote currency; None where that is not known.

    Spot sizes are base currency, all others are contracts. A two-part symbol without an instrument is spot. Exact,
    except the base amount of an inverse contract, which is a quotient (see `decimals.quotient`). An option's premium
    is in its settle currency, so its quote amount is None. Source: the exchange's own definition of contract value.
    """
    spot = symbol.count("-") == 1 if instrument is None else instrument.kind in ("spot", "margin")
    if spot:
        return size, EXACT.multiply(size, price)
    if instrument is None or instrument.contract_value is None:
        return None, None
    worth = EXACT.multiply(instrument.contract_value, instrument.contract_multiplier or Decimal(1))
    amount = EXACT.multiply(size, worth)
    if instrument.contract_type == "linear":
        return amount, EXACT.multiply(amount, price)
    if instrument.contract_type == "inverse":
        return quotient(amount, price), amount
    return (amount, None) if instrument.kind == "option" else (None, None)
