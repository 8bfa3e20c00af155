"""The forms of OKX's rows, as they stand in `data` of a push, and the bars that timeframes of ours describe.

All numbers of OKX are strings, and any of them may be empty. Fields that came later have defaults, since recordings
are older. Each is spelled out as OKX sends it, be it like another one.
Field by field: `https://www.okx.com/docs-v5/en/`.
"""

from decimal import Decimal

import msgspec

from okxcli.core.timeframes import Timeframe

#: Bars that a timeframe of ours describes. OKX cuts days and longer at midnight of UTC+8, unless the name says utc.
TIMEFRAMES: dict[str, Timeframe] = {
    "candle" + bar: Timeframe.parse(name)
    for bar, name in {
        **{bar: bar.lower() for bar in ("1s", "1m", "3m", "5m", "15m", "30m", "1H", "2H", "4H")},
        **{f"{n}Hutc": f"{n}h" for n in (6, 12)},
        **{f"{n}D": f"{n}d+8" for n in (1, 2, 3, 5)},
        **{f"{n}Dutc": f"{n}d" for n in (1, 2, 3, 5)},
        **{"1W": "1w+8", "1Wutc": "1w", "1M": "1M+8", "1Mutc": "1M"},
    }.items()
}
#: Bars that none describes, and why.
NO_TIMEFRAME: dict[str, str] = {
    **{f"candle{n}H": f"cut at UTC+8, which hours do not have here: take candle{n}Hutc" for n in (6, 12)},
    "candle3M": "months come one at a time here: take candle1M",
    "candle3Mutc": "months come one at a time here: take candle1Mutc",
}


class Head(msgspec.Struct, gc=False, frozen=True):
    """What a push says about all of its rows; `now_ms` is when it was read, or received if that is known.
    `action` is that of a book."""

    channel: str
    symbol: str
    received: int | None
    origin: str
    now_ms: int | None = None
    action: str = ""


class TradeRow(msgspec.Struct, gc=False):
    """A row of `trades` and `trades-all`, and of REST's trades. `count` and `source` came in 2023 and 2025."""

    instId: str
    tradeId: str
    px: Decimal
    sz: Decimal
    side: str
    ts: str
    count: str = "1"
    source: str = ""


class Level(msgspec.Struct, gc=False, array_like=True):
    """A level of a book: price, size, and two elements that nobody needs."""

    price: Decimal
    size: Decimal


class BookRow(msgspec.Struct):
    """A row of a book. `seqId` came in 2022; only `books5` has `instId`, only books of updates have `prevSeqId`."""

    asks: list[Level]
    bids: list[Level]
    ts: str
    seqId: int | None = None
    instId: str = ""
    prevSeqId: int | None = None


class TickerRow(msgspec.Struct, gc=False):
    """A row of `tickers`; each number may be empty."""

    instId: str
    ts: str
    instType: str = ""
    last: str = ""
    lastSz: str = ""
    bidPx: str = ""
    bidSz: str = ""
    askPx: str = ""
    askSz: str = ""
    open24h: str = ""
    high24h: str = ""
    low24h: str = ""
    vol24h: str = ""
    volCcy24h: str = ""
    sodUtc0: str = ""
    sodUtc8: str = ""


class InstrumentRow(msgspec.Struct, gc=False):
    """A row of `instruments`; most of it may be empty, all of it before the listing."""

    instId: str
    instType: str
    state: str
    instFamily: str = ""
    uly: str = ""
    baseCcy: str = ""
    quoteCcy: str = ""
    settleCcy: str = ""
    ctType: str = ""
    ctVal: str = ""
    ctMult: str = ""
    ctValCcy: str = ""
    tickSz: str = ""
    lotSz: str = ""
    minSz: str = ""
    listTime: str = ""
    expTime: str = ""
