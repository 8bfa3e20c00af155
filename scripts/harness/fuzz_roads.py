"""Both roads beside each other: what the kernels in C make of a block is what Python makes of its lines, byte for byte.

Raw lines go to the normaliser's kernel one at a time. Trade lines are of markets by chance, damaged here and there, and
go to the candle makers in blocks that are cut anywhere.
"""

import random
from collections.abc import Callable
from typing import Any

from harness.fuzz_rows import NOW, stored
from harness.mutation import Mutator
from harness.tally import Tally
from okxcli.core.candles.block_processor import BlockCandleProcessor
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.codec import decode, decode_trades, encode
from okxcli.core.model import MAX_TIMESTAMP, MIN_TIMESTAMP
from okxcli.core.trade_pieces import TradePieces
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import PartlyInvalid
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.exchanges.okx.normalize.push_pattern import PushPattern
from okxcli.runtime.road import kernel

_SYMBOLS = ("BTC-USDT", "BTC-USDC", "PEPE-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP", "X")
_EVERYDAY = tuple(b'{"arg":{"channel":"' + name for name in (b"trades", b"books5", b"bbo-tbt", b"tickers"))
_INSTRUMENT = (
    '{"type":"instrument","exchange":"okx","symbol":"BTC-USD%s-SWAP","kind":"swap","state":"live",'
    '"contract_type":"%s","contract_value":"0.01","contract_multiplier":"1"}'
)


