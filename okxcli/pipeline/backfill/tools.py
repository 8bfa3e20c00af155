"""What every part of a backfill works with: the database, the exchange, the clock, and when to stop."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from okxcli.core.model import Line, StandardizedTrade
from okxcli.core.tape import SPREAD_MS
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import Exchange, History, Normalizer, Page, PartlyInvalid
from okxcli.runtime.clock import now_ms
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.write.writer import Writer

_log = logging.getLogger(__name__)

#: Pages between two commits: a second or two of the exchange's patience, and all that a kill can cost.
COMMIT_PAGES = 10
#: Fills younger than this may still be on their way from a collector; it is what `okx gaps` leaves out too.
TAIL_MS = 60_000
FOREVER_MS = 1 << 42


@dataclass
class Tools:
    """`connect` gives a new connection, `connection` is one of them. `describe` gives raw lines of what a symbol is.

    `stopped` is asked between pages whether to end early. `sleep` waits so many seconds, and may return early;
    `progress` is told how many pages are done and how many there are. Answers that prove an id absent are spread over
    `spread_ms`.
    """

    connect: Callable[[], Connection]
    history: History
    exchange: Exchange
    fill: bool = False
    spread_ms: int = SPREAD_MS
    describe: Callable[[str], list[bytes]] = lambda _: []
    stopped: Callable[[], bool] = lambda: False
    sleep: Callable[[float], object] = time.sleep
    progress: Callable[[int, int | None], None] = lambda done, total: None
    clock: Callable[[], int] = now_ms
    connection: Connection = field(init=False)
    total: int | None = None
    done: int = 0
    _normalizer: Normalizer = field(init=False)

    def __post_init__(self) -> None:
        """Connect."""
        self._normalizer = self.exchange.normalizer(self.clock)
        self.connection = self.connect()

    @property
    def name(self) -> str:
        """The name of the exchange in lines and rows."""
        return self.exchange.name

    def pages(self, symbol: str, runs: Ranges, ceiling: int) -> Iterator[Page]:
        """Yield the answers about runs of ids, each told as done when the next is asked for, until it is time to stop.

        `ceiling` is an id that is known to exist.

        Raises:
            ExchangeUnavailable: the exchange does not answer.
        """
        for first, last in runs:
            for page in self.history.range(symbol, first, last, max(ceiling, last)):
                yield page
                self.done += 1
                self.progress(self.done, self.total)
                if self.stopped():
                    return

    def normalized(self, raw: bytes) -> list[Line]:
        """Return what a raw line says; what is bad is told and left out."""
        try:
            return self._normalizer.feed(raw)
        except PartlyInvalid as reason:
            _log.warning("rejected a part of a message: %s", reason)
            return reason.lines
        except InvalidLine as reason:
            _log.warning("rejected a message: %s: %s", reason, raw[:300].decode(errors="replace"))
            return []

    def fills(self, page: Page) -> Iterator[StandardizedTrade]:
        """Yield the fills that an answer holds."""
        for raw in page.lines:
            yield from (line for line in self.normalized(raw) if isinstance(line, StandardizedTrade))

    def introduce(self, symbol: str, writer: Writer) -> None:
        """Store what a symbol is, if nothing says so yet: it tells what the sizes in its bars mean."""
        found = self.connection.execute(
            "SELECT FROM instruments WHERE exchange = %s AND symbol = %s LIMIT 1", [self.name, symbol]
        ).fetchone()
        for raw in self.describe(symbol) if found is None else ():
            for line in self.normalized(raw):
                writer.add(line)

    def newest_before(self, symbol: str, until_ms: int | None) -> tuple[int, int]:
        """Return the highest id of the fills before a moment, None: of all, and about when that fill was (ms).

        Raises:
            NoSuchInstrument, ExchangeUnavailable: the exchange does not tell.
        """
        newest, newest_ms = self.history.newest(symbol)
        if until_ms is None or newest_ms < until_ms:
            return newest, newest_ms
        return self.history.last_id_before(symbol, until_ms), until_ms
