"""What the ledger proves of one symbol: which ids are stored, which the exchange has not, and when their fills were.

Read once into memory, as ranges: a day of a healthy tape is one of them. Where only candles are stored there is no
ledger, and the chain of their first and last ids is the proof.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import LiteralString, Self

from psycopg import sql

from okxcli.core.model import AHEAD_MS, UNSTAMPED_AHEAD_MS
from okxcli.core.tape import FAR, Run, is_complete
from okxcli.storage.ledger import id_ledger, unsettled
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.rows.row_format import stamp
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection

#: Fills at an end of a run among which the earliest or latest is looked for, where time steps back.
_AT_THE_END = 1_000

_IN_ORDER: LiteralString = (
    "SELECT timestamp FROM raw_trades WHERE exchange = %s AND symbol = %s"
    " AND epoch = 0 AND trade_id BETWEEN %s AND %s AND timestamp >= %s::timestamptz AND timestamp < %s::timestamptz"
    " ORDER BY trade_id"
)
_EARLIEST: LiteralString = (
    "SELECT (extract(epoch FROM min(timestamp)) * 1000)::bigint FROM (" + _IN_ORDER + " LIMIT %s) AS t"  # noqa: S608 -- constants
)
_LATEST: LiteralString = (
    "SELECT (extract(epoch FROM max(timestamp)) * 1000)::bigint FROM (" + _IN_ORDER + " DESC LIMIT %s) AS t"  # noqa: S608
)


@dataclass(frozen=True)
class Day:
    """A UTC day of the ledger; times in milliseconds, None without a covered fill.

    `retired` are ids whose rows retention dropped before the day was opened again by others. `ahead` are stored with
    a time that has not come: they are not among `covered`, and prove nothing.
    """

    start: int
    covered: Ranges
    absent: Ranges
    first_time: int | None
    last_time: int | None
    archived: bool
    retired: Ranges = field(default_factory=list)
    ahead: Ranges = field(default_factory=list)


_OF_DAY = sql.SQL(
    "FROM raw_trades WHERE exchange = %(exchange)s AND symbol = %(symbol)s AND epoch = 0"
    " AND timestamp >= %(since)s::timestamptz AND timestamp < %(until)s::timestamptz"
)
#: What the clock has not reached, not even that of whoever received it.
_REACHED = sql.SQL(
    "coalesce(received + make_interval(secs => %(stamped)s), now() + make_interval(secs => %(unstamped)s))"
)
_AHEAD = sql.SQL(
    "SELECT range_agg(int8range(trade_id - count + 1, trade_id, '[]')) {}"
    " AND timestamp > now() + make_interval(secs => %(stamped)s) AND timestamp > {}"
).format(_OF_DAY, _REACHED)
_TIMES = sql.SQL(
    "SELECT (extract(epoch FROM min(timestamp)) * 1000)::bigint, (extract(epoch FROM max(timestamp)) * 1000)::bigint {}"
    " AND timestamp <= {}"
).format(_OF_DAY, _REACHED)


def count_within(ranges: Ranges, first: int, last: int) -> int:
    """Return how many ids of `first .. last` are in ranges (apart, lowest first)."""
    at = max(bisect_right(ranges, (first, 1 << 63)) - 1, 0)
    found = 0
    while at < len(ranges) and ranges[at][0] <= last:
        found += max(0, min(last, ranges[at][1]) - max(first, ranges[at][0]) + 1)
        at += 1
    return found


@dataclass(eq=False)
class Proof:
    """The ids of a symbol, as of one moment. `known` are those covered or absent at the exchange.

    `wanted` are ids that exist and may lie outside of what is known, when rows were lost; `forgotten` are those that
    nobody is to miss. `step` is how far time was seen to step back over ids (ms).
    """

    exchange: str
    symbol: str
    days: Sequence[Day]
    wanted: Ranges
    forgotten: Ranges
    step: int

    def __post_init__(self) -> None:
        """Join what the days have."""
        self.covered = id_ledger.union(part for day in self.days for part in day.covered)
        # More than a week of the busiest market cannot be absent: such a note is wrong, and proves nothing.
        absent = id_ledger.union(part for day in self.days for part in day.absent)
        self.absent = [part for part in absent if part[1] - part[0] < FAR]
        self.retired = id_ledger.union(part for day in self.days for part in day.retired)
        self.ahead = id_ledger.union(part for day in self.days for part in day.ahead)
        self.known = id_ledger.union([*self.covered, *self.absent])
        self._archived = [day.start for day in self.days if day.archived]
        self._runs: dict[int, Run] = {}  # by their first ids
        self._pieces = sorted(
            (first, last, at) for at, day in enumerate(self.days) for first, last in (*day.covered, *day.retired)
        )

    @classmethod
    def load(cls, connection: Connection, exchange: str, symbol: str) -> Self:
        """Read the ledger of a symbol; one that was never stored has no days."""
        rows = connection.execute(
            "SELECT (day - date '1970-01-01')::bigint, covered, absent,"
            " (extract(epoch FROM first_time) * 1000)::bigint, (extract(epoch FROM last_time) * 1000)::bigint,"
            " archived, retired, NOT archived AND last_time > now() + make_interval(secs => %s)"
            " FROM trade_ledger WHERE exchange = %s AND symbol = %s AND epoch = 0 ORDER BY day",
            [AHEAD_MS / 1000, exchange, symbol],
        ).fetchall()
        days = []
        for day, covered, absent, first, last, archived, retired, early in rows:
            parts = map(id_ledger.read, (covered, absent, retired))
            one = Day(day * DAY_MS, next(parts), next(parts), first, last, archived, next(parts))
            days.append(_without_ahead(connection, exchange, symbol, one) if early else one)
        held = unsettled.load(connection, exchange, symbol)
        wanted = [(one.first, one.last) for one in held if not one.noted and not one.forgotten]
        forgotten = [(one.first, one.last) for one in held if one.forgotten]
        return cls(exchange, symbol, days, wanted, forgotten, id_ledger.step_of(connection, exchange, symbol))

    @property
    def first_time(self) -> int | None:
        """The time of the oldest covered fill; None without any."""
        return min((day.first_time for day in self.days if day.first_time is not None), default=None)

    @property
    def last_time(self) -> int | None:
        """The time of the newest covered fill; None without any."""
        return max((day.last_time for day in self.days if day.last_time is not None), default=None)

    @property
    def last_id(self) -> int | None:
        """The highest id known; None without any."""
        return self.known[-1][1] if self.known else None

    def holes(self) -> Ranges:
        """Return the ids that are not known: between the lowest and the highest known one, and the wanted ones."""
        had = id_ledger.union([*self.known, *self.retired])
        ends = [last for _, last in had]
        between = [(last + 1, first - 1) for last, (first, _) in zip(ends, had[1:], strict=False)]
        return id_ledger.subtract(id_ledger.union([*between, *id_ledger.subtract(self.wanted, had)]), self.forgotten)

    def run_of(self, connection: Connection, number: int) -> Run | None:
        """Return the known ids around one, with the times that its stored fills reach to; None if it is not known."""
        at = bisect_right(self.known, (number, 1 << 63)) - 1
        if at < 0 or number > self.known[at][1]:
            return None
        first, last = self.known[at]
        if first not in self._runs:
            found = Run(first, last, begins=first == 1)
            low, high = self._reached(connection, first, last, True), self._reached(connection, first, last, False)
            self._runs[first] = found if low is None or high is None else found._replace(low=low, high=high)
        return self._runs[first]

    def _reached(self, connection: Connection, first: int, last: int, lowest: bool) -> int | None:
        """Return when the lowest (or highest) stored fills of `first .. last` were; None without any.

        Of a day whose rows retention dropped it is the latest (or earliest) that it can have been.
        """
        days = [day for day in self.days if count_within(day.covered, first, last)]
        for day in sorted(days, key=lambda day: day.covered[0 if lowest else -1], reverse=not lowest):
            if day.archived:
                return day.last_time if lowest else day.first_time
            row = connection.execute(
                _EARLIEST if lowest else _LATEST,
                [
                    *(self.exchange, self.symbol, first, last, stamp(day.start), stamp(day.start + DAY_MS)),
                    _AT_THE_END if self.step else 1,
                ],
            ).fetchone()
            if row is not None and row[0] is not None:
                return int(row[0])
        return None

    def whole(self, connection: Connection, start: int, end: int, first: int, last: int) -> bool:
        """Whether a bar over `[start, end)` (ms) that holds the ids `first .. last` is proved complete.

        It must hold all stored fills of its time. For a quiet, `first` and `last` are any id beside it.
        """
        return is_complete(self.run_of(connection, first), first, last, start, end, self.step)

    def lose(self, ids: Ranges) -> None:
        """Take ids for unknown from here on: they are covered, and their rows are not there."""
        if ids:
            self.covered = id_ledger.subtract(self.covered, ids)
            self.known = id_ledger.union([*self.covered, *self.absent])
            self._runs.clear()

    def lost(self, connection: Connection, first: int, last: int) -> Ranges:
        """Return the covered ids of `first .. last` that have no row, on days whose rows retention did not drop."""
        found: Ranges = []
        for day in self.days:
            if day.archived or not count_within(day.covered, first, last):
                continue
            row = connection.execute(
                "SELECT int8multirange(int8range(%s, %s, '[]')) * %s::int8multirange"
                " - coalesce(range_agg(int8range(trade_id, trade_id, '[]')), '{}') FROM raw_trades"
                " WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id BETWEEN %s AND %s"
                " AND timestamp >= %s::timestamptz AND timestamp < %s::timestamptz",
                [
                    *(first, last, id_ledger.written(day.covered), self.exchange, self.symbol, first, last),
                    *(stamp(day.start), stamp(day.start + DAY_MS)),
                ],
            ).fetchone()
            found += id_ledger.read(row[0]) if row is not None else []
        return id_ledger.union(found)

    def below(self, number: int) -> int | None:
        """Return the highest covered id below `number`."""
        at = bisect_left(self.covered, (number, 0)) - 1
        return None if at < 0 else min(self.covered[at][1], number - 1)

    def above(self, number: int) -> int | None:
        """Return the lowest covered id above `number`."""
        at = bisect_right(self.covered, (number, 1 << 63)) - 1
        if at >= 0 and number < self.covered[at][1]:
            return number + 1
        return self.covered[at + 1][0] if at + 1 < len(self.covered) else None

    def time_above(self, connection: Connection, number: int) -> int | None:
        """Return when the lowest covered id above a number was (ms); None if there is none, or its row is lost."""
        above = self.above(number)
        return None if above is None else self.times(connection, [above], sure=True).get(above)

    def archived(self, since: int, until: int) -> bool:
        """Whether rows between two moments (ms) were dropped by retention."""
        return any(start < until and since < start + DAY_MS for start in self._archived)

    def times(self, connection: Connection, numbers: Iterable[int], sure: bool = False) -> dict[int, int]:
        """Return the times (ms) of covered ids. Of one whose row is gone, the nearest that the ledger can tell.

        With `sure` nothing is told of a row that is lost, on a day whose rows retention did not drop.
        """
        by_day: dict[int, list[int]] = {}
        for number in numbers:
            at = self._day_of(number)
            if at is not None:
                by_day.setdefault(at, []).append(number)
        found: dict[int, int] = {}
        for at, wanted in by_day.items():
            day = self.days[at]
            if not day.archived:
                found |= self._rows(connection, day, wanted)
            if sure and not day.archived:
                continue
            every = id_ledger.union([*day.covered, *day.retired])
            middle = (every[0][0] + every[-1][1]) // 2
            for number in wanted:
                nearest = day.first_time if number <= middle else day.last_time
                found.setdefault(number, day.start if nearest is None else nearest)
        return found

    def _rows(self, connection: Connection, day: Day, numbers: list[int]) -> dict[int, int]:
        """Return the times (ms) of those ids of a day that have a row."""
        rows = connection.execute(
            "SELECT trade_id, (extract(epoch FROM timestamp) * 1000)::bigint FROM raw_trades"
            " WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id = ANY(%s)"
            " AND timestamp >= %s::timestamptz AND timestamp < %s::timestamptz",
            [self.exchange, self.symbol, numbers, stamp(day.start), stamp(day.start + DAY_MS)],
        )
        return dict(rows.fetchall())

    def _day_of(self, number: int) -> int | None:
        at = bisect_right(self._pieces, (number, 1 << 63, 0)) - 1
        # Days whose ids interleave: a piece before may be the one.
        while at >= 0:
            first, last, day = self._pieces[at]
            if first <= number <= last:
                return day
            at -= 1
        return None


def _without_ahead(connection: Connection, exchange: str, symbol: str, day: Day) -> Day:
    """Return a day whose newest time has not come, as it is without the fills of which that is so."""
    values = {
        "exchange": exchange,
        "symbol": symbol,
        "since": stamp(day.start),
        "until": stamp(day.start + DAY_MS),
        "stamped": AHEAD_MS // 1000,
        "unstamped": UNSTAMPED_AHEAD_MS // 1000,
    }
    (found,) = connection.execute(_AHEAD, values).fetchone() or (None,)
    if found is None:
        return day
    ahead = id_ledger.read(found)
    first, last = connection.execute(_TIMES, values).fetchone() or (None, None)
    return replace(day, covered=id_ledger.subtract(day.covered, ahead), first_time=first, last_time=last, ahead=ahead)
