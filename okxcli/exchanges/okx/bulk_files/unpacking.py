"""Where bulk files lie, and their bytes: folders and patterns to tables, zips unpacked, whole lines in blocks.

A table is one CSV: a file of its own, or a member of a zip. Memory is bounded whatever a file holds.
"""

import glob
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from okxcli.errors import InputError, UsageError
from okxcli.exchanges.okx.bulk_files.everyday import newlines
from okxcli.runtime.files import expanded, open_input, read_some

_SUFFIXES = (".zip", ".csv", ".csv.gz", ".csv.zst")
_READ = 1 << 17
#: OKX's files unpack to some 8 times their size; what unpacks to more than this is made to fill memory or disk.
_RATIO = 200
_ALWAYS = 64 << 20
#: What zipfile raises where a file is damaged.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
#: A line longer than this is none; what follows it is read on.
MAX_LINE = 1 << 16


class Table(NamedTuple):
    """One CSV: the file, and which member of it if that is a zip. `name` is the CSV's own name."""

    path: Path
    member: str | None

    @property
    def name(self) -> str:
        """The name of the CSV itself, without folders."""
        return self.path.name if self.member is None else self.member.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return str(self.path)


def find(places: Iterable[str | Path]) -> list[Path]:
    """Return the bulk files at `places`: files, folders (with all below them), patterns like `trades/**/BTC-*.zip`.

    Sorted by name; a file named twice comes once.

    Raises:
        UsageError: a place does not exist, or there is nothing of the kind.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = expanded(place)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.name.lower().endswith(_SUFFIXES) and p.is_file())
            if not inside:
                raise UsageError(f"no .zip and no .csv below {place}")
        elif path.is_file():
            inside = [path]
        else:
            inside = [p for name in sorted(glob.glob(str(path), recursive=True)) if (p := Path(name)).is_file()]  # noqa: PTH207
            if not inside:
                raise UsageError(f"no such file, folder or pattern of files: {place}")
        found |= dict.fromkeys(inside)
    return list(found)


def tables(path: Path) -> list[Table]:
    """Return the CSVs of a file: itself, or the members of a zip.

    Raises:
        InputError: it is no zip although it is called one, it is encrypted, or it holds no CSV.
    """
    if path.suffix.lower() != ".zip":
        return [Table(path, None)]
    with _told(path), zipfile.ZipFile(path) as archive:
        check_members(archive, path.stat().st_size)
        named = [member for member in archive.infolist() if member.filename]
        members = [m for m in named if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{path}: it is encrypted")
    names = [member.filename for member in members if member.filename.lower().endswith(".csv")]
    if not names:
        raise InputError(f"{path}: no CSV in it")
    return [Table(path, name) for name in sorted(names)]


def check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse a zip of `size` bytes that OKX did not make: packed in another way, or unpacking to endless bytes.

    Raises:
        InputError: with the reason.
    """
    members = archive.infolist()
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise InputError(f"{archive.filename or 'it'}: packed in a way that OKX does not use")
    whole = sum(member.file_size for member in members)
    if whole > _most(size):
        raise InputError(
            f"{archive.filename or 'it'}: {size} bytes that unpack to {whole}, which no file of OKX's does"
        )


def _most(size: int) -> int:
    """Return how many bytes `size` packed ones may unpack to."""
    return max(_ALWAYS, _RATIO * size)


def first_line(table: Table) -> bytes:
    """Return the first line of a table that is not blank, b"" if there is none.

    Raises:
        InputError: the file is damaged.
    """
    head = b""
    with _opened(table) as stream:
        for piece in _pieces(stream, table, MAX_LINE):
            head = (head + piece).lstrip()
            if b"\n" in head or len(head) > MAX_LINE:
                break
    return head.split(b"\n", 1)[0][:MAX_LINE]


def blocks(table: Table, size: int = _READ) -> Iterator[tuple[int, bytes]]:
    """Yield (number of its first line, counted from 1; whole lines, each ended by a newline), block by block.

    Of a line longer than `MAX_LINE` only the first bytes are given.

    Raises:
        InputError: the file is damaged.
    """
    number, rest = 1, b""
    with _opened(table) as stream:
        pieces = _pieces(stream, table, size)
        for piece in pieces:
            chunk = rest + piece
            cut = chunk.rfind(b"\n") + 1
            rest = chunk[cut:]
            if cut:
                yield number, chunk[:cut]
                number += newlines(chunk, 0, cut)
            if len(rest) > MAX_LINE:
                rest = rest[:MAX_LINE] + _skip(pieces)
    if rest:
        yield number, rest + b"\n"


def _pieces(stream: BinaryIO, table: Table, size: int) -> Iterator[bytes]:
    """Yield what a table holds, piece by piece."""
    left = _most(table.path.stat().st_size)
    while piece := _some(stream, table, size):
        left -= len(piece)
        if left < 0:
            raise InputError(f"cannot read {table}: it unpacks to endless bytes, which no file of OKX's does")
        yield piece


def _skip(pieces: Iterator[bytes]) -> bytes:
    """Read past the end of the line at hand; return the newline and what follows it in the last piece read."""
    for piece in pieces:
        cut = piece.find(b"\n")
        if cut >= 0:
            return piece[cut:]
    return b""


def _some(stream: BinaryIO, table: Table, size: int) -> bytes:
    if table.member is None:
        return read_some(stream, size, table.path)
    with _told(table.path):
        return stream.read(size)


@contextmanager
def _opened(table: Table) -> Iterator[BinaryIO]:
    if table.member is None:
        with open_input(table.path) as plain:
            yield plain
        return
    with _told(table.path):
        archive = zipfile.ZipFile(table.path)
        stream = archive.open(table.member)
    with archive, stream:
        yield cast(BinaryIO, stream)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what zipfile says about a damaged file into words for users."""
    try:
        yield
    except DAMAGED as error:
        raise InputError(f"cannot read {path}: {str(error) or 'it ends too early'}. Is it a whole zip?") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
