"""What a candle maker needs to go on where another one stopped: the ids and the fills of the bars that are still open.

What traded long enough ago that no fill can come to it any more is given as parts: stored bars of the smallest
timeframe where they are proven, and sums of the rows where they are not. The fills since then are given one by one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.model import Line
from okxcli.core.tape import Run
from okxcli.core.timeframes import Timeframe
from okxcli.storage.candles.rebuild import buckets, count_rows, joined, proven_parts, starts_in
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import Series, Span
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection


def reopen(
    connection: Connection,
    exchange: str,
    symbol: str,
    maker: RealTimeCandleProcessor,
    feed: Callable[[Line], None],
) -> int | None:
    """Give `maker` the open bars of a symbol as they are stored; return the highest known id, None without a tape.

    `feed` gets the fills at the end of the tape, by rising id, with the instrument and the absent ids between them.
    """
    with reader.snapshot(connection):
        proof = Proof.load(connection, exchange, symbol)
        if proof.last_time is None:
            return None
        # A fill older than this is too late for any bar but those that are still open, whatever comes.
        until = maker.base.start_of(proof.last_time - maker.lateness_ms)
        since = min(frame.start_of(until) for frame in maker.timeframes)
        series, span = Series(exchange, symbol), Span(until, proof.last_time + 1)  # what is ahead would end every bar
        lacking: Ranges = []
        source = next((frame for frame in maker.timeframes if _alike(frame, maker.base)), None)
        larger = [frame for frame in maker.timeframes if frame is not source]
        parts = list(_folded(_parts(connection, proof, maker.base, source, since, until, lacking), larger))
        given = _ids_from(connection, proof, until)
        count_rows(connection, proof, parts)
        proof.lose(id_ledger.union([*lacking, *_lost_from(connection, proof, given)]))
        known = _runs(connection, proof, given, since)
        maker.seed(exchange, symbol, known, proof.step, parts, until)
        for line in reader.with_context(connection, series, reader.trades(connection, series, span)):
            feed(line)
    return proof.last_id


def newest_ids(connection: Connection, exchange: str, symbols: Iterable[str]) -> dict[str, int]:
    """Return the highest known id of each symbol that has a tape."""
    found = {symbol: Proof.load(connection, exchange, symbol).last_id for symbol in symbols}
    return {symbol: last for symbol, last in found.items() if last is not None}


def _alike(one: Timeframe, other: Timeframe) -> bool:
    return (one.length, one.offset, one.months) == (other.length, other.offset, other.months)


def _folded(parts: Iterator[TimeframeBucket], frames: Sequence[Timeframe]) -> Iterator[TimeframeBucket]:
    """Yield as few parts as do: those that lie in the same bar of each of these timeframes as one."""
    found: dict[tuple[int, ...], TimeframeBucket] = {}
    for part in parts:
        key = tuple(frame.start_of(part.start) for frame in frames)
        if key in found:
            found[key].merge(part)
        else:
            found[key] = part
    yield from found.values()


def _parts(
    connection: Connection,
    proof: Proof,
    base: Timeframe,
    source: Timeframe | None,
    since: int,
    until: int,
    lacking: Ranges,
) -> Iterator[TimeframeBucket]:
    """Yield what traded in `[since, until)` in pieces of the base timeframe, a day at a time.

    Ids of days whose rows are gone, and whose stored bars do not hold them all, are added to `lacking`.
    """
    series = Series(proof.exchange, proof.symbol)
    while since < until:
        end = min(until, base.end_of(base.start_of(since + max(DAY_MS - base.length, 0))))
        there: set[int] = set()
        if source is not None:
            for part in proven_parts(connection, series, source, Span(since, end)):
                there.add(part.start)
                yield part
        for span in joined(base, [start for start in starts_in(base, since, end) if start not in there]):
            for start, part in buckets(connection, series, base, span).items():
                if start not in there and start < end:
                    yield part
        if proof.archived(since, end):
            for day in proof.days:
                if day.archived and day.start < end and since < day.start + DAY_MS:
                    lacking += day.covered
        since = end


def _lost_from(connection: Connection, proof: Proof, given: Ranges) -> Ranges:
    """Return the ids at the end of the tape, among those that are `given` or above, that have no row."""
    others = [part for part in id_ledger.subtract(proof.covered, given) if given and part[1] > given[0][0]]
    return proof.lost(connection, max(others[0][0], given[0][0]), others[-1][1]) if others else []


def _runs(connection: Connection, proof: Proof, given: Ranges, since: int) -> list[Run]:
    """Return what is known but for the ids that are `given`, with the times that matter for bars from `since` on."""
    recent = [day.covered[0][0] for day in proof.days if day.covered and (day.last_time or 0) >= since - proof.step]
    found = []
    for first, last in id_ledger.subtract(proof.known, given):
        run = proof.run_of(connection, first) if recent and last >= min(recent) else None
        # The rest of a run is joined to its begin again by the fills that are given.
        timed = run is not None and run.first == first and run.high >= 0 and run.low <= run.high
        found.append(Run(first, last, run.low, run.low) if run is not None and timed else Run(first, last))
    return found


def _ids_from(connection: Connection, proof: Proof, moment: int) -> Ranges:
    """Return the ids of the fills from a moment on."""
    row = connection.execute(
        "SELECT range_agg(int8range(trade_id, trade_id, '[]')) FROM raw_trades WHERE exchange = %s AND symbol = %s"
        " AND epoch = 0 AND timestamp >= %s::timestamptz",
        [proof.exchange, proof.symbol, stamp(moment)],
    ).fetchone()
    return [] if row is None or row[0] is None else id_ledger.read(row[0])
