"""An order book by another road than okx's: raw messages as JSON, numbers as OKX spells them, and no chain."""

import gzip
import json
import zlib
from fractions import Fraction
from functools import lru_cache
from pathlib import Path


@lru_cache(100_000)
def scaled(text):
    """Return a number in 10^20ths, which has to be whole."""
    found = Fraction(text) * 10**20
    assert found.denominator == 1
    return int(found)


class SecondBook:
    """The book of one instrument. Applies what it is given, and checks what OKX said of the result by its checksum."""

    def __init__(self):
        self.sides = {"bids": {}, "asks": {}}
        self.checked = 0

    def take(self, message):
        """Apply a push; return how many of its rows had a checksum, all of which were right."""
        (row,) = message["data"]
        if message["action"] == "snapshot":
            self.sides = {"bids": {}, "asks": {}}
        for name, side in self.sides.items():
            for price, size, *_ in row[name]:
                key = scaled(price)
                if scaled(size) == 0:
                    side.pop(key, None)
                else:
                    side[key] = (price, size)
        if row.get("checksum"):
            assert self.checksum() == row["checksum"]
            self.checked += 1

    def levels(self, name):
        """Return the levels of a side, best first, as OKX spells them."""
        side = self.sides[name]
        return [side[key] for key in sorted(side, reverse=name == "bids")]

    def exact(self, name, depth=None):
        """Return the same as whole numbers, of 10^20ths."""
        return [(scaled(price), scaled(size)) for price, size in self.levels(name)[:depth]]

    def checksum(self):
        """Return what OKX calls the checksum of a book: the first 25 levels of both sides in turn."""
        sides = [self.levels("bids"), self.levels("asks")]
        parts = [":".join(side[i]) for i in range(25) for side in sides if i < len(side)]
        found = zlib.crc32(":".join(parts).encode())
        return found - (1 << 32) if found >= 1 << 31 else found


def in_order(path: Path):
    """Return the book messages of a recording of one instrument, which lie in any order, along the chain."""
    every = [message for message in json.loads(gzip.decompress(path.read_bytes())) if "data" in message]
    first = next(message for message in every if message["action"] == "snapshot")
    after = {message["data"][0]["prevSeqId"]: message for message in every if message is not first}
    found = [first]
    while (following := after.pop(found[-1]["data"][0]["seqId"], None)) is not None:
        found.append(following)
    assert len(found) == len(every)
    return found
