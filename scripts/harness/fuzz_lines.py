"""Damaged raw messages through the normaliser, damaged lines of ours through the decoder and the candle maker."""

from typing import Any

from harness import decoder
from harness.decoder import NotJson, Undecided
from harness.tally import Tally
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.codec import UnknownType, decode, encode
from okxcli.core.model import Line, OHLCVCandle
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import PartlyInvalid
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

#: Reasons that say that a line is no JSON.
_NO_JSON = ("not JSON", "not UTF-8", "NUL bytes")
#: Lines after which the candle maker begins anew: what a few of them do together matters, not only each.
_BATCH = 400


def _read(line: bytes) -> tuple[bool | None, Any]:
    """Return (whether it is JSON; None: decoders may differ, what it says)."""
    try:
        return True, decoder.decode(line)
    except NotJson:
        return False, None
    except Undecided:
        return None, None


class Normalize:
    """The target `normalize`."""

    def __init__(self) -> None:
        self.tally = Tally("normalize")

    def feed(self, line: bytes) -> None:
        """Try one raw line."""
        self.tally.try_one(self._one, line.replace(b"\n", b" "))

    def _one(self, line: bytes) -> bool:
        reason, found = "", []
        try:
            found = Normalizer().feed(line)
        except PartlyInvalid as partly:
            reason, found = str(partly), partly.lines
        except InvalidLine as invalid:
            reason = str(invalid)
        valid, value = _read(line)
        tell = self.tally.disagree
        if valid is False and not reason and line.strip() not in (b"ping", b"pong"):
            tell("taken, though it is no JSON", line)
        elif valid and reason.startswith(_NO_JSON):
            tell(f"refused as no JSON, and it is: {reason}", line)
        elif valid and found:
            self._compare(line, value, found)
        if valid and len(found) < decoder.surely_good(value):
            tell(f"refused, and nothing is wrong with it: {reason}", line)
        for item in found:
            if decode(encode(item)) != item:
                tell("the line made of it is read back otherwise", line)
        return not reason

    def _compare(self, line: bytes, value: Any, found: list[Line]) -> None:
        """Look whether the lines are what the rows say, in their order."""
        expected = iter(decoder.raw_rows(value))
        for item in found:
            shown = decoder.shown(encode(item))
            shown = {
                key: value for key, value in shown.items() if not (shown["type"] == "candle" and key == "timestamp")
            }
            rows = []
            for row in expected:
                if row == shown:
                    break
                rows.append(row)
            else:
                self.tally.disagree(f"taken as {shown}, which none of its rows says: {rows[:3]}", line)
                return


class Candles:
    """The target `candles`: every line is decoded, and given to a candle maker."""

    def __init__(self) -> None:
        self.tally = Tally("candles")
        self._maker: RealTimeCandleProcessor
        self._number = 0
        self._begin()

    def feed(self, line: bytes) -> None:
        """Try one line of ours."""
        line = line.replace(b"\n", b" ")
        self._number += 1
        self.tally.try_one(self._one, line)
        if self._number % _BATCH == 0:
            self.finish()

    def finish(self) -> None:
        """End the candle maker, and begin anew."""
        try:
            self._maker.finish()
        except Exception as error:
            self.tally.crash(error, b"end of input")
        self._begin()

    def _begin(self) -> None:
        fill = self._number // _BATCH % 2 == 1
        self._maker = RealTimeCandleProcessor("1s,1m,1d,1M+8", self._made, fill=fill, partial=not fill, live=False)

    def _made(self, bar: OHLCVCandle) -> None:
        if decode(encode(bar)) != bar:
            self.tally.disagree("a bar that is no line of ours", encode(bar))

    def _one(self, line: bytes) -> bool:
        found = read_line(line, self.tally)
        if found is None:
            return False
        try:
            self._maker.feed(found)
        except InvalidLine:
            return False
        return True


def read_line(line: bytes, tally: Tally) -> Line | None:
    """Decode one line of ours and compare it with what the other decoder reads; None if it is refused."""
    reason, found = "", None
    try:
        found = decode(line)
    except UnknownType:
        reason = "unknown"
    except InvalidLine as invalid:
        reason = str(invalid)
    valid, value = _read(line)
    if valid is False and (found is not None or reason == "unknown"):
        tally.disagree("taken, though it is no JSON", line)
    elif valid and reason.startswith(_NO_JSON):
        tally.disagree(f"refused as no JSON, and it is: {reason}", line)
    elif valid and found is not None:
        shown, expected = decoder.shown(encode(found)), decoder.our_line(value)
        if expected is None or any(expected.get(key) != item for key, item in shown.items()):
            tally.disagree(f"taken as {shown}", line)
    return found
