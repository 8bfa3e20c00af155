"""Everyday lines of fills as rows, many at once: what a machine without kernels does. Other lines are left alone."""

import re
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import accumulate, pairwise, repeat
from operator import le, mul, sub
from typing import NamedTuple

from okxcli.core.decimals import EXACT
from okxcli.core.model import AHEAD_MS, MAX_TIMESTAMP, MIN_TIMESTAMP, UNSTAMPED_AHEAD_MS
from okxcli.storage.rows.row_format import NULL
from okxcli.storage.schema.partitions import DAY_MS

#: What a size counts beside a price in the checksum of fills, see `ledger.checksum`.
WEIGHT = Decimal(7919)

_LABEL = r"([a-z0-9][a-z0-9-]{0,31})"
_NUMBER = r'"((?!0")(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{0,27}[1-9])?)"'
_TIME = r"[1-9][0-9]{12}"
#: The lines that the kernel knows, but for needless zeros.
_LINE = re.compile(
    rf'^{{"type":"trade","exchange":"{_LABEL}","symbol":"([A-Za-z0-9][A-Za-z0-9-]{{0,63}})",'
    rf'"trade_id":([1-9][0-9]{{0,17}}),"count":1,"side":"(buy|sell)","price":{_NUMBER},"size":{_NUMBER},'
    rf'"timestamp":({_TIME}),"received":(null|{_TIME}),"source":(null|0|[1-9][0-9]{{0,2}}),'
    rf'"origin":"(?!trades"|file-merged"){_LABEL}"}}\n',
    re.MULTILINE | re.ASCII,
)
#: The texts of a line: exchange, symbol, id, side, price, size, timestamp, received, source, origin.
_Texts = tuple[str, ...]
_AT, _RECEIVED = 6, 7
_SIGN = {"buy": 1, "sell": -1}


class FillRows(NamedTuple):
    """Fills of one symbol and one UTC day (a number since 1970) whose ids follow on each other, as rows for COPY.

    `low` and `high` are the ends of their times, `step` is how far time steps back among them (ms). `rows` are in
    COPY's binary format where they are bytes, else in its text format.
    """

    exchange: str
    symbol: str
    first: int
    last: int
    low: int
    high: int
    step: int
    day: int
    checksum: Decimal
    rows: bytes | str


class FillLines:
    """Reads blocks, one after the other."""

    def __init__(self) -> None:
        self._block, self._text = b"", ""
        self._odd = False  # other lines are in the block: they are met one by one, and not in all of it each time

    def take(self, block: bytes, at: int, now_ms: int, most: int) -> tuple[int, int, list[FillRows]]:
        """Take lines from an offset on, at most so many; return the offset behind them, how many, and their rows."""
        if block is not self._block:
            self._block, self._text, self._odd = block, block.decode("latin-1"), False
        text = self._text
        if _LINE.match(text, at) is None:
            return at, 0, []
        if not self._odd:
            found = _LINE.findall(text, at)
            if 0 < len(found) == text.count("\n", at) <= most and text.endswith("\n"):
                times = _times(found, now_ms)
                if times is not None:
                    return len(block), len(found), _rows(found, times)
            self._odd = len(found) <= most
        found, ends = _leading(text, at, most)
        good = 0
        while good < len(found) and _times(found[good : good + 1], now_ms) is not None:
            good += 1
        times = [int(texts[_AT]) for texts in found[:good]]
        return ends[good], good, _rows(found[:good], times)


def _leading(text: str, at: int, most: int) -> tuple[list[_Texts], list[int]]:
    """Return the lines from an offset on before the first one of another form, and where each begins and they end."""
    found: list[_Texts] = []
    ends = [at]
    while len(found) < most and (one := _LINE.match(text, ends[-1])) is not None:
        found.append(one.groups())
        ends.append(one.end())
    return found, ends


