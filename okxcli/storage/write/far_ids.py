"""Ids that are too far from all others to be right: one such fill makes millions of ids missing, and for good.

The rule is that of a stream (`core.tape.FAR`): a lone one is refused, and goes to the quarantine; where another fill
follows on it that is where the symbol is, and both are stored.
"""

from itertools import chain, pairwise

from okxcli.core.codec import decode
from okxcli.core.model import Absent, StandardizedTrade
from okxcli.core.tape import FAR
from okxcli.errors import InvalidLine
from okxcli.storage.ledger.id_ledger import Key, Ranges
from okxcli.storage.rows.outcome import Outcome, Refused
from okxcli.storage.server.pooled_connection import Connection

REASON = "its id is far from all others"
#: An id of each symbol that is known to be right.
Anchors = dict[Key, int]


def near_ones(
    connection: Connection, key: Key, group: list[StandardizedTrade], anchors: Anchors, outcome: Outcome
) -> list[StandardizedTrade]:
    """Return the trades (by rising id) whose ids may be right; the others are refused. The symbol must be locked.

    Those come too that were refused before, where one that is next to them is here. Costs no query as long as all are
    near an id that `anchors` has.
    """
    anchor = anchors.get(key)
    if anchor is not None and group[0].trade_id >= anchor - FAR and group[-1].trade_id <= anchor + FAR:
        return group
    known = _known(connection, key)
    good: list[StandardizedTrade] = []
    lone: list[list[StandardizedTrade]] = []
    for part in _clusters(group):
        first, last = part[0].trade_id, part[-1].trade_id
        if _near(known, first, last) or any(b.trade_id == a.trade_id + 1 for a, b in pairwise(part)):
            good += part
        else:
            lone.append(part)
    if not known and not good:
        good += lone.pop(0)  # the first of all: there is nothing to compare them with
    for trade in chain(*lone):
        before = _refused_before(connection, trade)
        if before is not None:
            good += [trade, before]
        else:
            outcome.refused.append(Refused(trade, REASON))
    if good:
        good.sort(key=lambda trade: trade.trade_id)
        anchors[key] = good[-1].trade_id
    return good


def are_near(connection: Connection, key: Key, ids: Ranges, anchors: Anchors) -> bool:
    """Whether `near_ones` takes all fills with these ids, lowest first. The symbol must be locked."""
    first, last = ids[0][0], ids[-1][1]
    anchor = anchors.get(key)
    if anchor is None or first < anchor - FAR or last > anchor + FAR:
        if any(after[0] - before[1] > FAR for before, after in pairwise(ids)):
            return False
        pair = any(high > low for low, high in ids) or any(after[0] == before[1] + 1 for before, after in pairwise(ids))
        known = [] if pair else _known(connection, key)
        if known and not _near(known, first, last):
            return False
        anchors[key] = last
    return True


def is_far(connection: Connection, absent: Absent, anchors: Anchors) -> bool:
    """Whether ids that are said to be absent are more than could be, or far from all that are known."""
    key = (absent.exchange, absent.symbol)
    if absent.last - absent.first >= FAR:
        return True
    anchor = anchors.get(key)
    if anchor is not None and _near([(anchor, anchor)], absent.first, absent.last):
        return False
    known = _known(connection, key)
    return bool(known) and not _near(known, absent.first, absent.last)


def _near(known: Ranges, first: int, last: int) -> bool:
    return any(low - FAR <= last and first <= high + FAR for low, high in known)


def _known(connection: Connection, key: Key) -> Ranges:
    """Return the first and the last id of each day that has fills."""
    return connection.execute(
        "SELECT first_id, last_id FROM trade_ledger WHERE exchange = %s AND symbol = %s AND epoch = 0"
        " AND first_id IS NOT NULL",
        key,
    ).fetchall()


def _clusters(group: list[StandardizedTrade]) -> list[list[StandardizedTrade]]:
    """Return trades by rising id, cut where the next one is far."""
    found = [[group[0]]]
    for before, trade in pairwise(group):
        if trade.trade_id - before.trade_id > FAR:
            found.append([])
        found[-1].append(trade)
    return found


def _refused_before(connection: Connection, trade: StandardizedTrade) -> StandardizedTrade | None:
    """Take the fill next to a trade out of the quarantine, if it was refused for the same reason."""
    rows = connection.execute(
        "SELECT id, line FROM quarantine WHERE type = 'trade' AND exchange = %s AND symbol = %s AND reason = %s",
        [trade.exchange, trade.symbol, REASON],
    ).fetchall()
    for number, text in rows:
        try:
            line = decode(text.encode())
        except InvalidLine:
            continue
        if isinstance(line, StandardizedTrade) and abs(line.trade_id - trade.trade_id) == 1:
            connection.execute("DELETE FROM quarantine WHERE id = %s", [number])
            return line
    return None
