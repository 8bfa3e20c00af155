"""Files in and out, packed by name: `.gz` and `.zst` are read and written as what they hold."""

import errno
import gzip
import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from okxcli.errors import InputError, UsageError


def private_folder(path: Path, above: int = 0o700) -> None:
    """Make a folder for its owner alone, and those above it that are missing with the mode `above`, despite any umask.

    `Path.mkdir` gives its mode to the last one only. Folders that are there already stay as they are.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700 if one == path else above, exist_ok=True)
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def private(path: str, flags: int) -> int:
    """Open a file; one that is made is its owner's alone. The `opener` of `open`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def open_input(path: Path) -> BinaryIO:
    """Open `path` for reading bytes, unpacked.

    Raises:
        UsageError: it cannot be opened.
    """
    try:
        if path.suffix == ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        raw = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if path.suffix == ".zst":
        import zstandard

        return cast(BinaryIO, zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw, closefd=True))
    return raw


def open_output(path: Path) -> BinaryIO:
    """Open `path` for writing bytes, packed by name; an existing file is replaced.

    Raises:
        UsageError: it cannot be opened.
    """
    try:
        if path.suffix == ".gz":
            return cast(BinaryIO, gzip.open(path, "wb", compresslevel=6))
        raw = path.open("wb")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    if path.suffix == ".zst":
        import zstandard

        return cast(BinaryIO, zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=True))
    return raw


def read_some(stream: BinaryIO, size: int, path: Path) -> bytes:
    """Read up to `size` bytes; b"" at the end.

    Raises:
        InputError: the file is damaged (a torn gzip, for instance).
    """
    try:
        return stream.read1(size) if isinstance(stream, io.BufferedIOBase) else stream.read(size)
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read on in {path}: {error}") from None
    except Exception as error:
        if type(error).__module__.startswith(("zstandard", "zlib")) or type(error).__name__ in ("ZstdError", "error"):
            raise InputError(f"cannot read on in {path}: {error}") from None
        raise
