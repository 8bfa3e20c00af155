"""Everyday pushes of trades to trade lines by one regular expression a block: what a machine without kernels does.

It takes what the kernel beside it takes of trades, but for rarer forms: several rows, needless zeros, keys in another
order. What it does not match to the byte is left to `Normalizer.feed`.
"""

import re

from okxcli.core.model import AHEAD_MS, UNSTAMPED_AHEAD_MS

#: Bytes matched at a time.
_PIECE = 1 << 15
_NUMBER = r'((?!0")(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{0,27}[1-9])?)'
_TIME = "(1[3-9][0-9]{11}|[23][0-9]{12})"  # within the bounds of `core.model`
_SOURCE = '(?:,"source":"(0|[1-9][0-9]{0,2})")?'
#: A line: one push of one row, or anything else, of which the groups are empty.
_LINE = re.compile(
    r'(?:\{"arg":\{"channel":"(trades-all|trades)","instId":"([A-Za-z0-9][A-Za-z0-9-]{0,63})"\},"data":\[\{"instId":"\2",'
    rf'"tradeId":"([1-9][0-9]{{0,17}})","px":"{_NUMBER}","sz":"{_NUMBER}","side":"(buy|sell)"{_SOURCE},"ts":"{_TIME}"'
    rf'(?:,"count":"([1-9][0-9]{{0,17}})")?{_SOURCE}(?:,"seqId":(?:0|[1-9][0-9]{{0,17}}))?\}}\]'
    rf'(?:,"origin":"([a-z0-9][a-z0-9-]{{0,31}})")?(?:,"received":{_TIME})?\}}|[^\n]*)\n'
).findall
_Groups = tuple[str, ...]


class PushPattern:
    """Has the interface of the kernel `_pushes`."""

    def __init__(self) -> None:
        self._block = b""
        self._at = 0
        self._lines: list[_Groups] = []  # of a piece of the block
        self._next = 0  # that of them which begins at `_at`

    def normalize(self, block: bytes, at: int, now_ms: int) -> tuple[bytes, int, int, int]:
        """Turn whole lines from an offset on into trade lines, up to the first that is no everyday push.

        Returns the lines joined by newlines, how many they are, the offset behind the last one read, and how many were.
        """
        made: list[str] = []
        self._seek(block, at)
        while self._next < len(self._lines):
            for _ in range(self._taken(made, now_ms + UNSTAMPED_AHEAD_MS)):
                self._at = block.index(b"\n", self._at) + 1
            if self._next < len(self._lines):
                break
            self._match()
        return "\n".join(made).encode(), len(made), self._at, len(made)

    def _seek(self, block: bytes, at: int) -> None:
        """Go to the line at an offset: the one behind the line that was left the last time, or anywhere else."""
        if block is self._block:
            while self._at < at and self._next < len(self._lines):
                self._at = block.index(b"\n", self._at) + 1
                self._next += 1
        if block is not self._block or self._at != at or self._next == len(self._lines):
            self._block, self._at = block, at
            self._match()

    def _match(self) -> None:
        """Match the piece that begins here."""
        end = self._block.find(b"\n", self._at + _PIECE) + 1 or len(self._block)
        self._lines, self._next = _LINE(self._block[self._at : end].decode("latin-1")), 0

    def _taken(self, made: list[str], latest: int) -> int:
        """Write the lines that are pushes, from the next one on, up to the first that is none; return how many."""
        before = len(made)
        for groups in self._lines[self._next :] if self._next else self._lines:
            channel, symbol, number, price, size, side, early, at, count, late, origin, received = groups
            if not number or (early and late):
                break
            if int(at) > (int(received) + AHEAD_MS if received else latest):
                break
            if count > "1" and int(count) > int(number):
                break
            made.append(
                f'{{"type":"trade","exchange":"okx","symbol":"{symbol}","trade_id":{number},"count":{count or 1},'
                f'"side":"{side}","price":"{price}","size":"{size}","timestamp":{at},"received":{received or "null"},'
                f'"source":{early or late or "null"},"origin":"{origin or channel}"}}'
            )
        taken = len(made) - before
        self._next += taken
        return taken
