"""Holes in the ids of symbols, and what is done about them. Pure: lines in, lines out, and what to ask REST for.

Fills of `trades-all` are numbered one by one. A line whose id does not follow the last one shows a hole: it and all
that come after it, of that symbol alone, are held until the hole is filled from REST, or it is clear that it cannot
be, or they have waited too long. Lines of other channels pass. Between the first and the last id that comes out, every
id is written once, proved absent, or told as missing. `now` is milliseconds of a clock that never steps back.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

from okxcli.core.tape import FAR, SPREAD_MS
from okxcli.exchanges.interface import Page
from okxcli.exchanges.okx.feed.gap_requests import Fetch, Held, Overflow, Tape
from okxcli.exchanges.okx.feed.trade_pushes import HEAD, absent_line, ids_of
from okxcli.exchanges.okx.rest.absence_proof import Doubts

__all__ = ["Fetch", "GapTracker", "Overflow", "Page"]

_log = logging.getLogger(__name__)

#: How long, and how much of a symbol, is held. Beyond either it goes on, and the hole is left to backfill; while the
#: past is fetched, which may take hours, what is beyond goes to the overflow.
WAIT_MS = 30_000
MAX_LINES = 20_000
MAX_BYTES = 8 << 20
#: With two sockets up, the other one may bring what is missing.
OVERLAP_MS = 500
#: Between two questions that brought nothing.
_AGAIN_MS = 1_000
#: Bytes of the overflow that are taken up at once.
_PIECE = 1 << 20
#: Ranges of ids that one warning names.
_TOLD = 20
#: The first push may be old: so many ids between it and the next one are asked for, which takes a few seconds.
_OLD_PUSH = 10_000


class GapTracker:
    """The tapes of `symbols`. `resume` has the last id that is known of a symbol; `since`: begin with the past.

    `overflow` makes a place for the lines of a symbol that come while its past is fetched and are too many to be held.

    After each call of `feed`, `page`, `ended`, `failed` or `tick`, whose lines are to be written in their order, do
    what `fetches` says, and call `tick` when `due` is over. `counts` tells what was seen and done.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        overflow: Callable[[], Overflow],
        since: bool = False,
        resume: Mapping[str, int] | None = None,
        wait_ms: int = WAIT_MS,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        evidence_ms: int = SPREAD_MS,
    ) -> None:
        self.counts: Counter[str] = Counter(holes=0, repaired=0, left=0, absent=0, old=0)
        self._overflow = overflow
        self._wait_ms = wait_ms
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._evidence_ms = evidence_ms
        self._symbols = {name.encode(): self._begin(name, resume or {}, since) for name in symbols}
        self._restless = {tape.name: tape for tape in self._symbols.values()}  # those that want more than the next line

    def _begin(self, name: str, resume: Mapping[str, int], since: bool = False) -> Tape:
        tape = Tape(name, past=since, doubts=Doubts(self._evidence_ms))
        if name in resume:
            tape.last = tape.lowest = resume[name]
            tape.written.add(tape.last, tape.last)
            tape.past = tape.resumed = True
        return tape

    def retape(self, symbols: Iterable[str], resume: Mapping[str, int]) -> list[bytes]:
        """Have these symbols from now on: keep those that are known, begin the others, each after what `resume` names.

        Returns what is held of symbols that are not among them; answers about those are passed over.
        """
        before = self._symbols
        self._symbols = {name.encode(): before.get(name.encode()) or self._begin(name, resume) for name in symbols}
        self._restless = {tape.name: tape for tape in self._symbols.values()}
        gone = [tape for key, tape in before.items() if key not in self._symbols]
        return [line for tape in gone for line in self._all(tape, "it is not wanted any more")]

    # Lines

    def feed(self, lines: Iterable[bytes], now: int, overlap: bool = False) -> list[bytes]:
        """Take lines that have come; return those to be written now. `overlap`: two sockets bring them."""
        out: list[bytes] = []
        for line in lines:
            ids = ids_of(line) if line.startswith(HEAD) else None
            tape = None if ids is None else self._symbols.get(ids[0])
            if ids is None or tape is None:
                out.append(line)  # if something is wrong with it, whoever reads it says so
                continue
            _, first, last = ids
            if tape.waiting is not None or (tape.past and tape.full(self._max_lines, self._max_bytes)):
                self._put_by(tape, line)
            elif first - 1 == tape.last and not tape.held and not tape.past:
                out.append(line)
                tape.last = last
                tape.written.add(first, last)
            else:
                self._odd(tape, Held(first, last, line, now), out, overlap)
        return out

    def _odd(self, tape: Tape, held: Held, out: list[bytes], overlap: bool) -> None:
        """Take a line that is not simply the next one."""
        self._restless[tape.name] = tape
        if tape.written.covers(held.first, held.last):
            self.counts["old"] += 1
        elif tape.last is None and not tape.past:
            tape.write(held, out)
        elif tape.last is not None and not tape.past and abs(held.first - tape.last) > FAR:
            self._stray(tape, held, out)
        elif tape.last is not None and held.last <= tape.last:
            self._write_late(tape, held, out)
        else:
            if not tape.held and not tape.past:
                self.counts["holes"] += 1
                tape.ask_ms = held.came + (OVERLAP_MS if overlap else 0)
            tape.hold(held)
            self._drain(tape, out)
            if tape.held and tape.last is not None and tape.last == tape.abandoned:
                self._give_up(tape, out, "as was told")
            self._bound(tape, held.came, out)

    def _write_late(self, tape: Tape, held: Held, out: list[bytes]) -> None:
        """Write a line that was given up, or is older than all that we have: then ask for what is in between.

        The first push after a subscription may be old, or overtaken by the next one.
        """
        first, last = held.last + 1, (tape.lowest or 0) - 1
        tape.write(held, out)
        if tape.resumed or first > last:
            return
        if last - first >= _OLD_PUSH or not tape.doubts.add(first, last, last + 1, held.came, answers=0):
            self._tell(tape, [(first, last)], "it is too much to ask for")

    def _put_by(self, tape: Tape, line: bytes) -> None:
        """Have a line wait outside of memory."""
        if tape.waiting is None:
            tape.waiting = self._overflow()
        if not tape.waiting.put(line) and not tape.refused:
            tape.refused = True
            _log.warning("%s: no room for more that waits: what comes now is fetched again when its turn is", tape.name)

    def _take_up(self, tape: Tape, now: int, out: list[bytes]) -> None:
        """Go on with what waits outside of memory, a piece at a time; what it had no room for is a hole like any."""
        if tape.waiting is None or tape.past or tape.held:
            return
        lines = tape.waiting.take(_PIECE)
        if not lines:
            tape.waiting, tape.refused = None, False
        for line in lines:
            ids = ids_of(line)
            if ids is not None:
                self._odd(tape, Held(ids[1], ids[2], line, now), out, False)

    def _stray(self, tape: Tape, held: Held, out: list[bytes]) -> None:
        """Pass on a line whose id is far off; from the second one on that is where the symbol is."""
        if held.first == tape.stray + 1:
            _log.warning("%s: its ids go on at %d, after %d", tape.name, held.first, tape.last)
            out += self._all(tape, "its ids begin anew")
            tape.last = tape.stray
        tape.write(held, out, tape.last == tape.stray)
        tape.stray = held.last

    def _drain(self, tape: Tape, out: list[bytes]) -> None:
        """Write what follows on the last id without a hole."""
        done = 0
        for held in tape.held:
            if tape.last is None or held.first > tape.last + 1:
                break
            done += 1
            tape.size -= len(held.line)
            if tape.written.covers(held.first, held.last):
                self.counts["old"] += 1
            elif tape.lowest is not None and held.last < tape.lowest:
                self._write_late(tape, held, out)
            else:
                tape.write(held, out)
        if done:
            del tape.held[:done]

    def _bound(self, tape: Tape, now: int, out: list[bytes]) -> None:
        """Give up holes for whose sake too much waits, or for too long."""
        while tape.held and not tape.past:
            if tape.full(self._max_lines, self._max_bytes):
                self._give_up(tape, out, "too much has come")
            elif now - tape.held[0].came >= self._wait_ms:
                self._give_up(tape, out, "it takes too long")
            else:
                return

    def _give_up(self, tape: Tape, out: list[bytes], why: str) -> None:
        """Go on after the lowest hole."""
        first = tape.held[0].first
        if tape.last is not None and first - tape.last > FAR and len(tape.held) == 1:
            tape.write(tape.held.pop(), out, counts=False)  # came while the past was fetched: see `_stray`
            tape.size = 0
            return
        self._tell(tape, [(tape.last + 1, first - 1)] if tape.last is not None else [], why)
        tape.last, tape.fetching = first - 1, None
        self._drain(tape, out)

    def _tell(self, tape: Tape, ranges: list[tuple[int, int]], why: str) -> None:
        """Say which ids are left out."""
        self.counts["left"] += sum(last - first + 1 for first, last in ranges)
        some = ", ".join(f"{first} to {last}" for first, last in ranges[:_TOLD])
        some += f" and {len(ranges) - _TOLD} more such ranges" if len(ranges) > _TOLD else ""
        text = "%s: fills %s are missing and not had from REST (%s): left to okx backfill"
        if ranges:
            _log.warning(text, tape.name, some, why)

    # Answers of REST

    def page(self, fetch: Fetch, page: Page, now: int) -> list[bytes]:
        """Take one page of an answer."""
        tape = self._symbols.get(fetch.symbol.encode())
        if tape is None or (tape.last is None and tape.fetching is not fetch):
            return []
        self._restless[tape.name] = tape
        if fetch.doubt:
            return self._late(tape, page, now)
        out: list[bytes] = []
        before = tape.last
        if tape.last is None:
            tape.last, tape.lowest = page.first - 1, page.first
        came = min((held.came for held in tape.held), default=now)
        for number, line in zip(page.ids(), page.lines, strict=True):
            if tape.written.covers(number, number):
                continue
            self.counts["repaired"] += not tape.past
            held = Held(number, number, line, came)
            if number <= tape.last:
                self._write_late(tape, held, out)
            else:
                tape.hold(held)
        self._drain(tape, out)
        for low, high in page.missing if page.evidence else ():
            if tape.last + 1 != low:
                break  # something else is missing before them: they come up again
            if not tape.doubts.add(low, high, max(high + 1, fetch.known or 0), now):
                self._tell(tape, [(low, high)], "too much is in doubt")
            tape.last = high
            self._drain(tape, out)
        if tape.last != before:
            tape.progress_ms = now
        joined = tape.waiting is not None and not tape.held  # the rest of the answer is what waits
        if tape.past and tape.fetching is fetch and (joined or tape.last < page.last):
            self._asked(tape, now, out, joined)  # what comes after a hole would all have to be held
        return out

    def _late(self, tape: Tape, page: Page, now: int) -> list[bytes]:
        """Take the answer to a doubt: lines that are there after all, or the proof that the ids are absent."""
        out: list[bytes] = []
        for number, line in zip(page.ids(), page.lines, strict=True):
            if not tape.written.covers(number, number):
                self.counts["repaired"] += 1
                tape.write(Held(number, number, line, now), out)
        for low, high in tape.doubts.answered(page, now):
            # No answer takes back what another one has shown.
            shown = range(low, high + 1) if tape.written.touches(low, high) else ()
            seen = [number for number in shown if tape.written.covers(number, number)]
            for before, after in pairwise([low - 1, *seen, high + 1]):
                if after - before > 1:
                    self.counts["absent"] += after - before - 1
                    out.append(absent_line(tape.name, before + 1, after - 1))
        return out

    def ended(self, fetch: Fetch, now: int) -> list[bytes]:
        """Take note that all pages of an answer have come."""
        tape = self._symbols.get(fetch.symbol.encode())
        out: list[bytes] = []
        if tape is None:
            return out
        if fetch.doubt:
            self._tell(tape, tape.doubts.ended(now), "not shown, and not proved absent")
        elif tape.fetching is fetch:
            joined = tape.last is not None and (not tape.held or tape.held[0].first <= tape.last + 1)
            self._asked(tape, now, out, joined)
        return out

    def _asked(self, tape: Tape, now: int, out: list[bytes], joined: bool) -> None:
        """An answer is over: see whether the past has reached the present (`joined`), or does not come."""
        tape.fetching = None
        tape.ask_ms = now + _AGAIN_MS
        if tape.past and (joined or now - tape.progress_ms >= self._wait_ms):
            self._present(tape, now)
            self._drain(tape, out)
            if tape.held and not joined:
                self._give_up(tape, out, "REST does not show them")

    def wanted(self, fetch: Fetch) -> bool:
        """Whether the rest of an answer is still of use."""
        tape = self._symbols.get(fetch.symbol.encode())
        return tape is not None and (fetch.doubt or tape.fetching is fetch)

    def _present(self, tape: Tape, now: int) -> None:
        """The past is fetched, or cannot be: from here on a hole is a hole."""
        tape.past = False
        tape.held = [held._replace(came=now) for held in tape.held]

    def failed(self, fetch: Fetch, now: int, reason: str, for_good: bool = False) -> list[bytes]:
        """Take note that REST could not be asked, or (`for_good`) that asking again is of no use."""
        tape = self._symbols.get(fetch.symbol.encode())
        if tape is None:
            return []
        if fetch.doubt or tape.fetching is not fetch:
            return self.ended(fetch, now)
        tape.fetching = None
        tape.ask_ms = now + _AGAIN_MS
        out: list[bytes] = []
        if tape.past and (for_good or now - tape.progress_ms >= self._wait_ms):
            _log.warning("%s: the past cannot be fetched: %s. Going on with the present", tape.name, reason)
            self._present(tape, now)
            self._drain(tape, out)
            if tape.held:
                self._give_up(tape, out, reason)
            else:
                tape.abandoned = tape.last
        elif not tape.past:
            while for_good and tape.held:
                self._give_up(tape, out, reason)
        return out

    # Time

    def tick(self, now: int) -> list[bytes]:
        """Do what time has made due; return lines to be written."""
        out: list[bytes] = []
        for tape in self._restless.values():
            self._bound(tape, now, out)
            self._take_up(tape, now, out)
        return out

    def fetches(self, now: int) -> Iterator[Fetch]:
        """Yield what to ask REST for now; each stays open until `ended` or `failed`."""
        for tape in self._restless.values():
            if tape.fetching is None and now >= tape.ask_ms:
                tape.fetching = self._fetch(tape, now)
                if tape.fetching is not None:
                    yield tape.fetching
            doubt = tape.doubts.ask(now)
            if doubt is not None:
                yield Fetch(tape.name, doubt.first, doubt.last, doubt.known, doubt=True)

    def _fetch(self, tape: Tape, now: int) -> Fetch | None:
        lowest = tape.held[0].first if tape.held else None
        if tape.past:
            tape.progress_ms = tape.progress_ms or now
            first = None if tape.last is None else tape.last + 1
            last = None if lowest is None or first is None else lowest - 1
            return Fetch(tape.name, first, last, lowest, limited=tape.resumed)
        if lowest is None or tape.last is None:
            return None
        return Fetch(tape.name, tape.last + 1, lowest - 1, lowest)

    def due(self) -> int | None:
        """Return when `tick` and `fetches` are to be called next; None: not before something comes."""
        self._restless = {name: tape for name, tape in self._restless.items() if not tape.at_rest}
        dues: list[int] = []
        for tape in self._restless.values():
            if tape.held and not tape.past:
                dues.append(tape.held[0].came + self._wait_ms)
            if tape.fetching is None and (tape.past or tape.held):
                dues.append(tape.ask_ms)
            if tape.waiting is not None and not tape.past and not tape.held:
                dues.append(0)
            doubt = tape.doubts.due()
            if doubt is not None:
                dues.append(doubt)
        return min(dues, default=None)

    def release(self) -> list[bytes]:
        """Return what is held, in order, and tell what it lacks: this is the end. To be called until there is none."""
        out: list[bytes] = []
        for tape in self._symbols.values():
            out += self._all(tape, "this is the end")
            self._take_up(tape, 0, out)
            if not out:
                self._tell(tape, tape.doubts.drop(), "not shown, and not proved absent yet")
        return out

    def _all(self, tape: Tape, why: str) -> list[bytes]:
        """Let everything go that a symbol holds, in order."""
        out: list[bytes] = []
        tape.fetching, tape.past = None, False
        while tape.held:
            self._give_up(tape, out, why)
        return out
