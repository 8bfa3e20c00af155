"""The archive: files by the time of receipt, whole whatever happens to the process or to the disk."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from okxcli.errors import OutputError
from okxcli.runtime.archive import archive as module
from okxcli.runtime.archive.archive import Archive
from okxcli.runtime.archive.disk_guard import DiskGuard, size_of, spelled
from okxcli.runtime.archive.file_names import FileNames
from okxcli.runtime.archive.recovery import recover
from okxcli.runtime.files import open_input

HOUR = 3_600_000
NOW = 1_747_087_200_000  # 2025-05-12 22:00
PACKINGS = ("", ".gz", ".zst")
INSTRUMENT = b'{"arg":{"channel":"instruments"},"data":[%d]}'
FREE = DiskGuard(0)


def stamped(number, at):
    return b'{"n":%d,"received":%d}' % (number, at)


def told(number, at):
    return (INSTRUMENT % number)[:-1] + b',"received":%d}' % at


def content(path):
    with open_input(path) as stream:
        return stream.read().splitlines()


def archive(folder, packing=".zst", guard=FREE, clock=lambda: NOW):
    names = FileNames(f"{folder}/%Y-%m-%d/%H.jsonl{packing}")
    return Archive(names, (b'{"arg":{"channel":"instruments"',), guard, clock)


@pytest.mark.parametrize("packing", PACKINGS)
def test_each_line_is_in_the_file_of_its_hour(tmp_path, packing):
    """Also where a batch crosses it; what explains the lines begins each file, as it was last told."""
    with archive(tmp_path, packing) as out:
        out.take([told(1, NOW - 11), told(2, NOW - 11), *(stamped(n, NOW - 10 + n) for n in range(20))])
        out.line(told(1, NOW + 10))
        out.take([stamped(20, NOW + HOUR)])
        assert (tmp_path / "2025-05-12" / f"23.jsonl{packing}.part").exists()
    assert out.lines == 24
    found = {path.name: content(path) for path in sorted(tmp_path.glob("*/*"))}
    assert list(found) == [f"{hour}.jsonl{packing}" for hour in (21, 22, 23)]
    first, second, third = found.values()
    explained = [INSTRUMENT % 1, INSTRUMENT % 2]
    assert first == [told(1, NOW - 11), told(2, NOW - 11), *(stamped(n, NOW - 10 + n) for n in range(10))]
    assert second == [*explained, *(stamped(n, NOW - 10 + n) for n in range(10, 20)), told(1, NOW + 10)]
    assert third == [INSTRUMENT % 2, INSTRUMENT % 1, stamped(20, NOW + HOUR)]


def test_a_line_without_a_stamp_is_of_now(tmp_path):
    """By the clock, which may be set back by a moment without a new file, but not by an hour."""
    now = [NOW]
    with archive(tmp_path, "", clock=lambda: now[0]) as out:
        for at in (NOW, NOW - 1_000, NOW - HOUR, NOW):
            now[0] = at
            out.line(b"%d" % at)
    found = {path.name: content(path) for path in sorted(tmp_path.glob("*/*"))}
    assert found == {
        "21.jsonl": [b"%d" % (NOW - HOUR)],
        "22.jsonl": [b"%d" % NOW, b"%d" % (NOW - 1_000)],
        "22_02.jsonl": [b"%d" % NOW],
    }


def test_a_silent_hour_ends_its_file(tmp_path):
    """The file has its name some seconds later, though nothing comes."""
    now = [NOW]
    with archive(tmp_path, clock=lambda: now[0]) as out:
        out.line(stamped(1, NOW))
        now[0] = NOW + HOUR + 2_000
        time.sleep(out.due_in())
        out.flush()
        assert [path.name for path in tmp_path.glob("*/*")] == ["22.jsonl.zst"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_what_waits_a_second_is_safe(tmp_path, packing):
    """It can be read from the file that is being written."""
    with archive(tmp_path, packing) as out:
        out.line(stamped(1, NOW))
        out._next_flush = 0.0
        out.flush()
        part = tmp_path / "2025-05-12" / f"22.jsonl{packing}.part"
        reader = open_input(part)
        assert reader.read(len(stamped(1, NOW)) + 1) == stamped(1, NOW) + b"\n"
        assert 0 < out.due_in() <= 1
        out.line(stamped(2, NOW))
        out.hand_over()
        code = "import sys; from okxcli.cli import main; sys.argv = ['okx', 'normalize', '-q', sys.argv[1]]; main()"
        done = subprocess.run([sys.executable, "-c", code, str(part)], capture_output=True, text=True, check=False)
        assert "line 1: " in done.stderr and "line 2: " in done.stderr  # no pushes of OKX, but lines


WRITER = """
import sys
from okxcli.runtime.archive.archive import Archive
from okxcli.runtime.archive.disk_guard import DiskGuard
from okxcli.runtime.archive.file_names import FileNames
out = Archive(FileNames(sys.argv[1]), (b"x",), DiskGuard(0)).__enter__()
number = 0
while True:
    lines = [b'{"n":%d,"received":%d}' % (n, 1747087200000 + n) for n in range(number, number + 50)]
    number += 50
    out.take(lines)
    out.hand_over()
    print(number, flush=True)
