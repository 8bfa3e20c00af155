"""Do we have every id: the ranges of a symbol's tape between two moments, each covered, missing, absent or unknown.

Before the first covered fill and after the newest the tape is unknown: nobody can tell from the ledger whether there
was a trade.
"""

from collections.abc import Iterator
from typing import LiteralString

from okxcli.core.model import UNSTAMPED_AHEAD_MS
from okxcli.storage.candles.candle_chain import Chain, is_candles_only
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.audit import found_days
from okxcli.storage.ledger.id_ranges import IdRange, Kind
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection

__all__ = ["IdRange", "ranges", "taped"]


def ranges(
    connection: Connection,
    exchange: str,
    symbol: str,
    since_ms: int | None = None,
    until_ms: int | None = None,
    kept: bool = False,
) -> list[IdRange]:
    """Return the ranges of a symbol by rising id, as far as they touch `[since_ms, until_ms)`.

    None stands for the time of the first and of the newest covered fill. A hole belongs to the time between the fills
    beside it. A symbol without a tape, but with candles of ours, has the ranges that their ids prove; one with neither
    is unknown as a whole. Where a tape was, or is to be (`kept`), candles prove nothing: what they know is missing.
    Whatever is stored with a time that has not come is told as well, wherever it lies.
    """
    proof = Proof.load(connection, exchange, symbol)
    ahead = _ahead(connection, proof)
    if proof.first_time is None:
        chain = Chain.load(connection, exchange, symbol)
        if kept or not is_candles_only(connection, exchange, symbol):
            lost = [one for one in _lost(proof, chain) if _touches(one, since_ms, until_ms)]
            return [*lost, IdRange("unknown", None, None, since_ms, until_ms), *ahead]
        found = [] if chain is None else chain.ranges()
        touched = [one for one in found if _touches(one, since_ms, until_ms)]
        return _with_ends(touched, found, since_ms, until_ms) + ahead
    edges = {edge for part in (*proof.covered, *proof.retired) for edge in part}
    times = proof.times(connection, edges)
    whole = list(_segments(proof, times))
    found = [_clipped(connection, proof, one, since_ms, until_ms) for one in whole if _touches(one, since_ms, until_ms)]
    return _with_ends(found, whole, since_ms, until_ms) + ahead


def _ahead(connection: Connection, proof: Proof) -> list[IdRange]:
    """Return the ids of fills whose time has not come, and the span of such candles of ours, without ids."""
    found = [IdRange("ahead", first, last, None, None) for first, last in proof.ahead]
    bars = connection.execute(
        "SELECT (extract(epoch FROM min(start)) * 1000)::bigint, (extract(epoch FROM max(timestamp)) * 1000)::bigint"
        " FROM market_data WHERE exchange = %s AND symbol = %s AND start > now() + make_interval(secs => %s)",
        [proof.exchange, proof.symbol, UNSTAMPED_AHEAD_MS / 1000],
    ).fetchall()
    return found + [IdRange("ahead", None, None, since, until) for since, until in bars if since is not None]


def _lost(proof: Proof, chain: Chain | None) -> Iterator[IdRange]:
    """Yield the ids that exist, of a symbol of which no fill is stored: those in candles, and those remembered."""
    known = [] if chain is None else id_ledger.subtract(chain.covered, proof.absent)
    for first, last in id_ledger.union([*known, *proof.holes()]):
        links = [] if chain is None else [one for one in chain.base.links if one.first <= last and one.last >= first]
        times = (links[0].start, links[-1].end) if links else (None, None)
        yield IdRange("missing", first, last, *times)


def _segments(proof: Proof, times: dict[int, int]) -> Iterator[IdRange]:
    """Yield everything from the lowest to the highest known id, in order."""
    parts: list[tuple[int, int, Kind]] = [(first, last, "covered") for first, last in proof.covered]
    parts += [(first, last, "covered") for first, last in proof.retired]
    parts += [(first, last, "absent") for first, last in id_ledger.subtract(proof.absent, proof.covered)]
    parts += [(first, last, "missing") for first, last in id_ledger.subtract(proof.holes(), proof.ahead)]
    parts += [(first, last, "forgotten") for first, last in id_ledger.subtract(proof.forgotten, proof.known)]
    for first, last, kind in sorted(parts):
        if kind == "covered":
            yield IdRange(kind, first, last, times[first], times[last])
        else:
            before, after = proof.below(first), proof.above(last)
            yield IdRange(
                kind,
                first,
                last,
                None if before is None else times[before],
                None if after is None else times[after],
            )