def _times(found: list[_Texts], now_ms: int) -> list[int] | None:
    """Return the times of lines; None if one of them cannot be, or if it takes a look at each to tell."""
    times = [int(texts[_AT]) for texts in found]
    stamps = [int(texts[_RECEIVED]) for texts in found if texts[_RECEIVED] != "null"]
    low, high = min(times), max(times)
    latest = [] if len(stamps) == len(found) else [now_ms + UNSTAMPED_AHEAD_MS]
    if stamps:
        latest.append(min(stamps) + AHEAD_MS)
    every = (low, high, min(stamps, default=low), max(stamps, default=high))
    return times if min(every) >= MIN_TIMESTAMP and max(every) < MAX_TIMESTAMP and high <= min(latest) else None


def _rows(found: list[_Texts], times: list[int]) -> list[FillRows]:
    if not found:
        return []
    columns = list(zip(*found, strict=True))
    if all(column.count(column[0]) == len(found) for column in columns[:2]):
        return list(_runs(found, columns, times))
    groups: dict[tuple[str, str], list[int]] = {}
    for number, texts in enumerate(found):
        groups.setdefault((texts[0], texts[1]), []).append(number)
    made: list[FillRows] = []
    for numbers in groups.values():
        group = [found[number] for number in numbers]
        made += _runs(group, list(zip(*group, strict=True)), [times[number] for number in numbers])
    return made


def _runs(group: list[_Texts], columns: list[tuple[str, ...]], times: list[int]) -> Iterator[FillRows]:
    """Yield the fills of a symbol where ids follow on each other within a day."""
    exchange, symbol = group[0][:2]
    _, _, numbers, sides, prices, sizes, *_ = columns
    ids = list(map(int, numbers))
    cuts = [0, len(ids)]
    if min(times) // DAY_MS != max(times) // DAY_MS or ids != list(range(ids[0], ids[0] + len(ids))):
        days = [at // DAY_MS for at in times]
        cuts[1:1] = [i for i in range(1, len(ids)) if ids[i] != ids[i - 1] + 1 or days[i] != days[i - 1]]
    for begin, end in pairwise(cuts):
        here = slice(begin, end)
        spans = times[here]
        low, high = min(spans), max(spans)
        total = _checksum(ids[begin], spans, sides[here], prices[here], sizes[here])
        first, last, text = ids[begin], ids[end - 1], _text(exchange, symbol, group[here])
        yield FillRows(exchange, symbol, first, last, low, high, _step(spans), low // DAY_MS, total, text)


def _checksum(
    first: int, times: Sequence[int], sides: Sequence[str], prices: Sequence[str], sizes: Sequence[str]
) -> Decimal:
    """Return the checksum of fills with the ids from `first` on, as `ledger.checksum` defines it.

    By sums of sums: the fill of the highest id is in one of them, the one before it in two.
    """
    past = first + len(times)
    with localcontext(EXACT):
        parts = list(accumulate(map(Decimal.fma, map(Decimal, sizes), repeat(WEIGHT), map(Decimal, prices))))
        total = past * parts[-1] - sum(parts)
    signed = list(accumulate(map(mul, times, map(_SIGN.__getitem__, sides))))
    return EXACT.add(total, Decimal(past * signed[-1] - sum(signed)))


def _step(times: list[int]) -> int:
    """Return how far time steps back."""
    if all(map(le, times, times[1:])):
        return 0
    return int(max(map(sub, accumulate(times, max), times)))


@lru_cache(4096)
def _second(seconds: str) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S.", time.gmtime(int(seconds)))


def _text(exchange: str, symbol: str, group: list[_Texts]) -> str:
    """Return lines of a symbol as rows of COPY's text format."""
    names = f"{exchange}\t{symbol}\t"
    return "".join(
        [
            f"{names}{number}\t1\t{side}\t{price}\t{size}\t{_second(at[:10])}{at[10:]}+00\t"
            f"{NULL if got == 'null' else f'{_second(got[:10])}{got[10:]}+00'}\t"
            f"{NULL if source == 'null' else source}\t{origin}\n"
            for _, _, number, side, price, size, at, got, source, origin in group
        ]
    )
