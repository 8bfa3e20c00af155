"""What the channel `instruments` says of the symbols that are streamed. A push of it may tell of all there are."""

from collections.abc import Callable, Container

import orjson

from okxcli.exchanges.okx.rest.endpoints import Row

#: The channel: states, contract values and delistings as they happen.
CHANNEL = "instruments"
_HEAD = b'{"arg":{"channel":"instruments"'


class Listing:
    """Picks what concerns `symbols`; `told` is called with each row about one of them, in the thread that brings it."""

    def __init__(self, symbols: Callable[[], Container[str]], told: Callable[[Row], None]) -> None:
        self._symbols = symbols
        self._told = told

    def own(self, frames: list[bytes]) -> list[bytes]:
        """Return the frames, those of the channel without the rows about other symbols."""
        if not any(frame.startswith(_HEAD) for frame in frames):
            return frames
        return [own for frame in frames if (own := self._own(frame))]

    def _own(self, frame: bytes) -> bytes:
        if not frame.startswith(_HEAD):
            return frame
        try:
            message = orjson.loads(frame)
            rows = [row for row in message["data"] if row["instId"] in self._symbols()]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return frame  # whoever reads it says what is wrong with it
        for row in rows:
            self._told(row)
        if len(rows) == len(message["data"]):
            return frame
        return orjson.dumps(message | {"data": rows}) if rows else b""
