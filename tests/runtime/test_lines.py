"""Lines in and out, filters and signals, as real processes with pipes."""

import fcntl
import gzip
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.errors import InvalidLine
from okxcli.runtime.filters import LineFilter
from okxcli.runtime.lines import MAX_LINE, LineReader, Overlong
from okxcli.runtime.signals import Lifecycle

FILTER = """
import sys
from okxcli.errors import InvalidLine
from okxcli.runtime.filters import LineFilter
run = LineFilter("test", strict="--strict" in sys.argv, quiet="-q" in sys.argv)
def handle(line):
    if line.startswith(b"bad"):
        raise InvalidLine("it is bad")
    if line == b"bug":
        line[len(line)]
    run.out.line(line)
ticks = []
def tick():
    ticks.append(1)
    return 0.05 if "--tick" in sys.argv else None
from okxcli.cli import _say
from okxcli.errors import OkxError
try:
    code = run.run(handle, tick, counts=lambda: {"ticks": len(ticks)})
except OkxError as error:
    _say(f"okx test: {error}")
    code = error.exit_code
sys.exit(code)
"""


def start(*args, stdin=subprocess.PIPE, **kwargs):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FILTER), *args],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, **kwargs
    )  # fmt: skip


def closing(err):
    return json.loads(err.decode().splitlines()[-1].split(": ", 1)[1])


def taken(process):
    """Wait until no signal is on its way to a process any more (Linux tells), and a moment for its handler."""
    status = Path(f"/proc/{process.pid}/status")
    end = time.monotonic() + 30
    while status.exists() and process.poll() is None:
        if not re.search(r"^(Shd|Sig)Pnd:\s*0*[1-9a-f]", status.read_text(), re.MULTILINE):
            break
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.3)


def test_bad_lines_are_told_and_passed_over():
    """Each with its number and reason; the good ones around it come out; exit 65 at the end."""
    out, err = (process := start()).communicate(b"one\nbad 1\n\ntwo\r\nbad 2\nthree")
    assert out == b"one\ntwo\r\nthree\n"
    assert process.returncode == 65
    told = err.decode().splitlines()
    assert told[:2] == ["okx test: line 2: it is bad", "okx test: line 5: it is bad"]
    assert closing(err) | {"ticks": 0} == {"lines_in": 5, "lines_out": 3, "rejected": 2, "ticks": 0}


def test_a_bug_costs_its_line_alone():
    """A line that our own code stumbles over is told like a bad one, and its neighbours come out."""
    out, err = (process := start()).communicate(b"one\nbug\ntwo\n")
    assert out == b"one\ntwo\n"
    assert process.returncode == 65
    assert err.decode().splitlines()[0] == "okx test: line 2: a bug of okx: IndexError: index out of range"


def test_strict_stops_at_the_first():
    """One line on stderr, exit 65, what came before is written."""
    out, err = (process := start("--strict", "-q")).communicate(b"one\nbad\ntwo\n")
    assert process.returncode == 65
    assert out in (b"one\n", b"")
    assert err.decode().splitlines() == ["okx test: line 2: it is bad"]


def test_a_line_without_end_is_thrown_away():
    """A line of 40 MiB is one reject, not 40 MiB of memory; its neighbours come out."""
    process = start()
    out, err = process.communicate(b"one\n" + b"x" * (40 << 20) + b"\ntwo\n" + b"y" * (2 << 20))
    assert out == b"one\ntwo\n"
    assert process.returncode == 65
    assert [line.split(": ", 1)[1] for line in err.decode().splitlines()[:2]] == [
        "line 2: longer than 1 MiB", "line 4: longer than 1 MiB"]  # fmt: skip


