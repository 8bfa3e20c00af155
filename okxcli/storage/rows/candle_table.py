"""Candles into `market_data`: the better of two versions of a bar stays, and the database numbers its revisions."""

from collections.abc import Iterable

import msgspec
from psycopg import sql

from okxcli.core.candles.compare import beats, fills
from okxcli.core.model import OHLCVCandle
from okxcli.core.timeframes import Timeframe, parse_list
from okxcli.storage.rows.copying import insert
from okxcli.storage.rows.outcome import Outcome
from okxcli.storage.rows.row_format import fields_of, stamp
from okxcli.storage.server.pooled_connection import Connection

_KEY = ("exchange", "symbol", "origin", "timeframe", "timestamp")
_Key = tuple[str, str, str, str, int]


# Found by skipping through the keys, and not by a look at every bar.
_FRAMES = """
WITH RECURSIVE f (name) AS (
    SELECT min(timeframe) FROM market_data WHERE exchange = %(e)s AND symbol = %(s)s AND origin = 'trades'
    UNION ALL SELECT (SELECT min(timeframe) FROM market_data WHERE exchange = %(e)s AND symbol = %(s)s
        AND origin = 'trades' AND timeframe > f.name) FROM f WHERE f.name IS NOT NULL
) SELECT name FROM f WHERE name IS NOT NULL
"""


def stored_frames(connection: Connection, key: tuple[str, str]) -> tuple[Timeframe, ...]:
    """Return the timeframes of our bars of a symbol, shortest first."""
    names = [row[0] for row in connection.execute(_FRAMES, {"e": key[0], "s": key[1]})]
    return parse_list(names) if names else ()


def key_of(candle: OHLCVCandle) -> _Key:
    """Return what there is one row of."""
    return candle.exchange, candle.symbol, candle.origin, candle.timeframe, candle.timestamp


def store_candles(
    connection: Connection, candles: list[OHLCVCandle], outcome: Outcome, proven: bool = False, force: bool = False
) -> None:
    """Store each candle that beats what is stored; the database numbers the revisions. The symbols must be locked.

    With `force` one that holds no fewer fills beats any other. A bar that follows a running one of its key is no
    revision: numbers count the versions after its end.
    """
    stored = _stored(connection, {key_of(candle) for candle in candles})
    changed: dict[_Key, OHLCVCandle] = {}
    for candle in candles:
        key = key_of(candle)
        old = changed.get(key) or stored.get(key)
        best = proven or (force and old is not None and fills(candle) >= fills(old))
        if old is not None and not beats(candle, old, best):
            outcome.counts["duplicates"] += 1
            continue
        revision = old.revision + 1 if old is not None and old.closed else 0
        changed[key] = msgspec.structs.replace(candle, revision=revision)
        outcome.counts["market_data"] += 1
    if changed:
        insert(connection, "market_data", list(changed.values()), over=_KEY)


def _stored(connection: Connection, keys: Iterable[_Key]) -> dict[_Key, OHLCVCandle]:
    wanted = sorted(keys)
    times = [stamp(key[4]) for key in wanted]
    rows = connection.execute(
        sql.SQL("""
        SELECT {} FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[]::timestamptz[])
            AS k (exchange, symbol, origin, timeframe, timestamp)
        JOIN market_data m USING (exchange, symbol, origin, timeframe, timestamp)
        WHERE m.timestamp BETWEEN %s::timestamptz AND %s::timestamptz
        """).format(fields_of(OHLCVCandle, "m")),
        [*map(list, zip(*(key[:4] for key in wanted), strict=True)), times, min(times), max(times)],
        binary=True,
    )
    found = (OHLCVCandle(*row) for row in rows)
    return {key_of(candle): candle for candle in found}
