"""`BookRepair`: has the broken books of a feed mended, so that nobody waits for an answer.

The one who polls the feed passes its lines through `feed`; all decisions are those of `BookChains`. REST is asked in a
thread of its own, which there is as soon as something is to be asked.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from okxcli.core.books.chain import Numbers
from okxcli.errors import OkxError
from okxcli.exchanges.okx.books.book_chains import BookChains, Fetch, Fetched
from okxcli.exchanges.okx.books.book_pushes import snapshot_line
from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.runtime.clock import passed_ms

_log = logging.getLogger(__name__)

#: An answer may be older than the updates that wait for it: so often it is asked again, after a moment.
_TRIES = 5
_AGAIN_S = 0.2


@dataclass(eq=False, slots=True)
class BookRepair:
    """Mends books. `renew` subscribes some anew; `poke` is called, in another thread, when `feed` should be called.

    `dress` makes a line of REST look like those of the feed (a stamp).
    """

    rest: RestClient
    renew: Callable[[list[Subscription]], None]
    poke: Callable[[], None]
    dress: Callable[[list[bytes]], list[bytes]]
    chains: BookChains = field(default_factory=BookChains)
    _fetches: queue.SimpleQueue[Fetch | None] = field(default_factory=queue.SimpleQueue, init=False)
    _answers: queue.SimpleQueue[tuple[Fetch, Fetched | None]] = field(default_factory=queue.SimpleQueue, init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    @property
    def counts(self) -> Mapping[str, int]:
        """What was seen and asked for."""
        return self.chains.counts

    def feed(self, lines: list[bytes], overlap: bool = False) -> list[bytes]:
        """Take what has come; return what is to be written, in its order; after `stop` what was held, too."""
        now = passed_ms()
        out: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            while True:
                out += self.chains.fetched(*self._answers.get_nowait(), now)
        out += self.chains.feed(lines, now, overlap)
        self._act()
        return out + self.chains.release() if self._stopping.is_set() else out

    def mend(self, symbol: str, channel: str) -> None:
        """Ask for a book anew: a message of it was no good."""
        self.chains.mend(Subscription(channel, symbol), passed_ms())
        self._act()

    def forget(self, subscriptions: Iterable[Subscription]) -> list[bytes]:
        """Drop books that nobody wants any more; return what was held of them."""
        return self.chains.forget(subscriptions)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopping.set()
        self._fetches.put(None)

    def _act(self) -> None:
        for level, text in self.chains.told():
            _log.log(level, "%s", text)
        renewals, fetches = self.chains.wishes()
        if self._stopping.is_set():
            return
        if renewals:
            self.renew(renewals)
        for fetch in fetches:
            self._fetches.put(fetch)
        if fetches and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="okx books", daemon=True)
            self._thread.start()

    # In a thread of its own

    def _work(self) -> None:
        while (fetch := self._fetches.get()) is not None and not self._stopping.is_set():
            try:
                found = self._fetch(fetch)
            except OkxError as error:
                _log.debug("no book of %s: %s", fetch.subscription.value, error)
                found = None
            except Exception:
                _log.exception("a bug of okx: asking for the book of %s", fetch.subscription.value)
                found = None
            self._answers.put((fetch, found))
            self.poke()

    def _fetch(self, fetch: Fetch) -> Fetched | None:
        """Return the book, as young as it has to be; None where REST only has older ones, or does not tell."""
        for _ in range(_TRIES):
            symbol = fetch.subscription.value
            row = self.rest.books(symbol)
            seq = row.get("seqId")
            if not isinstance(seq, int):
                _log.debug("a book of %s without a number", symbol)
                return None
            if seq >= fetch.at_least:
                (line,) = self.dress([snapshot_line(symbol, row)])
                return Fetched(line, Numbers(True, seq, None, int(row["ts"])))
            if self._stopping.wait(_AGAIN_S):
                break
        return None
