"""What to read, as one stream of lines, and what came after it: `okx read`, with and without `--follow`."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from okxcli.core.model import (
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    UNSTAMPED_AHEAD_MS,
    BookSnapshot,
    Line,
    OHLCVCandle,
    StandardizedTrade,
)
from okxcli.core.states import BY_KIND, STATES
from okxcli.errors import AnswerNo
from okxcli.runtime.clock import now_ms
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import EVERYTHING, Series, Span
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection

#: How many of the newest bars of a series are watched for revisions.
_WATCHED = 20
#: How many symbols a message names.
_NAMED = 5

#: Types of state by their names here.
_STATES = {one.word: one for one in STATES}
#: What is read: these.
KINDS = ("trades", "candles", "books", *_STATES)


@dataclass
class Position:
    """How far a series was read.

    Fills go on above the highest id; what is filled in below it later is not shown. Books go on after the newest time
    and sequence number, states after the newest time. Candles go on with newer bars and with new revisions of the last
    20.
    """

    kind: str
    series: Series
    running: bool = False
    last_id: int = 0
    time: int = MIN_TIMESTAMP
    seq_id: int = -1
    bars: dict[int, OHLCVCandle] = field(default_factory=dict)
    latest: set[Line] = field(default_factory=set)  # the states of `time`

    def note(self, line: Line) -> bool:
        """Take in that `line` was read; return False if it had been before, or is of a time to come."""
        latest = now_ms() + UNSTAMPED_AHEAD_MS
        if isinstance(line, StandardizedTrade):
            if line.trade_id <= self.last_id:
                return False
            self.last_id = line.trade_id
            self.time = max(self.time, line.timestamp if line.timestamp <= latest else 0)
        elif isinstance(line, BookSnapshot):
            at = line.timestamp, -1 if line.seq_id is None else line.seq_id
            if at <= (self.time, self.seq_id) or line.timestamp > latest:
                return False
            self.time, self.seq_id = at
        elif type(line) in BY_KIND:
            return self._note_state(line, line.timestamp, latest)  # type: ignore[union-attr]
        elif isinstance(line, OHLCVCandle):
            if self.bars.get(line.timestamp) == line:
                return False
            self.bars[line.timestamp] = line
            if len(self.bars) > _WATCHED:
                del self.bars[min(self.bars)]
        return True

    def _note_state(self, line: Line, at: int, latest: int) -> bool:
        if at < self.time or at > latest or line in self.latest:
            return False
        self.latest = {line, *(self.latest if at == self.time else ())}
        self.time = at
        return True

    def poll(self, connection: Connection) -> Iterator[Line]:
        """Yield what is new, in the order of the series. Within a `reader.snapshot`."""
        found: Iterator[Line]
        if self.kind == "candles":
            since = min((bar.start for bar in self.bars.values()), default=MIN_TIMESTAMP)
            found = reader.candles(connection, self.series, Span(since), running=self.running)
        elif self.kind == "trades":
            # The exchange's clock may step back between fills, but not by a day.
            span = Span(max(self.time - DAY_MS, MIN_TIMESTAMP), MAX_TIMESTAMP)
            found = reader.trades(connection, self.series, span, above=self.last_id)
        elif self.kind == "books":
            found = reader.books(connection, self.series, Span(self.time))
        else:
            found = reader.states(connection, _STATES[self.kind], self.series, Span(self.time))
        for line in found:
            if self.note(line):
                yield line


@dataclass(frozen=True)
class Query:
    """Rows of one kind, of several symbols (and for candles timeframes), merged by time.

    `first` or `newest` limits every series to so many. `context` adds what candles needs to know to fills; `running`
    the bars that are not over to candles.
    """

    kind: str
    series: tuple[Series, ...]
    span: Span = EVERYTHING
    first: int | None = None
    newest: int | None = None
    context: bool = False
    running: bool = False

    def lines(self, connection: Connection) -> Iterator[Line]:
        """Yield the lines. Within a `reader.snapshot`."""
        return reader.merged([self._one(connection, series) for series in self.series])

    @property
    def plain(self) -> bool:
        """Whether it is the fills of one symbol and nothing else: then `blocks` gives the same as `lines`, faster."""
        return self.kind == "trades" and len(self.series) == 1 and not self.context

    def blocks(self, connection: Connection) -> Iterator[tuple[bytes, int]]:
        """Yield the lines of a `plain` query as they are written, many at once. Within a `reader.snapshot`."""
        return reader.trade_lines(connection, self.series[0], self.span, self.newest, self.first)

    def _one(self, connection: Connection, series: Series) -> Iterator[Line]:
        found: Iterator[Line]
        if self.kind == "trades":
            fills = islice(reader.trades(connection, series, self.span, self.newest), self.first)
            return reader.with_context(connection, series, fills) if self.context else fills
        if self.kind == "candles":
            found = reader.candles(connection, series, self.span, self.newest, self.running)
        elif self.kind == "books":
            found = reader.books(connection, series, self.span, self.newest)
        else:
            found = reader.states(connection, _STATES[self.kind], series, self.span, self.newest)
        return islice(found, self.first)

    def positions(self, connection: Connection) -> dict[Series, Position]:
        """Return where each series ends now, for following it. Within a `reader.snapshot`."""
        depth = 1 if self.kind in ("trades", "books") else _WATCHED
        span = Span(until=now_ms() + UNSTAMPED_AHEAD_MS)  # a wild time must not hide all that comes after it
        newest = replace(self, span=span, first=None, newest=depth, context=False)
        found = {series: Position(self.kind, series, self.running) for series in self.series}
        for series, position in found.items():
            for line in newest._one(connection, series):
                position.note(line)
        return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _others(stored: Sequence[str], missing: Sequence[str]) -> str:
    """Say which of the stored symbols may be meant; a thousand of them are no help on one line."""
    near = [name for one in missing for name in difflib.get_close_matches(one.upper(), stored, cutoff=0.7)]
    if near:
        return f"Did you mean {_some(list(dict.fromkeys(near)))}? All symbols: okx status"
    return f"Stored symbols: {_some(stored) or 'none'}"


def query(
    connection: Connection,
    kind: str,
    symbols: Sequence[str],
    where: str,
    timeframes: Sequence[str | None] = (None,),
    origin: str | None = None,
) -> Query:
    """Return the query for all there is of these symbols; of an index it is that of the pair of a contract.

    Raises:
        AnswerNo: nothing is stored of one of them.
    """
    state = _STATES.get(kind)
    if state is not None:
        symbols = list(dict.fromkeys(state.subject(symbol) or symbol for symbol in symbols))
    known = reader.exchanges_of(connection, symbols)
    missing = [symbol for symbol, exchanges in known.items() if not exchanges]
    if missing:
        others = _others(reader.symbols(connection), missing)
        raise AnswerNo(f"nothing of {_some(missing)} is stored at {where}. {others}")
    series = (
        Series(exchange, symbol, timeframe, origin)
        for symbol, exchanges in known.items()
        for exchange in exchanges
        for timeframe in timeframes
    )
    return Query(kind, tuple(series))
