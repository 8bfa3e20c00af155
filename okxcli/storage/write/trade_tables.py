"""Trades into tables: the tape by the ledger, merged trades apart.

A batch asks the ledger once which of its ids it has, and copies the rest straight into `raw_trades`: what is new is
known before the first row is sent, so there is no detour through a temporary table and no test per row.
"""

import logging
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from operator import lt

from psycopg import sql

from okxcli.core.codec import encode
from okxcli.core.decimals import EXACT, ZERO
from okxcli.core.model import FILE_MERGED, Absent, StandardizedTrade
from okxcli.storage.ledger import id_ledger, time_steps, unsettled
from okxcli.storage.ledger.checksum import checksum
from okxcli.storage.ledger.id_ledger import Key, Known, Sums
from okxcli.storage.rows.copying import copy, insert
from okxcli.storage.rows.fill_block import FillRows
from okxcli.storage.rows.outcome import Outcome, Refused
from okxcli.storage.rows.row_format import PIECE, columns_of, fields_of, stamp, trade_rows
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.write.far_ids import Anchors, are_near, is_far, near_ones

_log = logging.getLogger(__name__)

_COLUMNS = columns_of(StandardizedTrade)
_MERGED = frozenset(("trades", FILE_MERGED))
#: Trades by exchange and symbol, each in the order they came.
Groups = dict[Key, list[StandardizedTrade]]
#: What makes a known id the same fill: side, price, size, timestamp (ms).
_Fill = tuple[str, Decimal, Decimal, int]


def is_merged(trade: StandardizedTrade) -> bool:
    """Whether a trade is of the exchange's merged kind, which is no part of the tape: by its channel, or its count."""
    return trade.origin in _MERGED or trade.count > 1


def store_trades(connection: Connection, trades: Groups, outcome: Outcome, thorough: bool, anchors: Anchors) -> None:
    """Store the fills that the ledger does not cover, and cover them. The symbols must be locked.

    Those are refused whose ids are far from all others, as `anchors` knows them from before.

    A known id with another side, price, size or time is refused as reused. With `thorough` the table is asked as well
    as the ledger, for when the two may disagree: a fill that is there but not covered is then covered.
    """
    rising = {key: _rising(group, outcome) for key, group in trades.items()}
    near = {key: near_ones(connection, key, group, anchors, outcome) for key, group in rising.items()}
    groups = {key: group for key, group in near.items() if group}
    found = id_ledger.known(
        connection, {key: id_ledger.ranges_of([t.trade_id for t in group]) for key, group in groups.items()}
    )
    new: Groups = {}
    uncovered: Groups = {}
    for key, group in groups.items():
        fresh, lost = _without_known(connection, group, found.get(key), outcome)
        if fresh:
            uncovered[key] = fresh
            new[key] = _without_rows(connection, fresh, outcome) if thorough else fresh
        if lost:
            _log.warning("%s: %d fills are stored again whose rows were lost", key[1], len(lost))
            new[key] = [*new.get(key, ()), *lost]
    sums: Sums = {}
    if any(new.values()):
        copy(connection, "raw_trades", _COLUMNS, _rows(new, sums))
        outcome.counts["raw_trades"] += sum(map(len, new.values()))
    if uncovered:
        time_steps.note_fills(connection, uncovered)
        id_ledger.cover(connection, uncovered, {k: v for k, v in sums.items() if new[k[0]] is uncovered.get(k[0])})


class NotNew(Exception):
    """Fills of which some are known, or may be, or are older than others: each has to be looked at.

    `passing`: because others of their symbol came beside them, as happens once in a while.
    """

    def __init__(self, passing: bool = False) -> None:
        super().__init__()
        self.passing = passing


def store_new(connection: Connection, rows: list[FillRows], outcome: Outcome, anchors: Anchors) -> None:
    """Store fills that are newer than all others, as rows, and cover them. Their symbols must be locked.

    Raises:
        NotNew: they are not; nothing is stored.
    """
    groups: dict[Key, list[FillRows]] = {}
    for run in rows:
        groups.setdefault((run.exchange, run.symbol), []).append(run)
    for key, runs in groups.items():
        rising = all(before.last < run.first for before, run in pairwise(runs))
        if not rising or not are_near(connection, key, [(run.first, run.last) for run in runs], anchors):
            raise NotNew
    if id_ledger.known(connection, {key: [(run.first, run.last) for run in runs] for key, runs in groups.items()}):
        raise NotNew
    if not time_steps.note_newest(connection, groups):
        raise NotNew
    copy(connection, "raw_trades", _COLUMNS, (run.rows for runs in groups.values() for run in runs))
    outcome.counts["raw_trades"] += sum(run.last - run.first + 1 for run in rows)
    id_ledger.cover_days(connection, [_covered(runs) for runs in _by_day(groups)])


def _by_day(groups: dict[Key, list[FillRows]]) -> Iterator[list[FillRows]]:
    """Yield the runs of each symbol and day."""
    for runs in groups.values():
        days: dict[int, list[FillRows]] = {}
        for run in runs:
            days.setdefault(run.day, []).append(run)
        yield from days.values()


def _covered(runs: list[FillRows]) -> id_ledger.Covered:
    """Return what the ledger is told of the runs of one symbol and day."""
    total = ZERO
    for run in runs:
        total = EXACT.add(total, run.checksum)
    ids = id_ledger.union((run.first, run.last) for run in runs)
    low, high = min(run.low for run in runs), max(run.high for run in runs)
    return id_ledger.Covered((runs[0].exchange, runs[0].symbol), runs[0].day, ids, low, high, total)


