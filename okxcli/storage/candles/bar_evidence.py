"""What the database can say about one bar: its neighbours, the fills that it was made of, the ids that are missing."""

from dataclasses import dataclass

from psycopg import sql

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.model import Instrument, OHLCVCandle, StandardizedTrade, amounts
from okxcli.core.timeframes import Timeframe
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.rows import reader
from okxcli.storage.rows.row_format import fields_of, stamp
from okxcli.storage.server.pooled_connection import Connection

_BAR = sql.SQL(
    "SELECT {} FROM market_data WHERE exchange = %s AND symbol = %s AND timeframe = %s AND origin = %s AND closed"
).format(fields_of(OHLCVCandle))
_BEFORE = _BAR + sql.SQL(
    " AND first_trade_id IS NOT NULL AND timestamp <= %s::timestamptz ORDER BY timestamp DESC LIMIT 1"
)
_AFTER = _BAR + sql.SQL(" AND first_trade_id IS NOT NULL AND timestamp > %s::timestamptz ORDER BY timestamp LIMIT 1")
_AT = _BAR + sql.SQL(" AND timestamp = %s::timestamptz")


@dataclass(frozen=True)
class Evidence:
    """Asks about the bars of one symbol and timeframe, as they are stored now."""

    connection: Connection
    exchange: str
    symbol: str
    timeframe: Timeframe

    def bars(self, since_ms: int, until_ms: int) -> dict[int, OHLCVCandle]:
        """Return our bars that are over and lie whole in `[since_ms, until_ms)`, by their start."""
        series = reader.Series(self.exchange, self.symbol, self.timeframe.name, "trades")
        with reader.snapshot(self.connection):
            found = reader.candles(self.connection, series, reader.Span(since_ms, until_ms))
            return {candle.start: candle for candle in found}

    def before(self, moment_ms: int) -> OHLCVCandle | None:
        """Return our last bar with a trade in it that ends at or before a moment."""
        return self._one(_BEFORE, "trades", moment_ms)

    def after(self, moment_ms: int) -> OHLCVCandle | None:
        """Return our first bar with a trade in it that ends after a moment."""
        return self._one(_AFTER, "trades", moment_ms)

    def exchange_copy(self, end_ms: int) -> OHLCVCandle | None:
        """Return the exchange's own bar that ends then, as it was stored when it came."""
        return self._one(_AT, "exchange", end_ms)

    def _one(self, query: sql.Composed, origin: str, moment_ms: int) -> OHLCVCandle | None:
        values = [self.exchange, self.symbol, self.timeframe.name, origin, stamp(moment_ms)]
        row = self.connection.execute(query, values, binary=True).fetchone()
        return None if row is None else OHLCVCandle(*row)

    def knows(self, first: int, last: int) -> bool:
        """Whether the ledger has every id of `first .. last`, as a fill or as absent at the exchange."""
        row = self.connection.execute(
            "SELECT int8multirange(int8range(%s, %s, '[]')) <@ coalesce(range_agg(r), '{}') FROM trade_ledger,"
            " unnest(covered + absent) AS r WHERE exchange = %s AND symbol = %s AND epoch = 0",
            [first, last, self.exchange, self.symbol],
        ).fetchone()
        return row is not None and bool(row[0])

    def rebuilt(self, start_ms: int, end_ms: int) -> OHLCVCandle | None:
        """Return the bar that the stored fills of its time make; None when none is stored."""
        bucket = TimeframeBucket(start_ms, end_ms)
        instrument: Instrument | None = None
        series = reader.Series(self.exchange, self.symbol)
        with reader.snapshot(self.connection):
            fills = reader.trades(self.connection, series, reader.Span(start_ms, end_ms))
            for line in reader.with_context(self.connection, series, fills):
                if isinstance(line, Instrument):
                    instrument = line
                elif isinstance(line, StandardizedTrade):
                    bucket.add(line, *amounts(instrument, self.symbol, line.price, line.size))
        if not bucket.count:
            return None
        return bucket.candle(self.exchange, self.symbol, self.timeframe.name, True, False)

    def missing(self, first: int, last: int, since_ms: int, until_ms: int) -> Ranges:
        """Return the ids of `first .. last` that have no row between two moments and are not absent at the exchange."""
        row = self.connection.execute(
            "SELECT int8multirange(int8range(%(first)s, %(last)s, '[]'))"
            " - (SELECT coalesce(range_agg(int8range(trade_id, trade_id, '[]')), '{}') FROM raw_trades"
            "    WHERE exchange = %(exchange)s AND symbol = %(symbol)s AND epoch = 0"
            "    AND trade_id BETWEEN %(first)s AND %(last)s"
            "    AND timestamp >= %(since)s::timestamptz AND timestamp < %(until)s::timestamptz)"
            " - (SELECT coalesce(range_agg(r), '{}') FROM trade_ledger, unnest(absent) AS r"
            "    WHERE exchange = %(exchange)s AND symbol = %(symbol)s AND epoch = 0)",
            {
                "first": first,
                "last": last,
                "exchange": self.exchange,
                "symbol": self.symbol,
                "since": stamp(since_ms),
                "until": stamp(until_ms),
            },
        ).fetchone()
        return [] if row is None else id_ledger.read(row[0])
