"""Damaged bulk files through their reader, damaged recordings through the one of `replay`."""

import csv
import gzip
import logging
import random
import re
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from harness import decoder
from harness.decoder import Doubled, NotJson, Undecided
from harness.mutation import Mutator
from harness.tally import Tally
from okxcli.errors import InputError, UsageError
from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
from okxcli.local.recording import Push, fills_in, read_pushes

SYMBOL = "BTC-USDT"
ROWS = 25
_CHINESE = "trade_id/撮合id,side/交易方向,size/数量,price/价格,created_time/成交时间".encode("gbk")
_MODERN = b"instrument_name,trade_id,side,price,size,created_time"
#: A header, the columns, and what a row looks like that must be taken.
_NUMBER = rb"[1-9][0-9]{0,8}(\.[0-9]{1,9})?"
_ID, _SIDE, _TIME = rb"[1-9][0-9]{2,16}", rb"(buy|sell)", rb"1[5-9][0-9]{11}"
_OLD = (("trade_id", "side", "size", "price", "created_time"), (_ID, _SIDE, _NUMBER, _NUMBER, _TIME))
_NEW = (
    ("instrument_name", "trade_id", "side", "price", "size", "created_time"),
    (SYMBOL.encode(), _ID, _SIDE, _NUMBER, _NUMBER, _TIME),
)
GENERATIONS = {
    "headerless": (b"", *_OLD),
    "chinese": (_CHINESE, *_OLD),
    "modern": (_MODERN, *_NEW),
    "newest": (_MODERN + b",source", (*_NEW[0], "source"), (*_NEW[1], rb"[0-9]")),
}


class Files:
    """The target `CSV reader`: a small bulk file each time, one row or byte of it damaged, or its packing."""

    def __init__(self, seed: str, trades: Sequence[dict[str, Any]], folder: Path) -> None:
        self.tally = Tally("CSV reader")
        self._trades = trades
        self._folder = folder
        self._mutators = {
            name: Mutator(f"{seed}/{name}", [self._row(trade, columns) for trade in trades])
            for name, (_, columns, _) in GENERATIONS.items()
        }
        self._rng = random.Random(seed)
        logging.getLogger("okxcli").setLevel(logging.CRITICAL)

    @staticmethod
    def _row(trade: dict[str, Any], columns: Sequence[str]) -> bytes:
        cells = {**trade, "instrument_name": SYMBOL, "created_time": trade["timestamp"], "source": "0"}
        return ",".join(str(cells[name]) for name in columns).encode()

    def next(self) -> None:
        """Try one file."""
        rng = self._rng
        name = rng.choice(list(GENERATIONS))
        header, columns, shapes = GENERATIONS[name]
        at = rng.randrange(len(self._trades) - ROWS)
        lines = [self._row(trade, columns) for trade in self._trades[at : at + ROWS]]
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            lines[rng.randrange(ROWS)] = self._mutators[name if rng.random() < 0.9 else "modern"].next()
        end = rng.choice((b"\n", b"\n", b"\r\n"))
        if rng.random() < 0.1 and header:
            header = Mutator(str(rng.random()), [header]).next()
            columns = [*columns[:-1], ""] if columns[-1] == "source" else columns  # whether it is known by its name
        data = end.join([header, *lines] if header else lines) + end * rng.choice((0, 1, 1, 1))
        path, whole = self._pack(data)
        good = re.compile(b",".join(shapes))
        self.tally.try_one(lambda raw: self._one(path, raw, columns, good, whole), data)
        path.unlink()

    def _pack(self, data: bytes) -> tuple[Path, bool]:
        """Write the file plain, zipped or packed, sometimes with a damaged packing; return whether it is whole."""
        rng = self._rng
        stem = f"{SYMBOL}-trades-2026-05-18"
        kind = rng.choice(("csv", "csv", "csv", "zip", "csv.gz"))
        if kind == "zip":
            packed = BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{stem}.csv", data)
            data = packed.getvalue()
        elif kind == "csv.gz":
            data = gzip.compress(data, 1)
        whole = kind == "csv" or rng.random() < 0.5
        if not whole:
            data = Mutator(str(rng.random()), [data]).next()
        path = self._folder / f"{stem}.{kind}"
        path.write_bytes(data)
        return path, whole

    def _one(self, path: Path, data: bytes, columns: Sequence[str], good: re.Pattern[bytes], whole: bool) -> bool:
        try:
            reader = Archive([path], [SYMBOL])
            found = [line for lines in reader.lines() for line in lines]
        except (InputError, UsageError):
            return False
        taken = {self._key(line) for line in found}
        if len(taken) != len(found):
            self.tally.disagree("a row twice", data)
        if not whole:
            return bool(found)
        said = self._said(data, columns)
        if not reader.unreadable and taken - said:
            self.tally.disagree(f"taken as {list(taken - said)[:2]}, which is not there", data)
        if not reader.unreadable and "" not in columns:
            sure = [line.rstrip(b"\r") for line in data.split(b"\n")]
            need = self._said(b"\n".join(line for line in sure if good.fullmatch(line)), columns)
            if need - taken:
                self.tally.disagree(f"left out: {list(need - taken)[:2]}", data)
        return not reader.damaged and bool(found)

    def _key(self, line: bytes) -> tuple[Any, ...]:
        value = decoder.decode(line)
        (row,) = value["data"]
        source = row.get("source") or None
        return (row["tradeId"], row["side"], decoder.number(row["px"]), decoder.number(row["sz"]), row["ts"], source)

    def _said(self, data: bytes, columns: Sequence[str]) -> set[tuple[Any, ...]]:
        """Return what the rows say, by the `csv` module."""
        found = set()
        for raw in data.split(b"\n"):
            try:
                text = raw.decode("latin-1").strip("\r\n").replace("\r", " ")
                cells = next(csv.reader([text], skipinitialspace=True), [])
            except csv.Error:
                continue
            if len(cells) == len(columns):
                row = dict(zip(columns, (cell.strip().strip('"').strip() for cell in cells), strict=True))
                identity, time = decoder.whole(row["trade_id"]), decoder.whole(row["created_time"])
                price, size = decoder.number(row["price"]), decoder.number(row["size"])
                sources = {row.get("source") or None} if "" not in row else {row[""] or None, None}
                found |= {(identity, row["side"].lower(), price, size, time, source) for source in sources}
        return found


