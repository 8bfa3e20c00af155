"""Bars made again from what is stored: from the rows of the tape, and larger ones from smaller ones that are proven.

A bar made here is complete exactly where the ledger proves it: the fill before its first, all between, and the fill
after its last are known. Such a bar beats any other, for there is nothing that could still change it.
"""

from collections.abc import Iterable, Iterator, Sequence

from okxcli.core.candles.bucket import TimeframeBucket
from okxcli.core.model import Instrument, OHLCVCandle, StandardizedTrade, amounts
from okxcli.core.timeframes import Timeframe
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.proof import Proof, count_within
from okxcli.storage.rows import candle_table, reader
from okxcli.storage.rows.outcome import Outcome
from okxcli.storage.rows.reader import Series, Span
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.schema.partitions import DAY_MS, Partitions
from okxcli.storage.server.pooled_connection import Connection

#: Bars made and stored at a time.
_CHUNK = 1_000
#: Bars of a span that are looked at one by one; in a longer one the rows are asked which there are.
_FEW = 2_000
#: A span of rows is read in one go as long as the quiet between two wanted bars is no longer than this.
_JOIN_MS = 3_600_000
#: So many ids beside rows that were read are looked at as well, where some were found to be lost.
_BESIDE = 100_000

#: Starts of bars of one timeframe, rising.
Starts = list[int]


def starts_in(frame: Timeframe, since: int, until: int) -> Iterator[int]:
    """Yield the start of every bar that touches `[since, until)`, in order."""
    start = frame.start_of(since)
    while start < until:
        yield start
        start = frame.end_of(start)


def starts_with_rows(connection: Connection, proof: Proof, frame: Timeframe, since: int, until: int) -> Iterator[int]:
    """Yield the start of every bar that touches `[since, until)` and may hold a stored fill, each once.

    A long span is not gone through by its length: between two fills may lie years.
    """
    if until - since <= _FEW * frame.length:
        yield from starts_in(frame, since, until)
        return
    rows = connection.execute(
        "SELECT DISTINCT ((extract(epoch FROM timestamp) * 1000)::bigint - %s) / %s FROM raw_trades"
        " WHERE exchange = %s AND symbol = %s AND epoch = 0 AND timestamp >= %s::timestamptz"
        " AND timestamp < %s::timestamptz",
        [frame.offset, frame.length, proof.exchange, proof.symbol, stamp(frame.start_of(since)), stamp(until)],
    )
    yield from {frame.start_of(number * frame.length + frame.offset) for (number,) in rows}


def largest_part(frame: Timeframe, smaller: Sequence[Timeframe]) -> Timeframe | None:
    """Return the last of some timeframes whose bars make up those of `frame`; None if there is none."""
    return next((other for other in reversed(smaller) if frame.holds(other)), None)


def rebuild(
    connection: Connection,
    exchange: str,
    symbol: str,
    frame: Timeframe,
    starts: Iterable[int],
    *,
    source: Timeframe | None = None,
    force: bool = False,
) -> int:
    """Make the bars of `frame` with these starts again and store those that are better; return how many were.

    With `force` those too that hold no fewer fills than what is stored, however complete that says it is.

    Bars that are not over by the symbol's newest fill, and those of days whose rows retention dropped, are left alone.
    `source` is a smaller timeframe, already rebuilt, of which larger bars are merged wherever its bars are proven.
    """
    wanted = sorted(set(starts))
    stored = 0
    for at in range(0, len(wanted), _CHUNK):
        with reader.snapshot(connection):
            proof = Proof.load(connection, exchange, symbol)
            maker = _Maker(connection, proof, frame, source)
            bars = maker.bars(wanted[at : at + _CHUNK])
        stored += store_bars(connection, bars, force)
    return stored