class Roads:
    """The target `roads`. An input is accepted where a kernel took it."""

    def __init__(self, seed: str) -> None:
        self.tally = Tally("roads")
        self._rng = random.Random(f"{seed}/roads")
        self._pushes: list[bytes] = []
        self._runs: Any = kernel("core.candles._runs")

    @property
    def built(self) -> bool:
        """Whether there are two roads."""
        return self._runs is not None

    def run(self, raw: list[bytes], inputs: int) -> None:
        """Try raw lines, of what the kernels take above all, and markets."""
        everyday = Mutator(str(self._rng.random()), [line for line in raw if line.startswith(_EVERYDAY)])
        others = Mutator(str(self._rng.random()), raw)
        for _ in range(inputs // 2):
            self.feed((others if self._rng.random() < 0.2 else everyday).next())
        while self.tally.inputs < inputs:
            self.market(self._rng.choice([3, 30, 200]))

    def feed(self, line: bytes) -> None:
        """Try one raw line."""
        self.tally.try_one(self._raw, line.replace(b"\n", b" "))

    def _raw(self, line: bytes) -> bool:
        now = self._rng.choice([NOW, MAX_TIMESTAMP])
        normalizer = Normalizer(lambda: now)
        self._pushes.append(line)
        if len(self._pushes) == 40:
            self._raw_block(b"".join(one + b"\n" for one in self._pushes), now)
            self._pushes = []
        made = normalizer.take(line + b"\n", 0)
        if not made.taken:
            return False
        if (made.lines, made.made, made.next) != (*_fed(normalizer, line), len(line) + 1):
            self.tally.disagree(f"the kernel made {made.lines!r} of it", line)
        return True

    def _raw_block(self, block: bytes, now: int) -> None:
        """Compare what is made of several lines in a block, with and without the kernel."""
        normalizer = Normalizer(lambda: now)
        for one in (kernel("exchanges.okx.normalize._pushes"), PushPattern()):
            at = 0
            while one is not None and at < len(block):
                lines, made, end, taken = one.normalize(block, at, now)
                expected = [_fed(normalizer, line) for line in block[at:end].split(b"\n")[:-1]]
                joined = b"\n".join(text for text, _ in expected)
                if (lines, made, taken) != (joined, sum(count for _, count in expected), len(expected)):
                    self.tally.disagree(f"{type(one).__name__} made {lines!r} of it", block[at:end])
                at = block.index(b"\n", end) + 1 if end < len(block) else end

    def market(self, size: int) -> None:
        """Try a market of so many lines."""
        rng = self._rng
        rules: dict[str, Any] = {
            "timeframes": rng.choice(["1s", "1m", "1s,5s", "1s,1m,1d+8,1w,1M", "2s,3s"]),
            "lateness_ms": rng.choice([0, 700, 10_000]),
            "fill": rng.random() < 0.4,
            "partial": rng.random() < 0.3,
            "live": rng.choice([None, True, False]),
        }
        block = self.block(size)
        lines = block.split(b"\n")[:-1]
        ends = sorted({*(rng.randrange(len(lines) + 1) for _ in range(rng.choice([0, 1, 8]))), len(lines)})
        self.tally.inputs += len(lines)
        self.pieces(block)
        stored(block, self._rng, self.tally)
        taken, shown = self._by_block(lines, ends, rules)
        expected = self._by_line(lines, ends, rules)
        if shown != expected:
            at = next(
                i for i, pair in enumerate(zip([*shown, None], [*expected, None], strict=False)) if pair[0] != pair[1]
            )
            self.tally.disagree(
                f"{rules}, {ends}: {shown[at : at + 3]} by blocks, {expected[at : at + 3]} by lines", block
            )
        self.tally.accepted += taken
        self.tally.rejected += len(lines) - taken

    def block(self, size: int) -> bytes:
        """Return so many lines of a market by chance."""
        return b"".join(line.replace(b"\n", b" ") + b"\n" for line in self._lines(size))

    def pieces(self, block: bytes) -> int:
        """Compare lines that are decoded many at a time with each by itself; return how many those were."""
        pieces = TradePieces(lambda: NOW)
        pieces.look(block)
        for line in block.split(b"\n"):
            if line and line != b"\r":
                found, expected = (_said(read, line) for read in (pieces.decode, lambda line: decode(line, NOW)))
                if found != expected:
                    self.tally.disagree(f"{found} of many at a time, {expected} by itself", line)
        return len(decode_trades(block, NOW) or [])

    def _by_block(self, lines: list[bytes], ends: list[int], rules: dict[str, Any]) -> tuple[int, list[object]]:
        shown: list[object] = []
        maker = BlockCandleProcessor(self._runs.Folder(), emit=shown.append, **rules)
        begin = total = 0
        for number, end in enumerate(ends):
            block, at = b"".join(line + b"\n" for line in lines[begin:end]), 0
            while True:
                at, taken = maker.take(block, at, NOW)
                total += taken
                if at == len(block):
                    break
                stop = block.index(b"\n", at)
                _feed(maker, block[at:stop], shown)
                at = stop + 1
            shown.append(maker.advance(NOW + number * 1000))
            begin = end
        return total, _ended(maker, shown)

    def _by_line(self, lines: list[bytes], ends: list[int], rules: dict[str, Any]) -> list[object]:
        shown: list[object] = []
        maker = RealTimeCandleProcessor(emit=shown.append, **rules)
        begin = 0
        for number, end in enumerate(ends):
            for line in lines[begin:end]:
                _feed(maker, line, shown)
            shown.append(maker.advance(NOW + number * 1000))
            begin = end
        return _ended(maker, shown)

    def _lines(self, size: int) -> list[bytes]:
        """Draw trade lines of a few symbols, most of them everyday ones."""
        rng = self._rng
        symbols = rng.sample(_SYMBOLS, rng.randrange(1, 4))
        ids = dict.fromkeys(symbols, rng.choice([0, 0, 7, 10**9, 2**63 - 50, 10**18 - 20]))
        clock, lines, odd = NOW - rng.choice([0, 3_000, 100_000]), [], rng.choice([0, 0.01, 0.1])
        most = rng.choice([1, 1, 3])  # fills merged into a trade
        while len(lines) < size:
            symbol = rng.choice(symbols)
            clock += rng.choice([0, 0, 0, 1, 7, 300, 900, 2_500])
            count = rng.randint(1, most)
            ids[symbol] += count if rng.random() > odd else rng.choice([2, 5, 0, -1, -3])
            at = clock - rng.choice([0, 0, 0, 0, 40, 1_500])
            lines.append(self._trade(symbol, max(ids[symbol], 1), count, at, odd))
            if rng.random() < odd:
                lines.append(self._other(symbol, ids[symbol], lines))
        return lines

    def _trade(self, symbol: str, number: int, count: int, at: int, odd: float) -> bytes:
        rng = self._rng
        price, size = (self._number(odd) for _ in range(2))
        strange = rng.random() < odd
        at = (
            rng.choice([MIN_TIMESTAMP, MAX_TIMESTAMP - 1, NOW + 86_400_000, NOW + 86_400_001])
            if strange and odd > 0.05
            else at
        )
        received = (
            "null"
            if rng.random() < 0.5
            else at + rng.choice([0, 30, -5, -3_600_000, -3_600_001] if strange else [0, 30])
        )
        return (
            f'{{"type":"trade","exchange":"okx","symbol":"{symbol}","trade_id":{number},'
            f'"count":{rng.choice([1, 2]) if strange else count},"side":"{rng.choice(["buy", "sell"])}",'
            f'"price":"{price}","size":"{size}","timestamp":{at},"received":{received},'
            f'"source":{rng.choice(["null", "0", "1"])},'
            f'"origin":"{rng.choice(["trades", "rest", "file-merged", "a_b"]) if strange else "trades-all"}"}}'
        ).encode()

    def _number(self, odd: float) -> str:
        rng = self._rng
        if rng.random() < odd:
            return rng.choice(["1.50", "0.0000000000001", "123456789012345678", "1234567890123456789", "9" * 25, "1e3",
                               "0.999999999999999999", "0.9999999999999999999", "007", "0", "5.", "1.000"])  # fmt: skip
        return (
            f"{rng.randrange(1, 10 ** rng.choice([3, 7])) / 10**6:.{rng.choice([6, 8])}f}"
            if rng.random() < 0.5
            else str(rng.randrange(1, 100_000))
        )

    def _other(self, symbol: str, number: int, lines: list[bytes]) -> bytes:
        rng = self._rng
        kind = rng.randrange(5)
        if kind == 0:
            first = max(1, number - rng.randrange(4))
            return (
                f'{{"type":"absent","exchange":"okx","symbol":"{symbol}","first":{first},"last":{first + 2}}}'.encode()
            )
        if kind == 1:
            return (
                _INSTRUMENT % rng.choice([("T", "linear"), ("", "inverse"), ("T", "inverse"), ("", "linear")])
            ).encode()
        if kind == 2:
            return rng.choice([b"", b"\r", b'{"type":"site","site":"x"}', b"{}", lines[-1] + b"\r", lines[-1] + b" "])
        if kind == 3:
            return rng.choice(lines)
        return Mutator(str(rng.random()), lines[-20:]).next()


def _fed(normalizer: Normalizer, line: bytes) -> tuple[bytes, int]:
    """Return what the Python road makes of a raw line, and how many lines that is; -1 where it refuses it."""
    try:
        found = normalizer.feed(line)
    except (InvalidLine, PartlyInvalid) as reason:
        return str(reason).encode(), -1
    return b"\n".join(map(encode, found)), len(found)


def _said(read: Callable[[bytes], object], line: bytes) -> object:
    try:
        return read(line)
    except InvalidLine as reason:
        return str(reason)


def _feed(maker: RealTimeCandleProcessor, line: bytes, shown: list[object]) -> None:
    try:
        maker.feed(decode(line, NOW))
    except InvalidLine as reason:
        shown.append(str(reason))


def _ended(maker: RealTimeCandleProcessor, shown: list[object]) -> list[object]:
    maker.finish()
    return [*shown, maker.counts()]
