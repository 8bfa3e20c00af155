"""Files in and out, packed by name: `.gz` and `.zst` are read and written as what they hold, whole (`.part`) or not.

What cannot be written is an OutputError that names it, whatever it is: a file, a folder, standard output.
"""

import contextlib
import errno
import io
import os
import select
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from okxcli.errors import InputError, OkxError, OutputError, UsageError
from okxcli.runtime.signals import OutputClosed

#: What `Sink` calls it.
STDOUT = "to standard output"
#: The longest and the shortest head of a frame of zstd.
_ZST_HEAD, _ZST_LEAST = 18, 6
#: The end of a file's name until it is whole.
PART = ".part"


def user_folder(variable: str, below: str, env: Mapping[str, str] = os.environ) -> Path:
    """Return the user's folder that an XDG variable names, by default `below` in the home folder.

    A relative path in the variable is invalid and to be ignored, as the XDG specification says.
    """
    named = env.get(variable, "")
    return Path(named) if named.startswith("/") else home(env) / below


def home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the user's home folder; `/` for a user who has none, such as the nameless ones of containers."""
    try:
        return Path(env.get("HOME") or Path.home())
    except RuntimeError:
        return Path("/")


def expanded(text: str | Path) -> Path:
    """Return a path with its `~` replaced, as far as that home is known."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


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
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def private(path: str, flags: int) -> int:
    """Open a file; one that is made is its owner's alone. The `opener` of `open`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def open_input(path: Path, named: Path | None = None) -> BinaryIO:
    """Open `path` for reading bytes, unpacked as its name (or another) says; all that was packed into it one by one.

    Raises:
        UsageError: it cannot be opened.
    """
    packing = _packing(named or path)
    try:
        if packing == ".gz":
            import gzip

            return cast(BinaryIO, gzip.open(path, "rb"))
        raw = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if packing == ".zst":
        import zstandard

        unpacker = zstandard.ZstdDecompressor(max_window_size=2**27)
        return cast(BinaryIO, unpacker.stream_reader(raw, read_across_frames=True, closefd=True))
    return raw


def _packing(path: Path) -> str:
    """Return how the name of a file says that it is packed: `.gz`, `.zst`, or something else."""
    return Path(path.name.removesuffix(PART)).suffix


def packed(sink: BinaryIO, path: Path) -> Any:
    """Return what packs for a sink as the name of a file says, None for what is not packed; it does not close it."""
    if _packing(path) == ".gz":
        import gzip

        return gzip.GzipFile(path.name, "wb", compresslevel=6, fileobj=sink)
    if _packing(path) == ".zst":
        import zstandard

        return zstandard.ZstdCompressor(level=3).stream_writer(sink, closefd=False)
    return None


class Sink(io.FileIO):
    """Writes all of what it is given to a descriptor, also to one that is non-blocking (a shared terminal may be).

    Raises `OutputClosed` where nobody reads any more, and OutputError with the reason where it cannot be written:
    "cannot write `what`: ...".
    """

    def __init__(self, fd: int, what: str) -> None:
        super().__init__(fd, "w", closefd=False)
        self._what = what

    def write(self, data: Any) -> int:
        """Write all of it and return its length."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self.fileno(), left) :]
            except BlockingIOError:
                select.select([], [self], [])
            except BrokenPipeError:
                raise OutputClosed from None
            except OSError as error:
                raise OutputError(f"cannot write {self._what}: {error.strerror}") from None
        return len(data)


class _Told(Sink):
    """Standard error: what cannot be told there must not end the work that it tells of."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OutputError, OutputClosed):
            super().write(data)
        return len(data)


