"""What the bulk files of an exchange are to the rest of the package; a part of `interface`."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypedDict, Unpack

from okxcli.core.model import Instrument
from okxcli.core.timeframes import Timeframe

if TYPE_CHECKING:
    from okxcli.core.candles.bucket import TimeframeBucket
    from okxcli.runtime.proxy import Proxies

#: What the rows of a bulk file are: fill by fill, or merged trades.
RowsAs = Literal["fills", "aggregates"]


class Fills(NamedTuple):
    """What a file holds of one symbol: its ids, both ends included, and its first and last time (ms)."""

    symbol: str
    first: int
    last: int
    first_ms: int
    last_ms: int


class Slice(NamedTuple):
    """The fills of a symbol in a span: ids as ranges (times can step back at its ends), first and last time (ms).

    `begin_ms` and `end_ms` are the times of the lowest and the highest id.
    """

    ids: list[tuple[int, int]]
    first_ms: int
    last_ms: int
    begin_ms: int
    end_ms: int


class WholeFile(Protocol):
    """A faultless bulk file of fills, that is taken at once; it is gone when the next one is asked for."""

    def holds(self, symbol: str) -> bool:
        """Whether there is any row of a symbol."""

    def fills(self, symbol: str) -> Fills | None:
        """Return what there is of a symbol; None if there is nothing, or if its ids have holes or come twice."""

    def step(self, symbol: str) -> int:
        """Return how far time steps back at most from one fill of a symbol to one with a higher id (ms)."""

    def slice(self, symbol: str, since_ms: int, until_ms: int) -> Slice | None:
        """Return what there is of a symbol in a span of time; None if there is nothing."""

    def text(self, symbol: str, first: int, last: int, since_ms: int, until_ms: int) -> Iterator[str]:
        """Yield rows as COPY takes them, piece by piece by id."""

    def buckets(
        self, symbol: str, frame: Timeframe, since_ms: int, until_ms: int, instrument: Instrument | None
    ) -> "list[TimeframeBucket] | None":
        """Return the bars of a fixed length in a span, oldest first; None where sums do not make them."""


class FileRows(NamedTuple):
    """Whole lines of fills, the first of which has a number; messages name it and `source`.

    `columns` tells by a letter each what the cells of a line hold (core/cells.h), `symbol` is that of all lines where
    none does; without columns the lines are raw lines. `raw` turns a line into the raw line that it stands for: into
    nothing if it is damaged, which was told.
    """

    source: str
    number: int
    data: bytes
    columns: bytes
    symbol: bytes
    raw: Callable[[bytes], list[bytes]]


class Archive(Protocol):
    """Bulk files as raw lines. `damaged` counts rows that could not be read, `unreadable` files."""

    symbols: list[str]
    damaged: int
    unreadable: int

    @property
    def paths(self) -> list[Path]:
        """The files that may hold what is wanted, oldest first."""

    def pushes(self) -> Iterator[tuple[bytes, int]]:
        """Yield raw lines joined by newlines, oldest first, some thousand at a time, and how many they are."""

    def lines(self) -> Iterator[list[bytes]]:
        """Yield the lines of `pushes` in lists."""

    def blocks(self) -> Iterator[FileRows]:
        """Yield what `pushes` does, of fills that stand in order the rows as they are."""


class Downloader(Protocol):
    """Fetches bulk files; `missing` are the names of those that there are none of."""

    missing: list[str]

    def fetch(self, symbol: str, since_ms: int, until_ms: int, now_ms: int, channel: str = ...) -> list[Path]:
        """Return the files of a symbol that cover a span, fetched unless they are there; oldest first.

        Raises:
            ExchangeUnavailable: a transfer failed in all attempts.
            OutputError, TryLater: the folder cannot be written, or another process is at it.
        """


class DownloadOptions(TypedDict, total=False):
    """How files are fetched. `stop` is asked whether to end early, `progress` told of bytes done and of all.

    `quiet`: the caller tells what is missing, and a file that cannot be had whole in a few attempts is missing too.
    """

    proxies: "Proxies"
    sleep: Callable[[float], object]
    stop: Callable[[], bool]
    progress: Callable[[int, int | None], None]
    quiet: bool


class ArchiveOptions(TypedDict, total=False):
    """What is wanted of files: the rows of a span (ms) and a channel, as fills or as merged trades."""

    since_ms: int | None
    until_ms: int | None
    channel: str
    progress: Callable[[int, int], None]
    rows_as: RowsAs | None


class FileSource(Protocol):
    """The exchange's archive of files, a file a symbol and day.

    Its days begin `offset_ms` before midnight UTC; a file is there `published_ms` after its day. `url` is where they
    are. `bars` is the channel of one-minute bars that files stand in for.
    """

    url: str
    bars: str
    offset_ms: int
    published_ms: int

    def is_one(self, path: Path) -> bool:
        """Whether a file is called as bulk files are."""

    def folder(self, url: str | None) -> Path:
        """Return where files are kept unless told otherwise."""

    def downloader(self, url: str | None, folder: Path, **options: Unpack[DownloadOptions]) -> Downloader:
        """Return what fetches files from `url`, else from their own place, into a folder."""

    def archive(
        self, places: Iterable[str | Path], symbols: Iterable[str] | None, **options: Unpack[ArchiveOptions]
    ) -> Archive:
        """Return what files, folders and patterns hold of symbols; None: of all.

        Raises:
            UsageError: no such file or pattern, an odd symbol, a channel that no file stands in for.
        """

    def whole(self, path: Path, symbols: Collection[str]) -> Generator[WholeFile | None, None, None]:
        """Yield the tables in a file; None for one that has to be read line by line.

        Raises:
            InputError: the file is damaged as a whole.
        """

    def may_hold(self, path: Path, symbol: str) -> bool:
        """Whether the name of a file lets it hold rows of a symbol."""
