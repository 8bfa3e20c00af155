"""What became of a batch: rows by table, duplicates, and the lines that went to quarantine."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from okxcli.core.codec import encode
from okxcli.core.model import Line
from okxcli.storage.server.pooled_connection import Connection

#: How the reason begins of what was stored and was taken out: it is stored again only if somebody asks for that.
TAKEN_OUT = "taken out: "
#: As long a line as a filter takes; anything longer is cut.
_LONGEST = 1 << 20


@dataclass(frozen=True)
class Refused:
    """A line that cannot be stored, why, and the stored row that it contradicts, as a line (None: it does not)."""

    line: Line
    reason: str
    stored: bytes | None = None


@dataclass(frozen=True)
class Unreadable:
    """A line that is none of ours, as it came in, and why."""

    raw: bytes
    reason: str


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
        line = one.line
        kind = str(type(line).__struct_config__.tag)
        _keep(connection, (kind, line.exchange, line.symbol), one.reason, raw.get(id(line)) or encode(line), one.stored)


def quarantine_unreadable(connection: Connection, lines: list[Unreadable]) -> None:
    """Keep lines that cannot be decoded, under the names that they give if they are JSON at all."""
    for one in lines:
        _keep(connection, _names_in(one.raw), one.reason, one.raw, None)


def _keep(connection: Connection, names: tuple[str, str, str], reason: str, line: bytes, stored: bytes | None) -> None:
    connection.execute(
        "INSERT INTO quarantine (type, exchange, symbol, reason, line, stored) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        [
            *(_text(connection, name.encode(errors="replace")) for name in names),
            _text(connection, reason.encode(errors="replace")),
            _text(connection, line),
            None if stored is None else _text(connection, stored),
        ],
    )


class _Named(msgspec.Struct):
    type: Any = ""
    exchange: Any = ""
    symbol: Any = ""


_NAMED = msgspec.json.Decoder(_Named)
_LONGEST_NAME = 64


def _names_in(raw: bytes) -> tuple[str, str, str]:
    """Return type, exchange and symbol of a line as far as it can be read; empty where it cannot."""
    try:
        found = _NAMED.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", "", ""
    kind, exchange, symbol = (
        value[:_LONGEST_NAME] if isinstance(value, str) else "" for value in (found.type, found.exchange, found.symbol)
    )
    return kind, exchange, symbol


def _text(connection: Connection, raw: bytes) -> str:
    """Return bytes as text that Postgres takes: NUL is spelt out, what is not UTF-8 is replaced.

    Where the database has another encoding, what is not ASCII is spelt as JSON does.
    """
    text = raw[:_LONGEST].decode(errors="replace").replace("\0", "\\u0000")
    if connection.info.parameter_status("server_encoding") in ("UTF8", "SQL_ASCII"):
        return text
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
