"""Bulk files by chance, damaged here and there, on both roads: the same raw lines, words, counts and candles."""

import gzip
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.mutation import Mutator
from harness.tally import Tally
from okxcli.core.candles.block_processor import BlockCandleProcessor
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.codec import encode
from okxcli.errors import InvalidLine
from okxcli.exchanges.okx.bulk_files import unpacking
from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.pipeline.candle_feed import CandleFeed
from okxcli.runtime.filters import LineFilter
from okxcli.runtime.road import kernel

_NOW = 1_747_087_200_000
_SYMBOLS = ("BTC-USDT", "BTC-USDT-SWAP", "ETH-USDT", "A_B.C-USDT")
_CHINESE = "trade_id/撮合id,side/交易方向,size/数量,price/价格,created_time/成交时间".encode("gbk")
#: The columns of a generation, and its header.
_GENERATIONS: tuple[tuple[str, bytes], ...] = (
    ("idzpt", b""),
    ("idzpt", _CHINESE),
    ("sidpzt", b"instrument_name,trade_id,side,price,size,created_time"),
    ("sidpztf", b"instrument_name,trade_id,side,price,size,created_time,source"),
    ("sidpzt-", b"instrument_name,trade_id,side,price,size,created_time,more"),
)
_ODD_NUMBERS = (
    "1.50",
    "1e3",
    "1E-2",
    '"2.5"',
    " 3 ",
    "0",
    "-1",
    "0.0",
    "1.",
    "01",
    "9" * 19,
    "0." + "1" * 19,
    "NaN",
    "",
)


