"""What is in quarantine: a look at it, and its lines put through the store once more.

A line may have been refused for what is right by now: our clock was wrong, or an older release did not know its form.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, LiteralString

from okxcli.core.model import Line
from okxcli.errors import BUGS
from okxcli.storage.rows.outcome import TAKEN_OUT
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.write.writer import Writer

#: Lines that are read at a time.
_BATCH = 500
#: More than any line says: for one of which some cannot be stored.
_NEVER = 1 << 30

Row = dict[str, object]


@dataclass(frozen=True)
class Choice:
    """Which lines are meant: of one symbol, whose reason holds a text; empty: all, when it comes to storing them again
    without those that were taken out on purpose.

    Of a raw line, as a collector refuses it, only the text is known: it must name the symbol.
    """

    symbol: str = ""
    reason: str = ""


_CHOSEN: LiteralString = (
    " FROM quarantine WHERE id > %(last)s AND id <= %(newest)s AND position(%(reason)s in reason) > 0 AND"
    " (%(without)s::text IS NULL OR NOT starts_with(reason, %(without)s)) AND"
    " (symbol = %(symbol)s OR %(symbol)s = '' OR symbol = '' AND position('\"' || %(symbol)s || '\"' in line) > 0)"
    " ORDER BY id LIMIT %(count)s"
)
_NAMES = ("id", "at", "type", "exchange", "symbol", "reason", "line", "stored")


def lines(connection: Connection, choice: Choice) -> Iterator[list[Row]]:
    """Yield the lines in quarantine with their reasons, oldest first, some at a time."""
    query: LiteralString = (
        "SELECT id, (extract(epoch FROM at) * 1000)::bigint, type, exchange, symbol, reason, line, stored"
    )
    for found in _batches(connection, query, choice):
        yield [dict(zip(_NAMES, row, strict=True)) for row in found]


def retry(connect: Callable[[], Connection], choice: Choice, read: Callable[[bytes], list[Line]]) -> dict[str, int]:
    """Store the lines in quarantine that can be stored by now, and take them out of it; return the counts.

    `read` gives what one line says. `tried` are lines, `kept` those of them that stay, the others are the counts of the
    writer. A line goes when all that it says is stored: killed before that, the next run finds it stored already.

    Raises:
        DatabaseUnavailable: it went away; what was stored by then is.
    """
    counts = {"tried": 0, "kept": 0}
    durable: Counter[bytes] = Counter()
    query: LiteralString = "SELECT id, line"
    with closing(Writer(connect, on_durable=durable.update)) as writer, closing(connect()) as connection:
        for found in _batches(connection, query, choice, None if choice.reason else TAKEN_OUT):
            said: Counter[bytes] = Counter()
            for raw in (text.encode() for _, text in found):
                try:
                    for line in read(raw):
                        writer.add(line, raw)
                        said[raw] += 1
                except BUGS:  # InvalidLine is one of them
                    said[raw] += _NEVER
            writer.flush()
            gone = [number for number, text in found if 0 < said[text.encode()] <= durable[text.encode()]]
            connection.execute("DELETE FROM quarantine WHERE id = ANY(%s)", [gone])
            counts["tried"] += len(found)
            counts["kept"] += len(found) - len(gone)
            durable.clear()
        return counts | writer.counts()


def _batches(
    connection: Connection, query: LiteralString, choice: Choice, without: str | None = None
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the chosen rows that are there now, `without` those whose reason begins so."""
    last, (newest,) = 0, connection.execute("SELECT coalesce(max(id), 0) FROM quarantine").fetchone() or (0,)
    while True:
        values = {"last": last, "newest": newest, "count": _BATCH, "symbol": choice.symbol, "reason": choice.reason}
        values["without"] = without
        found = connection.execute(query + _CHOSEN, values).fetchall()
        if not found:
            return
        last = found[-1][0]
        yield found