"""


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_kill_costs_nothing_that_was_handed_over(tmp_path, packing):
    """Killed at any moment, twice in one hour: the next run makes whole files of what is left, and all is in them."""
    template = f"{tmp_path}/%Y-%m-%d/%H.jsonl{packing}"
    reached = []
    for after_s in (0.3, 0.6):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), template], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        reached.append(int((process.stdout.read().splitlines() or ["50"])[-1]))
        process.wait()
        process.stdout.close()
    with archive(tmp_path, packing) as out:
        out.line(b"last")
    paths = sorted(tmp_path.glob("*/*"))
    assert [path.name for path in paths] == [f"22{number}.jsonl{packing}" for number in ("", "_02", "_03")]
    for path, number in zip(paths, reached, strict=False):
        lines = content(path)
        assert len(lines) >= number
        assert lines == [stamped(n, NOW + n) for n in range(len(lines))]
    assert content(paths[2]) == [b"last"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_torn_end_at_every_byte(tmp_path, packing):
    """Of a file that is cut anywhere every whole line is kept that can be unpacked, and no other."""
    with archive(tmp_path / "a", packing) as out:
        for n in range(30):
            out.line(stamped(n, NOW))
            if n % 7 == 0:
                out.hand_over()
    whole = next((tmp_path / "a").glob("*/*")).read_bytes()
    seen = set()
    for cut in range(0, len(whole), 1 if packing else 7):
        folder = tmp_path / str(cut) / "2025-05-12"
        folder.mkdir(parents=True)
        (folder / f"22.jsonl{packing}.part").write_bytes(whole[:cut])
        recover(FileNames(f"{folder.parent}/%Y-%m-%d/%H.jsonl{packing}"))
        found = list(folder.iterdir())
        lines = content(found[0]) if found else []
        assert lines == [stamped(n, NOW) for n in range(len(lines))]
        assert [path.name for path in found] == ([f"22.jsonl{packing}"] if lines else [])
        seen.add(len(lines))
    assert len(seen) >= 5


def test_a_recovery_that_was_killed_is_begun_anew(tmp_path):
    """Both what is torn and the half of a whole file are there then; a file that is whole is never replaced."""
    folder = tmp_path / "2025-05-12"
    folder.mkdir()
    (folder / "22.jsonl.torn").write_bytes(b"one\ntwo\nthr")
    (folder / "22.jsonl.part").write_bytes(b"one\n")
    (folder / "23.jsonl").write_bytes(b"whole\n")
    (folder / "23.jsonl.part").write_bytes(b"left\nto")
    recover(FileNames(f"{tmp_path}/%Y-%m-%d/%H.jsonl"))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {"22.jsonl": b"one\ntwo\n", "23.jsonl": b"whole\n", "23_02.jsonl": b"left\n"}


def test_what_another_process_writes_is_left_alone(tmp_path):
    """Two archives under one template do not touch each other's files."""
    with archive(tmp_path, "") as one:
        one.line(b"one")
        with archive(tmp_path, "") as two:
            two.line(b"two")
            assert {path.name for path in tmp_path.glob("*/*")} == {"22.jsonl.part", "22_02.jsonl.part"}
        one.line(b"three")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*/*")} == {
        "22.jsonl": b"one\nthree\n", "22_02.jsonl": b"two\n"}  # fmt: skip


def test_a_full_disk_ends_it(tmp_path):
    """With `stop`; what is there is whole, and says what to do."""
    names = FileNames(f"{tmp_path}/%Y.jsonl")
    out = Archive(names, (b"x",), DiskGuard(1 << 60), lambda: NOW)
    out.line(stamped(1, NOW))
    with pytest.raises(OutputError, match=r"less than 1048576TiB free at .* make room, or have it pause"):
        out.flush()
    assert content(tmp_path / "2025.jsonl") == [stamped(1, NOW)]


def test_a_full_disk_pauses_it(tmp_path, monkeypatch, caplog):
    """What comes meanwhile is counted, and in no file; it goes on when there is room, with what explains its lines."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    free = [0]
    monkeypatch.setattr(DiskGuard, "_free", staticmethod(lambda names: free[0]))
    with archive(tmp_path, "", DiskGuard(5, "pause")) as out:
        out.line(stamped(1, NOW))
        out.flush()
        out.take([INSTRUMENT % 7, stamped(2, NOW)])
        free[0] = 5
        out.line(stamped(3, NOW))
    assert out.left_out == 2
    assert [content(path) for path in sorted(tmp_path.glob("*/*"))] == [
        [stamped(1, NOW)], [INSTRUMENT % 7, stamped(3, NOW)]]  # fmt: skip
    assert "2 lines are not in the archive" in caplog.text


