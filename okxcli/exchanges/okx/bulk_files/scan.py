"""What stands in a bulk file, found by reading it once: per symbol its ids, times, order, and whether they are fills.

A file of aggregates (several fills in one row) must not be taken for the tape. It is known by its name, or by its ids:
those of fills follow one another; those of aggregates have steps everywhere. Whoever knows better may say so.
"""

import logging
import re
from collections.abc import Collection, Iterator
from operator import lt

from okxcli.errors import InvalidLine
from okxcli.exchanges.file_interface import RowsAs
from okxcli.exchanges.okx.bulk_files.everyday import Everyday, Stretch, newlines, trade_pushes
from okxcli.exchanges.okx.bulk_files.layouts import FileName, Kind, Layout, Row, read_layout, read_name
from okxcli.exchanges.okx.bulk_files.unpacking import Table, blocks, first_line

_log = logging.getLogger(__name__)

#: A file of fills may lack some: so many holes in a thousand of its rows. Aggregates have 190 to 390 (measured).
HOLES_PER_THOUSAND = 5
_BITS = 16
_MASK = (1 << _BITS) - 1
#: 32 MiB for 268 million ids, three times the largest month known.
_MAX_PAGES = 4_096
#: Rows that cannot be read, by line number with the reason.
_Faults = list[tuple[int, str]]
#: Damaged rows of a file that are told one by one.
_TOLD = 10
#: A header, and blank lines before it.
_HEAD = re.compile(rb"\s*[^\n]*\n")
#: Later than any time, more than any id.
FOREVER = 1 << 62


class _Ids:
    """A set of ids, a bit each in pages of 65,536: whatever their order, a million of neighbours take 128 KiB.

    `overflow` tells that they are too far apart to be kept; no file of fills is like that.
    """

    def __init__(self) -> None:
        self.overflow = False
        self._pages: dict[int, bytearray] = {}

    def add(self, number: int) -> None:
        """Add one id."""
        page = self._page(number >> _BITS)
        page[(number & _MASK) >> 3] |= 1 << (number & 7)

    def add_run(self, first: int, last: int) -> None:
        """Add the ids `first .. last`."""
        while first <= last:
            if first & 7 or last - first < 7:
                self.add(first)
                first += 1
                continue
            count = min(last - first + 1, (1 << _BITS) - (first & _MASK)) >> 3
            at = (first & _MASK) >> 3
            self._page(first >> _BITS)[at : at + count] = b"\xff" * count
            first += count << 3

    def runs(self) -> tuple[int, int]:
        """Return how many runs of neighbours there are, and how many ids."""
        runs = ids = 0
        before, carry = -1, 0
        for number in sorted(self._pages):
            bits = int.from_bytes(self._pages[number], "little")
            carry = carry if number == before + 1 else 0
            runs += (bits & ~(bits << 1 | carry)).bit_count()
            ids += bits.bit_count()
            before, carry = number, bits >> _MASK
        return runs, ids

    def _page(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) >= _MAX_PAGES:
                self.overflow = True
                return bytearray(1 << (_BITS - 3))
            page = self._pages[number] = bytearray(1 << (_BITS - 3))
        return page