def store_bars(connection: Connection, bars: list[OHLCVCandle], force: bool = False) -> int:
    """Store bars of one symbol that are better than what is stored; return how many were.

    The complete ones beat any other, for their ids are all known; with `force` those too that hold as many fills as
    what is stored. The rest follows the common rule.
    """
    if not bars:
        return 0
    Partitions().ensure(connection, "market_data", {bar.timestamp // DAY_MS for bar in bars}, -1)
    outcome = Outcome()
    key = (bars[0].exchange, bars[0].symbol)
    with id_ledger.locked(connection, key):
        for proven in (False, True):
            some = [bar for bar in bars if bar.complete == proven]
            if some:
                candle_table.store_candles(connection, some, outcome, proven, force)
    return outcome.counts["market_data"]


class _Maker:
    """Makes bars of one symbol and timeframe, within a snapshot."""

    def __init__(self, connection: Connection, proof: Proof, frame: Timeframe, source: Timeframe | None) -> None:
        self._connection = connection
        self._proof = proof
        self._frame = frame
        self._source = source
        self._series = Series(proof.exchange, proof.symbol)

    def bars(self, starts: Starts) -> list[OHLCVCandle]:
        """Return the bars with these starts that are over, oldest first; none for a quiet one."""
        proof, end_of = self._proof, self._frame.end_of
        clock = proof.last_time or 0
        ended = [s for s in starts if end_of(s) <= clock and not proof.archived(s, end_of(s))]
        made: dict[int, TimeframeBucket] = {}
        if self._source is not None:
            made = dict(self._merged(ended, self._source))
        for span in joined(self._frame, [start for start in ended if start not in made]):
            found = buckets(self._connection, self._series, self._frame, span)
            count_rows(self._connection, proof, found.values())
            made |= found
        name = self._frame.name
        return [
            made[start].candle(proof.exchange, proof.symbol, name, True, self._complete(made[start]))
            for start in ended
            if start in made
        ]

    def _complete(self, bar: TimeframeBucket) -> bool:
        return self._proof.whole(self._connection, bar.start, bar.end, bar.first_id, bar.last_id)

    def _merged(self, starts: Starts, source: Timeframe) -> Iterator[tuple[int, TimeframeBucket]]:
        """Yield those bars that bars of `source` prove: they hold all ids from their first to their last, and the fills
        beside those are stored, and lie outside. Where time steps back others may lie inside: rows are read then.
        """
        if self._proof.step:
            return
        proof = self._proof
        wholes = {start: TimeframeBucket(start, self._frame.end_of(start)) for start in starts}
        for span in joined(self._frame, starts):
            for part in proven_parts(self._connection, self._series, source, span):
                whole = wholes.get(self._frame.start_of(part.start))
                if whole is not None:
                    whole.merge(part)
        found = [
            whole
            for whole in wholes.values()
            if whole.count
            and whole.count + count_within(proof.absent, whole.first_id, whole.last_id)
            == whole.last_id - whole.first_id + 1
        ]
        beside = {bar.start: (proof.below(bar.first_id), proof.above(bar.last_id)) for bar in found}
        times = proof.times(self._connection, {n for pair in beside.values() for n in pair if n is not None}, sure=True)
        for bar in found:
            low, high = (times.get(number) if number else None for number in beside[bar.start])
            if low is not None and high is not None and low < bar.start and high >= bar.end:
                yield bar.start, bar


def count_rows(connection: Connection, proof: Proof, read: Iterable[TimeframeBucket]) -> None:
    """Compare the rows of a span that were read with the ids that the ledger has there; ids without a row are lost.

    What lost ids prove is no proof: `proof` does not know them from here on. Within a snapshot.
    """
    held = [bucket for bucket in read if bucket.count]
    if not held:
        return
    first, last = min(bucket.first_id for bucket in held), max(bucket.last_id for bucket in held)
    low, high = proof.below(first) or first, proof.above(last) or last
    beside = {low, high} - {first, last}
    if sum(bucket.count for bucket in held) != count_within(proof.covered, first, last) or any(
        proof.lost(connection, number, number) for number in beside
    ):
        proof.lose(proof.lost(connection, low - _BESIDE, high + _BESIDE))


def joined(frame: Timeframe, starts: Starts) -> Iterator[Span]:
    """Yield spans that hold the bars with these starts, near ones together: rows are found by time, a day at a time."""
    since = until = 0
    for start in starts:
        end = frame.end_of(start)
        if until and (start - until > _JOIN_MS or end - since > max(DAY_MS, 4 * frame.length)):
            yield Span(since, until)
            until = 0
        since = since if until else start
        until = end
    if until:
        yield Span(since, until)


def buckets(connection: Connection, series: Series, frame: Timeframe, span: Span) -> dict[int, TimeframeBucket]:
    """Return everything that traded within a span, by the start of its bar. Within a snapshot."""
    found: dict[int, TimeframeBucket] = {}
    instrument: Instrument | None = None
    for line in reader.with_context(connection, series, reader.trades(connection, series, span)):
        if isinstance(line, Instrument):
            instrument = line
        elif isinstance(line, StandardizedTrade):
            start = frame.start_of(line.timestamp)
            bucket = found.get(start)
            if bucket is None:
                bucket = found[start] = TimeframeBucket(start, frame.end_of(start))
            bucket.add(line, *amounts(instrument, series.symbol, line.price, line.size))
    return found


def proven_parts(connection: Connection, series: Series, source: Timeframe, span: Span) -> Iterator[TimeframeBucket]:
    """Yield the stored bars of ours within a span that are complete, oldest first. Within a snapshot.

    Those are left out whose amounts were not known when they were made: the rows may tell more by now.
    """
    for bar in reader.candles(connection, Series(series.exchange, series.symbol, source.name), span):
        if bar.complete and bar.first_trade_id is not None and bar.base_volume is not None:
            yield bucket_of(bar)


def bucket_of(bar: OHLCVCandle) -> TimeframeBucket:
    """Return a stored bar of ours as the bucket that it was."""
    bucket = TimeframeBucket(bar.start, bar.timestamp)
    bucket.open, bucket.high, bucket.low, bucket.close = bar.open, bar.high, bar.low, bar.close
    bucket.volume, bucket.base, bucket.quote = bar.volume, bar.base_volume, bar.quote_volume
    bucket.buy = bar.buy_volume if bar.buy_volume is not None else bucket.buy
    bucket.count = bar.trade_count or 0
    bucket.first_id, bucket.last_id = bar.first_trade_id or 0, bar.last_trade_id or 0
    return bucket
