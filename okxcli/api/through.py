"""Lines through the pure steps: raw ones to objects, trades to candles, updates to order books."""

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Generic, Self, TypeVar

from okxcli.commands.ways import Way, way_of_options
from okxcli.core.books.book_maker import BookMaker
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.codec import decode
from okxcli.core.model import BookSnapshot, BookUpdate, Line, OHLCVCandle
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import PartlyInvalid
from okxcli.exchanges.registry import exchange
from okxcli.runtime.clock import now_ms, parse_interval, parse_time

_log = logging.getLogger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: A moment: ISO 8601 (UTC unless it says otherwise), `2h` (ago), `today`; milliseconds since 1970; or a datetime.
Moment = str | int | datetime
T = TypeVar("T")


class Lines(Generic[T], Iterator[T]):
    """What comes, one by one, until it is closed: by `close`, by the end of a `with` block, or by its own end."""

    def __init__(self, make: Callable[[], Generator[T, None, None]]) -> None:
        self._lines = make()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it: connections are closed, and nothing comes any more."""
        self._lines.close()


def milliseconds(moment: Moment, now: int | None = None) -> int:
    """Return the milliseconds since 1970 of a moment; a datetime without a zone is UTC.

    Raises:
        UsageError: the text is no time.
    """
    if isinstance(moment, datetime):
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(milliseconds=1)
    return moment if isinstance(moment, int) else parse_time(moment, now_ms() if now is None else now)


def way_to(ws_url: str | None, rest_url: str | None, proxy: str | None) -> Way:
    """Return the way to the exchange: by what is given, else by OKX_WS_URL and its like, else as configured.

    Raises:
        ConfigError: the configuration has mistakes.
    """
    env = os.environ
    return way_of_options(ws_url or env.get("OKX_WS_URL"), rest_url or env.get("OKX_REST_URL"), proxy)


def normalize(
    lines: Iterable[bytes | str], *, strict: bool = False, bad: Callable[[bytes, InvalidLine], object] | None = None
) -> Iterator[Line]:
    """Yield what raw lines of the exchange say, in their order.

    A bad line is passed over: `bad` is called with it and the reason. What is no data (control events, channels that
    okx does not know) gives nothing.

    Raises:
        InvalidLine: a bad line, with `strict`.
    """
    normalizer = exchange().normalizer()
    for line in lines:
        raw = line.encode() if isinstance(line, str) else line
        try:
            yield from normalizer.feed(raw.rstrip(b"\r\n"))
        except PartlyInvalid as reason:
            _refuse(raw, reason, strict, bad)
            yield from reason.lines
        except InvalidLine as reason:
            _refuse(raw, reason, strict, bad)


def _refuse(line: bytes, reason: InvalidLine, strict: bool, bad: Callable[[bytes, InvalidLine], object] | None) -> None:
    if strict:
        raise reason
    if bad is not None:
        bad(line, reason)
    else:
        _log.warning("a bad line is passed over: %s", reason)


def candles(
    lines: Iterable[Line | bytes | str],
    timeframes: str | Iterable[str] = "1m",
    *,
    lateness: float = 10.0,
    fill: bool = False,
    partial: bool = False,
) -> Iterator[OHLCVCandle]:
    """Yield the bars of trades the moment they are over, each before the trade that ended it is asked for.

    `timeframes` as `"1m,5m"` or a list. A trade may be `lateness` seconds behind the newest of its symbol and still
    change a bar, which is then yielded once more with the next `revision`. Instruments and absent ids among the lines
    are made use of; other lines are ignored. `fill` yields flat bars where the ids prove that nothing was traded,
    `partial` running bars too, once a second of trades. A bar is final when its symbol trades at or past its end: no
    clock ends one here. okx-candles(7) has the rules.

    Raises:
        InvalidLine: a timeframe, or a line that is given as text, is none.
    """
    made: list[OHLCVCandle] = []
    late_ms = round(lateness * 1000)
    maker = RealTimeCandleProcessor(
        timeframes, made.append, lateness_ms=late_ms, fill=fill, partial=partial, live=False
    )

    def run() -> Iterator[OHLCVCandle]:
        for line in lines:
            text = line.encode() if isinstance(line, str) else line
            maker.feed(decode(text) if isinstance(text, bytes) else text)
            yield from made
            made.clear()
        maker.finish()
        yield from made

    return run()


def books(
    lines: Iterable[Line | bytes | str], every: str | None = None, *, depth: int | None = None, fill: bool = False
) -> Iterator[BookSnapshot]:
    """Yield the order books that snapshots and updates among the lines make, as long as nothing is missing.

    At each change of the best `depth` levels (None: of any), or with `every` (`"100ms"`, `"1s"`) as they were at the
    end of each such interval in which something came, once the next message has proved it; with `fill` also of those
    in which nothing came. A book that is broken, crossed, one-sided or empty is told to the log and not yielded. Other
    lines are ignored. okx-books(1) has the rules.

    Raises:
        UsageError: no such interval.
        InvalidLine: a line that is given as text is none.
    """
    made: list[BookSnapshot] = []
    maker = BookMaker(
        lambda book, moment, known: made.append(book.snapshot(moment, known, depth)),
        lambda book, text: _log.warning("%s %s: %s", book.symbol, book.origin, text),
        every_ms=None if every is None else parse_interval(every),
        depth=depth,
        fill=fill,
    )

    def run() -> Iterator[BookSnapshot]:
        for line in lines:
            text = line.encode() if isinstance(line, str) else line
            found = decode(text) if isinstance(text, bytes) else text
            if isinstance(found, BookUpdate):
                maker.take(found)
                yield from made
                made.clear()

    return run()
