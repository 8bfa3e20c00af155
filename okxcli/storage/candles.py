"""Candles into `market_data`: which of two versions of a bar is the better one, and its revision number."""

from collections.abc import Iterable

import msgspec
from psycopg import sql

from okxcli.core.model import OHLCVCandle
from okxcli.storage.database import Connection
from okxcli.storage.outcome import Outcome
from okxcli.storage.rows import fields_of, stamp
from okxcli.storage.staging import insert

_KEY = ("exchange", "symbol", "origin", "timeframe", "timestamp")
_Key = tuple[str, str, str, str, int]
#: What may be unknown at first (the instrument was) and known later, of the same fills.
_AMOUNTS = ("base_volume", "quote_volume", "buy_volume")


def key_of(candle: OHLCVCandle) -> _Key:
    """Return what there is one row of."""
    return candle.exchange, candle.symbol, candle.origin, candle.timeframe, candle.timestamp


def same(a: OHLCVCandle, b: OHLCVCandle) -> bool:
    """Whether two candles say the same, whatever their revision."""
    return msgspec.structs.replace(a, revision=b.revision) == b


def beats(new: OHLCVCandle, old: OHLCVCandle, proven: bool = False) -> bool:
    """Whether `new` is to take the place of `old`, the stored bar of the same key.

    A bar that is over beats a running one and never the other way round. A rebuild from rows that the ledger proves
    (`proven`) beats anything else. Then complete beats incomplete; then the one with more fills. With as many fills
    the newer wins if it is running, if it knows an amount that the stored one does not, or if neither counts fills
    (the exchange's own candles, which it may revise). One that says the same never wins.
    """
    if same(new, old):
        return False
    if new.closed != old.closed:
        return new.closed
    if proven:
        return True
    if new.complete != old.complete:
        return new.complete
    if new.trade_count != old.trade_count:
        return (new.trade_count or 0) > (old.trade_count or 0)
    if new.trade_count is None or not new.closed:
        return True
    return _knows_more(new, old)


def _knows_more(new: OHLCVCandle, old: OHLCVCandle) -> bool:
    gained = False
    for name in _AMOUNTS:
        before, after = getattr(old, name), getattr(new, name)
        if before is not None and after != before:
            return False
        gained = gained or (before is None and after is not None)
    return gained


def store_candles(connection: Connection, candles: list[OHLCVCandle], outcome: Outcome, proven: bool = False) -> None:
    """Store each candle that beats what is stored; the database numbers the revisions. The symbols must be locked.

    A bar that follows a running one of its key is no revision: numbers count the versions after its end.
    """
    stored = _stored(connection, {key_of(candle) for candle in candles})
    changed: dict[_Key, OHLCVCandle] = {}
    for candle in candles:
        key = key_of(candle)
        old = changed.get(key) or stored.get(key)
        if old is not None and not beats(candle, old, proven):
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