def test_a_trickle_leaves_at_once():
    """Output does not wait for a block to fill when input runs dry."""
    process = start()
    for line in (b"one\n", b"two\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
    process.communicate()
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="pipes have one size elsewhere")
@pytest.mark.parametrize(
    ("size", "lines", "wanted"), [(None, 50_000, 1 << 19), (None, 1, 1 << 16), (1 << 20, 50_000, 1 << 20)]
)
def test_a_flood_widens_its_pipes(size, lines, wanted):
    """Those that come in and go out, and never makes one smaller; those of a trickle stay as they are."""
    process = start()
    ends = (process.stdin, process.stdout)
    if size is not None:
        for end in ends:
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, size)
    reader = threading.Thread(target=lambda: [process.stdout.readline() for _ in range(lines)])
    reader.start()
    process.stdin.write(b"a line of twenty so\n" * lines)
    process.stdin.flush()
    reader.join(timeout=60)
    assert [fcntl.fcntl(end, fcntl.F_GETPIPE_SZ) for end in ends] == [wanted, wanted]
    process.communicate()
    assert process.returncode == 0


def test_ticks_come_without_input():
    """A timer runs while nothing comes in."""
    process = start("--tick")
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"one\n"
    time.sleep(1.5)
    _, err = process.communicate()
    assert closing(err)["ticks"] >= 5


def test_nobody_reads():
    """A reader that leaves ends the filter quietly, as killed by SIGPIPE."""
    process = start()
    process.stdout.close()
    try:
        for _ in range(200):
            process.stdin.write(b"x" * 1000 + b"\n")
            process.stdin.flush()
    except BrokenPipeError:
        pass
    process.stdin = None
    assert process.wait(60) == -signal.SIGPIPE
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("signals", "status"),
    [([signal.SIGINT], 0), ([signal.SIGINT, signal.SIGINT], -signal.SIGINT), ([signal.SIGTERM], -signal.SIGTERM)],
)
def test_signals_to_a_filter(signals, status):
    """The first INT leaves it reading to end of input; a second, or TERM, stops it, with what it has written out."""
    process = start()
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"one\n"
    for signum in signals:
        process.send_signal(signum)
        taken(process)
    if status == 0:
        process.stdin.write(b"two\n")
    out, err = process.communicate()
    assert process.returncode == status
    assert out == (b"two\n" if status == 0 else b"")
    assert closing(err)["lines_in"] == (2 if status == 0 else 1)


