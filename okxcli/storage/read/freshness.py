"""How fresh and how whole the stored data is: a row for each channel of a symbol, for `okx status`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from okxcli.core.model import AHEAD_MS, TAPE
from okxcli.core.states import STATES
from okxcli.core.timeframes import parse_list
from okxcli.storage.ledger.id_ledger import size
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.rows.reader import snapshot
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection

#: Rates are counted over this long.
RATE_WINDOW_S = 60
#: The channel of our own candles, and of the exchange's.
CANDLES, THEIR_CANDLES = "candles", "exchange candles"
#: The days by whose fills the usual pause of a symbol is told, and the fewest fills that tell it.
_USUAL_DAYS = 7
_USUAL_FILLS = 10


@dataclass(frozen=True)
class Freshness:
    """One channel of a symbol, by the name that it has in a configuration; our candles are `candles`.

    `newest` is the time (ms) of its newest row; of candles the time when the next one is due; None: there is none.
    `pause_ms` is the usual pause between two fills of the symbol, 0 where too few are stored to tell. Of the tape
    `ahead`: there are rows of a time that has not come, which count for nothing else here. Of the tape
    (`trades-all`) alone: `trades` counts stored fills, those that retention dropped too, `rate` those of the last
    minute, `missing` the ids that exist and are neither stored nor absent at the exchange.
    """

    exchange: str
    symbol: str
    channel: str
    newest: int | None
    pause_ms: int = 0
    quarantined: int = 0
    ahead: bool = False
    trades: int | None = None
    rate: int | None = None
    missing: int | None = None
    absent: int | None = None


_RATES: LiteralString = (
    "SELECT exchange, symbol, sum(count)::bigint FROM raw_trades"
    " WHERE timestamp > %s::timestamptz - make_interval(secs => %s) GROUP BY 1, 2"
)
_TAPES: LiteralString = (
    "SELECT s.exchange, s.symbol, EXISTS (SELECT FROM trade_ledger l WHERE l.exchange = s.exchange"
    " AND l.symbol = s.symbol AND l.epoch = 0 AND (l.archived OR NOT isempty(l.covered))) FROM symbols s"
    " WHERE epoch = 0 ORDER BY 1, 2"
)
_BAD: LiteralString = "SELECT exchange, symbol, count(*) FROM quarantine GROUP BY 1, 2"

# The newest row of each channel: names are found by skipping through the keys and not by a look at every row.
_STATES = sql.SQL(" ").join(
    sql.SQL(
        """
    UNION ALL
    SELECT s.exchange, s.symbol, {}, NULL, n.timestamp
    FROM symbols s CROSS JOIN LATERAL (SELECT timestamp FROM {} t WHERE t.exchange = s.exchange
        AND t.symbol = s.symbol ORDER BY timestamp DESC LIMIT 1) AS n WHERE s.epoch = 0"""
    ).format(sql.Literal(one.channel), sql.Identifier(one.table))
    for one in STATES
)
_CHANNELS = sql.SQL(
    """
