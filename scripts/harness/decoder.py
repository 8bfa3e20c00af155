"""What a line says, read by a decoder of another make: Python's own `json`, and nothing of okx.

Numbers stay the text that they are, so that no digit can be lost on the way. `raw_rows` and `our_line` say which lines
of ours a message of OKX, or a line, stands for, worked out from the documents and not from okx's code.
"""

import json
import re
from typing import Any

_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WHOLE = re.compile(r"-?[0-9]+", re.ASCII)

BARS = {
    **{f"candle{bar}": bar.lower() for bar in ("1s", "1m", "3m", "5m", "15m", "30m", "1H", "2H", "4H")},
    "candle6Hutc": "6h", "candle12Hutc": "12h", "candle1W": "1w+8", "candle1Wutc": "1w", "candle1M": "1M+8",
    "candle1Mutc": "1M", **{f"candle{n}D": f"{n}d+8" for n in (1, 2, 3, 5)},
    **{f"candle{n}Dutc": f"{n}d" for n in (1, 2, 3, 5)},
}  # fmt: skip
_TICKER = {
    "last": "last", "last_size": "lastSz", "bid": "bidPx", "bid_size": "bidSz", "ask": "askPx", "ask_size": "askSz",
    "open_24h": "open24h", "high_24h": "high24h", "low_24h": "low24h", "volume_24h": "vol24h",
    "open_utc0": "sodUtc0", "open_utc8": "sodUtc8",
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "trade": {"count": "1", "origin": "trades-all"},
    "candle": {"closed": True, "complete": False, "revision": "0", "origin": "trades"},
    "book": {"origin": "books5"},
    "book_update": {"origin": "books"},
}
_NUMBERS = frozenset(
    (
        *_TICKER, "base_volume_24h", "quote_volume_24h", "price", "size", "open", "high", "low", "close", "volume",
        "base_volume", "quote_volume", "buy_volume", "contract_value", "contract_multiplier", "tick_size", "lot_size",
        "min_size",
    )
)  # fmt: skip


class NotJson(ValueError):
    """Not a JSON text in UTF-8."""


class Undecided(Exception):
    """JSON by its grammar, about which decoders rightly differ: half a surrogate pair, nesting without end."""


class Number(str):
    """The text of a JSON number."""


class Doubled(dict[str, Any]):
    """An object with a key that stands there twice: the last one counts, and what one thinks of that is one's own."""


