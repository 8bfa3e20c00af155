"""Turns recordings of OKX, in the forms their collectors wrote, into the raw lines that `okx stream` writes."""

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
#: A larger collection that may lie beside the checkout; what needs it is skipped without it.
SHARED = Path(__file__).parents[3] / "shared" / "data" / "okx"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the collection of recordings is not at {SHARED}")


def captured(path: Path) -> Iterator[bytes]:
    """Yield the messages of a capture of lines `RECEIPT_TIME: MESSAGE`; what the client sent is left out."""
    with gzip.open(path, "rb") as lines:
        for line in lines:
            if not line.startswith(b"wss:"):
                yield line.split(b": ", 1)[1].rstrip(b"\n")


def collected(path: Path) -> Iterator[bytes]:
    """Yield the messages of a JSON array, each bare or as `data` of an object; empty ones are left out."""
    for entry in json.loads(gzip.decompress(path.read_bytes())):
        message = entry["data"] if "timestamp" in entry else entry
        if message:
            yield json.dumps(message, separators=(",", ":")).encode()


def logged_trades(path: Path, symbol: str) -> Iterator[bytes]:
    """Yield a `trades` push for each line of a CSV `tradeID,ts,received,delay,price,volume`, without reading it.

    Bytes are moved, not understood, so that a damaged line gives a damaged push. The file has no side: all buy.
    """
    head = f'{{"arg":{{"channel":"trades","instId":"{symbol}"}},"data":[{{"instId":"{symbol}","tradeId":"'.encode()
    rows = gzip.decompress(path.read_bytes()).split(b"\n")[1:]
    for row in rows:
        if row:
            identity, time, _, _, price, size = row.rstrip(b"\r").split(b",", 5)
            yield b'%b%b","px":"%b","sz":"%b","side":"buy","ts":"%b"}]}' % (head, identity, price, size, time)


def candles(path: Path, symbol: str, bar: str) -> Iterator[bytes]:
    """Yield a confirmed candle push for each row of a CSV `ts,open,high,low,close,vol,volCcy,confirm,...`.

    The file has no quote volume; "0" stands for it.
    """
    argument = {"channel": "candle" + bar, "instId": symbol}
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            names = ("ts", "open", "high", "low", "close", "vol", "volCcy")
            data = [*(row[name] for name in names), "0", row["confirm"]]
            yield json.dumps({"arg": argument, "data": [data]}, separators=(",", ":")).encode()
