"""What an exchange is to the rest of the package: the types that a folder beside this module provides.

An exchange numbers the fills of a symbol one by one; what pushes and pages bring are raw lines, its own bytes, which
only its own `Normalizer` understands.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Required, Self, TypedDict, Unpack

from okxcli.core.model import Instrument, Line, OHLCVCandle
from okxcli.core.timeframes import Timeframe
from okxcli.errors import Early, InvalidLine

if TYPE_CHECKING:
    from okxcli.exchanges.file_interface import FileSource
    from okxcli.runtime.clock import SteadyClock
    from okxcli.runtime.proxy import Proxies

#: Tells the time, in ms.
Clock = Callable[[], int]
#: Is told what is done and what there is to do; None: nobody knows.
Progress = Callable[[int, int | None], None]


class PartlyInvalid(InvalidLine):
    """Some rows of a push are bad; `lines` holds what the others gave."""

    def __init__(self, reason: str, lines: list[Line], early: tuple[Early, ...] = ()) -> None:
        super().__init__(reason, early)
        self.lines = lines


class Page(NamedTuple):
    """What an exchange shows of the ids `first .. last` of a symbol: raw lines of one fill each, by rising id.

    `missing` are the ranges of ids that it did not show; `evidence` tells whether the answers say anything about
    them: they held an id above and one at or below. Without it, some node of the exchange may just be behind.
    """

    lines: list[bytes]
    first: int
    last: int
    missing: list[tuple[int, int]]
    evidence: bool

    def ids(self) -> list[int]:
        """Return the ids of `lines`, in their order."""
        found: list[int] = []
        at = self.first
        for low, high in [*self.missing, (self.last + 1, self.last)]:
            found += range(at, low)
            at = high + 1
        return found


class Missing(NamedTuple):
    """Ids, both ends included, that the exchange did not show."""

    symbol: str
    first: int
    last: int


class Taken(NamedTuple):
    """What was made of a part of a block of raw lines: lines of ours joined by newlines, and how many they are.

    `next` is the offset of the first raw line that was left, `taken` how many were read before it.
    """

    lines: bytes
    made: int
    next: int
    taken: int


class Normalizer(Protocol):
    """Raw lines in, lines of ours out; remembers what instruments are."""

    def take(self, block: bytes, at: int) -> Taken:
        """Read whole raw lines from an offset on, up to the first that is not of an everyday form, for `feed`."""

    def feed(self, line: bytes) -> list[Line]:
        """Return what a raw line says; nothing for control messages and for channels that have no line.

        Raises:
            InvalidLine: it says nothing that can be believed; `PartlyInvalid`: some of it.
        """

    def counts(self) -> dict[str, int]:
        """Return what was passed over, by kind."""

    def notes(self) -> list[str]:
        """Return what a person should know of it at the end."""


class LineSource(Protocol):
    """Raw lines as they come: one thread calls `poll` whenever `fileno` is readable, from `with` to its end."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `poll` has lines or news."""

    def poll(self) -> list[bytes]:
        """Return the lines that have come; after `stop` also what is held, until there is none.

        Raises:
            UsageError: the exchange has none of what is asked for.
            LoginRefused: it does not take the key.
            ExchangeUnavailable: never connected within the time given.
        """

    def stop(self) -> None:
        """Close all connections; what has come can still be polled."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Feed(LineSource, Protocol):
    """The present: raw lines as they are pushed, fills repaired from the past where some are missing."""

    clock: "SteadyClock"

    @property
    def wall_offset_ms(self) -> int | None:
        """By how much this machine's clock is behind the exchange's; None while it is not known."""

    def measure(self) -> None:
        """Ask for the exchange's time, unless it is known."""

    def go_through(self, configured: str | None) -> None:
        """Go on through the proxy that the configuration names now."""

    def change(
        self, symbols: Iterable[str], channels: Iterable[str], resume: Mapping[str, int] | None = None
    ) -> list[bytes]:
        """Stream other symbols or channels from now on; return what was held back of those that are gone.

        Raises:
            UsageError: an unknown channel, or what cannot be a symbol; nothing has changed then.
        """

    def mend_book(self, symbol: str, channel: str) -> None:
        """Have an order book begin anew: a message of it was no good, and what follows on that is of no use."""


class History(Protocol):
    """The past, by id. Methods raise NoSuchInstrument, and ExchangeUnavailable where nobody answers."""

    def range(self, symbol: str, first: int, last: int, known: int | None = None) -> Iterator[Page]:
        """Yield the fills `first .. last`, lowest first, in pages that follow on each other without a gap.

        `known` is an id above `last` that exists for certain: it serves as proof when `last` itself does not.
        """

    def newest(self, symbol: str) -> tuple[int, int]:
        """Return the id and the time (ms) of the newest fill.

        Raises:
            Refused: there is none.
        """

    def first_id_at(self, symbol: str, since_ms: int) -> int:
        """Return the lowest id of the fills at or after a moment; if there is none yet, the one that it will have."""

    def last_id_before(self, symbol: str, until_ms: int) -> int:
        """Return the highest id of the fills before a moment."""


class Past(Protocol):
    """A span of time of several symbols as one stream; `missing` has what the exchange did not show of it."""

    symbols: list[str]
    missing: list[Missing]

    def lines(self) -> Iterator[bytes]:
        """Yield raw lines, oldest first, those of several symbols merged by time."""


