"""Trade lines decoded a piece of a block at a time: what a machine without kernels does."""

from collections.abc import Callable

from okxcli.core.codec import decode, decode_trades
from okxcli.core.model import Line, StandardizedTrade

#: Bytes of a piece, some seventy lines: an odd line has those of its piece decoded one by one.
_PIECE = 1 << 14


class TradePieces:
    """Decodes the lines of blocks as `codec.decode` does, and everyday trade lines ahead, many in one go."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock  # milliseconds
        self._block = b""
        self._at = 0  # where the next piece begins
        self._lines: list[bytes] = []
        self._trades: list[StandardizedTrade] = []  # of those lines, or of none of them
        self._next = 0

    def look(self, block: bytes) -> None:
        """Take the block whose lines are decoded next."""
        self._block, self._at, self._lines, self._trades, self._next = block, 0, [], [], 0

    def decode(self, line: bytes) -> Line:
        """Return what the next line of the block says; of any other line too, but more slowly.

        Raises:
            InvalidLine: as `codec.decode`.
        """
        number = self._next
        if number == len(self._lines):
            self._advance()
            number = 0
        self._next = number + 1
        if self._trades and self._lines[number] == line:
            return self._trades[number]
        return decode(line, self._clock())

    def _advance(self) -> None:
        end = self._block.find(b"\n", self._at + _PIECE) + 1 or len(self._block)
        piece, self._at = self._block[self._at : end], end
        self._trades = decode_trades(piece, self._clock()) or []
        self._lines = piece.split(b"\n")[:-1] if self._trades else [b""] * piece.count(b"\n")