def decode(data: bytes) -> Any:
    """Return the value of a JSON text; numbers as `Number`.

    Raises:
        NotJson: it is none.
        Undecided: decoders may differ about it.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_pairs,
            parse_float=Number,
            parse_int=Number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise NotJson(str(error)) from None
    except RecursionError:
        raise Undecided("nested deep") from None
    except ValueError as error:
        raise NotJson(str(error)) from None
    if _SURROGATE.search(data):
        raise Undecided("perhaps half a surrogate pair")
    return value


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    return found if len(found) == len(items) else Doubled(items)


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def number(text: Any) -> str | None:
    """Return the canonical text of a decimal by moving its digits; None for what is none."""
    if not isinstance(text, str) or _PLAIN.fullmatch(text) is None:
        return None
    sign, mantissa = ("-", text[1:]) if text[0] == "-" else ("", text)
    mantissa, _, exponent = mantissa.lower().partition("e")
    whole, _, part = mantissa.partition(".")
    if len(exponent.lstrip("+-0")) > 3:  # zero, or nothing that a price or size can be
        return None if (whole + part).strip("0") or len(exponent.lstrip("+-0")) > 15 else "0"
    point = len(whole) + int(exponent or 0)
    digits = whole + part
    if point <= 0:
        digits, point = "0" * (1 - point) + digits, 1
    digits = digits.ljust(point, "0")
    whole, part = digits[:point].lstrip("0") or "0", digits[point:].rstrip("0")
    found = f"{whole}.{part}" if part else whole
    return found if found == "0" else sign + found


def whole(text: Any) -> str | None:
    """Return a whole number without leading zeros; None for what is none."""
    return number(text) if isinstance(text, str) and _WHOLE.fullmatch(text) else None


def shown(line: bytes) -> dict[str, Any]:
    """Return a line that okx wrote, its numbers as text."""
    value = decode(line)
    assert isinstance(value, dict), line
    return {key: _plain(item) for key, item in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Number) else value


def our_line(value: Any) -> dict[str, Any] | None:
    """Return what a line of ours says, in the form of `shown`: every key, canonical; None if that cannot be told."""
    if not isinstance(value, dict):
        return None
    found: dict[str, Any] = {**_DEFAULTS.get(str(value.get("type")), {})}
    for key, item in value.items():
        if key in ("bids", "asks"):
            if not isinstance(item, list) or not all(isinstance(level, list) for level in item):
                return None
            found[key] = [[number(part) for part in level] for level in item]
        elif key in _NUMBERS:
            found[key] = None if item is None else number(item)
        elif isinstance(item, Number):
            found[key] = whole(item)
        else:
            found[key] = item
    return found


def raw_rows(value: Any) -> list[dict[str, Any] | None]:
    """Return the lines that a raw message stands for, in the form of `shown`, one for each row; None: not to be told.

    Rows that have to be refused may be among them: a good line is one of these, and they come in this order.
    """
    if not isinstance(value, dict):
        return []
    arg = value.get("arg")
    if value.get("event") == "absent" and isinstance(arg, dict):
        ids = {key: whole(value.get(key)) for key in ("first", "last")}
        return [{"type": "absent", "exchange": "okx", "symbol": arg.get("instId"), **ids}]
    rows = value.get("data")
    if not isinstance(arg, dict) or not isinstance(rows, list):
        return []
    channel, symbol = arg.get("channel"), arg.get("instId") or ""
    received = value.get("received")
    head = {
        "exchange": "okx",
        "received": None if received is None else whole(received),
        "origin": value.get("origin") or channel,
    }
    if channel in ("books", "books50-l2-tbt", "books-l2-tbt"):
        head |= {"origin": channel, "action": value.get("action")}
    return [_row(channel, symbol, head, row) for row in rows]


def _row(channel: Any, symbol: str, head: dict[str, Any], row: Any) -> dict[str, Any] | None:
    if channel in BARS and isinstance(row, list):
        return _bar(BARS[channel], symbol, row)
    if not isinstance(row, dict):
        return None
    if channel in ("trades", "trades-all"):
        return _trade(head, row)
    if channel in ("books5", "bbo-tbt") or "action" in head:
        sides = {side: _levels(row.get(side)) for side in ("bids", "asks")}
        order = {"timestamp": whole(row.get("ts")), "seq_id": whole(row.get("seqId"))}
        if "action" in head:
            head = {"type": "book_update", **head, "prev_seq_id": whole(row.get("prevSeqId"))}
        return {"type": "book", **head, "symbol": symbol or row.get("instId"), **order, **sides}
    if channel == "tickers":
        return _ticker(head, row)
    if channel == "instruments":
        return _instrument(head, row)
    return None


def _levels(side: Any) -> Any:
    return [[number(part) for part in level[:2]] for level in side] if isinstance(side, list) else None


def _trade(head: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "trade",
        **head,
        "symbol": row.get("instId"),
        "trade_id": whole(row.get("tradeId")),
        "count": whole(row.get("count", "1")),
        "side": row.get("side"),
        "price": number(row.get("px")),
        "size": number(row.get("sz")),
        "timestamp": whole(row.get("ts")),
        "source": whole(row.get("source")) if row.get("source") else None,
    }


def _ticker(head: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    found = {key: number(row[theirs]) if row.get(theirs) else None for key, theirs in _TICKER.items()}
    symbol = str(row.get("instId"))
    kind = str(row.get("instType") or "").lower()
    spot = kind in ("spot", "margin") if kind else {0: None, 1: True}.get(symbol.count("-"), False)
    turnover = number(row["volCcy24h"]) if row.get("volCcy24h") else None
    base = found["volume_24h"] if spot else turnover if spot is False else None
    return {
        "type": "ticker",
        "exchange": "okx",
        "received": head["received"],
        "symbol": symbol,
        "timestamp": whole(row.get("ts")),
        **found,
        "base_volume_24h": base,
        "quote_volume_24h": turnover if spot else None,
    }


def _bar(timeframe: str, symbol: str, row: list[Any]) -> dict[str, Any] | None:
    if len(row) not in (7, 9):
        return None
    spot = {0: None, 1: True}.get(symbol.count("-"), False)
    volume, turnover = number(row[5]), number(row[6])
    closed = len(row) == 9 and row[8] == "1"
    return {
        "type": "candle",
        "exchange": "okx",
        "symbol": symbol,
        "timeframe": timeframe,
        "start": whole(row[0]),
        **dict(zip(("open", "high", "low", "close"), map(number, row[1:5]), strict=True)),
        "volume": volume,
        "base_volume": volume if spot else turnover if spot is False else None,
        "quote_volume": number(row[7]) if len(row) == 9 else turnover if spot else None,
        **dict.fromkeys(("buy_volume", "trade_count", "first_trade_id", "last_trade_id")),
        "closed": closed,
        "complete": closed,
        "revision": "0",
        "origin": "exchange",
    }


def _instrument(head: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    def text(key: str) -> Any:
        return row.get(key) or None

    family = str(text("instFamily") or text("uly") or "").split("_")[0].split("-")
    base, quote = family if len(family) == 2 else (None, None)
    return {
        "type": "instrument",
        "exchange": "okx",
        "received": head["received"],
        "symbol": row.get("instId"),
        "kind": str(row.get("instType")).lower(),
        "state": row.get("state"),
        "base": text("baseCcy") or base,
        "quote": text("quoteCcy") or quote,
        "settle": text("settleCcy"),
        "contract_type": text("ctType"),
        "contract_currency": text("ctValCcy"),
        **{
            key: number(row[theirs]) if row.get(theirs) else None
            for key, theirs in {
                "contract_value": "ctVal", "contract_multiplier": "ctMult", "tick_size": "tickSz", "lot_size": "lotSz",
                "min_size": "minSz",
            }.items()
        },
        "listed": whole(row["listTime"]) if row.get("listTime") else None,
        "expires": whole(row["expTime"]) if row.get("expTime") else None,
    }  # fmt: skip


_GOOD = {
    "tradeId": re.compile(r"[1-9][0-9]{2,17}"),
    "px": re.compile(r"[1-9][0-9]{0,9}(\.[0-9]{1,10})?"),
    "sz": re.compile(r"[1-9][0-9]{0,9}(\.[0-9]{1,10})?"),
    "side": re.compile("buy|sell"),
    "ts": re.compile(r"1[3-9][0-9]{11}"),
    "count": re.compile(r"[1-9][0-9]?"),
    "source": re.compile(r"[0-9]?"),
}
_SYMBOL = re.compile(r"[A-Z]{2,9}-[A-Z]{3,4}")


def surely_good(value: Any) -> int:
    """Return how many rows of a message of trades must be taken whatever one thinks of odd cases; 0: not to be told."""
    if type(value) is not dict or value.keys() != {"arg", "data"} or type(value["arg"]) is not dict:
        return 0
    arg, rows = value["arg"], value["data"]
    if arg.keys() != {"channel", "instId"} or arg["channel"] not in ("trades", "trades-all"):
        return 0
    symbol = arg["instId"]
    if type(symbol) is not str or not _SYMBOL.fullmatch(symbol, 0, 64) or not symbol.isascii():
        return 0
    if not isinstance(rows, list):
        return 0
    for row in rows:
        if type(row) is not dict or row.keys() - _GOOD.keys() != {"instId"} or row["instId"] != symbol:
            return 0
        if not {"tradeId", "px", "sz", "side", "ts"} <= row.keys():
            return 0
        if not all(type(row[key]) is str and shape.fullmatch(row[key]) for key, shape in _GOOD.items() if key in row):
            return 0
        if not all(str(row[key]).isascii() for key in row):
            return 0
    return len(rows)
