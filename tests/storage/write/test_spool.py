"""The spool: what waits on disk is whole, in order, and goes only once it is committed."""

import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from okxcli.storage.write import spool as module
from okxcli.storage.write.spool import Spool, SpoolFull, default_folder


def waiting(spool):
    lines = []
    for file in spool.files():
        while block := file.read(3):
            lines += block
        file.leave()
    return lines


def test_lines_come_back_in_order(tmp_path):
    """Over several files, oldest first, as they were; a file is deleted by `done` alone."""
    spool = Spool(tmp_path / "spool")
    for n in range(5):
        spool.write([b"line %d" % (2 * n), b"line %d" % (2 * n + 1)])
        spool.rotate()
    assert waiting(spool) == [b"line %d" % n for n in range(10)]
    assert waiting(spool) == [b"line %d" % n for n in range(10)]
    assert spool.lines() == 10
    next(spool.files()).done()
    assert waiting(spool) == [b"line %d" % n for n in range(2, 10)]


def test_nothing_is_made_before_the_first_line(tmp_path):
    """A run without trouble leaves no folder behind; files and folder are the user's alone."""
    spool = Spool(tmp_path / "a" / "spool")
    assert spool.size() == 0
    assert list(spool.files()) == []
    assert not (tmp_path / "a").exists()
    spool.write([b"x"])
    assert oct(spool.folder.stat().st_mode)[-3:] == "700"
    assert [oct(path.stat().st_mode)[-3:] for path in spool.folder.iterdir()] == ["600"]


def test_the_file_at_hand_is_not_read(tmp_path):
    """It belongs to its writer until that closes it, in another process too."""
    spool, other = Spool(tmp_path), Spool(tmp_path)
    spool.write([b"x"])
    assert waiting(spool) == []
    assert waiting(other) == []
    spool.rotate()
    assert waiting(other) == [b"x"]


def test_two_do_not_drain_the_same_file(tmp_path):
    """A file that one has in hand is not given to another; what a dead process left is."""
    Spool(tmp_path).write([b"x"])
    code = (
        "import sys; from pathlib import Path; from okxcli.storage.write.spool import Spool\n"
        "s = Spool(Path(sys.argv[1])); s.write([b'y']); import os; os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    spool = Spool(tmp_path)
    files = list(spool.files())
    assert len(files) == 2
    assert list(Spool(tmp_path).files()) == []
    files[0].done()
    files[1].leave()
    assert len(list(Spool(tmp_path).files())) == 1


def test_a_torn_last_line_is_left_out(tmp_path):
    """What a crash cut off was never told to be kept."""
    (tmp_path / "00000000000000000001-1.jsonl").write_bytes(b"one\ntwo\nthr")
    assert waiting(Spool(tmp_path)) == [b"one", b"two"]


def test_the_bound(tmp_path):
    """Past it nothing is kept, and what was there is unharmed."""
    spool = Spool(tmp_path, max_bytes=10)
    spool.write([b"12345678"])
    with pytest.raises(SpoolFull):
        spool.write([b"1"])
    spool.rotate()
    assert waiting(spool) == [b"12345678"]


def test_a_full_disk(tmp_path, monkeypatch):
    """Room is left for others: the write is refused before the disk's very end."""
    spool = Spool(tmp_path)
    spool.write([b"one"])
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 62)
    with pytest.raises(SpoolFull, match="full"):
        spool.write([b"two"])
    spool.rotate()
    assert waiting(spool) == [b"one"]


def test_a_write_that_fails_leaves_no_half_line(tmp_path, monkeypatch):
    """The kernel may take half of a block before the error."""
    spool = Spool(tmp_path)
    spool.write([b"one"])
    real = os.fsync

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        spool.write([b"two"])
    monkeypatch.setattr(os, "fsync", real)
    spool.write([b"three"])
    spool.rotate()
    assert waiting(spool) == [b"one", b"three"]


def test_each_database_has_its_own(tmp_path):
    """Lines of one database never go into another."""
    env = {"XDG_STATE_HOME": str(tmp_path)}
    assert default_folder("db:5432/a", env) != default_folder("db:5432/b", env)
    assert default_folder("db:5432/a", env).is_relative_to(tmp_path)
    assert default_folder("x", {"HOME": "/h", "XDG_STATE_HOME": "relative"}).is_relative_to("/h/.local/state/okx")


def test_a_disk_that_takes_only_a_part(tmp_path, monkeypatch):
    """A short write is no success: the rest is written too, or nothing is kept."""

    class Short:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            return self.file.write(data[:3])

        def __getattr__(self, name):
            return getattr(self.file, name)

    spool = Spool(tmp_path)
    spool.write([b"first"])
    monkeypatch.setattr(spool, "_file", Short(spool._file))
    spool.write([b"second line", b"third"])
    spool.rotate()
    assert waiting(spool) == [b"first", b"second line", b"third"]


def test_a_new_file_that_another_deletes_before_it_is_locked(tmp_path, monkeypatch):
    """What is written afterwards must not go into a file without a name."""
    real, times = fcntl.flock, []

    def late(descriptor, how):
        if how == fcntl.LOCK_EX and not times:
            times.append(1)
            next(tmp_path.iterdir()).unlink()  # another process drains the empty file
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    spool = Spool(tmp_path)
    spool.write([b"one"])
    spool.rotate()
    assert times and waiting(spool) == [b"one"]


def test_a_folder_that_somebody_deletes(tmp_path):
    """It is made again for what comes after."""
    spool = Spool(tmp_path / "spool")
    spool.write([b"one"])
    shutil.rmtree(tmp_path / "spool")
    spool.write([b"two"])
    spool.rotate()
    assert waiting(spool) == [b"two"]


def test_a_batch_that_could_not_be_stored_is_read_again(tmp_path):
    """From where it began, not from the beginning of the file: what came before is stored."""
    spool = Spool(tmp_path)
    spool.write([b"%d" % n for n in range(5)])
    spool.rotate()
    file = next(spool.files())
    assert file.read(2) == [b"0", b"1"]
    assert file.read(2) == [b"2", b"3"]
    file.again()
    assert file.read(2) == [b"2", b"3"]
    assert file.read(2) == [b"4"]
    file.leave()


def test_a_folder_that_cannot_be(tmp_path):
    """It is told before anything must be kept; nothing is made to find out."""
    assert Spool(tmp_path / "a" / "b").obstacle() is None
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert Spool(tmp_path / "file" / "b").obstacle() == f"{tmp_path / 'file'} is no folder"


def test_a_wall_clock_that_is_set_back_changes_no_order(tmp_path, monkeypatch):
    """What is kept after the step comes out after what was kept before it."""
    moments = iter([2_000_000_000, 1_000_000_000, 1_500_000_000])
    monkeypatch.setattr(module.time, "time_ns", lambda: next(moments))
    spool = Spool(tmp_path / "spool")
    for line in (b"one", b"two", b"three"):
        spool.write([line])
        spool.rotate()
    found = []
    for file in spool.files():
        found += file.read(10)
        file.leave()
    assert found == [b"one", b"two", b"three"]
