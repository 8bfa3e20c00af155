"""Pushes of `trades-all`, the channel whose fills are numbered one by one: looked at without being decoded."""

import orjson

#: How they begin.
HEAD = b'{"arg":{"channel":"trades-all","instId":"'
_ID = b'"tradeId":"'
_KEY = b'"tradeId"'


def ids_of(line: bytes) -> tuple[bytes, int, int] | None:
    """Return the symbol and the lowest and highest id of a line that begins with `HEAD`; None if it has none."""
    start = len(HEAD)
    symbol = line[start : line.find(b'"', start)]
    at = line.find(_ID)
    if at >= 0 and line.find(_KEY, at + len(_KEY)) < 0:
        at += len(_ID)
        number = line[at : line.find(b'"', at)]
        if number.isdigit() and len(number) < 20:
            return symbol, int(number), int(number)
    try:
        found = [int(row["tradeId"]) for row in orjson.loads(line)["data"]]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return (symbol, min(found), max(found)) if found and min(found) > 0 else None


def absent_line(symbol: str, first: int, last: int) -> bytes:
    """Return the event that tells that the exchange does not have the ids `first .. last`."""
    argument = {"channel": "trades-all", "instId": symbol}
    return orjson.dumps({"event": "absent", "arg": argument, "first": str(first), "last": str(last)})
