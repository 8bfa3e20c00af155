"""OKX's bulk files of trades and one-minute candles as the raw lines that `stream` writes, oldest first.

A file is read once to learn what is in it and once more to be written out, so that memory stays bounded and the order
is right: a symbol's fills by id, whatever files they come from and in whatever order they stand there. Files that
neither overlap nor are out of order are read straight through; the others are sorted.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from pathlib import Path
from typing import NamedTuple

from okxcli.errors import InputError, UsageError
from okxcli.exchanges.file_interface import FileRows, RowsAs
from okxcli.exchanges.okx.bulk_files.everyday import Everyday, candle_pushes, newlines, trade_pushes
from okxcli.exchanges.okx.bulk_files.layouts import DAY_MS, Kind, Row, UnknownLayout, check_symbol, read_name
from okxcli.exchanges.okx.bulk_files.scan import FOREVER, Part, left, scan
from okxcli.exchanges.okx.bulk_files.sorting import in_order
from okxcli.exchanges.okx.bulk_files.unpacking import find, tables

_log = logging.getLogger(__name__)

#: Channels that bulk files can stand in for.
CHANNELS: dict[str, Kind] = {"trades-all": "trades", "candle1m": "candles"}

_BATCH = 5_000


class _Text(NamedTuple):
    """Whole lines of a part, of which the first has a number, as they stand in the file and in the order wanted."""

    part: Part
    everyday: Everyday
    number: int
    data: bytes


class Archive:
    """The rows of `symbols` in the bulk files at `paths` (files, folders, patterns), from `since_ms` to `until_ms`.

    Without `symbols` those of all symbols that rows and names tell. With `since_ms`, the fill right before the first
    one comes along if it is there: the link that proves the first bar. `damaged` counts rows that could not be read,
    `unreadable` files, `rows` the raw lines given out; `progress` is called with bytes done and all bytes. `rows_as`
    says what rows of trades are, whatever they look like.

    Raises:
        UsageError: no such file or pattern, an odd symbol, a channel that no file stands in for.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        symbols: Iterable[str] | None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        channel: str = "trades-all",
        progress: Callable[[int, int], None] | None = None,
        rows_as: RowsAs | None = None,
    ) -> None:
        self.symbols = list(dict.fromkeys(symbols or ()))
        self._wanted = None if symbols is None else self.symbols
        for symbol in self.symbols:
            check_symbol(symbol)
        if channel not in CHANNELS:
            hint = ". Make larger bars of those with okx candles --from 1m" if channel.startswith("candle") else ""
            raise UsageError(f"OKX has no bulk files of {channel}, only of {' and '.join(CHANNELS)}{hint}")
        self.kind = CHANNELS[channel]
        self.since_ms = since_ms
        self.until_ms = until_ms
        self.damaged = self.unreadable = self.rows = 0
        self._rows_as = rows_as
        self._progress = progress or (lambda done, total: None)
        self._sizes = {path: path.stat().st_size for path in find(paths) if self._worth_reading(path)}
        self._done = 0

    @property
    def paths(self) -> list[Path]:
        """The files that may hold what is wanted, by the time that their names tell."""
        return sorted(self._sizes, key=lambda path: (_period(path), path))

    def lines(self) -> Iterator[list[bytes]]:
        """Yield raw lines, without newlines, in lists of some thousand; see `pushes`."""
        for lines, _ in self.pushes():
            yield lines.split(b"\n")

    def pushes(self) -> Iterator[tuple[bytes, int]]:
        """Yield raw lines joined by newlines, some thousand at a time, and how many they are.

        They are pushes of OKX with an `origin`: fills of `trades-all`; merged ones of `trades`, with an origin that
        proves nothing; bars. Each symbol's come by id (candles: by time); symbols that have files of their own take
        turns file by file.
        """
        for merged, found in self._found():
            yield from self._pushes(merged, found)

    def blocks(self) -> Iterator[FileRows]:
        """Yield what `pushes` does; fills that stand in order in their file as the rows of that file."""
        number = 1
        for merged, found in self._found():
            if isinstance(found, _Text) and not merged and found.part.layout.letters:
                part, layout = found.part, found.part.layout
                source = f"{part.table}: row"
                yield FileRows(source, found.number, found.data, layout.letters, layout.symbol or b"", part.pushes)
                continue
            for lines, count in self._pushes(merged, found):
                yield FileRows("sorted row", number, lines + b"\n", b"", b"", lambda line: [line])
                number += count

    def _pushes(self, merged: bool, found: list[Row] | _Text) -> Iterator[tuple[bytes, int]]:
        if isinstance(found, _Text):
            for lines, count in _pushes_of(found, merged):
                self.rows += count
                yield lines, count
        elif found:
            self.rows += len(found)
            made = trade_pushes(found, merged) if self.kind == "trades" else candle_pushes(found)
            yield b"\n".join(made), len(found)

    def _found(self) -> Iterator[tuple[bool, list[Row] | _Text]]:
        """Yield (whether they are merged trades, rows of one or several symbols), in the order of `lines`."""
        windows = [_Window(self.since_ms, self.until_ms, self.kind == "trades") for _ in (False, True)]
        for cluster in self._clusters():
            plans = (_groups(part for part in cluster if part.merged is merged) for merged in (False, True))
            for group in merge(*plans, key=lambda group: group[0].since_ms):
                merged = group[0].merged
                for found in self._read(group):
                    yield merged, windows[merged].of(found)
                for part in group:
                    self._advance(part.table.path)

    def _worth_reading(self, path: Path) -> bool:
        """Whether a file's name lets it hold what is wanted. The day before counts: its last fill is a link."""
        name = read_name(path.name)
        if name is None:
            return True
        if (name.kind == "candlesticks") != (self.kind == "candles"):
            return False
        if self.since_ms is not None and name.until_ms + DAY_MS <= self.since_ms:
            return False
        if self.until_ms is not None and name.since_ms - DAY_MS >= self.until_ms:
            return False
        return self._wanted is None or any(name.may_hold(symbol) for symbol in self._wanted)

    def _clusters(self) -> Iterator[list[Part]]:
        """Yield the parts of files, those together that must be looked at together to know their order.

        What lies before the period of the next file, by name and by content, need not wait for it.
        """
        cluster: list[Part] = []
        until = 0
        for path in self.paths:
            since, end = _period(path)
            parts = self._scan(path)
            if cluster and since >= until and not any(old.clashes(new) for old in cluster for new in parts):
                yield cluster
                cluster = []
            cluster += parts
            until = max(until, end)
        yield cluster

    def _scan(self, path: Path) -> list[Part]:
        """Return what a file holds; nothing, after a word, if it cannot be read."""
        try:
            found = [scan(table, self._wanted, self.kind, self._rows_as) for table in tables(path)]
        except (InputError, UnknownLayout) as error:
            self.unreadable += 1
            _log.warning("left out: %s", error if isinstance(error, InputError) else f"{path}: {error}")
            found = []
        self._advance(path)
        self.damaged += sum(damaged for _, damaged in found)
        parts = [part for some, _ in found for part in some]
        if not parts:
            self._advance(path)  # it will not be read again
        return parts

    def _advance(self, path: Path) -> None:
        self._done += self._sizes[path]
        self._progress(self._done, 2 * sum(self._sizes.values()))

    def _read(self, group: list[Part]) -> Iterator[list[Row] | _Text]:
        """Yield the rows of files that belong together, as they stand if that is in order, else by symbol and key."""
        if len(group) == 1 and group[0].rising:
            part = group[0]
            if self.kind == "candles":
                yield from (list(filter(_confirmed, rows)) for rows in part.read())
                return
            everyday = Everyday(part.layout)
            for number, data in part.texts():
                yield _Text(part, everyday, number, data)
            return
        every = (row for part in group for rows in part.read() for row in rows)
        ordered = in_order(every) if self.kind == "trades" else _one_each(in_order(filter(_confirmed, every)))
        batch: list[Row] = []
        for row in ordered:
            batch.append(row)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        yield batch


