"""OKX's bulk files from the network: which ones a span of time needs, and each fetched whole or not at all.

A file is written under another name until it is complete and proved to be a zip; a broken transfer goes on where it
stopped. OKX lists nothing and answers for a file that it has not with a page of HTML.
"""

import fcntl
import logging
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import quote, urlsplit

import urllib3

from okxcli.errors import ExchangeUnavailable, InputError, OutputError, TryLater, UsageError
from okxcli.exchanges.okx.bulk_files.layouts import DAY_MS, check_symbol
from okxcli.exchanges.okx.bulk_files.unpacking import DAMAGED, check_members
from okxcli.exchanges.okx.rest.bounded_http import Server
from okxcli.exchanges.okx.sites import FILES_URL, OFFSET_MS
from okxcli.runtime.files import Sink, private, private_folder, user_folder
from okxcli.runtime.proxy import Proxies

_log = logging.getLogger(__name__)

_FOLDER = {"trades-all": "trades", "candle1m": "candlesticks"}
_TIMEOUT_S = 30.0
_ATTEMPTS = 6
_FEW_ATTEMPTS = 3  # with `quiet`: somebody else can be asked
#: So many files in a row that cannot be had, and with `quiet` no more are tried: the place is not well.
_GIVE_UP = 2
_READ = 1 << 18
#: So many bytes in so many seconds, at least.
_SLOWEST, _PACE_S = 60_000, 60.0
#: The largest file known is a month of BTC-USDT-SWAP, 0.6 GB.
_MAX_BYTES = 16 << 30
#: A span is cut into files for so many days at most: a year typed wrongly is not a thousand requests.
_MAX_DAYS = 4_000


class Period(NamedTuple):
    """A day or a month of UTC+8, as OKX's files have it: `2026-05-18` or `2026-05`."""

    text: str
    daily: bool

    def path(self, symbol: str, folder: str) -> str:
        """Return the path of a symbol's file below the base."""
        kind = "daily" if self.daily else "monthly"
        name = quote(f"{symbol}-{folder}-{self.text}.zip")
        return f"{folder}/{kind}/{self.text.replace('-', '')}/{name}"


def default_folder(base_url: str = FILES_URL) -> Path:
    """Return where files are kept unless told otherwise: $XDG_CACHE_HOME/okx/files.

    Files of another place have a folder of its name in there: they have the same names and say something else.
    """
    folder = user_folder("XDG_CACHE_HOME", ".cache") / "okx" / "files"
    if base_url.rstrip("/") == FILES_URL:
        return folder
    parts = urlsplit(base_url)
    return folder / re.sub(r"[^A-Za-z0-9.-]+", "_", f"{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}")


def periods(since_ms: int, until_ms: int, now_ms: int) -> list[list[Period]]:
    """Return what covers `[since_ms, until_ms)`: days, and where a whole month is in it the month, then its days.

    Each item is a list of choices of the same time: a month and, in its stead, its days one by one. What OKX cannot
    have yet (today, in UTC+8) is left out.

    Raises:
        UsageError: the span is empty, or longer than OKX exists.
    """
    first = _day(since_ms)
    last = min(_day(until_ms - 1), _day(now_ms) - timedelta(days=1))
    if since_ms >= until_ms:
        raise UsageError("--since is not before --until")
    if (last - first).days > _MAX_DAYS:
        raise UsageError("a span of more than eleven years: give a later --since")
    found: list[list[Period]] = []
    while first <= last:
        following = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
        if first.day == 1 and following <= last + timedelta(days=1):
            days = [first + timedelta(days=n) for n in range((following - first).days)]
            found.append([Period(f"{first:%Y-%m}", False), *(Period(f"{day:%Y-%m-%d}", True) for day in days)])
            first = following
        else:
            found.append([Period(f"{first:%Y-%m-%d}", True)])
            first += timedelta(days=1)
    return found


