"""`Repair`: has the holes of a feed filled from REST, by threads of its own, so that nobody waits for an answer.

The one who polls the feed passes its lines through `feed`; all decisions are those of `GapTracker`. Answers come a page
at a time, taken in turn from all symbols that want some; what nobody takes is not asked for.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from okxcli.errors import NoSuchInstrument, OkxError
from okxcli.exchanges.interface import Page
from okxcli.exchanges.okx.feed.gap_tracker import Fetch, GapTracker
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.runtime.clock import passed_ms

_log = logging.getLogger(__name__)

_WORKERS = 2
#: Pages fetched and not taken yet.
_MAX_PAGES = 32
#: A request under way cannot be broken off; nobody waits for its end longer than this.
_STOP_S = 1.0
#: At the start, further behind than this a symbol is not brought up to date before it goes on: 500 requests take a
#: minute, and this is backfill's work.
RESUME_IDS = 50_000


class _TooFar(OkxError):
    """There is more to catch up with than should be done before the present is written."""


@dataclass(slots=True)
class _Job:
    fetch: Fetch
    pages: Iterator[Page] | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A page; or the end, with an error if there was one."""

    fetch: Fetch
    page: Page | None = None
    error: OkxError | None = None


@dataclass(eq=False, slots=True)
class Repair:
    """Fills holes of `holes` from `history`. `since_ms` is where symbols begin whose first id is not known.

    `poke` is called, in other threads, when `feed` should be called again; `dress` makes the lines of REST look like
    those of the feed (a stamp).
    """

    holes: GapTracker
    history: TradeHistory
    poke: Callable[[], None]
    dress: Callable[[list[bytes]], list[bytes]]
    since_ms: int | None = None
    _jobs: queue.SimpleQueue[_Job | None] = field(default_factory=queue.SimpleQueue, init=False)
    _answers: queue.Queue[_Answer] = field(default_factory=lambda: queue.Queue(_MAX_PAGES), init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _due: int | None = field(default=None, init=False)
    _due_changed: threading.Condition = field(default_factory=threading.Condition, init=False)

    @property
    def counts(self) -> Mapping[str, int]:
        """What was seen and done: holes, fills repaired, left to backfill, absent, and old lines dropped."""
        return self.holes.counts

    def feed(self, lines: list[bytes], overlap: bool = False) -> list[bytes]:
        """Take what has come from the sockets; return what is to be written, in its order."""
        now = passed_ms()
        out = self._take_answers(now)
        out += self.holes.feed(lines, now, overlap)
        out += self.holes.tick(now)
        if not self._stopping.is_set():
            for fetch in self.holes.fetches(now):
                _log.debug("asking REST: %s", fetch)
                self._jobs.put(_Job(fetch))
            self._watch(self.holes.due())
        return out

    def retape(self, symbols: list[str], resume: Mapping[str, int]) -> list[bytes]:
        """Look after these symbols from now on; return what was held of those that are not among them any more."""
        out = self.holes.retape(symbols, resume)
        self.poke()
        return out

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopping.set()
        with self._due_changed:
            self._due_changed.notify_all()
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def release(self) -> list[bytes]:
        """Return what is still held, in its order; after `stop`, until there is none."""
        return self.holes.release()

    def _take_answers(self, now: int) -> list[bytes]:
        out: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            while True:
                answer = self._answers.get_nowait()
                fetch = answer.fetch
                if answer.page is not None:
                    out += self.holes.page(fetch, answer.page._replace(lines=self.dress(answer.page.lines)), now)
                elif answer.error is None:
                    out += self.holes.ended(fetch, now)
                else:
                    _log.debug("no answer to %s: %s", fetch, answer.error)
                    for_good = isinstance(answer.error, NoSuchInstrument | _TooFar)
                    out += self.holes.failed(fetch, now, str(answer.error), for_good)
        return out

    def _watch(self, due: int | None) -> None:
        """Have the clock call at `due`; threads are started when they are first needed."""
        if not self._threads and (due is not None or not self._jobs.empty()):
            self._threads = [threading.Thread(target=self._clock, name="okx repair clock", daemon=True)]
            self._threads += [
                threading.Thread(target=self._work, name=f"okx repair {n + 1}", daemon=True) for n in range(_WORKERS)
            ]
            for thread in self._threads:
                thread.start()
        with self._due_changed:
            if due != self._due:
                self._due = due
                self._due_changed.notify_all()

    # In threads of their own

    def _clock(self) -> None:
        while not self._stopping.is_set():
            with self._due_changed:
                wait_s = None if self._due is None else (self._due - passed_ms()) / 1000
                if wait_s is None or wait_s > 0:
                    self._due_changed.wait(wait_s)
                    continue
                self._due = None  # `feed` sets the next one
            self.poke()

    def _work(self) -> None:
        while not self._stopping.is_set():
            job = self._jobs.get()
            if job is None:
                return
            if not self.holes.wanted(job.fetch):
                continue
            try:
                if job.pages is None:
                    job.pages = self._pages(job.fetch)
                answer = _Answer(job.fetch, page=next(job.pages, None))
            except OkxError as error:
                answer = _Answer(job.fetch, error=error)
            except Exception as error:
                _log.exception("a bug of okx: repairing %s", job.fetch)
                answer = _Answer(job.fetch, error=OkxError(str(error)))
            self._hand_over(answer)
            if answer.page is not None:
                self._jobs.put(job)

    def _hand_over(self, answer: _Answer) -> None:
        """Give an answer to the one who polls; wait while it does not take them."""
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._answers.put(answer, timeout=0.2)
                self.poke()
                return

    def _pages(self, fetch: Fetch) -> Iterator[Page]:
        if fetch.first is None:
            return self.history.trades(fetch.symbol, self.since_ms or 0)
        last = self.history.newest(fetch.symbol)[0] if fetch.last is None else fetch.last
        if fetch.limited and last - fetch.first >= RESUME_IDS:
            raise _TooFar(f"{last - fetch.first + 1} fills behind; okx backfill will fetch them")
        return self.history.range(fetch.symbol, fetch.first, last, fetch.known)
