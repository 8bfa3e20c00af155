"""Rows of bulk files in the order of their keys, in bounded memory: sorted runs in temporary files, merged.

Only for files whose rows do not rise, or that overlap; the others are read straight through.
"""

import tempfile
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import BinaryIO, cast

from okxcli.errors import OutputError
from okxcli.exchanges.okx.bulk_files.layouts import Row

#: Rows sorted in memory at a time, some 15 MiB; and runs merged at a time, an open file each.
RUN_ROWS = 30_000
MAX_RUNS = 64
_BATCH = 5_000

#: (symbol, key, the order in which it came, row): rows of one key keep their order.
_Item = tuple[bytes, int, int, Row]


def in_order(rows: Iterable[Row], run_rows: int = RUN_ROWS) -> Iterator[Row]:
    """Yield `rows` by symbol and key; those of the same key as they came, one that says the same as another once.

    Raises:
        OutputError: there is no room for the temporary files.
    """
    numbered = ((row[2], row[0], number, row) for number, row in enumerate(rows))
    runs: list[BinaryIO] = []
    try:
        while batch := list(islice(numbered, run_rows)):
            batch.sort()
            if len(batch) < run_rows and not runs:
                yield from _once(batch)
                return
            runs.append(_spilled(batch))
            del batch
            if len(runs) == MAX_RUNS:
                runs = [_spilled(merge(*map(_read, runs)), runs)]
        yield from _once(merge(*map(_read, runs)))
    except OSError as error:
        raise OutputError(f"cannot sort rows in {tempfile.gettempdir()}: {error.strerror}. Set TMPDIR") from None
    finally:
        for run in runs:
            run.close()


def _once(items: Iterable[_Item]) -> Iterator[Row]:
    """Leave out rows that say the same as one before them."""
    key: tuple[bytes, int] | None = None
    seen: list[Row] = []
    for symbol, number, _, row in items:
        if key != (symbol, number):
            key, seen = (symbol, number), [row]
        elif any(same(row, other) for other in seen):
            continue
        else:
            seen.append(row)
        yield row


def same(a: Row, b: Row) -> bool:
    """Whether two rows of one key say the same; a `source`, the fourth cell of a trade, may stand in one alone."""
    if a[:3] != b[:3]:
        return False
    return a[3] == b[3] or (len(a[3]) != len(b[3]) and a[3][:3] == b[3][:3])


def _spilled(items: Iterable[_Item], instead_of: list[BinaryIO] | None = None) -> BinaryIO:
    """Write items in order to a temporary file that is gone when it is closed; close the runs that it replaces."""
    run = cast(BinaryIO, tempfile.TemporaryFile(prefix="okx-sort-"))  # noqa: SIM115 -- closed by whoever reads it
    try:
        iterator = iter(items)
        while batch := list(islice(iterator, _BATCH)):
            run.write(
                b"".join(
                    b"%d,%d,%d,%b,%b\n" % (key, order, row[1], symbol, b",".join(row[3]))
                    for symbol, key, order, row in batch
                )
            )
        run.seek(0)
    except BaseException:
        run.close()
        raise
    for old in instead_of or []:
        old.close()
    return run


def _read(run: BinaryIO) -> Iterator[_Item]:
    for line in run:
        key, order, time, symbol, *cells = line[:-1].split(b",")
        yield symbol, int(key), int(order), (int(key), int(time), symbol, tuple(cells))
