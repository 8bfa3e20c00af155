"""Bulk files as OKX has made them over the years, from a list of fills; for the tests of their reader."""

import zipfile
from datetime import UTC, datetime

CHINESE = "trade_id/撮合id,side/交易方向,size/数量,price/价格,created_time/成交时间"
MODERN = "instrument_name,trade_id,side,price,size,created_time"


def headerless(symbol, fills):
    """Return the file of before 2022."""
    return b"".join(f"{f.trade_id},{f.side},{f.size},{f.price},{f.ts}\n".encode() for f in fills)


def chinese(symbol, fills):
    """Return the file of 2022 to 2025: GBK, size before price, no instrument."""
    return (CHINESE + "\n").encode("gbk") + headerless(symbol, fills)


def modern(symbol, fills):
    """Return the file of 2025."""
    rows = (f"{symbol},{f.trade_id},{f.side},{f.price},{f.size},{f.ts}\n" for f in fills)
    return (MODERN + "\n" + "".join(rows)).encode()


def newest(symbol, fills):
    """Return the file of 2026, with its source; here with the line ends of Windows as well."""
    rows = (f"{symbol},{f.trade_id},{f.side},{f.price},{f.size},{f.ts},{f.source}\r\n" for f in fills)
    return (MODERN + ",source\r\n" + "".join(rows)).encode()


GENERATIONS = {"headerless": headerless, "chinese": chinese, "modern": modern, "newest": newest}


def name(symbol, ms, kind="trades"):
    """Return the name of the daily file that holds the moment `ms`: its day is that of UTC+8."""
    return f"{symbol}-{kind}-{datetime.fromtimestamp(ms / 1000 + 8 * 3600, UTC):%Y-%m-%d}"


def daily(folder, symbol, fills, make=modern, packed=True):
    """Write the daily files of a symbol's fills; return their paths, oldest first."""
    days = {}
    for fill in fills:
        days.setdefault(name(symbol, fill.ts), []).append(fill)
    return [write(folder, stem, make(symbol, part), packed) for stem, part in days.items()]


def write(folder, stem, data, packed=True):
    """Write one file, a zip of one CSV or the CSV itself, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.{'zip' if packed else 'csv'}"
    if not packed:
        path.write_bytes(data)
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{stem}.csv", data)
    return path