WITH RECURSIVE books AS (
    SELECT s.exchange, s.symbol, (SELECT min(origin) FROM order_books b WHERE b.exchange = s.exchange
        AND b.symbol = s.symbol) AS origin FROM symbols s WHERE s.epoch = 0
    UNION ALL
    SELECT c.exchange, c.symbol, (SELECT min(origin) FROM order_books b WHERE b.exchange = c.exchange
        AND b.symbol = c.symbol AND b.origin > c.origin) FROM books c WHERE c.origin IS NOT NULL
), bars AS (
    SELECT s.exchange, s.symbol, f.origin, f.timeframe FROM symbols s LEFT JOIN LATERAL (
        SELECT origin, timeframe FROM market_data m WHERE m.exchange = s.exchange AND m.symbol = s.symbol
        ORDER BY origin, timeframe LIMIT 1) AS f ON true WHERE s.epoch = 0
    UNION ALL
    SELECT c.exchange, c.symbol, f.origin, f.timeframe FROM bars c LEFT JOIN LATERAL (
        SELECT origin, timeframe FROM market_data m WHERE m.exchange = c.exchange AND m.symbol = c.symbol
        AND (m.origin, m.timeframe) > (c.origin, c.timeframe) ORDER BY origin, timeframe LIMIT 1) AS f ON true
    WHERE c.origin IS NOT NULL
), newest AS (
    SELECT c.exchange, c.symbol, c.origin AS channel, NULL AS timeframe, n.timestamp
    FROM books c CROSS JOIN LATERAL (SELECT timestamp FROM order_books b WHERE b.exchange = c.exchange
        AND b.symbol = c.symbol AND b.origin = c.origin ORDER BY timestamp DESC LIMIT 1) AS n
    UNION ALL
    SELECT c.exchange, c.symbol, c.origin, c.timeframe, n.timestamp
    FROM bars c CROSS JOIN LATERAL (SELECT timestamp FROM market_data m WHERE m.exchange = c.exchange
        AND m.symbol = c.symbol AND m.origin = c.origin AND m.timeframe = c.timeframe AND closed
        ORDER BY timestamp DESC LIMIT 1) AS n
    {}
    UNION ALL
    SELECT s.exchange, s.symbol, 'trades', NULL, n.timestamp
    FROM symbols s CROSS JOIN LATERAL (SELECT timestamp FROM merged_trades t WHERE t.exchange = s.exchange
        AND t.symbol = s.symbol AND t.epoch = 0 ORDER BY trade_id DESC LIMIT 1) AS n WHERE s.epoch = 0
)
SELECT exchange, symbol, channel, timeframe, (extract(epoch FROM timestamp) * 1000)::bigint FROM newest
ORDER BY 1, 2, 3, 4
"""
).format(_STATES)


def freshness(
    connection: Connection, now_ms: int, configured: Sequence[str] = (), timeframes: Sequence[str] = ()
) -> list[Freshness]:
    """Return a row for every channel that anything is stored of, by exchange and symbol, the tape first.

    Of the tape only the last minute is read. Candles of `configured` symbols are as old as those of the oldest of
    `timeframes`; of other symbols as those of the newest, since some may have been given up long ago.
    """
    with snapshot(connection):
        rates = {(e, s): n for e, s, n in connection.execute(_RATES, [stamp(now_ms), RATE_WINDOW_S])}
        bad = {(e, s): n for e, s, n in connection.execute(_BAD)}
        newest: dict[tuple[str, str], list[tuple[str, str | None, int]]] = {}
        for exchange, symbol, channel, timeframe, moment in connection.execute(_CHANNELS):
            newest.setdefault((exchange, symbol), []).append((channel, timeframe, moment))
        found: list[Freshness] = []
        for exchange, symbol, taped in connection.execute(_TAPES).fetchall():
            key = (exchange, symbol)
            proof = Proof.load(connection, *key)
            rows = [_tape(proof, rates.get(key, 0))] if taped or proof.wanted else []
            wanted = timeframes if symbol in configured else ()
            rows += _others(proof, newest.get(key, []), wanted, now_ms + AHEAD_MS)
            if bad.get(key):  # of the symbol as a whole: the first row tells it
                first = rows[0] if rows else Freshness(*key, "-", None)
                rows[:1] = [Freshness(**{**vars(first), "quarantined": bad[key]})]
            found += rows
    return found


def _tape(proof: Proof, rate: int) -> Freshness:
    return Freshness(
        proof.exchange,
        proof.symbol,
        TAPE,
        proof.last_time,
        _pause(proof),
        ahead=bool(proof.ahead),
        trades=size(proof.covered) + size(proof.retired),
        rate=rate,
        missing=size(proof.holes()),
        absent=size(proof.absent),
    )


def _pause(proof: Proof) -> int:
    """Return the usual pause between two fills (ms), by those of the last days."""
    end = proof.last_time or 0
    days = [day for day in proof.days if day.start > end - _USUAL_DAYS * DAY_MS and day.first_time is not None]
    fills = sum(size(day.covered) for day in days)
    return (end - min(day.first_time or 0 for day in days)) // fills if fills >= _USUAL_FILLS else 0


def _others(
    proof: Proof, newest: list[tuple[str, str | None, int]], timeframes: Sequence[str], latest: int
) -> list[Freshness]:
    """Return the rows of all channels but the tape; what is newer than `latest` (ms) is ahead of the clock."""
    pause = _pause(proof)
    found: list[Freshness] = []
    for name, origin in ((CANDLES, "trades"), (THEIR_CANDLES, "exchange")):
        ends = {timeframe: end for channel, timeframe, end in newest if channel == origin and timeframe is not None}
        # The next of each is due when it is over; of one that has none yet, when two have begun and ended.
        due = {one.name: one.end_of(ends[one.name]) for one in (parse_list(list(ends)) if ends else ())}
        if origin == "trades" and timeframes:
            begin = proof.first_time
            if begin is not None:
                late = [one for one in parse_list(timeframes) if one.name not in due]
                due |= {one.name: one.end_of(one.end_of(one.start_of(begin))) for one in late}
            due = {name: moment for name, moment in due.items() if name in timeframes} or due
        if due:
            oldest = min if origin == "trades" and timeframes else max
            ahead = any(end > latest for end in ends.values())
            found.append(Freshness(proof.exchange, proof.symbol, name, oldest(due.values()), pause, ahead=ahead))
    for channel, timeframe, moment in newest:
        if timeframe is None:
            paused = pause if channel == "trades" else 0
            found.append(Freshness(proof.exchange, proof.symbol, channel, moment, paused, ahead=moment > latest))
    return found


def cure_of_ahead(symbol: str, channel: str, ids: str = "") -> str:
    """Return in words what to do about rows of a channel whose time has not come; `ids` are theirs, `FIRST-LAST`."""
    tables = {"trades": "merged_trades", CANDLES: "market_data", THEIR_CANDLES: "market_data"}
    tables |= {one.channel: one.table for one in STATES}
    rows = f"{tables.get(channel, 'order_books')} WHERE symbol = '{symbol}' AND timestamp > now() + interval '1 day'"
    command = f'okx db run "DELETE FROM {rows}"'  # noqa: S608 -- words for people
    if channel == TAPE:
        command = (
            f"okx db forget {symbol} --ids {ids} --yes; okx backfill" if ids else f"okx gaps {symbol} tells their ids"
        )
    return f"Set this machine's clock by NTP; if it is right, take them out: {command}"


def database_size(connection: Connection) -> int:
    """Return the bytes that the database takes on disk."""
    return number(connection, "SELECT pg_database_size(current_database())")


def quarantined(connection: Connection) -> int:
    """Return how many lines are in quarantine, those too that name no symbol."""
    return number(connection, "SELECT count(*) FROM quarantine")


def number(connection: Connection, query: LiteralString | sql.Composed, *values: str) -> int:
    """Return the one number that a query gives; 0 for none."""
    row = connection.execute(query, list(values)).fetchone()
    return int(row[0]) if row is not None else 0
