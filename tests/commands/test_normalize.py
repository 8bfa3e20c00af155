"""`okx normalize` as a process in a pipe."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import recordings

TRADE = (
    '{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"%d","px":"102537.90",'
    '"sz":"0.5","side":"sell","source":"0","ts":"1747087163557"}]}'
)


def run(*arguments, data=b"", **options):
    command = [sys.executable, "-m", "okxcli", "normalize", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60, **options)


def ids(output):
    return [json.loads(line)["trade_id"] for line in output.splitlines()]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"not json", "not JSON"),
        (b"[1,2]", "not a JSON object"),
        ((TRADE % 2).encode()[:100], "not JSON"),
        (b'{"x":"' + b"y" * (1 << 20) + b'"}', "longer than 1 MiB"),
        ((TRADE % 2).encode().replace(b"sell", b"s\xffll"), "not UTF-8"),
        ((TRADE % 2).encode().replace(b"sell", b"s\0ll"), "NUL bytes"),
        ((TRADE % 2).encode().replace(b"102537.90", b"NaN"), "NaN"),
    ],
)
def test_a_bad_line_costs_itself_alone(bad, told):
    """It is reported with its number and reason, counted, passed over; its neighbours come out; exit 65."""
    done = run(data=(TRADE % 1).encode() + b"\n" + bad + b"\n" + (TRADE % 3).encode() + b"\n")
    assert (done.returncode, ids(done.stdout)) == (65, [1, 3])
    report, counts = done.stderr.decode().splitlines()
    assert report.startswith("okx normalize: line 2: ")
    assert told in report
    assert json.loads(counts.removeprefix("okx normalize: ")) == {
        "lines_in": 3,
        "lines_out": 2,
        "rejected": 1,
        "control": 0,
        "other_channels": 0,
    }


def test_good_rows_of_a_bad_line_come_out():
    """A push of two fills, one of them bad, gives the other one and one report."""
    both = (TRADE % 1).replace("]}", ',{"instId":"BTC-USDT"}]}')
    done = run(data=both.encode())
    assert (done.returncode, ids(done.stdout)) == (65, [1])
    assert b"okx normalize: line 1: trades-all, row 2: " in done.stderr


def test_strict_stops_at_the_first_bad_line_and_rejects_are_kept(tmp_path):
    """--strict ends the run there; --rejects keeps the line with its reason; --stats the counts."""
    data = f"{TRADE % 1}\nbad\n{TRADE % 3}\n".encode()
    strict = run("--strict", data=data)
    assert (strict.returncode, ids(strict.stdout)) == (65, [1])
    assert b"line 2: not JSON" in strict.stderr
    assert b"Traceback" not in strict.stderr
    rejects, stats = tmp_path / "rejects", tmp_path / "stats"
    done = run("--rejects", rejects, "--stats", stats, "-q", data=data)
    assert done.stderr.count(b"\n") == 1
    row = json.loads(rejects.read_text())
    assert (row["line"], row["raw"]) == (2, "bad")
    assert json.loads(stats.read_text())["rejected"] == 1


def test_files_packed_or_not_and_their_names(tmp_path):
    """Files are read one after the other, .gz as what it holds; a report names the file."""
    plain, packed = tmp_path / "a.raw", tmp_path / "b.raw.gz"
    plain.write_text(TRADE % 1 + "\nbad\n")
    packed.write_bytes(gzip.compress((TRADE % 2).encode()))
    out = tmp_path / "out.gz"
    done = run(plain, packed, "-o", out)
    assert (done.returncode, done.stdout, ids(gzip.decompress(out.read_bytes()))) == (65, b"", [1, 2])
    assert f"okx normalize: {plain}: line 2: ".encode() in done.stderr


def test_a_recording_and_what_is_not_taken():
    """A real capture gives its fills, tickers and books; the channel that has no line is told at the end."""
    raw = [*recordings.captured(recordings.DATA / "okx-2022-05-13.ws.txt.gz")]
    raw += [b'{"arg":{"channel":"status"},"data":[{"title":"maintenance","ts":"1652459225000"}]}'] * 9
    done = run(data=b"\n".join(raw))
    assert done.returncode == 0
    found = Counter(json.loads(line)["type"] for line in done.stdout.splitlines())
    assert found == {"trade": 74, "ticker": 28, "book_update": 9}
    assert b"status: 9 messages of a channel that okx does not normalize" in done.stderr


def test_a_trickle_leaves_at_once():
    """A line that comes alone is written before the next one, or the end, comes."""
    command = [sys.executable, "-m", "okxcli", "normalize", "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for number in (1, 2, 3):
            process.stdin.write((TRADE % number).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["trade_id"] == number
        process.stdin.close()
        assert process.wait(60) == 0


def test_nobody_reads():
    """A reader that leaves ends it quietly, as killed by SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "okxcli", "normalize"],
        input=(TRADE % 1).encode(),
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        timeout=20,
    )
    os.close(write)
    assert done.returncode == -13
    assert b"Traceback" not in done.stderr


def test_output_is_canonical_and_decodes_again(tmp_path):
    """The same input gives the same bytes, and normalising twice is refused with a hint."""
    path = Path(tmp_path / "x")
    path.write_text(TRADE % 7)
    line = run(path).stdout
    assert line == run(path).stdout
    assert b'"price":"102537.9","size":"0.5"' in line
    again = run(data=line)
    assert again.returncode == 65
    assert b"not a raw line" in again.stderr