def test_the_oldest_go_first(tmp_path, monkeypatch, caplog):
    """With `drop-oldest`: as many as it takes, never the one that is written; without others it pauses."""
    folder = tmp_path / "2025-05-11"
    folder.mkdir()
    for hour in range(5):
        (folder / f"{hour:02}.jsonl").touch()
    (tmp_path / "mine.jsonl").touch()

    def free(names):
        return 10 - len(names.whole())

    monkeypatch.setattr(DiskGuard, "_free", staticmethod(free))
    with archive(tmp_path, "", DiskGuard(7, "drop-oldest")) as out:
        out.line(stamped(1, NOW))
        out.flush()
        assert [path.name for path in sorted(folder.iterdir())] == ["02.jsonl", "03.jsonl", "04.jsonl"]
        monkeypatch.setattr(DiskGuard, "_free", staticmethod(lambda names: 0))
        out._next_flush = 0.0
        out.flush()
        out.line(stamped(2, NOW))
    assert out.left_out == 1
    assert not list(folder.iterdir()) and (tmp_path / "mine.jsonl").exists()
    assert content(tmp_path / "2025-05-12" / "22.jsonl") == [stamped(1, NOW)]
    assert caplog.text.count("is deleted, the oldest of the archive") == 5


@pytest.mark.parametrize("when_low", ["stop", "pause"])
def test_a_file_that_cannot_be_written(tmp_path, when_low, monkeypatch):
    """It ends with `stop`; else it is told, and tried again, and what could be written is made whole then."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    out = archive(tmp_path, "", DiskGuard(0, when_low))
    out.line(b"one")
    out.hand_over()
    os.dup2(full := os.open("/dev/full", os.O_WRONLY), out._file._fd)
    os.close(full)
    if when_low == "stop":
        out.line(b"two")
        with pytest.raises(OutputError, match="No space left on device"):
            out.hand_over()
    else:
        out.line(b"two")
        out.hand_over()
        out.line(b"three")
        out.__exit__()
        assert (out.lines, out.left_out) == (2, 1)
        assert {path.name: content(path) for path in tmp_path.glob("*/*")} == {
            "22.jsonl": [b"one"], "22_02.jsonl": [b"three"]}  # fmt: skip


def test_a_file_that_cannot_be_ended_is_made_whole_later(tmp_path, monkeypatch):
    """Its lock goes with it, so that the same process can look at it again."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    out = archive(tmp_path, ".zst", DiskGuard(0, "pause"))
    out.take([stamped(n, NOW) for n in range(100)])
    out.hand_over()
    with monkeypatch.context() as broken:
        broken.setattr(module.os, "fsync", lambda fd: exec("raise OSError(5, 'Input/output error')"))
        out.line(stamped(100, NOW + HOUR))
    out.line(stamped(101, NOW + HOUR))
    out.__exit__()
    assert (out.lines, out.left_out) == (101, 1)
    assert {path.name: len(content(path)) for path in tmp_path.glob("*/*")} == {"22.jsonl.zst": 100, "23.jsonl.zst": 1}


