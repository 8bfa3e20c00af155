"""What became of a batch: rows by table, duplicates, and the lines that went to quarantine."""

from collections import Counter
from dataclasses import dataclass, field

from okxcli.core.codec import encode
from okxcli.core.model import Line
from okxcli.storage.database import Connection

#: As long a line as a filter takes; anything longer is cut.
_LONGEST = 1 << 20


@dataclass(frozen=True)
class Refused:
    """A line that cannot be stored, why, and the stored row that it contradicts, as a line (None: it does not)."""

    line: Line
    reason: str
    stored: bytes | None = None


@dataclass
class Outcome:
    """Counts of one transaction, and what it refused."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)


def quarantine(connection: Connection, refused: list[Refused], raw: dict[int, bytes]) -> None:
    """Keep refused lines with their reasons; the same line for the same reason is kept once.

    `raw` has the bytes that a line came in as, by its `id`, where they are known.
    """
    for one in refused:
        text = _text(raw.get(id(one.line)) or encode(one.line))
        connection.execute(
            "INSERT INTO quarantine (type, exchange, symbol, reason, line, stored) VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [
                str(type(one.line).__struct_config__.tag),
                _text(one.line.exchange.encode()),
                _text(one.line.symbol.encode()),
                _text(one.reason.encode()),
                text,
                None if one.stored is None else _text(one.stored),
            ],
        )


def _text(raw: bytes) -> str:
    """Return bytes as text that Postgres takes: NUL is spelt out, what is not UTF-8 is replaced."""
    return raw[:_LONGEST].decode(errors="replace").replace("\0", "\\u0000")
