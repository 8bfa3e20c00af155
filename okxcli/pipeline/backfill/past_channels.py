"""What an exchange keeps of the past beside fills: its own candles and funding, from where the stored ones end."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from psycopg import sql

from okxcli.core.model import MIN_TIMESTAMP
from okxcli.core.states import BY_CHANNEL, Described
from okxcli.core.timeframes import Timeframe
from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.interface import Past
from okxcli.pipeline.backfill.tools import Tools
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.write.writer import Writer

_log = logging.getLogger(__name__)

#: How far back funding is asked for where none is stored: what exchanges keep.
_FIRST_MS = 92 * 86_400_000

#: Milliseconds: from where to where.
Span = tuple[int, int]

_BARS = sql.SQL(
    " FROM market_data WHERE exchange = %s AND symbol = %s AND origin = 'exchange' AND timeframe = %s AND closed"
    " AND start >= %s::timestamptz AND timestamp <= %s::timestamptz"
)
_EDGES = (
    sql.SQL(
        "SELECT (extract(epoch FROM min(start)) * 1000)::bigint, (extract(epoch FROM max(timestamp)) * 1000)::bigint"
    )
    + _BARS
)
# Where a bar does not begin where the one before it ends.
_HOLES = (
    sql.SQL("SELECT (extract(epoch FROM before) * 1000)::bigint, (extract(epoch FROM start) * 1000)::bigint FROM")
    + sql.SQL(" (SELECT start, lag(timestamp) OVER (ORDER BY timestamp) AS before")
    + _BARS
    + sql.SQL(") AS b WHERE before < start ORDER BY 1")
)
_NEWEST = sql.SQL(
    "SELECT (extract(epoch FROM max(timestamp)) * 1000)::bigint FROM {} WHERE exchange = %s AND symbol = %s"
    " AND origin = 'rest'"
)


class PastChannels:
    """Fills in candles of the exchange and funding, with `tools`; `past` asks for a channel of a symbol in a span."""

    def __init__(self, tools: Tools, past: Callable[[str, str, Span], Past]) -> None:
        self._tools = tools
        self._past = past

    def spans(self, symbol: str, channel: str, since_ms: int | None, until_ms: int | None) -> list[Span]:
        """Return what is to be asked for; nothing of a channel without a past, or that a symbol does not have.

        Of candles that are the holes between the stored ones, what came after them, and with `since_ms` what was before
        them; of funding what came after the newest settlement that is stored, or all since `since_ms`.
        """
        until = self._tools.clock() if until_ms is None else until_ms
        name = self._tools.exchange.timeframe_of(channel)
        if name is not None:
            return self._holes(symbol, Timeframe.parse(name), since_ms, until)
        state = BY_CHANNEL.get(channel)
        if state is None or not state.past or state.subject(symbol) is None:
            return []
        return [(since_ms if since_ms is not None else self._newest(symbol, state, until), until)]

    def _holes(self, symbol: str, frame: Timeframe, since_ms: int | None, until: int) -> list[Span]:
        connection = self._tools.connection
        values = [self._tools.name, symbol, frame.name, stamp(since_ms or MIN_TIMESTAMP), stamp(until)]
        [(first, last)] = connection.execute(_EDGES, values).fetchall()
        if last is None:
            found = [] if since_ms is None else [(since_ms, until)]
        else:
            before = [] if since_ms is None else [(since_ms, int(first))]
            found = [*before, *connection.execute(_HOLES, values).fetchall(), (int(last), until)]
        return [(low, high) for low, high in found if _first_end(frame, low) <= high]

    def _newest(self, symbol: str, state: Described, until: int) -> int:
        query = _NEWEST.format(sql.Identifier(state.table))
        row = self._tools.connection.execute(query, [self._tools.name, symbol]).fetchone()
        return until - _FIRST_MS if row is None or row[0] is None else int(row[0]) + 1

    def run(
        self, symbols: Iterable[str], channels: Iterable[str], since_ms: int | None, until_ms: int | None
    ) -> Iterator[dict[str, object]]:
        """Fetch and store what is missing; yield a row for each channel of a symbol of which something came.

        Raises:
            ExchangeUnavailable: at the end, if it could not be asked for one of them.
        """
        wanted = [(symbol, channel) for symbol in symbols for channel in dict.fromkeys(channels)]
        failed: list[ExchangeUnavailable] = []
        for symbol, channel in wanted:
            if self._tools.stopped():
                break
            try:
                count = sum(
                    self._fetch(symbol, channel, one) for one in self.spans(symbol, channel, since_ms, until_ms)
                )
            except ExchangeUnavailable as error:
                failed.append(error)
                continue
            if count:
                yield {"symbol": symbol, "channel": channel, "fetched": count}
        if failed:
            raise failed[0]

    def _fetch(self, symbol: str, channel: str, span: Span) -> int:
        """Store what there is in a span; return how many rows that changed."""
        with closing(Writer(self._tools.connect, clock=self._tools.clock)) as writer:
            self._tools.introduce(symbol, writer)
            for raw in self._past(symbol, channel, span).lines():
                for line in self._tools.normalized(raw):
                    writer.add(line)
                if self._tools.stopped():
                    break
            writer.flush()
            counts = writer.counts()
        return sum(counts.get(table, 0) for table in ("market_data", *(one.table for one in BY_CHANNEL.values())))


def _first_end(frame: Timeframe, since_ms: int) -> int:
    """Return the end of the first bar that begins at a moment or later: before it is over no bar is missing."""
    start = frame.start_of(since_ms)
    return frame.end_of(start if start >= since_ms else frame.end_of(start))
