"""`okx books` as a process in a pipe."""

import json
import subprocess
import sys

import pytest
from recordings import SHARED, needs_shared
from second_book import SecondBook, in_order

T0 = 1_747_087_200_000
SNAPSHOT = (
    '{"type":"book_update","exchange":"okx","symbol":"BTC-USDT","timestamp":1747087200100,"received":1747087200150,'
    '"action":"snapshot","seq_id":10,"prev_seq_id":-1,"bids":[["99.90","1"],["99.8","2"]],'
    '"asks":[["100.1","3"],["100.2","4"]],"origin":"books"}'
)


def update(seq, before, at, bids=(), asks=()):
    line = {
        "type": "book_update", "exchange": "okx", "symbol": "BTC-USDT", "timestamp": T0 + at, "received": T0 + at + 50,
        "action": "update", "seq_id": seq, "prev_seq_id": before, "bids": bids, "asks": asks, "origin": "books",
    }  # fmt: skip
    return json.dumps(line)


def run(*arguments, data="", command="books"):
    line = [sys.executable, "-m", "okxcli", command, *map(str, arguments)]
    data = data.encode() if isinstance(data, str) else data
    return subprocess.run(line, input=data, capture_output=True, check=False, timeout=60)


def counts_of(done, command="books"):
    return json.loads(done.stderr.decode().splitlines()[-1].removeprefix(f"okx {command}: "))


LINES = [
    SNAPSHOT,
    update(11, 10, 900, [["99.9", "0"]]),
    update(12, 11, 1000, [], [["100.1", "5"]]),
    update(13, 12, 2000),
]


def test_book_lines_as_documented():
    """The keys of a line, those of measures behind them, and the counts at the end."""
    done = run("--every", "1s", "--depth", "1", "--measure", "spread,depth=10", data="\n".join(LINES))
    assert done.returncode == 0
    assert done.stdout == (
        b'{"type":"book","exchange":"okx","symbol":"BTC-USDT","timestamp":1747087201000,"received":1747087201050,'
        b'"seq_id":11,"bids":[["99.8","2"]],"asks":[["100.1","3"]],"origin":"books","spread":"0.3",'
        b'"bid_depth_10bp":"0","ask_depth_10bp":"0"}\n'
        b'{"type":"book","exchange":"okx","symbol":"BTC-USDT","timestamp":1747087202000,"received":1747087202050,'
        b'"seq_id":12,"bids":[["99.8","2"]],"asks":[["100.1","5"]],"origin":"books","spread":"0.3",'
        b'"bid_depth_10bp":"0","ask_depth_10bp":"0"}\n'
    )
    counts = counts_of(done)
    assert (counts["lines_in"], counts["lines_out"], counts["snapshots"], counts["updates"]) == (4, 2, 1, 3)


def test_the_same_input_gives_the_same_bytes_however_it_is_cut():
    """A pipe that trickles, and a file."""
    whole = run("--every", "100ms", "--fill", data="\n".join(LINES)).stdout
    process = subprocess.Popen(
        [sys.executable, "-m", "okxcli", "books", "--every", "100ms", "--fill", "-q"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    for part in ("\n".join(LINES) + "\n").encode().splitlines(keepends=True):
        process.stdin.write(part[:40])
        process.stdin.flush()
        process.stdin.write(part[40:])
        process.stdin.flush()
    assert process.communicate(timeout=60)[0] == whole
    assert whole.count(b"\n") == 19


def test_a_broken_chain_is_told_and_nothing_is_written_until_the_next_snapshot():
    """On standard error, with the symbol, the channel and the numbers."""
    later = SNAPSHOT.replace('"seq_id":10', '"seq_id":40').replace("1747087200100", "1747087204000")
    lines = [SNAPSHOT, update(12, 11, 200), update(13, 12, 300), later, update(41, 40, 4100, [["99.7", "1"]])]
    done = run(data="\n".join(lines))
    assert [json.loads(line)["seq_id"] for line in done.stdout.splitlines()] == [10, 40, 41]
    told = done.stderr.decode().splitlines()[:-1]
    assert "BTC-USDT books: invalid: an update that follows on 11, and the book is at 10" in told[0]
    assert "BTC-USDT books: good from here on" in told[1]
    assert done.returncode == 0


def test_a_bad_line_breaks_its_own_book_alone():
    """It is refused; what follows on it is a gap, and another symbol knows nothing of it."""
    other = [line.replace("BTC-USDT", "ETH-USDT") for line in LINES]
    bad = LINES[1].replace('"0"', '"-1"')
    done = run("-q", data="\n".join([LINES[0], other[0], bad, *LINES[2:], *other[1:]]))
    assert done.returncode == 65
    assert b"line 3: book level out of range" in done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["seq_id"] for one in found if one["symbol"] == "BTC-USDT"] == [10]
    assert [one["seq_id"] for one in found if one["symbol"] == "ETH-USDT"] == [10, 11, 12, 13]


def test_other_lines_are_dropped_or_passed_and_the_site_is_passed_on():
    """A simulation stays one; with --pass each line comes behind the book that it ended."""
    site, trade = '{"type":"site","site":"local"}', '{"type":"note"}'
    data = "\n".join([site, trade, *LINES[:3]])
    assert run("--every", "1s", data=data).stdout.splitlines()[0] == site.encode()
    passed = run("--every", "1s", "--pass", data=data).stdout.decode().splitlines()
    assert [passed[n] for n in (0, 1, 2, 3, 5)] == [site, trade, *LINES[:3]]
    assert json.loads(passed[4])["type"] == "book"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--every", "1ms"], "no interval: '1ms'"),
        (["--every", "2d"], "from 10ms to 1d"),
        (["--every", "soon"], "not a duration: 'soon'"),
        (["--fill"], "--fill is for an interval"),
        (["--measure", "middle"], "no such measure: 'middle'"),
        (["--depth", "0"], "0 is not in the range"),
    ],
)
def test_wrong_options(arguments, word):
    """One line, exit 2."""
    done = run(*arguments)
    assert done.returncode == 2
    assert word in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@needs_shared
def test_the_recorded_book_through_the_pipe():
    """`okx normalize | okx books`: at each message what the second book has, as OKX spells it."""
    messages = in_order(SHARED / "ws" / "fastmoon-2024-06-01.btc-usdt-swap.books.json.gz")
    raw = "\n".join(json.dumps(message) for message in messages)
    lines = run("-q", data=raw, command="normalize").stdout
    books = [json.loads(line) for line in run("-q", data=lines).stdout.splitlines()]
    second, expected = SecondBook(), []
    for message in messages:
        second.take(message)
        sides = {name: [list(level) for level in second.levels(name)] for name in ("bids", "asks")}
        expected.append(sides | {"seq_id": message["data"][0]["seqId"], "timestamp": int(message["data"][0]["ts"])})
    assert len(books) == 380
    assert [{key: book[key] for key in one} for book, one in zip(books, expected, strict=True)] == expected
