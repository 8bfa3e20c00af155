"""Rows of bulk files as the raw lines that `stream` writes: pushes of OKX with an `origin`."""

from functools import lru_cache

from okxcli.core.model import FILE_MERGED
from okxcli.exchanges.okx.bulk_files.layouts import Row


def trade_lines(rows: list[Row], merged: bool) -> list[bytes]:
    """Return trades as pushes: fills of `trades-all`; merged ones of `trades`, with an origin that proves nothing."""
    return [
        _trade(symbol, merged, len(cells)) % (key, cells[1], cells[2], cells[0], time, *cells[3:])
        for key, time, symbol, cells in rows
    ]


def candle_lines(rows: list[Row]) -> list[bytes]:
    """Return one-minute bars as pushes."""
    return [_candle(symbol) % (key, *cells) for key, _, symbol, cells in rows]


@lru_cache(1024)
def _trade(symbol: bytes, merged: bool, cells: int) -> bytes:
    """Return the push of one symbol with places for id, price, size, side, time and, of four cells, source."""
    channel, origin = ("trades", FILE_MERGED) if merged else ("trades-all", "file")
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
