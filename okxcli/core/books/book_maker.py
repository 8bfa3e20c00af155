"""`BookMaker`: keeps the books of many symbols from their updates, and says when one is to be written.

With an interval a book is written as it was at the end of each interval in which something came, right-aligned: from
the messages before that moment alone, and once the next message has proved, by its place in the chain, that nothing
came between. Without one it is written at each change. A book that is not good is never written: it is told.
"""

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from okxcli.core.books.chain import Step
from okxcli.core.books.local_book import LocalBook, State
from okxcli.core.model import BookUpdate, Levels
from okxcli.errors import InvalidLine

#: The exchange repeats itself after a minute without change: a longer silence proves nothing, and may be a dead line.
STALE_MS = 90_000
#: Books that are kept at most: a flood of made-up names shall not fill the memory.
MAX_BOOKS = 10_000
#: A state that comes again within so long of the exchange's time is counted, not told.
_TOLD_MS = 60_000

#: Is given a good book, the moment that it is of, and when that was known (None: nobody noted it); all in ms.
Emit = Callable[[LocalBook, int, int | None], None]
#: Is given a book and what is to be told of it.
Tell = Callable[[LocalBook, str], None]
_Key = tuple[str, str, str]


@dataclass(eq=False, slots=True)
class _Kept:
    """A book, how far its time is, and what was written and told of it last."""

    book: LocalBook
    state: State = State.WAITING
    clock: int = 0  # the newest time of a message
    end: int = 0  # of the interval that the newest message is in; 0: there was none
    heard_ms: int | None = None  # when something came, by the clock of `advance`; None: since then
    stale: bool = False
    told: dict[str, int] = field(default_factory=dict)  # state: when it was told
    written: tuple[Levels, Levels] | None = None