class Extent:
    """The rows of one symbol in one table: the lowest and highest key, the first time, and whether the keys rise."""

    def __init__(self, fills: bool) -> None:
        self.rows = 0
        self.first = self.since_ms = FOREVER
        self.last = 0
        self.rising = True
        self.merged = False
        self.missing = 0  # ids between the first and the last that no row has
        self._ids: _Ids | None = _Ids() if fills else None
        self._newest = 0  # the key of the row before

    def add(self, keys: list[int], times: list[int]) -> None:
        """Take note of rows in the order of the file."""
        if not keys:
            return
        if self.rising and keys[0] > self._newest and all(map(lt, keys, keys[1:])):
            low, high = keys[0], keys[-1]
        else:
            self.rising = False
            low, high = min(keys), max(keys)
        self.first, self.last = min(self.first, low), max(self.last, high)
        self.since_ms = min([self.since_ms, *times])
        self.rows += len(keys)
        self._newest = keys[-1]
        if self._ids is None:
            return
        if self.rising and high - low + 1 == len(keys):
            self._ids.add_run(low, high)
        else:
            for key in keys:
                self._ids.add(key)

    def extend(self, stretch: Stretch) -> None:
        """Take note of rows that follow on each other, in the order of the file."""
        self.rising &= stretch.first > self._newest
        self.first, self.last = min(self.first, stretch.first), max(self.last, stretch.last)
        self.since_ms = min(self.since_ms, stretch.low)
        self.rows += stretch.last - stretch.first + 1
        self._newest = stretch.last
        if self._ids is not None:
            self._ids.add_run(stretch.first, stretch.last)

    def are_aggregates(self, damaged: int) -> bool:
        """Whether the ids have more holes than files of fills do; each damaged row excuses one. To be asked once."""
        ids, self._ids = self._ids, None
        if ids is None or ids.overflow:
            return ids is not None
        runs, count = ids.runs()
        self.missing = self.last - self.first + 1 - count
        return (runs - 1 - damaged) * 1000 > count * HOLES_PER_THOUSAND


