"""Rows of bulk files by the block: what the kernel makes of them is what Python makes of each."""

import random
from types import SimpleNamespace

import pytest
from bulk_files import GENERATIONS
from harness.fuzz_bulk import BulkRoads

from okxcli.exchanges.okx.bulk_files import raw_lines
from okxcli.exchanges.okx.bulk_files.everyday import Everyday, newlines, trade_pushes
from okxcli.exchanges.okx.bulk_files.layouts import Layout, read_layout
from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
from okxcli.runtime.road import kernel

MIDNIGHT = 1_779_033_600_000
built = pytest.mark.skipif(kernel("exchanges.okx.bulk_files._rows") is None, reason="no kernels")


def fills(count, first=734_864_333):
    return [
        SimpleNamespace(
            trade_id=first + n, price=f"{100 + n % 7}.50", size="0.25", side="sell", ts=MIDNIGHT + n * 700, source=n % 3
        )
        for n in range(count)
    ]


def parts(name, count=50):
    """Return the layout of a generation, and its rows as a block."""
    data = GENERATIONS[name]("BTC-USDT", fills(count))
    head, _, rest = data.partition(b"\n")
    layout = read_layout(head, "BTC-USDT")
    return layout, rest if layout.header else data


def test_both_roads_make_the_same_of_bulk_files(tmp_path, capsys):
    """Files of every generation: damaged rows and headers, gaps, duplicates, any order, wild times, several symbols."""
    roads = BulkRoads("suite", tmp_path)
    roads.run(80)
    assert not roads.tally.wrong, "\n".join(roads.tally.findings[:3])
    assert roads.tally.accepted > 30 or kernel("exchanges.okx.bulk_files._rows") is None


@built
@pytest.mark.parametrize("name", GENERATIONS)
def test_every_generation_is_taken(name):
    """Whole blocks, with nothing left to Python: one stretch of ids, and the raw lines of each row."""
    layout, text = parts(name)
    everyday = Everyday(layout)
    assert everyday.scan(text, 0) == (len(text), [(b"BTC-USDT", 734_864_333, 734_864_382, MIDNIGHT, MIDNIGHT + 34_300)])
    for merged in (False, True):
        lines, count, end = everyday.pushes(text, 0, [b"BTC-USDT"], merged)
        assert (count, end) == (50, len(text))
        assert lines[:-1].split(b"\n") == trade_pushes(layout.rows(text), merged)
    assert everyday.pushes(text, 0, [b"ETH-USDT", b"X" * 300], False) == (b"", 0, len(text))


@built
def test_a_block_is_taken_up_to_the_first_odd_row():
    """The rest is left, and what is no offset or no set of columns is refused."""
    layout, text = parts("modern", 5)
    rows = text.splitlines(keepends=True)
    odd = rows[0] + rows[1] + b"\n" + b"".join(rows[2:])[:-1]
    everyday = Everyday(layout)
    at = len(rows[0] + rows[1])
    assert everyday.scan(odd, 0)[0] == at
    assert everyday.pushes(odd, 0, [b"BTC-USDT"], False)[1:] == (2, at)
    assert everyday.scan(odd, at + 1)[1] == [(b"BTC-USDT", 734_864_335, 734_864_336, MIDNIGHT + 1400, MIDNIGHT + 2100)]
    _rows = kernel("exchanges.okx.bulk_files._rows")
    for at, columns, symbol in ((-1, b"sidpzt", b""), (len(odd) + 1, b"sidpzt", b""), (0, b"sidpz", b""),
                                (0, b"sidpzt", b"X"), (0, b"idpzt", b""), (0, b"idpzt", b"X" * 65),
                                (0, b"sidpzt" + b"-" * 27, b"")):  # fmt: skip
        with pytest.raises(ValueError, match=r"offset|columns"):
            _rows.scan(odd, at, columns, symbol)
    with pytest.raises(ValueError, match="columns"):
        _rows.pushes(odd, 0, b"sidpzt", b"", b"", b"x" * 33, b"file")