class Replay:
    """The target `replay`: recordings of damaged lines."""

    def __init__(self, folder: Path) -> None:
        self.tally = Tally("replay")
        self._path = folder / "recording.jsonl"

    def feed(self, line: bytes) -> None:
        """Try a recording of one line."""
        self.tally.try_one(self._one, line.replace(b"\n", b" "))

    def _one(self, line: bytes) -> bool:
        self._path.write_bytes(line + b"\n")
        faults: list[str] = []
        pushes = list(read_pushes(self._path, lambda _, why: faults.append(why)))
        fills = [list(fills_in(push)) for push in pushes]
        try:
            value = decoder.decode(line)
        except NotJson:
            if pushes:
                self.tally.disagree("taken, though it is no JSON", line)
            return False
        except Undecided:
            return bool(pushes)
        if any(why.startswith("not JSON") for why in faults):
            self.tally.disagree(f"refused as no JSON, and it is: {faults}", line)
        for push, found in zip(pushes, fills, strict=True):
            self._compare(line, value, push, found)
        return bool(pushes)

    def _compare(self, line: bytes, value: Any, push: Push, fills: list[Any]) -> None:
        stamps = ("received", "origin")
        said, played = (
            {key: item for key, item in found.items() if key not in stamps}
            for found in (value, decoder.decode(push.payload))
        )
        if type(value) is not Doubled and played != said:
            self.tally.disagree(f"played as {push.payload[:300]!r}", line)
        rows = [row for row in value["data"] if isinstance(row, dict)]
        for fill in fills:
            facts = {"tradeId": str(fill.trade_id), "px": fill.price, "sz": fill.size, "ts": str(fill.ts)}
            if not any(
                all(decoder.number(str(row.get(key))) == decoder.number(text) for key, text in facts.items())
                for row in rows
            ):
                self.tally.disagree(f"taken as {fill}", line)
