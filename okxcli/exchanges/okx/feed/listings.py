"""What is pushed of all instruments of a kind, and of it what is about the symbols that are streamed."""

from collections.abc import Callable, Container

import orjson

from okxcli.exchanges.okx.rest.endpoints import Row

#: The channel: states, contract values and delistings as they happen.
CHANNEL = "instruments"
_HEAD = b'{"arg":{"channel":"instruments"'
_LIQUIDATIONS = b'{"arg":{"channel":"liquidation-orders"'


class Listing:
    """Picks what concerns `symbols` of liquidations, and of instruments where `told` is given.

    That is called with each row of `instruments` about one of them, in the thread that brings it. Those about others
    that somebody `wants` to know of are picked as well.
    """

    def __init__(
        self,
        symbols: Callable[[], Container[str]],
        told: Callable[[Row], None] | None,
        wants: Callable[[str], bool] | None = None,
    ) -> None:
        self._symbols = symbols
        self._told = told
        self._wants = wants or (lambda symbol: False)
        self._heads = (_LIQUIDATIONS,) if told is None else (_LIQUIDATIONS, _HEAD)

    def own(self, frames: list[bytes]) -> list[bytes]:
        """Return the frames, those of such channels without the rows about other symbols."""
        if not any(frame.startswith(self._heads) for frame in frames):
            return frames
        return [own for frame in frames if (own := self._own(frame))]

    def _own(self, frame: bytes) -> bytes:
        if not frame.startswith(self._heads):
            return frame
        listing = frame.startswith(_HEAD)
        try:
            message = orjson.loads(frame)
            symbols = self._symbols()
            own = {row["instId"] for row in message["data"] if row["instId"] in symbols}
            others = {row["instId"] for row in message["data"] if listing and self._wants(row["instId"])}
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return frame  # whoever reads it says what is wrong with it
        rows = [row for row in message["data"] if row["instId"] in own or row["instId"] in others]
        if self._told is not None and listing:
            for row in rows:
                if row["instId"] in own:
                    self._told(row)
        if len(rows) == len(message["data"]):
            return frame
        return orjson.dumps(message | {"data": rows}) if rows else b""