class _Window:
    """Passes on the rows of a span of time, and the fill right before the first of each symbol.

    From the first row at or after the beginning on, a time that steps back before it is no reason to leave a hole.
    """

    def __init__(self, since_ms: int | None, until_ms: int | None, link: bool) -> None:
        self._since = since_ms or 0
        self._until = FOREVER if until_ms is None else until_ms
        self._all = since_ms is None and until_ms is None
        self._link = link and since_ms is not None
        self._before: dict[bytes, Row] = {}  # the last one before the span
        self._began: set[bytes] = set()

    def of(self, found: list[Row] | _Text) -> list[Row] | _Text:
        """Return those of some rows that are to be written."""
        if self._all:
            return found
        if isinstance(found, _Text):
            data = found.data
            match self._place(found):
                case "inside":
                    return found
                case "before":
                    data = data[data.rfind(b"\n", 0, -1) + 1 :]  # nothing but the last row may be of any use
            found = found.part.rows_of(found.number, data)
        kept: list[Row] = []
        before, began = self._before, self._began
        for row in found:
            _, time, symbol, _ = row
            if time >= self._until:
                continue
            if symbol not in began:
                if time < self._since:
                    before[symbol] = row
                    continue
                began.add(symbol)
                if self._link and symbol in before and before[symbol][0] == row[0] - 1:
                    kept.append(before[symbol])
            kept.append(row)
        return kept

    def _place(self, found: _Text) -> str:
        """Return "inside" where all rows of a block are to be written, "before" where no row is of the span.

        Anything else means that each is to be looked at.
        """
        end, every = found.everyday.scan(found.data, 0)
        stretches = [one for one in every if one.symbol in found.part.extents]
        symbols = {one.symbol for one in stretches}
        if end < len(found.data):
            return ""
        if symbols <= self._began and all(one.high < self._until for one in stretches):
            return "inside"
        alone = len(symbols) == len({one.symbol for one in every}) == 1
        return "before" if alone and not symbols & self._began and all(one.high < self._since for one in every) else ""


