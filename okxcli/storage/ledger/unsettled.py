"""Ids that are not settled: known to exist and not here, or not shown by the exchange, and how often it was asked.

One answer that lacks an id proves nothing (`core.tape.is_absent`); and a day after the proof it is asked once more.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

from okxcli.core.model import Absent
from okxcli.core.tape import ANSWERS, SPREAD_MS, is_absent
from okxcli.storage.ledger import id_ledger
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.rows.row_format import moments
from okxcli.storage.server.pooled_connection import Connection

#: When an absent id is asked for once more.
AGAIN_MS = 86_400_000


@dataclass(frozen=True)
class Doubt:
    """The ids `first .. last`: so many answers lacked them, the first and the last of these at two moments (ms).

    `noted`: the ledger has them as absent. `forgotten`: somebody has given them up, and nobody is to ask for them.
    Without any answer the moments are None.
    """

    first: int
    last: int
    answers: int = 0
    first_asked: int | None = None
    last_asked: int | None = None
    noted: bool = False
    forgotten: bool = False


def load(connection: Connection, exchange: str, symbol: str) -> list[Doubt]:
    """Return the doubts about a symbol's ids, lowest first."""
    rows = connection.execute(
        "SELECT first_id, last_id, answers, (extract(epoch FROM first_asked) * 1000)::bigint,"
        " (extract(epoch FROM last_asked) * 1000)::bigint, noted, forgotten FROM doubts"
        " WHERE exchange = %s AND symbol = %s AND epoch = 0 ORDER BY first_id",
        [exchange, symbol],
    )
    return [Doubt(*row) for row in rows]


def save(connection: Connection, exchange: str, symbol: str, found: Iterable[Doubt]) -> None:
    """Put these doubts, apart from each other, in the place of all others about a symbol. It must be locked."""
    connection.execute("DELETE FROM doubts WHERE exchange = %s AND symbol = %s AND epoch = 0", [exchange, symbol])
    columns = [list(column) for column in zip(*map(astuple, found), strict=True)]
    if columns:
        first, last, answers, first_asked, last_asked, noted, forgotten = columns
        connection.execute(
            "INSERT INTO doubts (exchange, symbol, first_id, last_id, answers, first_asked, last_asked, noted,"
            " forgotten) SELECT %s, %s, r.* FROM unnest(%s::int8[], %s::int8[], %s::int[], %s::timestamptz[],"
            " %s::timestamptz[], %s::bool[], %s::bool[]) AS r",
            [exchange, symbol, first, last, answers, moments(first_asked), moments(last_asked), noted, forgotten],
        )


def without(doubts: Iterable[Doubt], settled: Ranges) -> list[Doubt]:
    """Return what is left of doubts when the ids `settled` are taken out."""
    return [
        replace(one, first=first, last=last)
        for one in doubts
        for first, last in id_ledger.subtract([(one.first, one.last)], settled)
    ]


def answered(doubts: list[Doubt], asked: Ranges, lacking: Ranges, now_ms: int) -> list[Doubt]:
    """Return the doubts after one answer about the ids `asked`, of which it lacked `lacking`."""
    found = without(doubts, asked)
    for first, last in lacking:
        new: Ranges = [(first, last)]
        for one in doubts:
            low, high = max(first, one.first), min(last, one.last)
            if low <= high:
                new = id_ledger.subtract(new, [(low, high)])
                # A moment that has not come is of a clock that was wrong: it would put the proof off, for years.
                begun = now_ms if one.first_asked is None else min(one.first_asked, now_ms)
                found.append(Doubt(low, high, one.answers + 1, begun, now_ms, one.noted))
        found += [Doubt(low, high, 1, now_ms, now_ms) for low, high in new]
    return sorted(found, key=lambda one: one.first)


def proven(one: Doubt, spread_ms: int = SPREAD_MS) -> bool:
    """Whether the exchange has been asked often enough, over long enough, to say that it has not these ids."""
    if one.noted or one.first_asked is None or one.last_asked is None:
        return False
    return is_absent(one.answers, one.first_asked, one.last_asked, spread_ms)


def settle(
    connection: Connection,
    exchange: str,
    symbol: str,
    asked: Ranges,
    lacking: Ranges,
    now_ms: int,
    spread_ms: int = SPREAD_MS,
) -> Ranges:
    """Take in one answer about the ids `asked`, and note those as absent that it proves absent; return these.

    The symbol must be locked. An id that was noted and is lacking once more is settled for good.
    """
    doubts = answered(load(connection, exchange, symbol), asked, lacking, now_ms)
    doubts = [one for one in doubts if not (one.noted and one.last_asked == now_ms)]
    absent = [one for one in doubts if proven(one, spread_ms=spread_ms)]
    kept = [replace(one, noted=True) if one in absent else one for one in doubts]
    for one in absent:
        id_ledger.note_absent(connection, Absent(exchange, symbol, one.first, one.last), now_ms)
    save(connection, exchange, symbol, kept)
    return [(one.first, one.last) for one in absent]


def want(connection: Connection, exchange: str, symbol: str, ids: Ranges) -> None:
    """Remember that ids exist which are not here. The symbol must be locked."""
    doubts = load(connection, exchange, symbol)
    new = id_ledger.subtract(ids, [(one.first, one.last) for one in doubts])
    save(connection, exchange, symbol, [*doubts, *(Doubt(first, last) for first, last in new)])


def noted(connection: Connection, absent: Absent, now_ms: int) -> None:
    """Remember when somebody else found ids absent, so that they are asked for once more. The symbol must be locked."""
    exchange, symbol, ids = absent.exchange, absent.symbol, [(absent.first, absent.last)]
    others = without(load(connection, exchange, symbol), ids)
    save(connection, exchange, symbol, [*others, Doubt(*ids[0], ANSWERS, now_ms, now_ms, True)])


def due_again(doubts: Iterable[Doubt], now_ms: int, again_ms: int = AGAIN_MS) -> Ranges:
    """Return the absent ids that are to be asked for once more."""
    return [
        (one.first, one.last)
        for one in doubts
        if one.noted and (one.last_asked is None or abs(now_ms - one.last_asked) >= again_ms)
    ]