def test_what_cannot_be_deleted_pauses_it(tmp_path, monkeypatch, caplog):
    """It is told once, with the reason, and nothing else stops."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    (tmp_path / "2025-05-11").mkdir()
    (tmp_path / "2025-05-11" / "00.jsonl").touch()
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: exec("raise PermissionError(1, 'Operation not permitted')"))
    with archive(tmp_path, "", DiskGuard(1 << 60, "drop-oldest")) as out:
        for n in range(5):
            out._next_flush = 0.0
            out.flush()
            out.line(stamped(n, NOW))
    assert out.left_out == 5
    assert caplog.text.count("cannot make room at ") == caplog.text.count("Operation not permitted") == 1


@pytest.mark.parametrize("packing", PACKINGS)
def test_silence_takes_no_room(tmp_path, packing):
    """A second in which nothing comes adds no byte."""
    with archive(tmp_path, packing) as out:
        out.line(stamped(1, NOW))
        sizes = set()
        for _ in range(5):
            out._next_flush = 0.0
            out.flush()
            sizes.add(next(tmp_path.glob("*/*")).stat().st_size)
        assert len(sizes) == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    """The reason names it."""
    (tmp_path / "2025-05-12").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*22\.jsonl\.zst: File exists"):
        archive(tmp_path).line(stamped(1, NOW))


def test_locks_end_with_the_process(tmp_path):
    """What is written is locked; what is over is not."""
    with archive(tmp_path) as out:
        out.line(b"one")
        part = next(tmp_path.glob("*/*"))
        with part.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    whole = next(tmp_path.glob("*/*"))
    with whole.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_sizes():
    """As users write them."""
    texts = ("0", "1", "500MiB", "1GiB", "2T", "3G", "7KB")
    assert [size_of(text) for text in texts] == [0, 1, 500 << 20, 1 << 30, 2 << 40, 3 << 30, 7 << 10]
    assert [spelled(size) for size in (0, 1, 1536, 500 << 20, 1 << 30)] == ["0B", "1B", "1536B", "500MiB", "1GiB"]
    for text in ("", "x", "-1", "1.5GiB", "1PiB", "GiB", "99999999"):
        with pytest.raises(ValueError, match="is no size"):
            size_of(text)


def test_there_is_room_where_nothing_is_yet(tmp_path):
    """The disk is that of the lowest folder that is there."""
    names = FileNames(f"{tmp_path}/a/b/%Y/%m.jsonl")
    assert DiskGuard(1).has_room(names)
    assert names.root() == Path(tmp_path)
