"""How fresh and how whole the stored data is: one row a symbol, for `okx status`."""

from dataclasses import dataclass

from okxcli.storage.database import Connection
from okxcli.storage.rows import stamp

#: Rates are counted over this long.
RATE_WINDOW_S = 60


@dataclass(frozen=True)
class Freshness:
    """What is stored of one symbol. Times are milliseconds since the epoch; None: nothing of that kind.

    `trades` counts stored fills, those that retention dropped too; `missing` the ids between the first and the last
    that are neither stored nor absent at the exchange; `rate` the fills of the last minute; `bar_ms` is the length of
    the smallest candles.
    """

    exchange: str
    symbol: str
    trades: int
    rate: int
    missing: int
    absent: int
    last_trade: int | None
    last_candle: int | None
    bar_ms: int | None
    last_book: int | None
    last_ticker: int | None
    quarantined: int

    @property
    def newest(self) -> int | None:
        """The time of the newest row of trades, books and tickers: a live market has one of them all the time.

        Where only candles are stored, the time when the one after the newest is due.
        """
        rows = max((t for t in (self.last_trade, self.last_book, self.last_ticker) if t is not None), default=None)
        if rows is None and self.last_candle is not None:
            return self.last_candle + (self.bar_ms or 0)
        return rows


# Multiranges count ids half-open, so that a width is upper - lower. Books and tickers of the last two days only: older
# ones are stale whatever their age, and the partitions stay unread.
_QUERY = """
WITH ids AS (
    SELECT exchange, symbol,
           coalesce(sum(upper(r) - lower(r)) FILTER (WHERE kind = 'covered'), 0)::bigint AS covered,
           coalesce(sum(upper(r) - lower(r)) FILTER (WHERE kind = 'absent'), 0)::bigint AS absent,
           (max(upper(r)) - min(lower(r)))::bigint AS span
    FROM (SELECT exchange, symbol, 'covered' AS kind, unnest(covered) AS r FROM trade_ledger WHERE epoch = 0
          UNION ALL
          SELECT exchange, symbol, 'absent', unnest(absent) FROM trade_ledger WHERE epoch = 0) AS both_kinds
    GROUP BY exchange, symbol
), newest AS (
    SELECT exchange, symbol, max(last_time) AS last_time FROM trade_ledger GROUP BY exchange, symbol
), rates AS (
    SELECT exchange, symbol, sum(count)::bigint AS fills FROM raw_trades
    WHERE timestamp > %(now)s::timestamptz - make_interval(secs => %(window)s) GROUP BY exchange, symbol
), bars AS (
    SELECT exchange, symbol, max(timestamp) AS last_time, min(timestamp - start) AS length FROM market_data
    WHERE closed AND origin = 'trades' AND timestamp > %(now)s::timestamptz - interval '40 days'
    GROUP BY exchange, symbol
), books AS (
    SELECT exchange, symbol, max(timestamp) AS last_time FROM order_books
    WHERE timestamp > %(now)s::timestamptz - interval '2 days' GROUP BY exchange, symbol
), tickers_of AS (
    SELECT exchange, symbol, max(timestamp) AS last_time FROM tickers
    WHERE timestamp > %(now)s::timestamptz - interval '2 days' GROUP BY exchange, symbol
), bad AS (
    SELECT exchange, symbol, count(*) AS lines FROM quarantine GROUP BY exchange, symbol
)
SELECT s.exchange, s.symbol, coalesce(ids.covered, 0), coalesce(rates.fills, 0),
       coalesce(ids.span - ids.covered - ids.absent, 0), coalesce(ids.absent, 0),
       (extract(epoch FROM newest.last_time) * 1000)::bigint, (extract(epoch FROM bars.last_time) * 1000)::bigint,
       (extract(epoch FROM bars.length) * 1000)::bigint,
       (extract(epoch FROM books.last_time) * 1000)::bigint, (extract(epoch FROM tickers_of.last_time) * 1000)::bigint,
       coalesce(bad.lines, 0)
FROM symbols AS s
LEFT JOIN ids USING (exchange, symbol)
LEFT JOIN newest USING (exchange, symbol)
LEFT JOIN rates USING (exchange, symbol)
LEFT JOIN bars USING (exchange, symbol)
LEFT JOIN books USING (exchange, symbol)
LEFT JOIN tickers_of USING (exchange, symbol)
LEFT JOIN bad USING (exchange, symbol)
WHERE s.epoch = 0
ORDER BY s.exchange, s.symbol
"""


def freshness(connection: Connection, now_ms: int) -> list[Freshness]:
    """Return a row for every symbol that anything is stored of, by name; of the tape only the last minute is read."""
    with connection.transaction():
        rows = connection.execute(_QUERY, {"now": stamp(now_ms), "window": RATE_WINDOW_S}).fetchall()
    return [Freshness(*row) for row in rows]


def database_size(connection: Connection) -> int:
    """Return the bytes that the database takes on disk."""
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row is not None else 0