@built
@pytest.mark.parametrize("name", GENERATIONS)
def test_a_row_that_is_spelt_anew_is_left(name):
    """What the usual form does not know has its numbers in their shortest spelling."""
    layout, text = parts(name, 1)
    everyday = Everyday(layout)
    for time, taken in ((1_299_999_999_999, 0), (1_300_000_000_000, 1), (3_999_999_999_999, 1), (4_000_000_000_000, 0)):
        row = text.replace(b"%d" % MIDNIGHT, b"%d" % time)
        assert (everyday.scan(row, 0)[0] > 0) == bool(taken)
        assert everyday.pushes(row, 0, [b"BTC-USDT"], False)[1] == taken
        assert (layout.rows(row) is not None) == bool(taken)


@built
def test_stretches_are_told_by_symbol_in_the_order_of_their_first_rows():
    """A new one begins where the id is not the next of its symbol."""
    rows = [("A-X", 5), ("B-X", 9), ("A-X", 6), ("A-X", 8), ("B-X", 10), ("A-X", 7)]
    text = b"".join(f"{name},{number},buy,1,2,{MIDNIGHT - at}\n".encode() for at, (name, number) in enumerate(rows))
    layout = read_layout(b"instrument_name,trade_id,side,price,size,created_time", None)
    assert Everyday(layout).scan(text, 0)[1] == [
        (b"A-X", 5, 6, MIDNIGHT - 2, MIDNIGHT),
        (b"B-X", 9, 10, MIDNIGHT - 4, MIDNIGHT - 1),
        (b"A-X", 8, 8, MIDNIGHT - 3, MIDNIGHT - 3),
        (b"A-X", 7, 7, MIDNIGHT - 5, MIDNIGHT - 5),
    ]
    many = b"".join(b"S%d-X,%d,buy,1,2,%d\n" % (n, n + 1, MIDNIGHT) for n in range(1000))
    assert [one.symbol for one in Everyday(layout).scan(many, 0)[1]] == [b"S%d-X" % n for n in range(1000)]


@built
def test_a_layout_that_the_kernel_does_not_know():
    """Bars, more columns than it has places for, a name that is too long: it takes nothing of it."""
    bars = b"instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm"
    wide = b"instrument_name,trade_id,side,price,size,created_time" + b",x" * 40
    for head, symbol in ((bars, None), (wide, None), (b"trade_id,side,size,price,created_time", "X" * 70)):
        assert read_layout(head, symbol).letters == b""
        assert Everyday(read_layout(head, symbol)).scan(b"1,2\n", 0) == (0, [])


def test_newlines_are_counted():
    """As bytes.count does."""
    rng = random.Random(4)
    for size in (0, 1, 15, 16, 17, 5000, 20_000):
        text = bytes(rng.choice(b"\n\n,1\x8a") for _ in range(size))
        low, high = sorted(rng.randrange(size + 1) for _ in range(2))
        assert newlines(text, low, high) == text.count(b"\n", low, high)


@built
def test_blocks_of_a_span_are_not_looked_at_row_by_row(tmp_path, monkeypatch):
    """Before it begins nothing but the last row of a block is read, and inside of it no row at all."""
    path = tmp_path / "BTC-USDT-trades-2026-05-18.csv"
    path.write_bytes(GENERATIONS["modern"]("BTC-USDT", fills(20_000)))
    monkeypatch.setattr(raw_lines._Window, "_place", counted := Counted(raw_lines._Window._place))
    monkeypatch.setattr(Layout, "rows", looked := Counted(Layout.rows, lambda text: text.count(b"\n")))
    reader = Archive([path], ["BTC-USDT"], since_ms=MIDNIGHT + 7_000_000, until_ms=MIDNIGHT + 99_000_000)
    lines = b"\n".join(line for some in reader.lines() for line in some)
    assert lines.count(b"\n") == 10_000  # those of the span, and the fill before it
    assert b'"tradeId":"%d"' % (734_864_333 + 9_999) in lines.split(b"\n")[0]
    assert set(counted.given) == {"before", "", "inside"}
    assert looked.total < 6_000


class Counted:
    """A method that keeps what it gives, and how much it is given."""

    def __init__(self, method, size=lambda *_: 0):
        self.given, self.total, self._method, self._size = [], 0, method, size

    def __get__(self, owner, kind):
        def call(*arguments):
            self.total += self._size(*arguments)
            self.given.append(self._method(owner, *arguments))
            return self.given[-1]

        return call