def _touches(one: IdRange, since_ms: int | None, until_ms: int | None) -> bool:
    late_enough = since_ms is None or one.last_time is None or one.last_time >= since_ms
    return late_enough and (until_ms is None or one.first_time is None or one.first_time < until_ms)


def _clipped(connection: Connection, proof: Proof, one: IdRange, since_ms: int | None, until_ms: int | None) -> IdRange:
    """Return a covered range cut to the fills within two moments; any other as it is."""
    if one.kind != "covered" or one.first_time is None or one.last_time is None:
        return one
    first, last, low, high = one.first, one.last, one.first_time, one.last_time
    if since_ms is not None and low < since_ms:
        row = _edge(connection, proof, one, since_ms, high, _LOWEST)
        first, low = row or (first, low)
    if until_ms is not None and high >= until_ms:
        row = _edge(connection, proof, one, low, until_ms - 1, _HIGHEST)
        last, high = row or (last, high)
    return IdRange(one.kind, first, last, low, high)


def _edge(
    connection: Connection, proof: Proof, one: IdRange, low: int, high: int, query: LiteralString
) -> tuple[int, int] | None:
    """Return (id, time) of the lowest or highest id of a range between two moments; None if retention took the rows."""
    values = [proof.exchange, proof.symbol, one.first, one.last, stamp(low), stamp(high)]
    row = connection.execute(query, values).fetchone()
    return None if row is None else (int(row[0]), int(row[1]))


_EDGE: LiteralString = (
    "SELECT trade_id, (extract(epoch FROM timestamp) * 1000)::bigint FROM raw_trades"
    " WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id BETWEEN %s AND %s"
    " AND timestamp BETWEEN %s::timestamptz AND %s::timestamptz ORDER BY trade_id"
)
_LOWEST: LiteralString = _EDGE + " LIMIT 1"
_HIGHEST: LiteralString = _EDGE + " DESC LIMIT 1"


def _with_ends(found: list[IdRange], whole: list[IdRange], since_ms: int | None, until_ms: int | None) -> list[IdRange]:
    """Return what was found, with the unknown before the first and after the newest fill where that was asked for."""
    covered = [one for one in whole if one.kind == "covered"]
    if not covered:
        return [IdRange("unknown", None, None, since_ms, until_ms)]
    first_time, last_time = covered[0].first_time, covered[-1].last_time
    low, high = whole[0].first, whole[-1].last
    below, above = None if low is None else low - 1, None if high is None else high + 1
    before: list[IdRange] = []
    after: list[IdRange] = []
    if since_ms is not None and first_time is not None and since_ms < first_time:
        end = first_time if until_ms is None else min(first_time, until_ms)
        before = [IdRange("unknown", None, below, since_ms, end)]
    if until_ms is not None and last_time is not None and last_time < until_ms - 1:
        start = last_time if since_ms is None else max(last_time, since_ms)
        after = [IdRange("unknown", above, None, start, until_ms)]
    if not (before or found or after) and until_ms is not None:  # all of it is younger
        before = [IdRange("unknown", None, below, since_ms, until_ms)]
    return [*before, *found, *after]


def differing_days(connection: Connection, exchange: str, symbol: str) -> list[IdRange]:
    """Return the days that an audit found to be not what the ledger says, as ranges of their ids."""
    days = set(found_days(connection, exchange, symbol))
    proof = Proof.load(connection, exchange, symbol) if days else None
    found = [day for day in proof.days if day.start in days] if proof is not None else []
    return [
        IdRange(
            "differing",
            day.covered[0][0] if day.covered else None,
            day.covered[-1][1] if day.covered else None,
            day.start,
            day.start + DAY_MS,
        )
        for day in found
    ]


def taped(connection: Connection) -> list[tuple[str, str]]:
    """Return exchange and symbol of what fills, or candles of ours, are stored of, by symbol."""
    return connection.execute(
        "SELECT exchange, symbol FROM symbols s WHERE epoch = 0 AND ("
        " EXISTS (SELECT FROM trade_ledger l WHERE l.exchange = s.exchange AND l.symbol = s.symbol AND l.epoch = 0)"
        " OR EXISTS (SELECT FROM market_data m WHERE m.exchange = s.exchange AND m.symbol = s.symbol"
        " AND m.origin = 'trades' AND m.first_trade_id IS NOT NULL)) ORDER BY 2, 1"
    ).fetchall()