class BulkRoads:
    """The target `bulk roads`. A file is accepted where the kernel took rows of it."""

    def __init__(self, seed: str, folder: Path) -> None:
        self.tally = Tally("bulk roads")
        self._rng = random.Random(f"{seed}/bulk")
        self._folder = folder
        self._told: list[str] = []

    def run(self, inputs: int) -> None:
        """Try so many files."""
        handler = logging.Handler()
        handler.emit = lambda record: self._told.append(record.getMessage())  # type: ignore[method-assign]
        log = logging.getLogger("okxcli")
        before, log.propagate = log.propagate, False
        log.addHandler(handler)
        try:
            for _ in range(inputs):
                self.next()
        finally:
            log.removeHandler(handler)
            log.propagate = before

    def next(self) -> None:
        """Try one file, or two."""
        rng = self._rng
        paths = [self._written(number) for number in range(rng.choice([1, 1, 1, 2]))]
        data = b"".join(path.read_bytes() for path in paths)
        size = rng.choice([60, 300, 1 << 17])
        unpacking.blocks.__defaults__ = (size,)
        try:
            self.tally.try_one(lambda _: self._one(paths), data)
        finally:
            unpacking.blocks.__defaults__ = (1 << 17,)
            for path in paths:
                path.unlink(missing_ok=True)

    def _one(self, paths: list[Path]) -> bool:
        rng = self._rng
        since = rng.choice([None, None, _NOW - 40_000, _NOW])
        until = rng.choice([None, None, _NOW + 20_000])
        symbols = rng.choice([None, ["BTC-USDT"], ["BTC-USDT", "ETH-USDT"]])
        roads = [self._pushes(paths, symbols, since, until, pure) for pure in ("", "1")]
        if roads[0] != roads[1]:
            self.tally.disagree(f"{symbols}, {since} to {until}: {_first(*roads)}", paths[0].read_bytes())
        rules: dict[str, Any] = {
            "timeframes": rng.choice(["1s", "1m", "1s,1m,1d+8"]),
            "lateness_ms": rng.choice([0, 700, 10_000]),
            "fill": rng.random() < 0.1,
            "partial": rng.random() < 0.3,
            "live": False,
        }
        expected = self._by_line(paths, rules)
        for pure in ("", "1"):
            found = self._by_file(paths, rules, pure)
            if found != expected:
                self.tally.disagree(f"{rules}, pure {pure!r}: {_first(found, expected)}", paths[0].read_bytes())
        return kernel("exchanges.okx.bulk_files._rows") is not None and b'"trade' in b"".join(roads[0][0])

    def _pushes(
        self, paths: list[Path], symbols: list[str] | None, since: int | None, until: int | None, pure: str
    ) -> tuple[list[bytes], list[str], int, int, int]:
        """Return the raw lines of files, what was told of them, and the counts."""
        self._told.clear()
        with _road(pure):
            reader = Archive(paths, symbols, since_ms=since, until_ms=until)
            lines = [line for some in reader.lines() for line in some]
        return lines, list(self._told), reader.damaged, reader.unreadable, reader.rows

    def _by_line(self, paths: list[Path], rules: dict[str, Any]) -> tuple[list[bytes], dict[str, int], int]:
        """Return candles by way of raw lines and trades, one by one."""
        shown: list[bytes] = []
        maker = RealTimeCandleProcessor(emit=lambda bar: shown.append(encode(bar)), **rules)
        with _road("1"):
            normalizer = Normalizer()
            reader = Archive(paths, None)
            rejected = 0
            for lines in reader.lines():
                for line in lines:
                    try:
                        for trade in normalizer.feed(line):
                            maker.feed(trade)
                    except InvalidLine:
                        rejected += 1
        maker.finish()
        return shown, maker.counts(), rejected + reader.damaged + reader.unreadable

    def _by_file(self, paths: list[Path], rules: dict[str, Any], pure: str) -> tuple[list[bytes], dict[str, int], int]:
        """Return candles as `okx candles FILE...` makes them."""
        shown: list[bytes] = []
        with _road(pure):
            runs = kernel("core.candles._runs")
            maker: RealTimeCandleProcessor
            if runs is None:
                maker = RealTimeCandleProcessor(emit=lambda bar: shown.append(encode(bar)), **rules)
            else:
                maker = BlockCandleProcessor(runs.Folder(), emit=lambda bar: shown.append(encode(bar)), **rules)
            run = LineFilter("candles", paths, self._folder / "out", rejects=self._folder / "bad", quiet=True)
            feed = CandleFeed(maker, run.out, False)
            run.run(feed.handle, None, maker.finish, maker.counts, feed.take, feed.look, feed.reader)
        return shown, maker.counts(), run.rejected

    def _written(self, number: int) -> Path:
        rng = self._rng
        columns, header = rng.choice(_GENERATIONS)
        rows = self._rows(columns)
        odd = rng.choice([0, 0, 0.02, 0.3])
        mutator = Mutator(str(rng.random()), rows)
        rows = [mutator.next().replace(b"\n", b"") if rng.random() < odd else row for row in rows]
        if rng.random() < 0.1:
            header = Mutator(str(rng.random()), [header or b"x"]).next()
        end = rng.choice([b"\n", b"\n", b"\r\n"])
        data = end.join([*([header] if header else []), *rows]) + end * rng.choice([0, 1, 1, 2])
        data = rng.choice([b"", b"", b"", b"\xef\xbb\xbf", b"\n"]) + data
        name = f"BTC-USDT-trades-2025-05-1{3 + number}"
        path = self._folder / rng.choice([f"{name}.csv", f"{name}.csv", f"all{number}.csv", f"{name}.csv.gz"])
        path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
        return path

    def _rows(self, columns: str) -> list[bytes]:
        rng = self._rng
        strange = rng.choice([0, 0, 0.005, 0.05])
        symbols = rng.sample(_SYMBOLS, rng.choice([1, 1, 2, 4]))
        ids = dict.fromkeys(symbols, rng.choice([0, 7, 10**9, 10**18 - 30]))
        clock = _NOW - rng.choice([0, 60_000, 100_000])
        rows = []
        for _ in range(rng.choice([3, 40, 300])):
            symbol = rng.choice(symbols)
            clock += rng.choice([0, 0, 0, 1, 7, 300, 900, 2_500])
            ids[symbol] += 1 if rng.random() >= strange else rng.choice([2, 5, 0, -1, -3])
            at = clock - rng.choice([0, 0, 0, 40, 1_500])
            if rng.random() < strange:
                at = rng.choice(
                    [1, 1_262_304_000_000, 1_299_999_999_999, 4_102_444_800_000, 4_000_000_000_000, at // 10]
                )
            cells = {
                "s": symbol,
                "i": str(max(ids[symbol], 1)),
                "d": rng.choice(["buy", "sell"] if rng.random() >= strange else ["Buy", "b", "buyy", "sel", ""]),
                "p": self._number(strange),
                "z": self._number(strange),
                "t": str(at),
                "f": rng.choice(["0", "0", "1", ""] if rng.random() >= strange else ["007", "1000", "x"]),
                "-": rng.choice(["", "a", "é", '"']),
            }
            rows.append(",".join(cells[kind] for kind in columns).encode())
        if rng.random() < 0.1:
            rng.shuffle(rows)
        return rows

    def _number(self, strange: float) -> str:
        rng = self._rng
        if rng.random() < strange:
            return rng.choice(_ODD_NUMBERS)
        return rng.choice(["1", "100", "0.00000812", "10.5", f"{rng.randrange(1, 10**9) / 10**4:.4f}", "12.30"])


@contextmanager
def _road(pure: str) -> Iterator[None]:
    before = os.environ.get("OKX_PURE")
    os.environ["OKX_PURE"] = pure
    try:
        yield
    finally:
        if before is None:
            del os.environ["OKX_PURE"]
        else:
            os.environ["OKX_PURE"] = before


def _first(found: Any, expected: Any) -> str:
    """Return where two answers differ."""
    for one, other in zip(found, expected, strict=True):
        if one != other and isinstance(one, list):
            at = next(i for i, pair in enumerate(zip([*one, 0], [*other, 0], strict=False)) if pair[0] != pair[1])
            return f"{one[at : at + 2]} and not {other[at : at + 2]}"[:1500]
        if one != other:
            return f"{one} and not {other}"
    return ""