def _pushes_of(text: _Text, merged: bool) -> Iterator[tuple[bytes, int]]:
    """Yield the raw lines of a part's rows, joined by newlines, and how many."""
    number, data, at = text.number, text.data, 0
    while at < len(data):
        lines, count, end = text.everyday.pushes(data, at, text.part.extents, merged)
        if count:
            yield lines[:-1], count
        number += newlines(data, at, end)
        at = left(data, end)
        if odd := trade_pushes(text.part.rows_of(number, data[end:at]), merged):
            yield b"\n".join(odd), len(odd)
        number += newlines(data, end, at)


def _groups(parts: Iterable[Part]) -> list[list[Part]]:
    """Return parts by time, those together that overlap in a symbol's keys."""
    groups: list[list[Part]] = []
    for part in sorted(parts, key=lambda part: part.since_ms):
        at = next((i for i, group in enumerate(groups) if any(old.clashes(part) for old in group)), len(groups))
        groups[at:] = [[*(old for group in groups[at:] for old in group), part]]
    return groups


def _period(path: Path) -> tuple[int, int]:
    """Return the time that a file's name tells; all time if it tells none."""
    name = read_name(path.name)
    return (name.since_ms, name.until_ms) if name is not None else (0, FOREVER)


def _confirmed(row: Row) -> bool:
    return row[3][-1] == b"1"


def _one_each(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield one bar for each minute; of two that differ the first, after a word."""
    last: Row | None = None
    for row in rows:
        if last is not None and row[:3] == last[:3]:
            _log.warning("two bars of %s that start at %d differ: the first is taken", row[2].decode(), row[0])
            continue
        last = row
        yield row