class Part:
    """The rows of a table that are of some symbols: all fills, all merged trades, or all candles.

    `since_ms` is the earliest time of its rows.
    """

    def __init__(self, table: Table, layout: Layout, extents: dict[bytes, Extent]) -> None:
        self.table = table
        self.layout = layout
        self.extents = extents
        self.merged = next(iter(extents.values())).merged
        self.since_ms = min(extent.since_ms for extent in extents.values())
        self.rising = all(extent.rising for extent in extents.values())

    def read(self) -> Iterator[list[Row]]:
        """Yield the rows block by block, in the order of the file, damaged ones left out without a word.

        Raises:
            InputError: the file is damaged as a whole.
        """
        for number, text in self.texts():
            if kept := self.rows_of(number, text):
                yield kept

    def texts(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number of its first line, whole lines of rows), block by block.

        Raises:
            InputError: the file is damaged as a whole.
        """
        return bodies(self.table, self.layout)

    def rows_of(self, number: int, text: bytes) -> list[Row]:
        """Return the rows of whole lines that are of this part, damaged ones left out."""
        rows, _ = _rows(self.layout, number, text)
        return [row for row in rows if row[2] in self.extents]

    def pushes(self, line: bytes) -> list[bytes]:
        """Return the raw line of one line; nothing if that is damaged, or of none of these symbols."""
        return trade_pushes(self.rows_of(1, line + b"\n"), self.merged)

    def clashes(self, later: "Part") -> bool:
        """Whether rows of `later` belong before or among the rows of this one."""
        return self.merged == later.merged and any(
            symbol in later.extents and later.extents[symbol].first <= extent.last
            for symbol, extent in self.extents.items()
        )


def layout_of(table: Table, symbols: Collection[str] | None, kind: Kind) -> tuple[FileName | None, Layout | None]:
    """Return what a table's name tells, and its layout; None if it is of another kind, empty, or of none of `symbols`.

    `symbols` of None are all that there are.

    Raises:
        InputError: the file is damaged as a whole.
        UnknownLayout: it is no file of OKX's.
    """
    name = read_name(table.name) or read_name(table.path.name)
    if name is not None and ((name.kind == "candlesticks") != (kind == "candles")):
        return name, None
    head = first_line(table)
    if not head.strip():
        return name, None
    own = next(iter(symbols)) if symbols is not None and len(symbols) == 1 else None
    if name is not None:
        own = None if symbols is None and name.of_many else name.stem
    layout = read_layout(head, own)
    right = layout.kind == kind and (layout.symbol is None or symbols is None or own in symbols)
    return name, layout if right else None


def scan(
    table: Table, symbols: Collection[str] | None, kind: Kind, rows_as: RowsAs | None = None
) -> tuple[list[Part], int]:
    """Read a table; return its parts, none if `layout_of` gives none, and how many of its rows are damaged.

    `rows_as` says what rows of trades are, whatever they look like.

    Raises:
        InputError: the file is damaged as a whole.
        UnknownLayout: it is no file of OKX's.
    """
    name, layout = layout_of(table, symbols, kind)
    if layout is None:
        return [], 0
    damaged = 0
    extents: dict[bytes, Extent] = {}
    wanted = None if symbols is None else {symbol.encode() for symbol in symbols}

    def extent_of(symbol: bytes) -> Extent:
        if symbol not in extents:
            extents[symbol] = Extent(kind == "trades")
        return extents[symbol]

    for stretches, rows, faults in _seen(table, layout):
        for number, reason in faults:
            damaged += 1
            if damaged <= _TOLD:
                _log.warning("%s: row %d: %s", table, number, reason)
        for stretch in stretches:
            if wanted is None or stretch.symbol in wanted:
                extent_of(stretch.symbol).extend(stretch)
        by_symbol: dict[bytes, list[Row]] = {}
        for row in rows:
            by_symbol.setdefault(row[2], []).append(row)
        for symbol, some in by_symbol.items():
            if wanted is None or symbol in wanted:
                extent_of(symbol).add([row[0] for row in some], [row[1] for row in some])
    if damaged > _TOLD:
        _log.warning("%s: %d rows are damaged and passed over", table, damaged)
    named = name is not None and name.kind == "aggtrades"
    for symbol, extent in extents.items() if kind == "trades" else ():
        extent.merged = (extent.are_aggregates(damaged) or named) if rows_as is None else rows_as == "aggregates"
        if extent.merged and rows_as is None:
            reason = "by its name" if named else f"{extent.rows} rows with {extent.missing} ids missing between them"
            what = f"{table}: {symbol.decode()}: merged trades ({reason}), kept out of the tape"
            _log.warning("%s. If it is a file of fills that lacks some: --as fills", what)
    halves = [{symbol: one for symbol, one in extents.items() if one.merged == merged} for merged in (False, True)]
    return [Part(table, layout, some) for some in halves if some], damaged


def bodies(table: Table, layout: Layout) -> Iterator[tuple[int, bytes]]:
    """Yield `blocks` of a table without its header.

    Raises:
        InputError: the file is damaged as a whole.
    """
    headed = layout.header
    for number, block in blocks(table):
        lead = _HEAD.match(block) if headed else None
        if lead is None:
            yield number, block
            continue
        headed = not lead[0].strip()
        if lead.end() < len(block):
            yield number + lead[0].count(b"\n"), block[lead.end() :]


def _seen(table: Table, layout: Layout) -> Iterator[tuple[list[Stretch], list[Row], _Faults]]:
    """Yield what stands in a table, in its order: stretches of everyday rows, and the other rows with their faults."""
    if layout.run_on:
        yield [], [], [(1, "a row runs on in the line of the header")]
    everyday = Everyday(layout)
    for first, text in bodies(table, layout):
        number, at = first, 0
        while at < len(text):
            end, stretches = everyday.scan(text, at)
            number += sum(one.last - one.first + 1 for one in stretches)
            at = left(text, end)
            yield stretches, *_rows(layout, number, text[end:at])
            number += newlines(text, end, at)


def left(text: bytes, at: int) -> int:
    """Return where what the kernel left of a block ends: it knows some rows, so that is one row, or no row at all."""
    return text.find(b"\n", at) + 1 if 0 < at < len(text) else len(text)


def _rows(layout: Layout, number: int, text: bytes) -> tuple[list[Row], _Faults]:
    """Return the rows of whole lines, of which the first has that number, and what is wrong with the others."""
    found = layout.rows(text)
    if found is not None:
        return found, []
    rows, faults = [], []
    for place, line in enumerate(text[:-1].split(b"\n"), number):
        if not line.strip():
            continue
        try:
            rows.append(layout.row(line.rstrip(b"\r")))
        except InvalidLine as reason:
            faults.append((place, str(reason)))
    return rows, faults
