"""Damaged lines: real ones, changed at a byte, a token, a key or a number, from a seed."""

import gzip
import json
import random
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from okxcli.core.codec import encode
from okxcli.core.model import Line
from okxcli.errors import InvalidLine
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))

import recordings

#: Lines taken of each recording.
_OF_EACH = 1_500

_BYTES = (b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\", b'"', b"'", b"\r", b"\t", b"\x1f",
          b"\x7f", "é".encode(), "１".encode(), "\u2028".encode(), b",", b":", b"{", b"}", b"[", b"]",
          b" ")  # fmt: skip
_TOKENS = (
    b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity", b"0", b"-0", b"01", b"1.", b".5", b"1e400", b"1E+5",
    b"-1", b"1e-400", b'""', b'"\\u0000"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\""', b'"\\x"', b"{}", b"[]", b"[[]]",
    b'{"a":1}', b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b'"NaN"', b'"Infinity"',
    b'"sNaN"', b'"1_0"', b'" 1"', b'"1 "', b'"+1"', b'"-1"', b'"0x10"', b'"1e5"', b'"1E-7"', b'"00012"', b'"0.0"',
    b'"-0"', b'"1e999"', b'"1e-999"', b'"1.0000000000000000000000000001"', b"1" * 70, b'"' + b"9" * 70 + b'"',
    b"1" * 5000, b'"' + b"7" * 5000 + b'"', b'"0.' + b"0" * 65 + b'1"', '"１２"'.encode(), '"٣"'.encode(),
    b'"BTC-USDT"', b"\"'; DROP TABLE raw_trades; --\"", b'"../../etc/passwd"', b'"%s%n"', b'"$1"', b'"\\\\N"', b'"\\n"',
    b'"\\t"', b"/* */", b"// x", b"0.1e1", b"1E5", b"1747087163557", b'"4102444800000"', b'"1262303999999"',
)  # fmt: skip
_VALUES = (
    None, True, False, 0, -1, 1, 1.5, 10**19, "", "0", "-0", "-1", "1e5", "1E-7", "NaN", "Infinity", "1_000", " 1",
    "+1", "00012", "1.50", "0.0000", "9" * 40, "1e30", "1e-31", "1." + "0" * 70 + "1", "１２", "é", "\x00", "\n", "\\N",
    "a\tb", [], {}, [[]], [None], ["1", "2"], {"a": {}}, "BTC-USDT-SWAP", "books5", "trades", "candle1m", "buy", "sell",
    "Buy",
    "1747087163557", "1747087163557000", "5", 5, "spot", "SWAP", "../x", "'; DROP TABLE x; --", "%s",
)  # fmt: skip


class Mutator:
    """Damages lines. The same seed gives the same damage."""

    def __init__(self, seed: str, corpus: Sequence[bytes]) -> None:
        self.rng = random.Random(seed)
        self._corpus = corpus
        self._ways: list[Callable[[bytes], bytes]] = [
            self._flip, self._insert, self._delete, self._repeat, self._cut, self._splice, self._token, self._digits,
            self._digits, self._tree, self._tree, self._tree, self._twice, self._nest,
        ]  # fmt: skip

    def next(self) -> bytes:
        """Return the next line: one in twelve as it was, most damaged once, some several times."""
        rng = self.rng
        line = rng.choice(self._corpus)
        if rng.random() < 1 / 12:
            return line
        for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
            line = rng.choice(self._ways)(line)
        return line

    def _at(self, line: bytes) -> int:
        return self.rng.randrange(len(line) + 1)

    def _flip(self, line: bytes) -> bytes:
        if not line:
            return line
        at = self.rng.randrange(len(line))
        return line[:at] + bytes([line[at] ^ (1 << self.rng.randrange(8))]) + line[at + 1 :]

    def _insert(self, line: bytes) -> bytes:
        at = self._at(line)
        return line[:at] + self.rng.choice(_BYTES) + line[at:]

    def _delete(self, line: bytes) -> bytes:
        at = self._at(line)
        return line[:at] + line[at + self.rng.choice((1, 1, 2, 8, 30)) :]

    def _repeat(self, line: bytes) -> bytes:
        at = self._at(line)
        piece = line[at : at + self.rng.choice((1, 5, 40))]
        return line[:at] + piece * self.rng.choice((2, 3, 50)) + line[at:]

    def _cut(self, line: bytes) -> bytes:
        return line[: self._at(line)]

    def _splice(self, line: bytes) -> bytes:
        other = self.rng.choice(self._corpus)
        return line[: self._at(line)] + other[self._at(other) :]

    def _token(self, line: bytes) -> bytes:
        """Put an odd token in the place of a value."""
        places = [at for at, byte in enumerate(line) if byte in b":,["]
        if not places:
            return line
        at = self.rng.choice(places) + 1
        end = next((i for i in range(at, len(line)) if line[i] in b",]}"), len(line))
        return line[:at] + self.rng.choice(_TOKENS) + line[end:]

    def _digits(self, line: bytes) -> bytes:
        """Change digits, so that a number is another number."""
        places = [at for at, byte in enumerate(line) if 48 <= byte <= 57]
        if not places:
            return line
        at = self.rng.choice(places)
        new = self.rng.choice((b"0", b"9", b"5", b"", b".", b"-", b"00000", b"e5", b"e-9", b"12345678901234567890"))
        return line[:at] + new + line[at + 1 :]

    def _twice(self, line: bytes) -> bytes:
        """Give a key a second time, with another value."""
        places = [at for at, byte in enumerate(line) if byte == 123]
        keys = [b"arg", b"data", b"channel", b"instId", b"px", b"type", b"price", b"symbol", b"ts", b"received", b"x"]
        if not places:
            return line
        at = self.rng.choice(places) + 1
        return line[:at] + b'"%b":%b,' % (self.rng.choice(keys), self.rng.choice(_TOKENS)) + line[at:]

    def _nest(self, line: bytes) -> bytes:
        depth = self.rng.choice((3, 40, 600, 1500))
        opening, closing = self.rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        inner = opening * depth + b"1" + closing * depth
        end = line.rfind(b"}")
        return line[:end] + b',"deep":' + inner + line[end:] if end > 0 and self.rng.random() < 0.7 else inner

    def _tree(self, line: bytes) -> bytes:
        """Take the line apart and change a value, a key, or an order."""
        rng = self.rng
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return self._digits(line)
        spots: list[tuple[dict | list, str | int]] = []
        stack = [value]
        while stack:
            node = stack.pop()
            pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
            for key, item in pairs:
                spots.append((node, key))
                if isinstance(item, dict | list):
                    stack.append(item)
        if not spots:
            return line
        node, key = rng.choice(spots)
        way = rng.random()
        if way < 0.55:
            node[key] = rng.choice(_VALUES)
        elif way < 0.7:
            other, place = rng.choice(spots)
            node[key] = other[place] if not isinstance(other[place], dict | list) else "x"
        elif way < 0.85:
            del node[key]
        elif isinstance(node, dict):
            items = list(node.items())
            rng.shuffle(items)
            node.clear()
            node.update(items)
        else:
            node.append(rng.choice(_VALUES))
        separators = (",", ":") if rng.random() < 0.8 else (", ", ": ")
        return json.dumps(value, separators=separators, ensure_ascii=rng.random() < 0.5).encode(errors="replace")


