"""Rows of bulk files as the pushes that OKX would have sent, and everyday rows of trades by the block.

The kernel `_rows` knows rows of trades as they come every day; a machine without it has one here that knows none. What
it leaves is read by `layouts`, row by row.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from okxcli.core.model import FILE_MERGED
from okxcli.exchanges.okx.bulk_files.layouts import Layout, Row
from okxcli.runtime.road import kernel


class Stretch(NamedTuple):
    """Rows of one symbol, in the order of the file, whose ids follow on each other; the ends of their times (ms)."""

    symbol: bytes
    first: int
    last: int
    low: int
    high: int


class _NoKernel:
    """Knows no row."""

    def newlines(self, text: bytes, at: int, end: int) -> int:
        return text.count(b"\n", at, end)

    def scan(self, text: bytes, at: int, *_: Any) -> tuple[int, list[Any]]:
        return at, []

    def pushes(self, text: bytes, at: int, *_: Any) -> tuple[bytes, int, int]:
        return b"", 0, at


def newlines(text: bytes, at: int, end: int) -> int:
    """Return how many newlines stand between two offsets: `bytes.count` takes as long as all the rest."""
    return int(_kernel().newlines(text, at, end))


class Everyday:
    """Takes everyday rows of one layout, from an offset in whole lines on and up to the first row that is none."""

    def __init__(self, layout: Layout) -> None:
        self._columns = (layout.letters, layout.symbol or b"")
        self._kernel: Any = _kernel() if layout.letters else _NoKernel()

    def scan(self, text: bytes, at: int) -> tuple[int, list[Stretch]]:
        """Return the offset of the first row that is left, and what stands before it."""
        end, found = self._kernel.scan(text, at, *self._columns)
        return end, list(map(Stretch._make, found))

    def pushes(self, text: bytes, at: int, symbols: Iterable[bytes], merged: bool) -> tuple[bytes, int, int]:
        """Return the raw lines of `symbols`, each with its newline, how many, and the offset of the first row left."""
        found: tuple[bytes, int, int] = self._kernel.pushes(
            text, at, *self._columns, b"\n".join(symbols), *map(str.encode, _channel(merged))
        )
        return found


def _kernel() -> Any:
    return kernel("exchanges.okx.bulk_files._rows") or _NoKernel()


def trade_pushes(rows: Iterable[Row], merged: bool) -> list[bytes]:
    """Return the raw lines of trades: of fills, or of merged ones, whose origin proves nothing."""
    return [
        _trade(symbol, merged, len(cells)) % (key, cells[1], cells[2], cells[0], time, *cells[3:])
        for key, time, symbol, cells in rows
    ]


def candle_pushes(rows: Iterable[Row]) -> list[bytes]:
    """Return the raw lines of bars."""
    return [_candle(symbol) % (key, *cells) for key, _, symbol, cells in rows]


def _channel(merged: bool) -> tuple[str, str]:
    return ("trades", FILE_MERGED) if merged else ("trades-all", "file")


@lru_cache(1024)
def _trade(symbol: bytes, merged: bool, cells: int) -> bytes:
    """Return the push of one symbol with places for id, price, size, side, time and, of four cells, source."""
    channel, origin = _channel(merged)
    source = ',"source":"%b"' if cells == 4 else ""
    name = symbol.decode()
    return (
        f'{{"arg":{{"channel":"{channel}","instId":"{name}"}},"data":[{{"instId":"{name}","tradeId":"%d","px":"%b",'
        f'"sz":"%b","side":"%b","ts":"%d"{source}}}],"origin":"{origin}"}}'
    ).encode()


@lru_cache(1024)
def _candle(symbol: bytes) -> bytes:
    """Return the push of one symbol with places for the nine elements of a bar."""
    row = '"%d"' + ',"%b"' * 8
    return f'{{"arg":{{"channel":"candle1m","instId":"{symbol.decode()}"}},"data":[[{row}]],"origin":"file"}}'.encode()
