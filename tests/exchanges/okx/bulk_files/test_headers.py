"""The first line of a bulk file, damaged: no row is lost with it without a word."""

import logging
import random
from types import SimpleNamespace

import pytest
from bulk_files import CHINESE, GENERATIONS, MODERN, modern, write

from okxcli.exchanges.okx.bulk_files.duckdb_reader import opened
from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
from okxcli.exchanges.okx.bulk_files.unpacking import MAX_LINE, Table, tables

STEM = "BTC-USDT-trades-2026-05-18"
MIDNIGHT = 1_779_033_600_000
FILLS = [
    SimpleNamespace(trade_id=100 + n, price=f"10.{n + 1}", size=f"0.{n + 1}", side="buy", ts=MIDNIGHT + n, source=0)
    for n in range(5)
]


def read(path):
    """Return the ids that a file gives, and its reader."""
    reader = Archive([path], ["BTC-USDT"])
    lines = b"\n".join(line for some in reader.lines() for line in some)
    return [fill.trade_id for fill in FILLS if b'"tradeId":"%d"' % fill.trade_id in lines], reader


def damaged(header, rng):
    """Return a header with one to three bytes or pieces of it changed."""
    some = bytearray(header)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, other = sorted(rng.randrange(len(some) + 1) for _ in range(2))
        match rng.randrange(4):
            case 0:
                some[at : at + 1] = rng.choice([b"\n", b",", b'"', b"\0", b"1", b"\r", b" ", b"a"])
            case 1:
                some.insert(at, rng.choice(b'\n,"\x0012\r a'))
            case 2:
                del some[at : at + rng.choice([1, 2, 5, 30])]
            case _:
                some[at:at] = some[at:other][:20]
    return bytes(some)


@pytest.mark.parametrize("name", ["chinese", "modern", "newest"])
def test_whatever_befalls_a_header(tmp_path, caplog, name):
    """Each row is given out, or told as damaged, or the whole file is left out with a word."""
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(name)
    data = GENERATIONS[name]("BTC-USDT", FILLS)
    body = b"".join(data.splitlines(keepends=True)[-len(FILLS) :])
    whole = 0
    for _ in range(400):
        path = write(tmp_path, STEM, damaged(data.removesuffix(body), rng) + body, packed=False)
        ids, reader = read(path)
        assert reader.unreadable or len(ids) + reader.damaged >= len(FILLS), path.read_bytes()
        whole += len(ids) == len(FILLS)
    assert whole > 20


@pytest.mark.parametrize("head", [(MODERN + ",source").encode(), CHINESE.encode("gbk")], ids=["newest", "chinese"])
def test_a_row_in_the_line_of_the_header(tmp_path, caplog, head):
    """That row is told, the others are read; DuckDB does not take the file."""
    make = GENERATIONS["chinese" if b"/" in head else "newest"]
    data = make("BTC-USDT", FILLS).replace(head + b"\r", head).replace(head + b"\n", head)
    path = write(tmp_path, STEM, data)
    ids, reader = read(path)
    assert (ids, reader.damaged) == ([fill.trade_id for fill in FILLS[1:]], 1)
    assert "row 1: a row runs on in the line of the header" in caplog.text
    with opened(tables(path)[0], ["BTC-USDT"]) as file:
        assert file is None


@pytest.mark.parametrize("lead", [b"\n", b"\r\n \n", b"\n" * (2 * MAX_LINE)], ids=["one", "two", "many"])
def test_blank_lines_before_the_header(tmp_path, lead):
    """They are passed over, and rows are told by their place in the file."""
    data = lead + modern("BTC-USDT", FILLS).replace(b"buy", b"bye", 1)
    path = write(tmp_path, STEM, data, packed=False)
    ids, reader = read(path)
    assert (ids, reader.damaged) == ([fill.trade_id for fill in FILLS[1:]], 1)
    with opened(Table(path, None), ["BTC-USDT"]) as file:
        assert file is None
    path.write_bytes(data.replace(b"bye", b"buy"))
    with opened(Table(path, None), ["BTC-USDT"]) as file:
        assert file is not None and file.fills("BTC-USDT").last == FILLS[-1].trade_id
