"""Recordings: what `okx stream` wrote, read back.

A line is one OKX push as it came, perhaps with the keys `received` (ms) and `origin` that `okx stream` adds. Control
events and lines that are no push are passed over. REST and candles come from the recorded fills; where a symbol was
recorded on `trades` alone, each merged trade stands for its fills.
"""

import gzip
import io
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson
import zstandard

from okxcli.core.decimals import canonical
from okxcli.core.model import MAX_ID, MAX_TIMESTAMP, MIN_TIMESTAMP
from okxcli.errors import UsageError
from okxcli.local.network.conversation import Key
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.instruments import Row

log = logging.getLogger(__name__)

#: OKX's largest message, a list of all instruments, is below 2 MiB.
_MAX_LINE = 16 << 20
#: Channels of fills, each of one instrument.
TAPES = ("trades", "trades-all")
_STAMPS = re.compile(rb'(?:,"origin":"[a-z0-9-]{1,32}")?(?:,"received":[0-9]{1,20})?\}$')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Push(NamedTuple):
    """One recorded message: when it came (ms), its channel, its bytes and its data."""

    when: int
    key: Key
    payload: bytes
    data: list[Any]


def read_pushes(path: Path, report: Callable[[int, str], None] | None = None) -> Iterator[Push]:
    """Yield the pushes of a recording (`.gz` and `.zst` by name); times never step back.

    `report` is told the number of each bad line, and why it is passed over. A packed file that is torn ends at the
    tear, which is reported as well.

    Raises:
        UsageError: the file cannot be read.
    """
    newest = number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(_lines(lines), 1):
                found = _push(line.strip(), newest) if len(line) <= _MAX_LINE else "a line of over 16 MiB"
                if isinstance(found, Push):
                    newest = found.when
                    yield found
                elif found and report is not None:
                    report(number, found)
    except FileNotFoundError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # gzip's complaints about its data have none
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        if report is not None:
            report(number + 1, f"the file is damaged from here on: {error}")


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; of one that has no end, a piece that is too long."""
    while line := stream.readline(_MAX_LINE + 1):
        yield line
        while len(line) > _MAX_LINE and not line.endswith(b"\n"):
            line = stream.readline(_MAX_LINE + 1)


def _push(line: bytes, newest: int) -> Push | str:
    """Return the push of a line, "" for what is passed over without a word, or what is wrong with it."""
    if not line:
        return ""
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return str(error) if "infinity" in str(error) else f"not JSON: {error}"
    if not isinstance(message, dict):
        return "not a JSON object"
    if "event" in message:
        return ""
    arg, data = message.get("arg"), message.get("data")
    if not isinstance(arg, dict) or not isinstance(arg.get("channel"), str) or not isinstance(data, list):
        return "not a push of OKX: no arg, channel or data"
    subject = arg.get("instId") or arg.get("instType") or ""
    named = isinstance(subject, str) and _NAME.fullmatch(subject) is not None
    if not named and (subject or arg["channel"] in TAPES):
        return "not a push of OKX: no instrument"
    received = message.get("received")
    if type(received) is not int or not MIN_TIMESTAMP <= received < MAX_TIMESTAMP:
        received = max((_time(item) for item in data), default=0)
    # Without what `okx stream` added at its end. Elsewhere it stays: making the line anew would change its numbers.
    return Push(max(received, newest), (arg["channel"], subject), _STAMPS.sub(b"}", line), data)


def _time(item: object) -> int:
    """Return the time of a push's element, 0 if it has none that can be; a candle's is its open."""
    text = item.get("ts") if isinstance(item, dict) else item[0] if isinstance(item, list) and item else None
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20):
        return 0
    return int(text) if MIN_TIMESTAMP <= int(text) < MAX_TIMESTAMP else 0


def _whole(text: str) -> int:
    """Return the whole number that a field spells; Python's own `int` takes `+1` and `1_0` too."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError("not a whole number")
    return int(text)


def _open(path: Path) -> IO[bytes]:
    packing = Path(path.name.removesuffix(".part")).suffix  # an archive that is being written is one as well
    if packing == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if packing == ".zst":
        unpacker = zstandard.ZstdDecompressor(max_window_size=2**27)
        reader = unpacker.stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
        return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, reader)))
    return path.open("rb")


class Contents(NamedTuple):
    """What recordings hold: their channels, the instrument rows in them, the time of the first push."""

    keys: set[Key]
    rows: dict[str, Row]
    start_ms: int
    pushes: int


def survey(paths: Sequence[Path]) -> Contents:
    """Read recordings through once and say what they hold; bad lines are logged.

    Raises:
        UsageError: a file cannot be read, or there is no push in any of them.
    """
    keys: set[Key] = set()
    rows: dict[str, Row] = {}
    start, pushes = None, 0
    for path in paths:
        for push in read_pushes(path, partial(log.warning, "%s: line %d: %s", path)):
            keys.add(push.key)
            pushes += 1
            start = push.when if start is None else min(start, push.when)
            if push.key[0] == "instruments":
                found = (row for row in push.data if isinstance(row, dict))
                rows.update({row["instId"]: row for row in found if isinstance(row.get("instId"), str)})
    if start is None:
        raise UsageError(f"no push of OKX in {', '.join(map(str, paths))}. Record one: okx stream BTC-USDT > FILE")
    return Contents(keys, rows, start, pushes)


def fills_in(push: Push) -> Iterator[Fill]:
    """Yield the fills of a `trades` or `trades-all` push; an element that is none is passed over."""
    for item in push.data:
        try:
            trade_id, matches = _whole(item["tradeId"]), _whole(item.get("count") or "1")
            source, ts = _whole(item.get("source") or "0"), _whole(item["ts"])
            price, size = canonical(item["px"]), canonical(item["sz"])
            if not (0 < trade_id <= MAX_ID and MIN_TIMESTAMP <= ts < MAX_TIMESTAMP and Decimal(price) > 0):
                raise ValueError("out of range")
            yield Fill(trade_id, price, size, str(item["side"]), ts, source, trade_id, matches)
        except (KeyError, TypeError, ValueError, AttributeError):
            log.debug("not a fill: %r", item)
