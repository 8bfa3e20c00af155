"""The layouts of OKX's bulk files: what a name tells, what a first line tells, and a row or what is wrong with it.

Trade files come in four generations: without a header, with one in GBK (`size` before `price`), with one in UTF-8
(`price` before `size`, the instrument in front), and that with a `source` behind it. Columns are found by name; by
position only where there is no header. Pure: bytes in, rows out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from operator import itemgetter
from typing import Literal, NamedTuple

from okxcli.core.decimals import canonical
from okxcli.core.model import MAX_ID, MAX_TIMESTAMP, MIN_TIMESTAMP
from okxcli.errors import InvalidLine, UsageError
from okxcli.exchanges.okx.sites import OFFSET_MS

Kind = Literal["trades", "candles"]

#: A row of a file: its key (trade id, or a bar's open), its time in ms, its symbol, and its cells in a fixed order.
Row = tuple[int, int, bytes, tuple[bytes, ...]]

DAY_MS = 86_400_000

_TRADE_CELLS = ("side", "price", "size", "source")
_CANDLE_CELLS = ("open", "high", "low", "close", "vol", "vol_ccy", "vol_quote", "confirm")
#: The files of before 2022 have no header.
_HEADERLESS = ("trade_id", "side", "size", "price", "created_time")

_POSITIVE = rb"[1-9][0-9]{0,28}(?:\.[0-9]{1,28})?|0\.0{0,27}[1-9][0-9]{0,28}"
_AMOUNT = rb"[0-9]{1,29}(?:\.[0-9]{1,28})?"
#: 2011 to 2096: what lies beside it is looked at more closely.
_TIME = rb"(?:1[3-9][0-9]|[23][0-9]{2})[0-9]{10}"
_SYMBOL = rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
#: What a cell of each column looks like; in the common part of Python's and RE2's regular expressions.
SHAPE: dict[str, bytes] = {
    "instrument_name": _SYMBOL,
    "trade_id": rb"[1-9][0-9]{0,17}",
    "side": rb"buy|sell",
    "created_time": _TIME,
    "open_time": _TIME,
    "source": rb"[0-9]{0,3}",
    "confirm": rb"[01]",
    **dict.fromkeys(("price", "size", "open", "high", "low", "close"), _POSITIVE),
    **dict.fromkeys(("vol", "vol_ccy", "vol_quote"), _AMOUNT),
}
#: What the kernel `_rows` calls the columns of trades (core/cells.h), and how many it knows.
_LETTERS = {
    "instrument_name": b"s", "trade_id": b"i", "side": b"d", "price": b"p", "size": b"z", "created_time": b"t",
    "source": b"f",
}  # fmt: skip
_MOST_LETTERS, _MOST_OF_A_NAME = 32, 64
#: No column is called like that.
_DATA = re.compile(r"[0-9.]+|buy|sell")
_OTHER = rb"[^,\r\n]*"
_NAME = re.compile(
    r"(?P<stem>[A-Za-z0-9][A-Za-z0-9_.-]*?)-(?P<kind>trades|aggtrades|candlesticks)"
    r"-(?P<year>20[0-9]{2})-(?P<month>0[1-9]|1[0-2])(?:-(?P<day>0[1-9]|[12][0-9]|3[01]))?(?![0-9])"
)


class UnknownLayout(ValueError):
    """A file that is none of OKX's trade or candle files; the text says why."""


class FileName(NamedTuple):
    """What a file's name tells: `stem` is a symbol or a family, the time that of its UTC+8 day or month."""

    stem: str
    kind: Literal["trades", "aggtrades", "candlesticks"]
    since_ms: int
    until_ms: int

    @property
    def of_many(self) -> bool:
        """Whether it is of several symbols: a family's, or all."""
        return self.stem.startswith("all") or self.stem.endswith("chain")

    def may_hold(self, symbol: str) -> bool:
        """Whether a file of this name is a place to look for `symbol`: its own, its family's, or one of all."""
        stem = self.stem
        if stem == symbol or stem.startswith("all"):
            return True
        family, chain, _ = stem.rpartition("-") if stem.endswith("chain") else (stem, "", "")
        return bool(family) and (symbol.startswith(family + "-") or (bool(chain) and symbol == family))


def check_symbol(symbol: str) -> None:
    """Refuse what cannot be a symbol.

    Raises:
        UsageError: it is none.
    """
    if not symbol.isascii() or re.fullmatch(_SYMBOL, symbol.encode()) is None:
        raise UsageError(f"not a symbol: {symbol[:40]!r}. OKX names them like BTC-USDT or BTC-USDT-SWAP")


