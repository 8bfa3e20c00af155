"""What a killed run left of its archive, made whole: every line up to the tear."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from okxcli.errors import InputError, OutputError
from okxcli.runtime.archive.file_names import TORN, FileNames
from okxcli.runtime.files import PART, OutputFile, open_input, read_some

_log = logging.getLogger(__name__)

_READ = 1 << 20


def recover(names: FileNames) -> None:
    """Give each file of a run that is over its name, with the lines that are whole in it.

    Those that another process writes stay as they are. A file without a whole line goes.

    Raises:
        OutputError: one cannot be written.
    """
    for left in names.left_over():
        with _locked(left) as mine:
            if mine:
                _make_whole(left, names.free(left.with_name(left.name.removesuffix(TORN).removesuffix(PART))))


def _make_whole(left: Path, path: Path) -> None:
    try:
        torn = left
        if left.name.endswith(PART):  # a whole file is made under this name: what is torn waits under another
            torn = left.rename(left.with_name(left.name.removesuffix(PART) + TORN))
        lines = 0
        with OutputFile(path) as file:
            for block in _whole_lines(torn, path):
                file.write(block)
                lines += block.count(b"\n")
        if not lines:
            path.unlink()
        torn.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
    _log.info("%s is of a run that was killed: %d whole lines were in it", path, lines)


def _whole_lines(torn: Path, path: Path) -> Iterator[bytes]:
    """Yield blocks of whole lines, up to where a file is torn; it is packed as another name says."""
    rest = b""
    with closing(open_input(torn, path)) as stream:
        while True:
            try:
                chunk = read_some(stream, _READ, torn)
            except InputError:
                return
            if not chunk:
                return
            end = chunk.rfind(b"\n") + 1
            if end:
                yield rest + chunk[:end]
                rest = chunk[end:]
            else:
                rest += chunk


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Yield whether nobody writes a file, and keep others from it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _log.warning("cannot look at %s, which an earlier run left: %s", path, error.strerror)
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path.exists()
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)
