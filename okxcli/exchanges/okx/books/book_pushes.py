"""Pushes of whole books, looked at without being decoded: which book, and their place in its chain."""

import re
from typing import Any

import orjson

from okxcli.core.books.chain import Numbers
from okxcli.exchanges.okx.channels import BOOK_CHANNELS, PUSH_HEAD, Subscription

#: The one whose numbers are those of REST as well.
FETCHED = "books"
#: How their pushes begin.
HEADS = tuple(PUSH_HEAD + name.encode() + b'","instId":"' for name in BOOK_CHANNELS)

_SNAPSHOT = b'"action":"snapshot"'
_NUMBERS = re.compile(rb'"seqId":(\d{1,19}),"prevSeqId":(-?\d{1,19})')
_KEY = b'"seqId"'
_TIME = re.compile(rb'"ts":"(\d{1,15})"')
#: Time, a dead checksum and the numbers stand at the end of a push, before the stamp.
_TAIL = 220


def subscription_of(line: bytes) -> Subscription | None:
    """Return whose push a line is that begins as one of `HEADS`; None if that cannot be told."""
    at = len(PUSH_HEAD)
    channel, _, rest = line[at:].partition(b'"')
    symbol, quote, _ = rest[len(b',"instId":"') : 100].partition(b'"')
    return Subscription(channel.decode(), symbol.decode()) if quote and symbol.isascii() else None


def numbers_of(line: bytes) -> list[Numbers] | None:
    """Return the place of each row of a push; None if one of them has none."""
    tail = line[-_TAIL:]
    found, time = _NUMBERS.search(tail), _TIME.search(tail)
    if found is not None and time is not None and line.find(_KEY) == line.rfind(_KEY):  # one row
        return [Numbers(_SNAPSHOT in line[:150], int(found[1]), int(found[2]), int(time[1]))]
    try:
        message = orjson.loads(line)
        return [_place(message["action"], row) for row in message["data"]] or None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def _place(action: str, row: dict[str, Any]) -> Numbers:
    seq, before = row.get("seqId"), row.get("prevSeqId")
    fetched = action == "snapshot" and before is None  # in a recording of ours
    if not isinstance(seq, int) or not (fetched or isinstance(before, int)):
        raise TypeError
    return Numbers(action == "snapshot", seq, before, int(row["ts"]))


def snapshot_line(symbol: str, row: dict[str, Any]) -> bytes:
    """Return REST's book as a push, which says that it is none: it has no number before."""
    argument = {"channel": FETCHED, "instId": symbol}
    data = {key: row[key] for key in ("asks", "bids", "ts", "seqId")}
    return orjson.dumps({"arg": argument, "action": "snapshot", "data": [data], "origin": "rest"})
