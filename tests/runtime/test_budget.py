"""The account of requests that all processes of a user share."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.runtime import budget
from okxcli.runtime.budget import Budget, slot


class Clock:
    """Nanoseconds that go on when told."""

    def __init__(self):
        self.now = 10**12

    def __call__(self):
        return self.now


def crowded(moments, count, period_s):
    """Return the greatest number of moments within any period."""
    moments = sorted(moments)
    return max(sum(1 for m in moments if first <= m < first + period_s) for first in moments)


def test_several_users_share_one_window(tmp_path):
    """Whoever asks, no window has more turns than allowed; a burst goes out at once."""
    clock = Clock()
    users = [Budget(tmp_path / "b", 20, 2.0, clock=clock) for _ in range(3)]
    waits = [users[n % 3].turn() for n in range(60)]
    assert waits[:20] == [0.0] * 20
    assert crowded(waits, 20, 2.0) == 20
    assert 3.9 < max(waits) < 4.1
    clock.now += 10 * 10**9
    assert users[0].turn() == 0.0


def test_a_share_leaves_room_for_others(tmp_path):
    """Those with half of it get half together; the others are not held up by turns that lie ahead."""
    clock = Clock()
    bulk = [Budget(tmp_path / "b", 20, 2.0, share=0.5, clock=clock) for _ in range(2)]
    live = Budget(tmp_path / "b", 20, 2.0, clock=clock)
    waits = [bulk[n % 2].turn() for n in range(30)]
    assert crowded(waits, 10, 2.0) == 10
    assert [live.turn() for _ in range(10)] == [0.0] * 10
    assert live.turn() > 1.9


@pytest.mark.parametrize("pause_s", [1.0, 2.0, 7.0, 60.0])
def test_pause_holds_everybody(tmp_path, pause_s):
    """After the exchange said that it is too much, nobody gets a turn for the pause, however long it is."""
    clock = Clock()
    first, second = (Budget(tmp_path / "b", 5, 2.0, clock=clock) for _ in range(2))
    first.pause(pause_s)
    assert all(pause_s <= second.turn() <= pause_s + 6.0 for _ in range(12))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 100), max_size=20), st.integers(0, 50), st.integers(1, 4), st.integers(1, 30))
def test_a_slot_is_the_first_that_fits(before, earliest, count, period):
    """No window gets too full that was not, and no earlier moment would have done."""
    turns = []
    for turn in sorted(before):
        turns.append(slot(sorted(turns), turn, count, period))
    turns.sort()

    def fits(at):
        merged = sorted([*turns, at])
        return all(merged[i + count] - merged[i] >= period for i in range(len(merged) - count))

    found = slot(turns, earliest, count, period)
    assert found == next(at for at in range(earliest, 10_000) if fits(at))


def test_real_processes_share_it(tmp_path):
    """Four processes ask at once; the moments at which they may go are those of one account."""
    script = (
        "import sys, time; from pathlib import Path; from okxcli.runtime.budget import Budget\n"
        "asked = []\n"
        "def clock():\n"
        "    asked.append(time.monotonic_ns())\n"
        "    return asked[-1]\n"
        "b = Budget(Path(sys.argv[1]), 10, 1.0, clock=clock)\n"
        "for _ in range(8):\n"
        "    wait = b.turn(); print(asked[-1] / 1e9 + wait)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "b")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    moments = [float(line) for process in processes for line in process.communicate(timeout=30)[0].split()]
    assert len(moments) == 32
    assert crowded(moments, 10, 0.99) <= 10
    assert max(moments) - min(moments) > 2.5


def test_a_process_that_was_killed_holds_nothing_up(tmp_path):
    """The lock goes with its owner; one that is stopped while it has it costs half a second, not for ever."""
    path = tmp_path / "b"
    script = (
        "import fcntl, os, sys, time; fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        "fcntl.flock(fd, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        own = Budget(path, 8, 60.0)
        began = time.monotonic()
        assert own.turn() == 0.0
        assert 0.3 < time.monotonic() - began < 30
        process.kill()
    taken = []
    for _ in range(5):  # a machine that is busy may hold one of them up
        began = time.monotonic()
        assert own.turn() == 0.0
        taken.append(time.monotonic() - began)
    assert min(taken) < 0.3


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x7f" * 160, os.urandom(5000)])
def test_damaged_files_are_survived(tmp_path, content):
    """Moments that cannot be are forgotten."""
    path = tmp_path / "b"
    path.write_bytes(content)
    shared = Budget(path, 3, 1.0, clock=Clock())
    waits = [shared.turn() for _ in range(9)]
    assert max(waits) < 125
    assert crowded(waits, 3, 1.0) <= 3


def test_the_folder_is_ours_alone(tmp_path, monkeypatch):
    """$XDG_RUNTIME_DIR/okx with mode 0700; a folder or file that others planted is not used."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = budget.file_for("www.okx.com-443/market/trades")
    assert path == tmp_path / "okx" / "budget-www.okx.com-443_market_trades"
    assert stat.S_IMODE((tmp_path / "okx").stat().st_mode) == 0o700
    path.symlink_to(tmp_path / "elsewhere")
    assert Budget(path, 1, 1.0).turn() == 0.0
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "okx").chmod(0o777)
    assert budget.folder() != tmp_path / "okx"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert budget.folder() == Path("/tmp") / f"okx-{os.getuid()}"


def test_accounts_nobody_uses_are_swept(tmp_path, monkeypatch):
    """Each exchange on a port of its own leaves a file; an hour later it goes."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    old, young = budget.file_for("a"), budget.file_for("b")
    Budget(old, 1, 1.0).turn()
    Budget(young, 1, 1.0).turn()
    os.utime(old, (0, 0))
    budget.file_for("c")
    assert not old.exists()
    assert young.exists()


def test_without_a_file_the_process_keeps_count():
    """No folder at all: the window holds within the process."""
    own = Budget(None, 3, 1.0, clock=Clock())
    assert crowded([own.turn() for _ in range(9)], 3, 1.0) == 3


def test_a_full_disk_is_no_error():
    """The process keeps its own account then, and nobody gets more turns than allowed."""
    mine = Budget(Path("/dev/full"), 5, 2.0, clock=Clock())
    assert [mine.turn() for _ in range(5)] == [0.0] * 5
    assert mine.turn() > 1.9
    mine.pause(5)
    assert mine.turn() > 4.9
