"""Books, tickers and instruments into their tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
from psycopg import sql

from okxcli.core.model import BookSnapshot, Instrument, Ticker
from okxcli.storage.ledger.id_ledger import Key
from okxcli.storage.rows.copying import insert
from okxcli.storage.rows.outcome import Outcome
from okxcli.storage.rows.row_format import fields_of
from okxcli.storage.schema.versions import INSTRUMENT_LOCK
from okxcli.storage.server.pooled_connection import Connection


def store_new(
    connection: Connection, table: str, lines: Sequence[BookSnapshot] | Sequence[Ticker], outcome: Outcome
) -> None:
    """Store the snapshots that are not in their table yet, by its key: symbol, time, of a book origin and sequence."""
    if lines:
        added = insert(connection, table, lines)
        outcome.counts[table] += added
        outcome.counts["duplicates"] += len(lines) - added


@dataclass
class _Period:
    """What an instrument was from `since` until `until` (ms; None: still is)."""

    instrument: Instrument
    since: int
    until: int | None


def store_instruments(connection: Connection, instruments: list[Instrument], outcome: Outcome, now_ms: int) -> None:
    """Store what changed: a new row from when it was learned (`received`, else now), the one before it ended there.

    What was learned earlier than what is known (an old recording) takes its place in time.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [INSTRUMENT_LOCK])
    keys = {(one.exchange, one.symbol) for one in instruments}
    history = _stored(connection, keys)
    changed: set[Key] = set()
    for one in instruments:
        key = one.exchange, one.symbol
        at = one.received if one.received is not None else now_ms
        if _place(history.setdefault(key, []), one, at):
            changed.add(key)
            outcome.counts["instruments"] += 1
        else:
            outcome.counts["duplicates"] += 1
    if changed:
        _rewrite(connection, {key: history[key] for key in sorted(changed)})


def _same(a: Instrument, b: Instrument) -> bool:
    return msgspec.structs.replace(a, received=b.received) == b


def _place(periods: list[_Period], one: Instrument, at: int) -> bool:
    """Put an observation at `at` (ms) into the periods of its instrument; return False if it changes nothing."""
    index = next((i for i, period in reversed(list(enumerate(periods))) if period.since <= at), None)
    if index is None:
        if periods and _same(periods[0].instrument, one):
            periods[0].since = at
        else:
            periods.insert(0, _Period(one, at, periods[0].since if periods else None))
        return True
    period = periods[index]
    if _same(period.instrument, one):
        return False
    if period.since == at:
        period.instrument = one
    else:
        periods.insert(index + 1, _Period(one, at, period.until))
        period.until = at
    return True


def _stored(connection: Connection, keys: Iterable[Key]) -> dict[Key, list[_Period]]:
    exchanges, symbols = zip(*sorted(keys), strict=True)
    rows = connection.execute(
        sql.SQL("""
        SELECT {}, (extract(epoch FROM valid_from) * 1000)::bigint, (extract(epoch FROM valid_to) * 1000)::bigint
        FROM instruments JOIN unnest(%s::text[], %s::text[]) AS k (exchange, symbol) USING (exchange, symbol)
        ORDER BY exchange, symbol, valid_from
        """).format(fields_of(Instrument)),
        [list(exchanges), list(symbols)],
        binary=True,
    )
    found: dict[Key, list[_Period]] = {}
    for row in rows:
        found.setdefault((row[0], row[1]), []).append(_Period(Instrument(*row[:17]), row[17], row[18]))
    return found


def _rewrite(connection: Connection, histories: dict[Key, list[_Period]]) -> None:
    """Replace the rows of the instruments that changed: few, and rarely."""
    exchanges, symbols = zip(*histories, strict=True)
    connection.execute(
        "DELETE FROM instruments WHERE (exchange, symbol) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        [list(exchanges), list(symbols)],
    )
    kept = [period for periods in histories.values() for period in periods]
    insert(
        connection,
        "instruments",
        [period.instrument for period in kept],
        valid_from=[period.since for period in kept],
        valid_to=[period.until for period in kept],
    )