def raw_corpus() -> list[bytes]:
    """Return raw messages of OKX: the recording in the checkout, and those of the larger collection if it is there."""
    lines = list(recordings.captured(recordings.DATA / "okx-2022-05-13.ws.txt.gz"))
    shared = recordings.SHARED
    if shared.is_dir():
        for path in sorted((shared / "ws").glob("*.json.gz")):
            lines += islice(recordings.collected(path), _OF_EACH)
        lines += islice(recordings.captured(shared / "ws" / "cryptofeed-okx-2022-05-13.ws.txt.gz"), _OF_EACH)
        for name in ("btc", "doge"):
            path = shared / "trades" / f"rtos-2025-08-12_2025-09-03.{name}-usdt.csv.gz"
            lines += islice(recordings.logged_trades(path, f"{name.upper()}-USDT"), _OF_EACH)
            path = shared / "candles" / f"okx-klines.{name}-usdt-swap.1m.csv.gz"
            lines += islice(recordings.candles(path, f"{name.upper()}-USDT-SWAP", "1m"), _OF_EACH)
        for path in sorted((shared / "rest").glob("*.json.gz")):
            for row in islice(json.loads(gzip.decompress(path.read_bytes()))["data"], 200):
                push = {"arg": {"channel": "instruments", "instType": row["instType"]}, "data": [row]}
                lines.append(json.dumps(push, separators=(",", ":")).encode())
    lines += [book for line in lines if (book := _few_levels(line))]
    # Most recordings are of the merged channel; the tape is another one.
    lines += [line.replace(b'"channel":"trades"', b'"channel":"trades-all"') for line in lines[:2_000]]
    stamped = (line[:-1] + b',"origin":"rest","received":1747087163601}' for line in lines[:1_000])
    lines += [line for line in stamped if line.startswith(b'{"arg"')]
    lines.append(b'{"event":"absent","arg":{"channel":"trades-all","instId":"BTC-USDT"},"first":"105","last":"106"}')
    return lines


def _few_levels(line: bytes) -> bytes | None:
    """Return a push of `books5` with the levels of a recorded one of `books`; None of all else."""
    if not line.startswith(b'{"arg":{"channel":"books"'):
        return None
    push = json.loads(line)
    instrument = push["arg"]["instId"]
    kept = ("asks", "bids", "ts", "seqId")
    rows = [{key: value for key, value in row.items() if key in kept} for row in push["data"]]
    rows = [{**row, "asks": row["asks"][:5], "bids": row["bids"][:5], "instId": instrument} for row in rows]
    book = {"arg": {"channel": "books5", "instId": instrument}, "data": rows}
    return json.dumps(book, separators=(",", ":")).encode()


def our_corpus(raw: Sequence[bytes]) -> list[bytes]:
    """Return the lines of ours that the raw ones stand for."""
    lines: list[Line] = []
    normalizer = Normalizer()
    for line in raw:
        try:
            lines += normalizer.feed(line)
        except InvalidLine:
            continue
    return [encode(line) for line in lines]
