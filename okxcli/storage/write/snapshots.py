"""Books, states and instruments into their tables."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
from psycopg import sql

from okxcli.core.model import BookSnapshot, Instrument, State
from okxcli.storage.ledger.id_ledger import Key
from okxcli.storage.rows.copying import insert
from okxcli.storage.rows.outcome import Outcome
from okxcli.storage.rows.row_format import fields_of
from okxcli.storage.schema.versions import INSTRUMENT_LOCK
from okxcli.storage.server.pooled_connection import Connection


def store_new(
    connection: Connection, table: str, lines: Sequence[BookSnapshot] | Sequence[State], outcome: Outcome
) -> None:
    """Store the lines of a type that are not in their table yet, by its key: symbol, time, of a book its sequence."""
    if lines:
        added = insert(connection, table, lines)
        outcome.counts[table] += added
        outcome.counts["duplicates"] += len(lines) - added


#: What an instrument was, by the time (ms) from which on it was that, until the next one.
_History = dict[int, Instrument]


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
        if _place(history[key], one, at):
            changed.add(key)
            outcome.counts["instruments"] += 1
        else:
            outcome.counts["duplicates"] += 1
    if changed:
        _rewrite(connection, {key: history[key] for key in sorted(changed)})


def _same(a: Instrument, b: Instrument) -> bool:
    return msgspec.structs.replace(a, received=b.received) == b


def _place(history: _History, one: Instrument, at: int) -> bool:
    """Put an observation at `at` (ms) into the history of its instrument; return False if it changes nothing."""
    before = max((since for since in history if since <= at), default=None)
    if before is not None and _same(history[before], one):
        return False
    first = min(history, default=None)
    if before is None and first is not None and _same(history[first], one):
        one = history.pop(first)
    history[at] = one
    return True


def _stored(connection: Connection, keys: Iterable[Key]) -> dict[Key, _History]:
    exchanges, symbols = zip(*sorted(keys), strict=True)
    rows = connection.execute(
        sql.SQL("""
        SELECT {}, (extract(epoch FROM valid_from) * 1000)::bigint
        FROM instruments JOIN unnest(%s::text[], %s::text[]) AS k (exchange, symbol) USING (exchange, symbol)
        """).format(fields_of(Instrument)),
        [list(exchanges), list(symbols)],
        binary=True,
    )
    found: dict[Key, _History] = defaultdict(dict)
    for *fields, since in rows:
        one = Instrument(*fields)
        found[one.exchange, one.symbol][since] = one
    return found


def _rewrite(connection: Connection, histories: dict[Key, _History]) -> None:
    """Replace the rows of the instruments that changed: few, and rarely."""
    exchanges, symbols = zip(*histories, strict=True)
    connection.execute(
        "DELETE FROM instruments WHERE (exchange, symbol) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        [list(exchanges), list(symbols)],
    )
    lines: list[Instrument] = []
    since: list[int] = []
    until: list[int | None] = []
    for history in histories.values():
        starts = sorted(history)
        lines += [history[start] for start in starts]
        since += starts
        until += [*starts[1:], None]
    insert(connection, "instruments", lines, valid_from=since, valid_to=until)