def usable_streams() -> None:
    """Make of the standard streams what okx expects, however it was started.

    A closed one is opened on /dev/null, so that no file or socket gets its number: what is read from it or written to
    it fails, but what is told goes nowhere. `sys.stdout` writes at once and raises what `Sink` raises; `sys.stderr`
    raises nothing, and writes whole lines, so that those of the programs in a pipe do not run into each other.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if fd == 1 else os.O_WRONLY)  # it gets the lowest free number, this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    for name, sink in (("stdout", Sink(1, STDOUT)), ("stderr", _Told(2, ""))):
        old = getattr(sys, name)
        encoding, errors = (old.encoding, old.errors) if old is not None else ("utf-8", "backslashreplace")
        by_line = name == "stderr"
        file = io.TextIOWrapper(cast(BinaryIO, sink), encoding, errors, None, by_line, not by_line)
        setattr(sys, name, file)


class OutputFile:
    """A file, packed by name, that has its name once it is whole: until the `with` block ends it is `NAME.part`.

    After an error what was written before stays there, to its last whole block; nothing is left where that is nothing.
    A file of that name that is there already is replaced at the end, and keeps its mode unless one is given. What is no
    file (a device, a FIFO), or lies in a folder that takes no other, is written as it is.

    Raises:
        OutputError: it cannot be made, written or renamed.
    """

    def __init__(self, path: Path, mode: int | None = None) -> None:
        self._path = path
        self._mode = mode
        self._whole = 0
        self._packer: Any = None

    def __enter__(self) -> Self:
        self._target = Path(os.path.realpath(self._path))  # a link stays one
        self._part: Path | None = self._target.with_name(self._target.name + PART)
        flags = os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        mode = self._mode
        try:
            with contextlib.suppress(FileNotFoundError):
                there = self._path.stat().st_mode
                if not stat.S_ISREG(there):
                    self._part, flags = None, 0
                elif not os.access(self._target.parent, os.W_OK):
                    self._part, flags = None, os.O_TRUNC
                elif mode is None:
                    mode = stat.S_IMODE(there)
            self._fd = os.open(self._part or self._path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o666)
            if mode is not None and self._part is not None:
                os.fchmod(self._fd, mode)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from None
        sink = Sink(self._fd, str(self._path))
        try:
            self._packer = packed(cast(BinaryIO, sink), self._path)
        except OutputError as reason:  # there is no room for the first bytes
            self._give_up(reason)
            raise
        self._sink = self._packer or sink
        return self

    def write(self, data: bytes) -> None:
        """Write a block, of whole lines where there are any."""
        self._sink.write(data)
        self._whole += len(data)

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self._give_up(error)
            return
        try:
            self._finish()
        except OutputError as reason:
            self._give_up(reason)
            raise

    def _finish(self) -> None:
        if self._packer is not None:
            self._packer.close()
        try:
            if self._part is not None:
                os.fsync(self._fd)
                self._part.replace(self._target)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from None
        os.close(self._fd)

    def _give_up(self, error: BaseException | None) -> None:
        """Close the file, cut to its whole blocks, and let the error say where it is."""
        with contextlib.suppress(OutputError, OutputClosed, OSError):
            if self._packer is not None:
                self._packer.close()
            elif self._part is not None:
                os.ftruncate(self._fd, self._whole)
        with contextlib.suppress(OSError):
            os.close(self._fd)
            if self._part is not None and not self._whole:
                self._part.unlink(missing_ok=True)
        if self._part is not None and self._part.exists() and isinstance(error, OkxError):
            error.args = (f"{error}. What came before is in {self._part}",)


def write_file(path: Path, text: str, mode: int | None = None) -> None:
    """Write a small file, whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there is there.
    """
    with OutputFile(path, mode) as file:
        file.write(text.encode())


def read_some(stream: BinaryIO, size: int, path: Path) -> bytes:
    """Read up to `size` bytes; b"" at the end.

    Raises:
        InputError: the file is damaged (a torn gzip, for instance).
    """
    try:
        chunk = stream.read1(size) if isinstance(stream, io.BufferedIOBase) else stream.read(size)
    except Exception as error:
        damaged = isinstance(error, OSError | EOFError) or type(error).__name__ in ("ZstdError", "error")
        if damaged or type(error).__module__.startswith(("zstandard", "zlib")):
            raise InputError(f"cannot read on in {path}: {error}") from None
        raise
    if not chunk and _is_torn_zst(path):
        raise InputError(f"cannot read on in {path}: it ends in the middle")
    return chunk


def _is_torn_zst(path: Path) -> bool:
    """Whether a `.zst` file ends within a frame, which the library does not tell; RFC 8878, 3.1.1."""
    if _packing(path) != ".zst" or not path.is_file():
        return False
    import zstandard

    with path.open("rb") as file:
        while head := file.read(_ZST_HEAD):
            begin = file.tell() - len(head)
            if len(head) < _ZST_LEAST:
                return True
            if 0x184D2A50 <= int.from_bytes(head[:4], "little") <= 0x184D2A5F:  # to be skipped
                file.seek(begin + 8 + int.from_bytes(head[4:8], "little"))
                continue
            try:
                checksum = zstandard.get_frame_parameters(head).has_checksum
                file.seek(begin + zstandard.frame_header_size(head))
            except zstandard.ZstdError:
                return True
            last = False
            while not last:
                block = file.read(3)
                if len(block) < 3:
                    return True
                number = int.from_bytes(block, "little")
                last = bool(number & 1)
                file.seek(1 if number >> 1 & 3 == 1 else number >> 3, os.SEEK_CUR)  # one byte, many times over
            file.seek(4 if checksum else 0, os.SEEK_CUR)
        return file.tell() > path.stat().st_size
