"""Ids that REST does not show: asked for again, until there is proof that OKX itself does not have them. Pure."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from okxcli.core.tape import SPREAD_MS, is_absent, pause_ms
from okxcli.exchanges.interface import Page

_AGAIN_MS = 10_000
#: Asked so often without an answer that says anything, it is left to backfill; so are doubts beyond a number.
_TRIES = 12
_MAX_DOUBTS = 500


class Absence(NamedTuple):
    """Ids, both ends included, that OKX does not have."""

    first: int
    last: int


@dataclass(slots=True)
class Doubt:
    """Ids that some answers did not show; `known` is an id above them that may exist."""

    first: int
    last: int
    known: int
    began_ms: int
    due_ms: int
    answers: int = 1
    tries: int = 0


@dataclass(slots=True)
class Doubts:
    """The doubts of one symbol; one is asked about at a time. `spread_ms`: from the first answer to the last."""

    spread_ms: int = SPREAD_MS
    _open: list[Doubt] = field(default_factory=list)
    _asked: Doubt | None = None

    def add(self, first: int, last: int, known: int, now: int, answers: int = 1) -> bool:
        """Note ids that an answer, which is evidence, does not show; False: too many are in doubt already.

        `answers` 0: nobody was asked yet, and they are asked for at once.
        """
        due_ms = now + pause_ms(self.spread_ms) if answers else now
        before = self._open[-1] if self._open else None
        if before is not None and before.last + 1 == first and before.answers == answers and before is not self._asked:
            before.last, before.known = last, max(before.known, known)  # the page ended in the middle of them
        elif len(self._open) < _MAX_DOUBTS:
            self._open.append(Doubt(first, last, known, now, due_ms, answers))
        else:
            return False
        return True

    def __bool__(self) -> bool:
        return bool(self._open) or self._asked is not None

    def drop(self) -> list[tuple[int, int]]:
        """Ask for nothing more; return the ids that are still in doubt."""
        left, self._open, self._asked = self._open, [], None
        return [(doubt.first, doubt.last) for doubt in left]

    def ask(self, now: int) -> Doubt | None:
        """Return the doubt to ask about now, if one is due; until `ended` no other is."""
        if self._asked is None:
            self._asked = next((doubt for doubt in self._open if doubt.due_ms <= now), None)
            return self._asked
        return None

    def due(self) -> int | None:
        """Return when to ask next; None while there is nothing to ask, or an answer is awaited."""
        return min((doubt.due_ms for doubt in self._open), default=None) if self._asked is None else None

    def answered(self, page: Page, now: int) -> list[Absence]:
        """Take a page of the answer to what was asked; return the ids that are absent for good by now."""
        doubt = self._asked
        if doubt is None or doubt not in self._open:
            return []
        missing = [(max(low, doubt.first), min(high, doubt.last)) for low, high in page.missing]
        missing = [(low, high) for low, high in missing if low <= high]
        if not page.evidence and missing:
            return []  # `ended` will see to it that it is asked again
        at = self._open.index(doubt)
        self._open.remove(doubt)
        found: list[Absence] = []
        left: list[Doubt] = []
        if doubt.first < page.first:  # what an earlier page, without evidence, did not settle
            left.append(replace(doubt, last=page.first - 1, due_ms=now + self._again_ms, tries=doubt.tries + 1))
        for low, high in missing:
            answers = doubt.answers + 1
            if is_absent(answers, doubt.began_ms, now, self.spread_ms):
                found.append(Absence(low, high))
            else:
                known, due_ms = max(high + 1, doubt.known), now + pause_ms(self.spread_ms)
                left.append(Doubt(low, high, known, doubt.began_ms, due_ms, answers))
        if page.last < doubt.last:  # the next page tells
            self._asked = replace(doubt, first=page.last + 1)
            left.append(self._asked)
        self._open[at:at] = left
        return found

    def ended(self, now: int) -> list[tuple[int, int]]:
        """The answer is over, or there was none: what it did not settle is asked again, not for ever.

        Returns the ids that are given up.
        """
        doubt, self._asked = self._asked, None
        if doubt is not None and doubt in self._open and doubt.due_ms <= now:
            doubt.tries += 1
            doubt.due_ms = now + self._again_ms
        gone = [(doubt.first, doubt.last) for doubt in self._open if doubt.tries >= _TRIES]
        self._open = [doubt for doubt in self._open if doubt.tries < _TRIES]
        return gone

    @property
    def _again_ms(self) -> int:
        return min(_AGAIN_MS, pause_ms(self.spread_ms))
