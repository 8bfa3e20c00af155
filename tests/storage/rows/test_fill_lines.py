"""Everyday lines of fills as rows, in Python: what each line says, whatever stands between them."""

import random
import time

import pytest
from harness.fuzz_roads import Roads
from harness.fuzz_rows import NOW, stored
from harness.tally import Tally
from storage_samples import T0, book, trade

from okxcli.core.codec import encode
from okxcli.storage.rows.fill_lines import FillLines


def lines(*many):
    return b"".join(encode(one) + b"\n" for one in many)


def test_rows_of_markets_by_chance():
    """With damaged lines among them, of several symbols, in pieces of any size."""
    roads, tally = Roads("rows"), Tally("rows")
    for size in (1, 2, 5, 30, 300) * 8:
        stored(roads.block(size), random.Random(size), tally)
    assert not tally.wrong, "\n".join(tally.findings[:3])


@pytest.mark.parametrize(
    "odd",
    [
        trade(4, origin="trades"), trade(4, origin="file-merged"), trade(4, count=2), book(), trade(4, price="1e-29"),
        trade(4, timestamp=T0, received=T0 - 3_600_001), trade(4, timestamp=NOW + 86_400_001, received=None),
        trade(4, symbol="A_B"), trade(4, symbol="A.B"), trade(2**62), trade(4, source=1000), trade(4, price="0"),
        trade(4, received=4_102_444_800_000), trade(4, timestamp=1_262_303_999_999, received=None),
    ],
    ids=lambda line: encode(line).decode()[-140:],
)  # fmt: skip
def test_other_lines_are_left(odd):
    """They end what is taken, alone and among others."""
    reader = FillLines()
    block = lines(trade(1), trade(2), odd, trade(5))
    end, size, rows = reader.take(block, 0, NOW, 100)
    assert (block[end:], size, [(run.first, run.last) for run in rows]) == (lines(odd, trade(5)), 2, [(1, 2)])
    assert reader.take(block, end, NOW, 100) == (end, 0, [])
    assert reader.take(block, end + len(lines(odd)), NOW, 100)[1] == 1


def test_a_line_is_whole_or_left():
    """What stands before or behind it on its line makes another one of it; so does a newline that is missing."""
    good = lines(trade(1))
    for block in (b" " + good, good[:-1], good[:-1] + b" \n", b"\n" + good, b"\xff" + good, good[:-1] + b"\r\n", b""):
        assert FillLines().take(block, 0, NOW, 100) == (0, 0, [])
    assert FillLines().take(good + good[:-1], 0, NOW, 100)[:2] == (len(good), 1)


def test_many_odd_lines_do_not_make_it_slow():
    """Each is met once, not the whole block each time."""
    block = b"".join(lines(trade(n), trade(n, origin="trades")) for n in range(1, 10_000))
    reader, at, taken, began = FillLines(), 0, 0, time.process_time()
    while at < len(block):
        at, size, _ = reader.take(block, at, NOW, 100_000)
        taken += size
        at = block.index(b"\n", at) + 1
    assert taken == 9_999
    assert time.process_time() - began < 20
