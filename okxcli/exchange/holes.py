"""Holes in the ids of symbols, and what is done about them. Pure: lines in, lines out, and what to ask REST for.

Fills of `trades-all` are numbered one by one. A line whose id does not follow the last one shows a hole: it and all
that come after it, of that symbol alone, are held until the hole is filled from REST, or it is clear that it cannot
be, or they have waited too long. Lines of other channels pass. `now` is milliseconds of a clock that never steps back.
"""

import bisect
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from okxcli.core.tape import IdRanges
from okxcli.exchange.doubts import SPREAD_MS, Doubts, Page
from okxcli.exchange.taped import HEAD, absent_line, ids_of

__all__ = ["Fetch", "Holes", "Page"]

_log = logging.getLogger(__name__)

#: How long, and how much of a symbol, is held. Beyond either it goes on, and the hole is left to backfill.
WAIT_MS = 30_000
MAX_LINES = 20_000
MAX_BYTES = 8 << 20
#: With two sockets up, the other one may bring what is missing.
OVERLAP_MS = 500
#: An id further off than this (a week of the busiest market) is one damaged message, or, if the next one follows on
#: it, the ids have begun anew: no hole to be filled.
FAR = 10_000_000
#: Between two questions that brought nothing.
_AGAIN_MS = 1_000


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask REST for the fills `first .. last` of a symbol; the page's ends are given to `Holes.page` in their order.

    `last` None: up to the newest. `first` None: from one fill before the time `since_ms` on. `known` is an id above
    `last` that exists. `doubt`: asked only to see whether they are there by now. `limited`: what takes minutes is to be
    refused, for the present is more urgent.
    """

    symbol: str
    first: int | None
    last: int | None
    known: int | None = None
    doubt: bool = False
    limited: bool = False


class _Held(NamedTuple):
    """A line that waits, by the ids that it covers."""

    first: int
    last: int
    line: bytes
    came: int


@dataclass(slots=True)
class _Symbol:
    """The tape of one symbol. `last`: all up to there is written or given up; None before the first line."""

    name: str
    last: int | None = None
    past: bool = False  # what was before the first live line is being fetched: nothing is given up for time
    resumed: bool = False
    begin: int | None = None  # ... from this id on; None: from a time on
    progress_ms: int = 0
    held: list[_Held] = field(default_factory=list)  # by id
    size: int = 0
    stray: int = -2  # the last id that was far off
    written: IdRanges = field(default_factory=IdRanges)
    fetching: Fetch | None = None
    ask_ms: int = 0
    doubts: Doubts = field(default_factory=Doubts)


class Holes:
    """The tapes of `symbols`. `resume` has the last id that is known of a symbol; `since`: begin with the past.

    After each call of `feed`, `page`, `ended`, `failed` or `tick`, whose lines are to be written in their order, do
    what `fetches` says, and call `tick` when `due` is over. `counts` tells what was seen and done.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        since: bool = False,
        resume: Mapping[str, int] | None = None,
        wait_ms: int = WAIT_MS,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        evidence_ms: int = SPREAD_MS,
    ) -> None:
        self.counts: Counter[str] = Counter(holes=0, repaired=0, left=0, absent=0, old=0)
        self._wait_ms = wait_ms
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._evidence_ms = evidence_ms
        self._symbols = {name.encode(): self._begin(name, resume or {}) for name in symbols}
        for tape in self._symbols.values():
            tape.past |= since

    def _begin(self, name: str, resume: Mapping[str, int]) -> _Symbol:
        tape = _Symbol(name, doubts=Doubts(self._evidence_ms))
        if name in resume:
            tape.last = resume[name]
            tape.written.add(tape.last, tape.last)
            tape.begin, tape.past, tape.resumed = tape.last + 1, True, True
        return tape

    def retape(self, symbols: Iterable[str], resume: Mapping[str, int]) -> list[bytes]:
        """Have these symbols from now on: keep those that are known, begin the others, each after what `resume` names.

        Returns what is held of symbols that are not among them; answers about those are passed over.
        """
        names = list(dict.fromkeys(symbols))
        before = self._symbols
        self._symbols = {name.encode(): before.get(name.encode()) or self._begin(name, resume) for name in names}
        return [line for key, tape in before.items() if key not in self._symbols for line in self._all(tape)]

    # Lines

    def feed(self, lines: Iterable[bytes], now: int, overlap: bool = False) -> list[bytes]:
        """Take lines that have come; return those to be written now. `overlap`: two sockets bring them."""
        out: list[bytes] = []
        for line in lines:
            if not line.startswith(HEAD):
                out.append(line)
                continue
            ids = ids_of(line)
            if ids is None:
                out.append(line)  # whoever reads it says what is wrong with it
                continue
            name, first, last = ids
            tape = self._symbols.get(name)
            if tape is None:
                out.append(line)
            elif first - 1 == tape.last and not tape.held and not tape.past:
                out.append(line)
                tape.last = last
                tape.written.add(first, last)
            else:
                self._odd(tape, _Held(first, last, line, now), out, overlap)
        return out

    def _odd(self, tape: _Symbol, held: _Held, out: list[bytes], overlap: bool) -> None:
        """Take a line that is not simply the next one."""
        if tape.written.covers(held.first, held.last):
            self.counts["old"] += 1
        elif tape.last is None and not tape.past:
            self._write(tape, held, out)
        elif tape.last is not None and not tape.past and abs(held.first - tape.last) > FAR:
            self._stray(tape, held, out)
        elif tape.last is not None and held.last <= tape.last:
            self._write(tape, held, out)  # it was given up, or is older than all that we have
        else:
            if not tape.held and not tape.past:
                self.counts["holes"] += 1
                tape.ask_ms = held.came + (OVERLAP_MS if overlap else 0)
            self._hold(tape, held)
            self._drain(tape, out)
            self._bound(tape, held.came, out)

    def _stray(self, tape: _Symbol, held: _Held, out: list[bytes]) -> None:
        """Pass on a line whose id is far off; from the second one on that is where the symbol is."""
        if held.first == tape.stray + 1:
            _log.warning("%s: its ids go on at %d, after %d", tape.name, held.first, tape.last)
            out += self._all(tape)
            tape.last = tape.stray
        self._write(tape, held, out, tape.last == tape.stray)
        tape.stray = held.last

    def _hold(self, tape: _Symbol, held: _Held) -> None:
        if tape.held and held < tape.held[-1]:
            bisect.insort(tape.held, held)
        else:
            tape.held.append(held)
        tape.size += len(held.line)

    def _drain(self, tape: _Symbol, out: list[bytes]) -> None:
        """Write what follows on the last id without a hole."""
        done = 0
        for held in tape.held:
            if tape.last is None or held.first > tape.last + 1:
                break
            done += 1
            tape.size -= len(held.line)
            if tape.written.covers(held.first, held.last):
                self.counts["old"] += 1
            else:
                self._write(tape, held, out)
        if done:
            del tape.held[:done]

    @staticmethod
    def _write(tape: _Symbol, held: _Held, out: list[bytes], counts: bool = True) -> None:
        out.append(held.line)
        tape.written.add(held.first, held.last)
        if counts and (tape.last is None or held.last > tape.last):
            tape.last = held.last

    def _bound(self, tape: _Symbol, now: int, out: list[bytes]) -> None:
        """Give up holes for whose sake too much waits, or for too long."""
        while tape.held:
            full = len(tape.held) > self._max_lines or tape.size > self._max_bytes
            if tape.past:
                if not full:
                    return
                # REST has these too, and will be asked for them when it has got so far.
                tape.size -= len(tape.held.pop(0).line)
            elif full or now - tape.held[0].came >= self._wait_ms:
                self._give_up(tape, out, "too much has come" if full else "it takes too long")
            else:
                return

    def _give_up(self, tape: _Symbol, out: list[bytes], why: str) -> None:
        """Go on after the lowest hole."""
        first = tape.held[0].first
        if tape.last is not None and first - tape.last > FAR and len(tape.held) == 1:
            self._write(tape, tape.held.pop(), out, counts=False)  # came while the past was fetched: see `_stray`
            tape.size = 0
            return
        if tape.last is not None:
            self.counts["left"] += first - 1 - tape.last
            _log.warning(
                "%s: fills %d to %d are missing and not had from REST (%s): left to okx backfill",
                tape.name, tape.last + 1, first - 1, why,
            )  # fmt: skip
        tape.last = first - 1
        tape.fetching = None
        self._drain(tape, out)

    # Answers of REST

    def page(self, fetch: Fetch, page: Page, now: int) -> list[bytes]:
        """Take one page of an answer."""
        tape = self._symbols.get(fetch.symbol.encode())
        out: list[bytes] = []
        if tape is None or (tape.last is None and tape.fetching is not fetch):
            return out
        if fetch.doubt:
            return self._late(tape, page, now)
        if page.lines or page.evidence:
            tape.progress_ms = now
        if tape.last is None:
            tape.last = page.first - 1
        came = min((held.came for held in tape.held), default=now)
        for number, line in zip(page.ids(), page.lines, strict=True):
            if tape.written.covers(number, number):
                continue
            self.counts["repaired"] += not tape.past
            if number <= tape.last:
                self._write(tape, _Held(number, number, line, came), out)
            else:
                self._hold(tape, _Held(number, number, line, came))
        self._drain(tape, out)
        for low, high in page.missing if page.evidence or page.lines else ():
            if tape.last + 1 != low:
                break  # something else is missing before them: they come up again
            if page.evidence:
                tape.doubts.add(low, high, max(high + 1, fetch.known or 0), now)
            else:
                self.counts["left"] += high - low + 1  # older than OKX's history
            tape.last = high
            self._drain(tape, out)
        return out

    def _late(self, tape: _Symbol, page: Page, now: int) -> list[bytes]:
        """Take the answer to a doubt: lines that are there after all, or the proof that the ids are absent."""
        out: list[bytes] = []
        for number, line in zip(page.ids(), page.lines, strict=True):
            if not tape.written.covers(number, number):
                self.counts["repaired"] += 1
                self._write(tape, _Held(number, number, line, now), out)
        for absence in tape.doubts.answered(page, now):
            self.counts["absent"] += absence.last - absence.first + 1
            out.append(absent_line(tape.name, *absence))
        return out

    def ended(self, fetch: Fetch, now: int) -> list[bytes]:
        """Take note that all pages of an answer have come."""
        tape = self._symbols.get(fetch.symbol.encode())
        if tape is None:
            return []
        if fetch.doubt:
            tape.doubts.ended(now)
            return []
        if tape.fetching is not fetch:
            return []
        tape.fetching = None
        tape.ask_ms = now + _AGAIN_MS
        out: list[bytes] = []
        if tape.past:
            if tape.last is not None and (not tape.held or tape.held[0].first <= tape.last + 1):
                self._present(tape, now)
            elif now - tape.progress_ms >= self._wait_ms:
                self._present(tape, now)  # what is missing is a hole like any other
            elif tape.last is not None and tape.last >= (tape.begin or 0):
                tape.begin, tape.ask_ms = tape.last + 1, now  # what came meanwhile and was not kept
            self._drain(tape, out)
        return out

    def wanted(self, fetch: Fetch) -> bool:
        """Whether the rest of an answer is still of use."""
        tape = self._symbols.get(fetch.symbol.encode())
        return tape is not None and (fetch.doubt or tape.fetching is fetch)

    def _present(self, tape: _Symbol, now: int) -> None:
        """The past is fetched, or cannot be: from here on a hole is a hole."""
        tape.past = False
        tape.held = [held._replace(came=now) for held in tape.held]

    def failed(self, fetch: Fetch, now: int, reason: str, for_good: bool = False) -> list[bytes]:
        """Take note that REST could not be asked, or (`for_good`) that asking again is of no use."""
        tape = self._symbols.get(fetch.symbol.encode())
        if tape is None:
            return []
        if fetch.doubt:
            tape.doubts.ended(now)
            return []
        if tape.fetching is not fetch:
            return []
        tape.fetching = None
        tape.ask_ms = now + _AGAIN_MS
        out: list[bytes] = []
        if tape.past and (for_good or now - tape.progress_ms >= self._wait_ms):
            _log.warning("%s: the past cannot be fetched: %s. Going on with the present", tape.name, reason)
            self._present(tape, now)
            for_good = True
            if not tape.held:
                tape.last = None  # the next line is the first one
        while for_good and tape.held:
            self._give_up(tape, out, reason)
        if tape.past and tape.progress_ms == 0:
            tape.progress_ms = now
        return out

    # Time

    def tick(self, now: int) -> list[bytes]:
        """Do what time has made due; return lines to be written."""
        out: list[bytes] = []
        for tape in self._symbols.values():
            self._bound(tape, now, out)
        return out

    def fetches(self, now: int) -> Iterator[Fetch]:
        """Yield what to ask REST for now; each stays open until `ended` or `failed`."""
        for tape in self._symbols.values():
            if tape.fetching is None and now >= tape.ask_ms:
                tape.fetching = self._fetch(tape, now)
                if tape.fetching is not None:
                    yield tape.fetching
            doubt = tape.doubts.ask(now)
            if doubt is not None:
                yield Fetch(tape.name, doubt.first, doubt.last, doubt.known, doubt=True)

    def _fetch(self, tape: _Symbol, now: int) -> Fetch | None:
        lowest = tape.held[0].first if tape.held else None
        if tape.past:
            tape.progress_ms = tape.progress_ms or now
            last = None if lowest is None or tape.last is None else lowest - 1
            return Fetch(tape.name, tape.begin, last, lowest, limited=tape.resumed)
        if lowest is None or tape.last is None:
            return None
        return Fetch(tape.name, tape.last + 1, lowest - 1, lowest)

    def due(self) -> int | None:
        """Return when `tick` and `fetches` are to be called next; None: not before something comes."""
        dues: list[int] = []
        for tape in self._symbols.values():
            if tape.held and not tape.past:
                dues.append(tape.held[0].came + self._wait_ms)
            if tape.fetching is None and (tape.past or tape.held):
                dues.append(tape.ask_ms)
            doubt = tape.doubts.due()
            if doubt is not None:
                dues.append(doubt)
        return min(dues, default=None)

    def release(self) -> list[bytes]:
        """Return all that is held, in order: this is the end."""
        return [line for tape in self._symbols.values() for line in self._all(tape)]

    def _all(self, tape: _Symbol) -> list[bytes]:
        """Let everything go that a symbol holds, in order."""
        out: list[bytes] = []
        tape.fetching = None
        while tape.held:
            tape.last = tape.held[0].first - 1
            self._drain(tape, out)
        return out
