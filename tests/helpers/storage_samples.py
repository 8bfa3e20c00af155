"""Lines for the storage tests, and short ways to store and to look."""

from contextlib import closing
from decimal import Decimal
from random import Random

import msgspec
import psycopg

from okxcli.core import states
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.model import (
    Absent,
    BookSnapshot,
    Funding,
    Index,
    Instrument,
    Liquidation,
    Mark,
    OHLCVCandle,
    OpenInterest,
    PriceLimit,
    StandardizedTrade,
    Ticker,
)
from okxcli.storage.database import open_database
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series
from okxcli.storage.write.writer import Writer

DAY = 86_400_000
#: 2025-05-12T21:59:23.557Z
T0 = 1747087163557
MIDNIGHT = T0 // DAY * DAY + DAY


def trade(trade_id, price="102537.9", size="0.00013669", side="sell", timestamp=None, **more):
    """A fill; by default one millisecond an id."""
    at = T0 + trade_id if timestamp is None else timestamp
    more = {"symbol": "BTC-USDT", "received": at + 44, "source": 0} | more
    return StandardizedTrade("okx", more.pop("symbol"), trade_id, side, Decimal(price), Decimal(size), at, **more)


def candle(minute=0, close="10", count=5, **more):
    """A one-minute bar of five fills, complete."""
    start = 1747087140000 + minute * 60_000
    fields = {
        "symbol": "BTC-USDT", "timeframe": "1m", "open": Decimal(10), "high": Decimal(12), "low": Decimal(9),
        "volume": Decimal("1.5"), "base_volume": Decimal("1.5"), "quote_volume": Decimal("15.75"),
        "buy_volume": Decimal("0.5"), "first_trade_id": minute * 5 + 1, "last_trade_id": minute * 5 + 5,
        "complete": True,
    } | more  # fmt: skip
    return OHLCVCandle("okx", start=start, timestamp=start + 60_000, close=Decimal(close), trade_count=count, **fields)


def book(timestamp=T0, seq_id=1, bid="102537.8", **more):
    """A book of one bid and two asks."""
    asks = ((Decimal("102537.9"), Decimal("1.5")), (Decimal("102538"), Decimal("0.00000853")))
    return BookSnapshot("okx", "BTC-USDT", timestamp, ((Decimal(bid), Decimal(2)),), asks, seq_id, **more)


def ticker(timestamp=T0, last="102537.9", **more):
    """A ticker with the last price alone."""
    return Ticker("okx", "BTC-USDT", timestamp, last=Decimal(last), **more)


def every_state(timestamp=T0, symbol="BTC-USDT-SWAP"):
    """A state of each type but a ticker, of one symbol and moment, with every field that one has."""
    head = {"exchange": "okx", "symbol": symbol, "timestamp": timestamp, "received": timestamp + 44}
    hours = 8 * 3_600_000
    times = {"funding_time": timestamp + hours, "next_funding_time": timestamp + 2 * hours}
    rates = dict(zip(states.numbers(Funding), map(Decimal, ("-0.0001", "0.0002", "-0.00375", "0.00375", "0", "-1E-7",
                                                            "0.00001")), strict=True))  # fmt: skip
    day = {name: Decimal(number) for number, name in enumerate(("low_24h", "high_24h", "open_24h", "open_utc8"), 1)}
    return [
        Funding(**head, **times, **rates, method="current_period"),
        Mark(**head, price=Decimal("102537.95")),
        Index(**head, price=Decimal("102537.951"), **day),
        OpenInterest(**head, open_interest=Decimal("2216113.01000000309"), usd_open_interest=Decimal(1)),
        PriceLimit(**head, buy_limit=Decimal("103000.1"), enabled=True),
        Liquidation(
            **head, side="buy", position="short", size=Decimal(13), base_size=Decimal("0.13"), loss=Decimal(-2),
            bankruptcy_price=Decimal("0.007831"), currency="USDT",
        ),
    ]  # fmt: skip


def instrument(received=T0, **more):
    """A swap as it is listed."""
    fields = {"kind": "swap", "state": "live", "settle": "USDT", "contract_value": Decimal("0.01")} | more
    return Instrument("okx", "BTC-USDT-SWAP", received=received, **fields)


def absent(first, last, symbol="BTC-USDT"):
    """Ids that the exchange does not have."""
    return Absent("okx", symbol, first, last)


def store(dsn, lines, **options):
    """Store lines in batches and return the counts that are not zero."""
    with open_database(dsn, create=True) as database, closing(Writer(database.connect, **options)) as writer:
        for line in lines:
            writer.add(line)
        writer.flush()
        return {name: number for name, number in writer.counts().items() if number}


def rows(dsn, query, *values):
    """Run a query and return its rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query, values).fetchall()


def covered(dsn, symbol="BTC-USDT"):
    """Return the ids that the ledger covers, from all its days."""
    found = rows(dsn, "SELECT covered FROM trade_ledger WHERE symbol = %s", symbol)
    return sorted(i for (ranges,) in found for part in ranges for i in range(part.lower, part.upper))


def noted_absent(dsn, symbol="BTC-USDT"):
    """Return the ids that the ledger has as absent, from all its days."""
    found = rows(dsn, "SELECT absent FROM trade_ledger WHERE symbol = %s", symbol)
    return sorted(i for (ranges,) in found for part in ranges for i in range(part.lower, part.upper))


def stored_ids(dsn, symbol="BTC-USDT"):
    """Return the ids of the rows of the tape."""
    return [row[0] for row in rows(dsn, "SELECT trade_id FROM raw_trades WHERE symbol = %s ORDER BY 1", symbol)]


def market(count, seed=1, step=230, back=80, quiet=0.0):
    """Return fills around midnight, some with a time before that of the fill before, and now and then a quiet."""
    chance = Random(seed)
    at = MIDNIGHT - count * step // 2
    fills = []
    for number in range(1, count + 1):
        at += chance.choice((0, 1, step, 2 * step)) + (7_000 if chance.random() < quiet else 0)
        price, size = f"{chance.randint(900, 1100)}.5", f"0.{chance.randint(1, 9999):04d}1"
        fills.append(trade(number, price, size, chance.choice(("buy", "sell")), at - chance.choice((0, 0, 0, back))))
    return fills


def made(lines, frames, **options):
    """Return the final bars that the candle maker makes of lines, by timeframe and end, at revision 0."""
    found = {}
    maker = RealTimeCandleProcessor(frames, lambda c: found.__setitem__((c.timeframe, c.timestamp), c), **options)
    for line in lines:
        maker.feed(line)
    maker.finish()
    return {key: at_first(bar) for key, bar in found.items()}


def at_first(bar):
    """Return a bar without its revisions."""
    return msgspec.structs.replace(bar, revision=0)


def bars_of(dsn, symbol="BTC-USDT"):
    """Return the stored bars by timeframe and end, at revision 0."""
    with open_database(dsn, create=False) as database, closing(database.connect()) as connection:
        names = [row[0] for row in connection.execute("SELECT DISTINCT timeframe FROM market_data ORDER BY 1")]
        with reader.snapshot(connection):
            found = [c for f in names for c in reader.candles(connection, Series("okx", symbol, f), EVERYTHING)]
    return {(c.timeframe, c.timestamp): at_first(c) for c in found}
