"""Lines that wait on disk: first in, first out, within their room, and gone with their process."""

import os
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.exchanges.okx.feed import disk_queue as module
from okxcli.exchanges.okx.feed.disk_queue import DiskQueue, Room


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3_000), st.integers(1, 400)), max_size=60))
def test_first_in_first_out(steps):
    """However puts and takes alternate, all comes back once, in its order; a take gives what it is asked for."""
    room = Room(1 << 20)
    waiting, kept, back, number = DiskQueue(room), [], [], 0
    for puts, size, count in steps:
        for _ in range(count if puts else 0):
            number += 1
            line = b"%d" % number + b"x" * (size % 97)
            if waiting.put(line):
                kept.append(line)
        if not puts:
            lines = waiting.take(size)
            assert bool(lines) == (len(kept) > len(back))
            back += lines
    while lines := waiting.take(1 << 20):
        back += lines
    assert back == kept
    assert room.left == 1 << 20


def test_the_room_is_shared():
    """What several symbols keep is bounded together; room that is given back can be used again."""
    room = Room(1_000)
    one, two = DiskQueue(room), DiskQueue(room)
    assert one.put(b"x" * 599)
    assert not two.put(b"y" * 599)
    assert one.take(1) == [b"x" * 599]
    assert two.put(b"y" * 599)


@pytest.mark.parametrize("fault", ["write", "full"])
def test_a_disk_that_takes_nothing(fault, monkeypatch):
    """The line is refused, what was kept stays in its order, and all goes on when the disk is well again."""
    monkeypatch.setattr(module, "_BLOCK", 100)

    def refuse(*_):
        raise OSError(28, "no space")

    broken = {"write": ("pwrite", refuse), "full": ("fstatvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=512))}
    waiting = DiskQueue(Room())
    with monkeypatch.context() as patched:
        patched.setattr(os, *broken[fault])
        kept = [b"%03d" % n for n in range(100) if waiting.put(b"%03d" % n)]
    assert 20 < len(kept) < 40
    kept += [b"%03d" % n for n in range(500, 600) if waiting.put(b"%03d" % n)]
    back = []
    while lines := waiting.take(64):
        back += lines
    assert back == kept


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    """The file has no name: nobody else sees it, and it is gone with its process; without a home it is in /tmp."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    waiting = DiskQueue(Room())
    assert all(waiting.put(b"x" * 1_000) for _ in range(200))
    assert list((tmp_path / "cache" / "okx").iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    other = DiskQueue(Room())
    assert all(other.put(b"x" * 1_000) for _ in range(200))