def _rows(groups: Groups, sums: Sums) -> Iterator[str]:
    """Yield trades as rows for COPY, and put the checksum of each day into `sums` while Postgres takes them in."""
    for key, group in groups.items():
        for day, part in id_ledger.by_day(group) if group else ():
            total = Decimal(0)
            for at in range(0, len(part), PIECE):
                some = part[at : at + PIECE]
                yield from trade_rows(some)
                total = EXACT.add(total, checksum(some))
            sums[key, day] = total


def store_merged(connection: Connection, trades: Groups, outcome: Outcome) -> None:
    """Store merged trades that are not there yet."""
    lines = [trade for group in trades.values() for trade in group]
    added = insert(connection, "merged_trades", lines)
    outcome.counts["merged_trades"] += added
    outcome.counts["duplicates"] += len(lines) - added


def store_absent(connection: Connection, ranges: list[Absent], outcome: Outcome, now_ms: int, anchors: Anchors) -> None:
    """Note ids that the exchange does not have. The symbols must be locked, the trades of the batch be stored."""
    for absent in ranges:
        if is_far(connection, absent, anchors):
            outcome.refused.append(Refused(absent, "ids far from all others, or too many"))
            continue
        added = id_ledger.note_absent(connection, absent, now_ms)
        if added:
            unsettled.noted(connection, absent, now_ms)
        outcome.counts["absent"] += added
        outcome.counts["duplicates"] += not added


def _rising(group: list[StandardizedTrade], outcome: Outcome) -> list[StandardizedTrade]:
    """Return a symbol's trades by rising id, an id that comes twice in the batch once."""
    ids = [trade.trade_id for trade in group]
    if all(map(lt, ids, ids[1:])):
        return group
    once: list[StandardizedTrade] = []
    for trade in sorted(group, key=lambda trade: trade.trade_id):
        if once and trade.trade_id == once[-1].trade_id:
            _judge(trade, once[-1], outcome)
        else:
            once.append(trade)
    return once


def _fill(trade: StandardizedTrade) -> _Fill:
    return trade.side, trade.price, trade.size, trade.timestamp


def _judge(trade: StandardizedTrade, known: StandardizedTrade, outcome: Outcome) -> None:
    """Count a trade of a known id as the duplicate that it is, or refuse it."""
    if _fill(trade) == _fill(known):
        outcome.counts["duplicates"] += 1
    else:
        outcome.refused.append(Refused(trade, "id reused", encode(known)))


def _without_known(
    connection: Connection, group: list[StandardizedTrade], known: Known | None, outcome: Outcome
) -> tuple[list[StandardizedTrade], list[StandardizedTrade]]:
    """Return the trades that the ledger does not have, and those whose rows are lost; judge the others by their rows.

    The ledger keeps count and checksum of a lost row: the next audit tells whether what comes is what was there.
    """
    if known is None:
        return group, []
    again = [trade for trade in group if id_ledger.holds(known.ids, trade.trade_id)]
    lost = _judge_all(connection, again, known.first_time.isoformat(), known.last_time.isoformat(), outcome, known)
    return [trade for trade in group if not id_ledger.holds(known.ids, trade.trade_id)], lost


def _without_rows(connection: Connection, group: list[StandardizedTrade], outcome: Outcome) -> list[StandardizedTrade]:
    """Return the trades that have no row either; judge the others."""
    times = [trade.timestamp for trade in group]
    first, last = stamp(min(times)), stamp(max(times))
    there = _stored(connection, group, first, last)
    _judge_all(connection, [trade for trade in group if trade.trade_id in there], first, last, outcome)
    return [trade for trade in group if trade.trade_id not in there]


def _judge_all(
    connection: Connection,
    again: list[StandardizedTrade],
    first: str,
    last: str,
    outcome: Outcome,
    known: Known | None = None,
) -> list[StandardizedTrade]:
    """Judge trades whose ids are known by their rows between two moments; return those whose rows are lost."""
    lost: list[StandardizedTrade] = []
    stored = _stored(connection, again, first, last) if again else {}
    for trade in again:
        row = stored.get(trade.trade_id)
        if row is None and known is not None and known.lacks(trade.trade_id, trade.timestamp // DAY_MS):
            lost.append(trade)
        elif row == _fill(trade) or (row is None and (known is None or known.archived(trade.trade_id))):
            outcome.counts["duplicates"] += 1  # of an archived day the ledger's word is all there is
        else:
            outcome.refused.append(Refused(trade, "id reused", _row(connection, trade, first, last)))
    return lost


#: Rows by id between two moments, which keep the search to a few partitions.
_BY_ID = sql.SQL(
    "SELECT {} FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id = ANY(%s)"
    " AND timestamp BETWEEN %s::timestamptz AND %s::timestamptz"
)
_FILL = _BY_ID.format(sql.SQL("trade_id, side, price, size, (extract(epoch FROM timestamp) * 1000)::bigint"))
_LINE = _BY_ID.format(fields_of(StandardizedTrade))


def _stored(connection: Connection, trades: list[StandardizedTrade], first: str, last: str) -> dict[int, _Fill]:
    """Return the stored fills with the ids of a symbol's trades; between two moments."""
    rows = connection.execute(
        _FILL,
        [trades[0].exchange, trades[0].symbol, [trade.trade_id for trade in trades], first, last],
        binary=True,
    )
    return {row[0]: row[1:] for row in rows}


def _row(connection: Connection, trade: StandardizedTrade, first: str, last: str) -> bytes:
    """Return the stored row with the id of `trade` as a line."""
    row = connection.execute(
        _LINE, [trade.exchange, trade.symbol, [trade.trade_id], first, last], binary=True
    ).fetchone()
    return encode(StandardizedTrade(*row)) if row else b""