def _day(ms: int) -> datetime:
    return datetime.fromtimestamp((ms + OFFSET_MS) // DAY_MS * (DAY_MS // 1000), UTC)


class Downloader:
    """Fetches files from `base_url` into `folder`; `missing` are the names of those that OKX does not have.

    `progress` is called with the bytes that are there of a file and those that there will be (None: not known); `stop`
    is asked between two pieces. With `quiet` the caller tells what is missing, and a file that cannot be had whole is
    missing too; what was fetched before it counts.
    """

    def __init__(
        self,
        base_url: str,
        folder: Path,
        progress: Callable[[int, int | None], None] = lambda done, total: None,
        sleep: Callable[[float], object] = time.sleep,
        stop: Callable[[], bool] = lambda: False,
        quiet: bool = False,
        proxies: Proxies | None = None,
    ) -> None:
        self.missing: list[str] = []
        self._server = Server(base_url, "a base of files", FILES_URL, proxies, _TIMEOUT_S)
        self._folder = folder
        self._progress = progress
        self._sleep = sleep
        self._stop = stop
        self._attempts = _FEW_ATTEMPTS if quiet else _ATTEMPTS
        self._quiet = quiet
        self._broken = 0  # files in a row that could not be had whole

    def fetch(self, symbol: str, since_ms: int, until_ms: int, now_ms: int, channel: str = "trades-all") -> list[Path]:
        """Return the files of a symbol that cover a span, fetched unless they are there; oldest first.

        Raises:
            UsageError: an empty span, or a channel that no file stands in for.
            ExchangeUnavailable: a transfer failed in all attempts; what came is kept for the next time.
            TryLater: another process is fetching the same file.
            OutputError: the folder cannot be written, or is full.
        """
        if channel not in _FOLDER:
            raise UsageError(f"OKX has no bulk files of {channel}, only of {' and '.join(_FOLDER)}")
        check_symbol(symbol)  # it becomes a part of addresses and of names of files
        _log.log(self._told(logging.INFO), "%s: fetching what is not yet in %s", symbol, self._folder)
        found: list[Path] = []
        for month, *days in periods(since_ms, until_ms, now_ms):
            path = self._one(month.path(symbol, _FOLDER[channel]), told=not days)
            singles = [self._one(day.path(symbol, _FOLDER[channel])) for day in days] if path is None else [path]
            found += [one for one in singles if one is not None]
        return found

    def _told(self, level: int) -> int:
        return logging.DEBUG if self._quiet else level

    def _one(self, place: str, told: bool = True) -> Path | None:
        """Return one file, fetched if need be; None if OKX does not have it."""
        path = self._folder / place.rsplit("/", 1)[-1]
        if path.is_file() and zipfile.is_zipfile(path):
            return path
        try:
            private_folder(self._folder)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self._folder}: {error.strerror}") from None
        part = path.with_name(path.name + ".part")
        with _held(part) as stream:
            whole = self._had(f"/{place}", stream, path.name)
            if not whole:
                if whole is False or not stream.tell():
                    part.unlink(missing_ok=True)
                if told:
                    self.missing.append(path.name)
                    _log.log(
                        self._told(logging.WARNING), "OKX has no %s (yet): %s/%s", path.name, self._server.base, place
                    )
                return None
            part.replace(path)
        return path

    def _had(self, place: str, stream: BinaryIO, name: str) -> bool | None:
        """Fetch a file; False if OKX does not have it. With `quiet` None if it cannot be had whole; that is kept."""
        if self._broken >= _GIVE_UP:
            return None
        try:
            whole = self._whole(place, stream, name)
        except ExchangeUnavailable as error:
            if not self._quiet:
                raise
            _log.debug("%s", error)
            self._broken += 1
            return None
        self._broken = 0
        return whole

    def _whole(self, place: str, stream: BinaryIO, name: str) -> bool:
        """Fetch a file to its end, over as many connections as it takes; False if OKX does not have it."""
        reason = ""
        for attempt in range(self._attempts):
            if attempt:
                self._sleep(min(0.5 * 2**attempt, 20.0))
            try:
                state = self._transfer(place, stream, name)
            except (urllib3.exceptions.HTTPError, _Broken) as error:
                reason = str(error) if isinstance(error, _Broken) else self._server.in_words(error)
                _log.debug("%s: %s", name, reason)
                continue
            try:
                if state and _sound(stream):
                    return True
            except InputError as error:
                _empty(stream)
                raise ExchangeUnavailable(f"cannot use {self._server.base}{place}: {error}") from None
            if not state:
                return False
            _empty(stream)
            reason = "it is a damaged zip"
        raise ExchangeUnavailable(f"cannot fetch {self._server.base}{place}: {reason}. What came is kept: run it again")

    def _transfer(self, place: str, stream: BinaryIO, name: str) -> bool:
        """Make one request and write what it brings behind what is there; False if there is no such file.

        Raises:
            _Broken: it ended too early, or the server is not well.
        """
        there = stream.seek(0, 2)
        headers = {"Range": f"bytes={there}-"} if there else {}
        response = self._server.request(place, headers=headers)
        try:
            if response.status == 416:  # nothing is left, or it is another file by now
                if _total(response.headers.get("Content-Range", "")) != there:
                    _empty(stream)
                    raise _Broken("the file changed meanwhile")
                return True
            if response.status in (403, 404, 410):
                return False
            if 300 <= response.status < 400:
                where = f"{self._server.base}{place} redirects elsewhere (HTTP {response.status})"
                raise ExchangeUnavailable(f"{where}, which is not followed")
            if response.status not in (200, 206):
                raise _Broken(f"HTTP status {response.status}")
            if response.status == 200 or _begin(response.headers.get("Content-Range", "")) != there:
                _empty(stream)
                there = 0
                if response.status == 206:
                    raise _Broken("it answers with another part than asked for")
            return self._copy(response, stream, there, name)
        finally:
            response.close()

    def _copy(self, response: urllib3.BaseHTTPResponse, stream: BinaryIO, there: int, name: str) -> bool:
        """Write a body to its end; False if it is no zip but a page.

        Raises:
            _Broken: it ended too early, is too large, or crawls: a byte now and then would keep it alive for ever.
        """
        length = _digits(response.headers.get("Content-Length", ""))
        total = there + length if length >= 0 else 0
        since, lately = time.monotonic(), 0
        sink = Sink(stream.fileno(), f"{self._folder / name}.part")
        while chunk := response.read1(_READ, decode_content=False):
            lately += len(chunk)
            if time.monotonic() - since >= _PACE_S:
                if lately < _SLOWEST:
                    raise _Broken(f"{lately} bytes in {_PACE_S:.0f} s are too slow")
                since, lately = time.monotonic(), 0
            if there == 0 and not chunk.startswith(b"PK"):
                kind = "a page of HTML" if b"<" in chunk[:100] else "something else"
                _log.log(self._told(logging.WARNING), "%s: %s came instead of a zip", name, kind)
                return False
            if self._stop():
                raise TryLater(f"stopped while fetching {name}: what came is kept, run it again")
            sink.write(chunk)
            there += len(chunk)
            self._progress(there, total or None)
            if there > _MAX_BYTES:
                raise _Broken(f"it is larger than {_MAX_BYTES >> 30} GiB")
        if total and there < total:
            raise _Broken(f"it ended after {there} of {total} bytes")
        return there > 0