def test_an_ignored_interrupt_stays_ignored():
    """What nohup or a script's & ignores is not caught again."""
    process = start(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.stdin.write(b"one\n")
    process.stdin.flush()
    process.stdout.readline()
    for _ in range(4):
        process.send_signal(signal.SIGINT)
    process.communicate(b"two\n")
    assert process.returncode == 0


class _Fixed(Lifecycle):
    def __init__(self):
        self.stop = False


@given(st.binary(max_size=300).map(lambda b: b.replace(b"\r", b"")), st.lists(st.integers(1, 40), max_size=60))
def test_cutting_the_input_anywhere_changes_nothing(data, sizes):
    """Lines and their numbers are the same however the bytes arrive."""
    reader = LineReader(_Fixed())
    got, rest = [], data
    for size in sizes:
        got += reader._split(rest[:size])
        rest = rest[size:]
    got += [*reader._split(rest), *reader._last()]
    assert all(block.data.endswith(b"\n") for block in got)
    assert [line for block in got for line in block.lines()] == [
        (n, line) for n, line in enumerate(data.split(b"\n"), 1) if line
    ]


@pytest.mark.parametrize("taking", [True, False])
def test_a_bad_line_is_told_by_its_number(tmp_path, monkeypatch, capsys, taking):
    """Whoever counts the lines, across blocks, blank lines, lines that are too long, and files."""
    monkeypatch.setattr("okxcli.runtime.lines._READ", 64)
    monkeypatch.setattr("okxcli.runtime.lines.MAX_LINE", 100)
    some = [b"good"] * 40
    some[5], some[13], some[20], some[39] = b"bad", b"", b"x" * 150, b"bad"
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"\n".join(some))

    def handle(line):
        if line == b"bad":
            raise InvalidLine("no")

    def take(block, at):
        taken = 0
        while block.startswith(b"good\n", at):
            at, taken = at + 5, taken + 1
        return at, taken

    run = LineFilter("test", paths, quiet=True)
    assert run.run(handle, take=take if taking else None) == 65
    told = [line.removeprefix("okx test: ") for line in capsys.readouterr().err.splitlines()]
    assert told == [
        f"{path}: line {number}: {reason}"
        for path in paths
        for number, reason in ((6, "no"), (21, "longer than 1 MiB"), (40, "no"))
    ]
    assert run.lines_in == 78


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([1, MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 2 * MAX_LINE]), max_size=3),
    st.integers(50_000, 1 << 21),
)
def test_long_lines_at_every_cut(lengths, size):
    """A line of up to 1 MiB comes out whole, a longer one as its head, wherever it is cut."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    reader = LineReader(_Fixed())
    blocks = [block for at in range(0, len(data), size) for block in reader._split(data[at : at + size])]
    numbers, got = zip(*[line for block in blocks for line in block.lines()], strict=True) if lengths else ((), ())
    assert list(numbers) == list(range(1, len(lengths) + 1))
    assert [len(line) if type(line) is bytes else -1 for line in got] == [n if n <= MAX_LINE else -1 for n in lengths]
    assert all(len(line) <= 200 for line in got if type(line) is Overlong)


def test_a_signal_and_its_echo_count_once():
    """A group gets Ctrl-C, and a program in it passes it on: what the pipe holds is read all the same."""
    process = start()
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"one\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    taken(process)
    out, err = process.communicate(b"two\nthree\n")
    assert out == b"two\nthree\n"
    assert closing(err)["lines_in"] == 3


def test_a_second_interrupt_is_no_echo():
    """It stops the filter, though its input goes on."""
    process = start()
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"one\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        taken(process)
    assert process.wait(20) == -signal.SIGINT
    process.communicate()


def test_what_is_told_is_written_by_the_line():
    """In one piece each, so that the lines of the programs in a pipe do not run into each other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    program = (
        "from okxcli.runtime.files import usable_streams\nusable_streams()\nimport sys\n"
        "print('one', 'two', file=sys.stderr)\nprint('three', file=sys.stderr)"
    )
    with ours, theirs:
        subprocess.run([sys.executable, "-c", program], stderr=theirs, check=True)
        assert [ours.recv(100) for _ in range(2)] == [b"one two\n", b"three\n"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_torn_file_is_read_up_to_the_tear(tmp_path, packing):
    """It is told, with a number of lines; the files after it are read, and so is one put together from several."""
    pack = gzip.compress if packing == ".gz" else zstandard.ZstdCompressor().compress
    lines = [b"%d" % random.randrange(10**12) for _ in range(100_000)]
    torn, whole = tmp_path / f"a.jsonl{packing}", tmp_path / f"b.jsonl{packing}"
    torn.write_bytes(pack(b"\n".join([*lines, b""]))[:-3_000])
    whole.write_bytes(pack(b"one\n") + pack(b"two\n") + pack(b"three\n"))
    files = '"test", [__import__("pathlib").Path(path) for path in sys.argv[1:]], '
    code = textwrap.dedent(FILTER).replace('"test", ', files)
    done = subprocess.run([sys.executable, "-c", code, torn, whole], capture_output=True, check=False, timeout=60)
    found = done.stdout.splitlines()
    assert found[-3:] == [b"one", b"two", b"three"]
    read = found[:-3]
    assert lines[: len(read)] == read and 50_000 < len(read) < 100_000
    reason = b"Compressed file ended" if packing == ".gz" else b"it ends in the middle"
    assert b"a.jsonl%b: %b" % (packing.encode(), reason) in done.stderr
    assert b"the %d lines before that are read" % len(read) in done.stderr
    assert done.returncode == 65