class BookMaker:
    """Keeps books; hands the good ones out through `emit`, every `every_ms`, or at each change (None).

    A change is one of the best `depth` levels (None: of any). With `fill` the intervals are written too in which
    nothing came, once that is proved, and up to a minute and a half of them. `counts` are of messages by what they
    were, of books written, and of moments at which a book could not be written, by why.
    """

    def __init__(
        self, emit: Emit, tell: Tell, *, every_ms: int | None = None, depth: int | None = None, fill: bool = False
    ) -> None:
        self._kept: dict[_Key, _Kept] = {}
        self._emit = emit
        self._tell = tell
        self._every = every_ms
        self._depth = depth
        self._fill = fill
        self._counts: Counter[str] = Counter()

    def take(self, update: BookUpdate) -> Step:
        """Take in the next message of a book; say what it was to that.

        Raises:
            InvalidLine: of a book too many.
        """
        key = update.exchange, update.symbol, update.origin
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= MAX_BOOKS:
                raise InvalidLine(f"more than {MAX_BOOKS} books")
            kept = self._kept[key] = _Kept(LocalBook(*key))
        book, every = kept.book, self._every
        kept.heard_ms, kept.stale = None, False
        step = book.expected(update)
        if every is not None and kept.end and update.timestamp >= kept.end and step is not Step.OLD:
            self._finish_interval(kept, update, step, every)
        step = book.take(update)
        self._counts[step.value] += 1
        if step is Step.OLD or (step is Step.IGNORED and kept.state is State.INVALID):
            return step  # the latter was told when it broke
        if update.timestamp < kept.clock:
            self._counts["stepped_back"] += 1
        if not 0 <= kept.clock - update.timestamp <= STALE_MS:
            kept.clock = update.timestamp
        state = book.state
        self._note(kept, state, step)
        if step in (Step.GAP, Step.IGNORED):
            kept.end = 0
        elif every is not None:
            if step is not Step.KEEP_ALIVE or self._fill:
                kept.end = kept.clock // every * every + every
        elif step is not Step.KEEP_ALIVE:
            self._write_change(kept, update, state)
        return step

    def set_interval(self, every_ms: int | None, depth: int | None) -> None:
        """Write books this often, and as changes of so many levels, from now on."""
        self._every, self._depth = every_ms, depth
        for kept in self._kept.values():
            kept.end, kept.written = 0, None

    def forget(self, exchange: str, symbol: str) -> None:
        """Keep the books of a symbol no longer."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[:2] != (exchange, symbol)}

    def retain(self, origins: Container[str]) -> None:
        """Keep the books of no other channels any longer."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[2] in origins}

    def drop(self, exchange: str, symbol: str, origin: str, reason: str) -> None:
        """Know a book no longer, until its next snapshot: a message of it was no good."""
        kept = self._kept.get((exchange, symbol, origin))
        if kept is not None and kept.state is not State.WAITING:
            kept.book.drop(reason)
            kept.end = 0
            self._counts[Step.GAP.value] += 1
            self._note(kept, kept.book.state, Step.GAP)

    def advance(self, now: int) -> None:
        """Tell of books of which nothing has come for long, not even the word that nothing changed; `now` in ms."""
        for kept in self._kept.values():
            if kept.heard_ms is None:
                kept.heard_ms = now
            elif not kept.stale and now - kept.heard_ms >= STALE_MS and kept.state not in _UNKNOWN:
                kept.stale = True
                self._counts["stale"] += 1
                self._tell(kept.book, f"stale: nothing has come for {STALE_MS // 1000} s")

    def counts(self) -> dict[str, int]:
        """Return what was counted, and how many books there are that are good."""
        names = [step.value for step in Step] + [state.value.replace("-", "_") for state in _SEEN_BAD]
        names += ["unproven", "stale", "stepped_back", "books"]
        return {name: self._counts[name] for name in names}

    # When a book is written

    def _finish_interval(self, kept: _Kept, update: BookUpdate, step: Step, every: int) -> None:
        """Write the book as it was before `update`, which is the first message at or past the end of its interval."""
        end, kept.end = kept.end, 0
        if not self._proves(kept, update, step):
            self._counts["unproven"] += 1
            return
        self._write(kept, end, update.received)
        if self._fill:
            last = min(update.timestamp, kept.clock + STALE_MS)
            for moment in range(end + every, last + 1, every):
                self._write(kept, moment, update.received)

    @staticmethod
    def _proves(kept: _Kept, update: BookUpdate, step: Step) -> bool:
        """Whether nothing can have come between the book as it is and `update`."""
        if step is Step.SNAPSHOT:
            return kept.book.seq_id is not None and update.seq_id == kept.book.seq_id and kept.state not in _UNKNOWN
        return step not in (Step.GAP, Step.IGNORED)

    def _write_change(self, kept: _Kept, update: BookUpdate, state: State) -> None:
        book = kept.book
        if state is State.GOOD and self._depth is not None:
            seen = book.bids.levels(self._depth), book.asks.levels(self._depth)
            if seen == kept.written:
                return
            kept.written = seen
        self._write(kept, update.timestamp, update.received)

    def _write(self, kept: _Kept, moment: int, received: int | None) -> None:
        if kept.book.state is State.GOOD:
            self._counts["books"] += 1
            self._emit(kept.book, moment, received)
        else:
            self._counts[kept.book.state.value.replace("-", "_")] += 1

    # What is told

    def _note(self, kept: _Kept, state: State, step: Step) -> None:
        """Tell what a book is worth where that is another thing now, each state once a minute at most."""
        before, kept.state = kept.state, state
        if state is not State.GOOD:
            kept.written = None
        if (state is before and step is not Step.GAP and kept.told) or (state is State.GOOD and not kept.told):
            return
        name = state.value
        if name in kept.told and kept.clock - kept.told[name] < _TOLD_MS:
            return
        kept.told[name] = kept.clock
        if state is State.GOOD:
            self._tell(kept.book, "good from here on")
        elif state in _UNKNOWN:
            self._tell(kept.book, f"{name}: {kept.book.reason}")
        else:
            self._tell(kept.book, f"{name}: it is not written")


_UNKNOWN = (State.WAITING, State.INVALID)
#: States of a book that is known, and no good.
_SEEN_BAD = (State.EMPTY, State.ONE_SIDED, State.CROSSED)