def read_name(name: str) -> FileName | None:
    """Return what a file's name tells; None if it is not one of OKX's."""
    found = _NAME.match(name)
    if found is None:
        return None
    from datetime import UTC, datetime

    year, month = int(found["year"]), int(found["month"])
    try:
        first = datetime(year, month, int(found["day"] or 1), tzinfo=UTC)
    except ValueError:
        return None
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    since = int(first.timestamp()) * 1000 - OFFSET_MS
    until = since + DAY_MS if found["day"] else int(following.timestamp()) * 1000 - OFFSET_MS
    return FileName(found["stem"], found["kind"], since, until)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Layout:
    """How the rows of one file are read. `symbol` is that of all rows where no column tells it.

    `letters` tells the kernel what the columns of trades are; it is empty where it cannot read them.
    `run_on`: a row stands in the line of the header, whose end is lost; nobody can tell them apart.
    """

    kind: Kind
    columns: tuple[str, ...]
    symbol: bytes | None
    header: bool
    run_on: bool
    letters: bytes
    _fast: re.Pattern[bytes]
    _convert: Callable[[tuple[bytes, ...]], Row]

    def rows(self, block: bytes) -> list[Row] | None:
        """Return the rows of whole lines, each ended by a newline; None if any is not of the usual form."""
        found = self._fast.findall(block)
        if len(found) != block.count(b"\n"):
            return None
        return list(map(self._convert, found))

    def row(self, line: bytes) -> Row:
        """Return the row of one line, which may be spelled in an unusual way: quoted, with exponents, in capitals.

        Raises:
            InvalidLine: it is damaged; the text says how.
        """
        found = self._fast.fullmatch(line)
        if found is not None:
            return self._convert(found.groups())
        if b"\0" in line:
            raise InvalidLine("NUL bytes")
        cells = [_unquoted(cell.strip()) for cell in line.split(b",")]
        if len(cells) != len(self.columns):
            raise InvalidLine(f"{len(cells)} columns, not {len(self.columns)}")
        return self._convert(
            tuple(_spelled(name, cell) for name, cell in zip(self.columns, cells, strict=True) if name in SHAPE)
        )


def read_layout(first_line: bytes, symbol: str | None) -> Layout:
    """Return the layout that the first line of a file shows; `symbol` is what the file's name says that it holds.

    Raises:
        UnknownLayout: it is none that OKX has, or nothing tells which instrument it is of.
    """
    head = _text(first_line).strip()
    run_on = False
    header = not re.match(r'"?[0-9]', head)
    if header:
        columns = tuple(cell.split("/")[0].strip().strip('"').lower() for cell in head.split(","))
        names = tuple(takewhile(lambda cell: not _DATA.fullmatch(cell), columns))
        run_on, columns = names != columns, names
    else:
        columns = _HEADERLESS
        cells = head.encode().split(b",")
        if all(re.fullmatch(SHAPE[name], cell) for name, cell in zip(columns, cells, strict=False)):
            columns += ("",) * (len(cells) - len(columns))  # a first row that is damaged does not say how many
    known = set(columns)
    kind: Kind
    taken: tuple[str, ...]
    if {"trade_id", "side", "size", "price", "created_time"} <= known:
        kind, key, time, taken = "trades", "trade_id", "created_time", _TRADE_CELLS
    elif {"open_time", *_CANDLE_CELLS} <= known:
        kind, key, time, taken = "candles", "open_time", "open_time", _CANDLE_CELLS
    else:
        raise UnknownLayout(f"neither trades nor candles of OKX: it begins with {head[:60]!r}")
    named = [name for name in columns if name in SHAPE]
    if len(named) != len(set(named)):
        raise UnknownLayout(f"a column comes twice in {head[:100]!r}")
    if "instrument_name" not in known and symbol is None:
        raise UnknownLayout(
            "nothing in it tells the instrument: "
            "name it as OKX does (SYMBOL-trades-2021-12-31.csv), or ask for one symbol"
        )
    own = None if "instrument_name" in known else (symbol or "").encode()
    pattern = b",".join(b"(" + SHAPE[name] + b")" if name in SHAPE else _OTHER for name in columns)
    fast = re.compile(rb"^" + pattern + rb"\r?$", re.MULTILINE)
    letters = b"".join(_LETTERS.get(name, b"-") for name in columns) if kind == "trades" else b""
    if len(letters) > _MOST_LETTERS or len(own or b"") > _MOST_OF_A_NAME:
        letters = b""
    return Layout(kind, columns, own, header, run_on, letters, fast, _converter(named, key, time, taken, own))


def _converter(
    named: list[str], key: str, time: str, cells: tuple[str, ...], symbol: bytes | None
) -> Callable[[tuple[bytes, ...]], Row]:
    at_key, at_time = named.index(key), named.index(time)
    at_symbol = named.index("instrument_name") if symbol is None else -1
    pick = itemgetter(*(named.index(name) for name in cells if name in named))
    if symbol is None:
        return lambda found: (int(found[at_key]), int(found[at_time]), found[at_symbol], pick(found))
    return lambda found: (int(found[at_key]), int(found[at_time]), symbol, pick(found))


def _unquoted(cell: bytes) -> bytes:
    """Return what stands between two quotes; one quote alone is damage and stays."""
    return cell[1:-1].strip() if len(cell) > 1 and cell.startswith(b'"') and cell.endswith(b'"') else cell


def _spelled(name: str, cell: bytes) -> bytes:
    """Return a cell in its usual spelling.

    Raises:
        InvalidLine: it is none of its column.
    """
    try:
        text = cell.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidLine(f"{name} is not ASCII") from None
    if name == "side":
        text = text.lower()
    elif name in ("trade_id", "created_time", "open_time"):
        low, high = (1, MAX_ID) if name == "trade_id" else (MIN_TIMESTAMP, MAX_TIMESTAMP)
        if not text.isdigit() or len(text) > 20 or not low <= int(text) <= high:
            raise InvalidLine(f"{name} is {text[:40]!r}")
        return str(int(text)).encode()
    elif name not in ("instrument_name", "source", "confirm"):
        try:
            text = canonical(text)
        except InvalidLine as reason:
            raise InvalidLine(f"{name}: {reason}") from None
    if re.fullmatch(SHAPE[name], text.encode()) is None:
        raise InvalidLine(f"{name} is {text[:40]!r}")
    return text.encode()


def _text(line: bytes) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UnknownLayout("its first line is neither UTF-8 nor GBK")
