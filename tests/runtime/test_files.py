"""Files that are written whole or not at all, wherever the room ends."""

import gzip
import os
import random
import resource
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from okxcli.errors import OutputError
from okxcli.runtime import files
from okxcli.runtime.files import OutputFile, write_file


@contextmanager
def room(size):
    """Let no file of this process grow past `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def unpacked(path, data):
    """Return what can be read of a file that may be torn, as the bytes that went in."""
    if ".gz" in path.name:
        return zlib.decompressobj(31).decompress(data)
    if ".zst" in path.name:
        return zstandard.ZstdDecompressor().decompressobj().decompress(data) if data else b""
    return data


@given(
    st.lists(st.binary(min_size=1, max_size=3000), max_size=8),
    st.integers(0, 12_000),
    st.sampled_from(["x", "x.gz", "x.zst"]),
    st.booleans(),
)
@example([b"a" * 3000] * 8, 5000, "x", True)
def test_whole_or_not_at_all(blocks, size, name, there):
    """The name has all of it or what it had; beside it are the whole blocks that came before, and the error says so."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if there:
            path.write_bytes(b"before")
        failed = None
        with room(size):
            try:
                with OutputFile(path) as file:
                    for block in blocks:
                        file.write(block)
            except OutputError as error:
                failed = str(error)
        part = path.with_name(f"{name}.part")
        if failed is None:
            assert unpacked(path, path.read_bytes()) == b"".join(blocks)
            assert not part.exists()
            return
        assert failed.startswith(f"cannot write {path}: File too large")
        assert (path.read_bytes() if path.exists() else None) == (b"before" if there else None)
        assert part.exists() == failed.endswith(f". What came before is in {part}")
        kept = unpacked(path, part.read_bytes()) if part.exists() else b""
        assert b"".join(blocks).startswith(kept)
        if name == "x":
            assert kept in [b"".join(blocks[:n]) for n in range(len(blocks) + 1)]


def test_a_part_of_an_earlier_run_is_written_over(tmp_path):
    """So is one whose mode was another; a link in its place, which somebody else may have laid, is not followed."""
    path = tmp_path / "x"
    (tmp_path / "x.part").write_text("a long rest of it")
    write_file(path, "new", 0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    (tmp_path / "x.part").symlink_to(tmp_path / "trap")
    with pytest.raises(OutputError, match="cannot write"):
        write_file(path, "newer")
    assert path.read_text() == "new"
    assert not (tmp_path / "trap").exists()


def test_an_error_that_is_not_ours_keeps_what_came(tmp_path):
    """Packed to its end, so that it can be read."""
    with pytest.raises(KeyError), OutputFile(tmp_path / "x.gz") as file:
        file.write(b"one\n")
        raise KeyError
    assert gzip.decompress((tmp_path / "x.gz.part").read_bytes()) == b"one\n"
    assert os.listdir(tmp_path) == ["x.gz.part"]


def test_where_a_zst_file_is_torn(tmp_path):
    """A file of several frames, with checksums and without, of every kind of block, is whole or torn at every byte."""
    rng = random.Random(4)
    noise = rng.randbytes(3_000)
    frames = [
        zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size).compress(data)
        for checksum, size, data in ((True, True, noise), (False, False, b"a" * 300_000), (True, False, b""))
    ]
    frames.insert(1, b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"skip!")
    path = tmp_path / "a.zst"
    whole = {sum(map(len, frames[:n])) for n in range(len(frames) + 1)}
    for cut in range(sum(map(len, frames)) + 1):
        path.write_bytes(b"".join(frames)[:cut])
        assert files._is_torn_zst(path) == (cut not in whole)