class Bars(Protocol):
    """The exchange's own candles. `now_ms` is its clock when this was made."""

    now_ms: int

    def between(self, symbol: str, timeframe: Timeframe, since_ms: int, until_ms: int) -> dict[int, OHLCVCandle]:
        """Return the bars that start in `[since_ms, until_ms)` and are over, by their start."""

    def other_day(self, timeframe: Timeframe) -> Timeframe | None:
        """Return the timeframe of the same length that is cut at another midnight of the exchange's; None: none is."""

    def finer(self, timeframe: Timeframe) -> Timeframe | None:
        """Return the timeframe from whose bars those of `timeframe` can be put together in a few pages."""

    def rounded_fields(self, symbol: str) -> frozenset[str]:
        """Return the fields of a bar that the exchange rounds."""


class Market(Protocol):
    """An exchange as it answers requests, at one address."""

    base_url: str

    def clock(self) -> "SteadyClock":
        """Return a clock that goes by the exchange's; the machine's own where that does not tell."""

    def history(self, clock: Clock) -> History:
        """Return the fills, by id."""

    def past(
        self, symbols: Iterable[str], channel: str, span: tuple[int, int], clock: Clock, progress: Progress
    ) -> Past:
        """Return what a channel would have pushed in a span of time (ms).

        Raises:
            UsageError: no such channel, one without a past, or an empty span.
        """

    def bars(self) -> Bars:
        """Return the exchange's own candles."""

    def listed(self, kinds: Iterable[str], family: str | None) -> list[Instrument]:
        """Return the instruments of some kinds (`spot`, `swap`, `futures`; `option` with its family), by symbol."""

    def describe(self, symbols: Iterable[str]) -> list[bytes]:
        """Return the raw lines that tell what `symbols` are.

        Raises:
            UsageError: there is none of that name; the nearest one is told.
            ExchangeUnavailable: the lists could not be had.
        """

    def known(self, symbols: Iterable[str]) -> list[bytes]:
        """Return the same of those that exist."""

    def close(self) -> None:
        """Give the connections back."""


class StreamOptions(TypedDict, total=False):
    """Where a stream is, and how it comes; `stamp`: each line says when."""

    ws_url: Required[str]
    rest_url: Required[str]
    proxies: "Proxies"
    connect_timeout_s: float
    stamp: bool


class AccountOptions(StreamOptions, total=False):
    """As whom to log in: with the key of `key_file`, else of the environment."""

    key_file: Path | None


class FeedOptions(StreamOptions, total=False):
    """What is wished of a feed.

    `repair`: fills that no socket brought are fetched. `since_ms`: it begins with the fills since then; `resume`: right
    after these ids. `listing`: what becomes of the symbols comes too. `batch_s`: so much time may pass between two
    reads, for the sake of larger batches. `wants`: of such instruments too it is told what becomes of them, though they
    are not streamed. `key_file`: whose key logs in, where a channel wants that; None: that of the environment.
    """

    repair: bool
    since_ms: int | None
    resume: Mapping[str, int] | None
    listing: bool
    batch_s: float
    wants: Callable[[str], bool] | None
    key_file: Path | None


class MarketOptions(TypedDict, total=False):
    """How an exchange is asked.

    `share` is the part of its limits that may be taken, `patience_s` for how long a request is tried; `sleep` is called
    wherever there is something to wait for.
    """

    share: float
    patience_s: float
    sleep: Callable[[float], None]


class Exchange(Protocol):
    """An exchange. `name` is the key of its lines and rows, `title` what people call it.

    `home` is the origin of its real data, as `origin_of` tells it; `page` how many fills an answer holds, `horizon_ms`
    how far back they go. `preface`: how raw lines begin that are not data. `files` is None where there are none.

    It numbers the fills of a symbol one by one, without a gap but for ids that it lost, and calls channels what the
    lines call them: `trades-all`, `trades`, `books5`, `bbo-tbt`, and those of `core.states`; its own bars as it likes.
    """

    name: str
    title: str
    home: str
    ws_url: str
    rest_url: str
    page: int
    horizon_ms: int
    preface: tuple[bytes, ...]
    files: "FileSource | None"

    def origin_of(self, url: str) -> str:
        """Return where data of `url` comes from: a site of the exchange, `local` for this machine, else the host."""

    def pages(self) -> tuple[int, float]:
        """Return how many pages of fills may be asked for, in how many seconds."""

    def is_raw(self, line: bytes) -> bool:
        """Whether a line is one of the exchange's own, and not one of ours."""

    def normalizer(self, clock: Clock | None = None) -> Normalizer:
        """Return what reads its raw lines; times are judged by `clock`."""

    def bar_of(self, timeframe: str) -> str:
        """Return the exchange's name of a timeframe.

        Raises:
            UsageError: it has no such bars.
        """

    def timeframe_of(self, channel: str) -> str | None:
        """Return the timeframe of the exchange's own bars that a channel brings; None: it brings none."""

    def market(self, rest_url: str, proxies: "Proxies", **options: Unpack[MarketOptions]) -> Market:
        """Return the exchange as it answers requests."""

    def account(self, channels: Iterable[str] | None, **options: Unpack[AccountOptions]) -> LineSource:
        """Return the stream of private `channels` of an account; None: those that every account has.

        Raises:
            LoginRefused: there is no key to log in with.
            UsageError: an unknown channel.
        """

    def addresses(self, site: str | None, demo: bool) -> tuple[str, str]:
        """Return the addresses of a site, the main one by default, of demo trading if wanted: WebSocket and REST."""

    def feed(self, symbols: Iterable[str], channels: Iterable[str], **options: Unpack[FeedOptions]) -> Feed:
        """Return the stream of `channels` of `symbols`.

        Raises:
            UsageError: an unknown channel, or what cannot be a symbol.
            LoginRefused: a channel wants a login, and there is no key.
        """