class _Broken(Exception):
    """A transfer that another attempt may carry on."""


def _empty(stream: BinaryIO) -> None:
    stream.seek(0)
    stream.truncate()


def _begin(content_range: str) -> int:
    """Return where a `Content-Range: bytes 5-9/10` begins; -1 if it does not say."""
    return _digits(content_range.removeprefix("bytes ").split("-")[0].strip())


def _total(content_range: str) -> int:
    return _digits(content_range.rpartition("/")[2].strip())


def _digits(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _sound(stream: BinaryIO) -> bool:
    """Whether what was written is a whole zip; every member is read and its checksum compared.

    Raises:
        InputError: it is whole, and made to fill memory or disk.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    try:
        with zipfile.ZipFile(stream) as archive:
            check_members(archive, size)
            return archive.testzip() is None
    except (*DAMAGED, OSError, ValueError):
        return False


@contextmanager
def _held(part: Path) -> Iterator[BinaryIO]:
    """Open the unfinished file for this process alone.

    Raises:
        TryLater: another process has it.
        OutputError: it cannot be written.
    """
    try:
        stream = open(part, "a+b", opener=private)  # noqa: SIM115 - the opener makes it ours alone
    except OSError as error:
        raise OutputError(f"cannot write {part}: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TryLater(f"another okx is fetching {part.name.removesuffix('.part')}: try again later") from None
        yield stream
