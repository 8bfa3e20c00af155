"""Bars that a collector had to write as incomplete, made again as soon as the ledger proves them.

Somebody else may have what it lacked: a backfill that mended the past of a bar while it was open, or a second
collector on the same database. And flat bars for the quiet over which it was started anew, of which its candle maker
knows nothing.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import LiteralString

from okxcli.core.model import OHLCVCandle
from okxcli.core.timeframes import Timeframe
from okxcli.storage.candles.flat_bars import store_flats
from okxcli.storage.candles.rebuild import largest_part, rebuild
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.rows import row_format
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

#: The bars of a symbol are looked at this long after one was written, and again, ever more rarely: a look is several
#: queries, and hundreds of symbols begin at once. After so long they are backfill's.
FIRST_MS = 1_000
AGAIN_MS = 5_000
_RAREST_MS = 60_000
GIVE_UP_MS = 600_000
#: Bars remembered; the oldest goes first.
_MOST = 2_000

_Key = tuple[str, str, str, int]


class LiveMender:
    """Watches the closed bars that are written. `session` gives a connection for a `with` block."""

    def __init__(
        self,
        session: Callable[[], AbstractContextManager[Connection]],
        frames: Sequence[Timeframe],
        clock: Callable[[], int],
        fill: bool = False,
    ) -> None:
        self.mended = 0
        self._session = session
        self._frames = {frame.name: frame for frame in frames}
        self._clock = clock
        self._fill = fill
        self._watched: dict[_Key, tuple[OHLCVCandle, int]] = {}  # and when it was written first
        self._begun: set[tuple[str, str, str]] = set()
        self._opening: dict[_Key, tuple[OHLCVCandle, int]] = {}  # the first bar of each series, and when it came
        self._due: dict[tuple[str, str], tuple[int, int]] = {}  # when a symbol is looked at, and the pause after that

    def note(self, bar: OHLCVCandle) -> None:
        """Take notice of a closed bar that is being written."""
        key = (bar.exchange, bar.symbol, bar.timeframe, bar.start)
        if self._fill and key[:3] not in self._begun and bar.first_trade_id is not None:
            self._begun.add(key[:3])
            self._opening[key] = (bar, self._clock())
            self._soon(key[:2])
        if bar.complete or bar.first_trade_id is None:
            self._watched.pop(key, None)
            return
        now = self._clock()
        self._watched[key] = (bar, self._watched[key][1] if key in self._watched else now)
        if len(self._watched) > _MOST:
            del self._watched[next(iter(self._watched))]
        self._soon(key[:2])

    def _soon(self, symbol: tuple[str, str]) -> None:
        at = self._clock() + FIRST_MS
        self._due[symbol] = min(at, self._due[symbol][0] if symbol in self._due else at), AGAIN_MS

    def due_in(self) -> float | None:
        """Return the seconds until `tick` has something to do; None when nothing is watched."""
        at = min((at for at, _ in self._due.values()), default=None)
        return None if at is None else max(at - self._clock(), 0) / 1000

    def tick(self) -> None:
        """Make the watched bars again that the ledger proves by now, if it is time to look.

        Raises:
            DatabaseUnavailable: it is looked again later.
        """
        now = self._clock()
        due = sorted(symbol for symbol, (at, _) in self._due.items() if at <= now)
        if not due:
            return
        self._watched = {key: found for key, found in self._watched.items() if now - found[1] < GIVE_UP_MS}
        self._opening = {key: found for key, found in self._opening.items() if now - found[1] < GIVE_UP_MS}
        for symbol in due:
            pause = self._due[symbol][1]
            self._due[symbol] = now + pause, min(2 * pause, _RAREST_MS)
        if any(key[:2] in due for key in (*self._watched, *self._opening)):
            with self._session() as connection:
                for exchange, name in self._hopeful(connection, due):
                    self._mend(connection, exchange, name)
        held = {key[:2] for key in (*self._watched, *self._opening)}
        self._due = {symbol: at for symbol, at in self._due.items() if symbol in held}

    def _hopeful(self, connection: Connection, symbols: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those symbols of which any bar may be proved: nothing proves one below which no id is known.

        One query for all: when a collector of a thousand symbols has begun, no first bar of theirs can be proved.
        """
        rows = connection.execute(_LOWEST, row_format.columns(symbols)).fetchall()
        lowest = {(exchange, symbol): number for exchange, symbol, number in rows}
        wanted = {key[:2] for key in self._opening}
        for key, (bar, _) in self._watched.items():
            first = bar.first_trade_id or 0
            if first <= 1 or lowest.get(key[:2], first) < first:
                wanted.add(key[:2])
        return [symbol for symbol in symbols if symbol in wanted]

    def _mend(self, connection: Connection, exchange: str, symbol: str) -> None:
        proof = Proof.load(connection, exchange, symbol)
        clock = proof.last_time or 0
        proven: dict[str, list[int]] = {}
        for key, (bar, _) in list(self._watched.items()):
            if key[:2] != (exchange, symbol) or bar.timestamp > clock:
                continue
            first, last = bar.first_trade_id or 0, bar.last_trade_id or 0
            if proof.whole(connection, bar.start, bar.timestamp, first, last):
                proven.setdefault(bar.timeframe, []).append(bar.start)
                del self._watched[key]
        for at, (name, frame) in enumerate(self._frames.items()):
            if name in proven:
                source = largest_part(frame, list(self._frames.values())[:at])
                changed = rebuild(connection, exchange, symbol, frame, proven[name], source=source)
                self.mended += changed
                if changed:
                    _log.debug("%s: %d bars of %s mended, which the ledger proves by now", symbol, changed, name)
        for key, (bar, _) in list(self._opening.items()):
            if key[:2] == (exchange, symbol) and self._filled(connection, proof, bar):
                del self._opening[key]

    def _filled(self, connection: Connection, proof: Proof, bar: OHLCVCandle) -> bool:
        """Write the flat bars between a bar and the one stored before it; False if that must wait.

        The bar itself may be on its way into the database, and what links the two may not be there yet.
        """
        key = [bar.exchange, bar.symbol, bar.timeframe]
        rows = connection.execute(_NEWEST, [*key, stamp(bar.timestamp)]).fetchall()
        if not rows or rows[0][0] != bar.start:
            return False
        if len(rows) == 1 or rows[1][1] == bar.start:
            return True
        since, quiet, _, last = rows[1]
        if not proof.whole(connection, quiet, bar.start, last, last):
            return False
        changed = store_flats(connection, proof, self._frames[bar.timeframe], since, bar.timestamp)
        self.mended += changed
        if changed:
            _log.debug("%s: %d flat bars of %s written", bar.symbol, changed, bar.timeframe)
        return True


# The lowest id of each symbol that is stored, or absent at the exchange.
_LOWEST: LiteralString = (
    "SELECT exchange, symbol, min(least(first_id, lower(absent))) FROM trade_ledger WHERE epoch = 0"
    " AND (exchange, symbol) IN (SELECT * FROM unnest(%s::text[], %s::text[])) GROUP BY exchange, symbol"
)
# A bar and the one before it in which something was traded: start, end, first and last id.
_NEWEST: LiteralString = (
    "SELECT (extract(epoch FROM start) * 1000)::bigint, (extract(epoch FROM timestamp) * 1000)::bigint,"
    " first_trade_id, last_trade_id FROM market_data WHERE exchange = %s AND symbol = %s AND origin = 'trades'"
    " AND timeframe = %s AND closed AND first_trade_id IS NOT NULL AND timestamp <= %s::timestamptz"
    " ORDER BY timestamp DESC LIMIT 2"
)
