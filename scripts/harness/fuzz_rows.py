"""The rows of blocks of trade lines, by the kernel and by Python, beside what each line says."""

import random
from collections.abc import Callable

from harness.copy_rows import text_of
from harness.tally import Tally
from okxcli.core.codec import decode
from okxcli.core.model import StandardizedTrade
from okxcli.errors import InvalidLine
from okxcli.storage.ledger.checksum import checksum
from okxcli.storage.rows.fill_block import FillBlock, FillRows, FillScanner
from okxcli.storage.rows.fill_lines import FillLines
from okxcli.storage.rows.row_format import trade_rows
from okxcli.storage.schema.partitions import DAY_MS
from okxcli.storage.write.trade_tables import is_merged

NOW = 1_747_087_200_000
#: Takes lines of a block from an offset on, at most so many.
_Take = Callable[[bytes, int, int], FillBlock]


def stored(block: bytes, rng: random.Random, tally: Tally) -> None:
    """Compare the rows of a block, and what the ledger is told of them, with its lines."""
    scanner, pieces = FillScanner(), FillLines()

    def kernel(block: bytes, at: int, most: int) -> FillBlock:
        return scanner.fills(block, at, NOW, most)

    def python(block: bytes, at: int, most: int) -> FillBlock:
        end, size, rows = pieces.take(block, at, NOW, most)
        return FillBlock(block[at:end], size, rows)

    for take in (kernel, python):
        most = rng.choice([1, 3, 40, 10**6])
        found = list(_taken(block, take, most))
        alone = [line for line in block.splitlines(keepends=True) if take(line, 0, 1).size]
        if [line for one in found for line in one.lines.splitlines(keepends=True)] != alone:
            tally.disagree(f"{take.__name__} takes other lines together than alone, at most {most}", block)
        for one in found:
            _compare(one, tally, take.__name__)


def _taken(block: bytes, take: _Take, most: int) -> list[FillBlock]:
    at = 0
    found = []
    while at < len(block):
        some = take(block, at, most)
        if some.size != some.lines.count(b"\n") or some.size > most:
            raise AssertionError(f"{some.size} lines in {some.lines!r}, at most {most}")
        at += len(some.lines)
        if some.size:
            found.append(some)
        if not some.size:
            at = block.index(b"\n", at) + 1
    return found


def _compare(block: FillBlock, tally: Tally, who: str) -> None:
    groups: dict[tuple[str, str], list[list[StandardizedTrade]]] = {}
    for line in block.lines.splitlines():
        try:
            trade = decode(line, NOW)
        except InvalidLine as reason:
            tally.disagree(f"{who} made a row, and {reason}", line)
            return
        if not isinstance(trade, StandardizedTrade) or is_merged(trade):
            tally.disagree(f"{who} made a row of the tape", line)
            return
        runs = groups.setdefault((trade.exchange, trade.symbol), [])
        before = runs[-1][-1] if runs else None
        if (
            before is None
            or trade.trade_id != before.trade_id + 1
            or trade.timestamp // DAY_MS != before.timestamp // DAY_MS
        ):
            runs.append([])
        runs[-1].append(trade)
    if block.rows is None:  # a checksum that the kernel has no room for
        return
    expected = [_expected(run) for runs in groups.values() for run in runs]
    found = [run._replace(rows=text_of(run.rows)) if isinstance(run.rows, bytes) else run for run in block.rows]
    if sorted(found) != sorted(expected):
        tally.disagree(f"{who} made {found} instead of {expected}"[:3000], block.lines)


def _expected(run: list[StandardizedTrade]) -> FillRows:
    times = [trade.timestamp for trade in run]
    step = max(max(times[: i + 1]) - at for i, at in enumerate(times))
    first, last = run[0], run[-1]
    return FillRows(
        first.exchange, first.symbol, first.trade_id, last.trade_id, min(times), max(times), step,
        times[0] // DAY_MS, checksum(run), "".join(trade_rows(run)),
    )  # fmt: skip
