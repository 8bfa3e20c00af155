"""`BookChains`: which books of a feed are broken, and what is asked for. Pure: lines and the time in, wishes out.

A gap makes one book broken at once. It is subscribed anew, one request at a time: until its snapshot comes its updates
say nothing. If it breaks again soon, that waits, ever longer. Where no snapshot comes, REST is asked for the book:
its updates are held back until the answer is there, and written around it. Sockets that overlap bring the same twice;
the second is dropped.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from okxcli.core.books.chain import Chain, Numbers, Step
from okxcli.exchanges.okx.books.book_pushes import FETCHED, HEADS, numbers_of, subscription_of
from okxcli.exchanges.okx.channels import Subscription

#: From the wish for another subscription to its snapshot; after that there is none to come.
RENEW_MS = 5_000
#: For how long an answer of REST is waited for.
FETCH_MS = 15_000
#: Before a book that broke again is asked for again, doubled each time.
REST_MS = 1_000
MAX_REST_MS = 300_000
#: A book that has stood for so long is as good as one that never broke.
FORGET_MS = 600_000
#: What is held of a book at most while REST is asked.
MAX_HELD = 2_000
#: How many books a message names.
_NAMED = 3
#: Pushes of two connections may be read for so long after one of them has ended.
_OVERLAP_MS = 2_000


class Fetch(NamedTuple):
    """A book that REST is to be asked for: no older than the number `at_least`. `number` tells the wishes apart."""

    subscription: Subscription
    at_least: int
    number: int


class Fetched(NamedTuple):
    """A book of REST as a line, and its place."""

    line: bytes
    place: Numbers


@dataclass(eq=False, slots=True)
class _Book:
    """One book. `new`: nothing has come of it; `good`; `asked`: subscribed anew; `fetched`: by REST; `resting`."""

    subscription: Subscription
    mode: str = "new"
    chain: Chain = field(default_factory=Chain)
    since_ms: int = 0  # when it got into this mode
    due_ms: int = 0  # resting: when it is asked for
    strikes: int = 0
    bare: bool = False  # OKX sends no snapshot of it
    number: int = 0  # of the fetch that counts
    held: list[bytes] = field(default_factory=list)


class BookChains:
    """The books of a feed. `counts`: gaps, requests of each kind, and lines that came twice."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._books: dict[bytes, _Book] = {}  # by the head of their pushes
        self._renewals: list[Subscription] = []
        self._fetches: list[Fetch] = []
        self._fetch_number = 0
        self._broken: dict[str, str] = {}  # since the last time that it was told: why
        self._whole: dict[str, None] = {}
        self._overlap_until_ms = 0

    def feed(self, lines: list[bytes], now: int, overlap: bool = False) -> list[bytes]:
        """Take lines in their order; return those to be written. `overlap`: two connections bring the same."""
        if overlap:
            self._overlap_until_ms = now + _OVERLAP_MS
        if not any(line.startswith(HEADS) for line in lines):
            return lines
        twice = now < self._overlap_until_ms
        out: list[bytes] = []
        for line in lines:
            book = self._book(line) if line.startswith(HEADS) else None
            if book is None:
                out.append(line)
            else:
                self._take(book, line, now, twice, out)
        return out

    def told(self) -> list[tuple[int, str]]:
        """Return what people should know since the last call, with its level; of many books in one line."""
        broken, whole = self._broken, [name for name in self._whole if name not in self._broken]
        self._broken, self._whole = {}, {}
        found = []
        if broken:
            first, why = next(iter(broken.items()))
            names = [f"{first} ({why})", *list(broken)[1:]]
            found.append((logging.WARNING, f"broken, and asked for anew: {_some(names)}"))
        if whole:
            found.append((logging.INFO, f"whole again: {_some(whole)}"))
        return found

    def wishes(self) -> tuple[list[Subscription], list[Fetch]]:
        """Return the books to be subscribed anew and those to be fetched since the last call."""
        found = self._renewals, self._fetches
        self._renewals, self._fetches = [], []
        return found

    def fetched(self, fetch: Fetch, answer: Fetched | None, now: int) -> list[bytes]:
        """Take the answer to a fetch, None for none; return the lines to be written."""
        book = next((one for one in self._books.values() if one.subscription == fetch.subscription), None)
        if book is None or book.mode != "fetched" or book.number != fetch.number:
            return []
        held, book.held = book.held, []
        if answer is None:
            self._rest(book, now)
            return held
        self._begin(book, [answer.place], now)
        line: bytes | None = answer.line
        out: list[bytes] = []
        for number, one in enumerate(held):
            if book.mode != "good":  # nothing joined it
                out += held[number:]
                return out
            found = numbers_of(one)
            old = found is not None and all(book.chain.expected(at) is Step.OLD for at in found)
            if not old and line is not None:
                out.append(line)
                line = None
            self._take(book, one, now, False, out)
        return out if line is None else [*out, line]

    def mend(self, subscription: Subscription, now: int) -> None:
        """Ask for a book anew that is of no use to who keeps it, unless that is under way."""
        for book in self._books.values():
            if book.subscription == subscription and book.mode == "good":
                book.chain.standing = False
                self._broke(book, "a message of it was no good", now)

    def forget(self, subscriptions: Iterable[Subscription]) -> list[bytes]:
        """Drop books that nobody wants any more; return what was held of them."""
        gone = set(subscriptions)
        held = [line for book in self._books.values() if book.subscription in gone for line in book.held]
        self._books = {head: book for head, book in self._books.items() if book.subscription not in gone}
        return held

    def release(self) -> list[bytes]:
        """Return what is still held."""
        held = [line for book in self._books.values() for line in book.held]
        for book in self._books.values():
            book.held = []
        return held

    # Within

    def _book(self, line: bytes) -> _Book | None:
        head = line[: line.find(b"}")]
        book = self._books.get(head)
        if book is None and len(head) < 200 and (subscription := subscription_of(line)) is not None:
            book = self._books[head] = _Book(subscription)
        return book

    def _take(self, book: _Book, line: bytes, now: int, twice: bool, out: list[bytes]) -> None:
        """Take one push, and add what is to be written to `out`."""
        places = numbers_of(line)
        if places is not None and places[0].snapshot:
            if twice and book.mode == "good" and (places[0].seq_id or 0) <= (book.chain.seq_id or 0):
                self.counts["books_dropped"] += 1
                return
            self._begin(book, places, now)
            book.bare = False
            out += [*book.held, line]
            book.held = []
            return
        if book.mode == "good":
            if self._follows(book, places, twice, now):
                out.append(line)
            return
        self._wait(book, places, now)
        if book.mode == "fetched":
            book.held.append(line)
            if len(book.held) > MAX_HELD or now - book.since_ms > FETCH_MS:
                out += book.held
                book.held = []
                self._rest(book, now)
        else:
            out.append(line)

    def _follows(self, book: _Book, places: list[Numbers] | None, twice: bool, now: int) -> bool:
        """Take an update of a book that stands; False: it is not to be written, since it came before."""
        if places is None:
            book.chain.standing = False
            self._broke(book, "an update that does not tell its number", now)
            return True
        for at in places:
            last = book.chain.seq_id
            if twice and at.seq_id is not None and last is not None and at.before != last and at.seq_id <= last:
                self.counts["books_dropped"] += 1
                return False
            why = book.chain.why(at)
            if book.chain.take(at) is Step.GAP:
                self._broke(book, why, now)
                return True
        return True

    def _begin(self, book: _Book, places: list[Numbers], now: int) -> None:
        if book.mode not in ("new", "good"):
            self._whole[str(book.subscription)] = None
        for at in places:
            book.chain.take(at)
        if book.mode != "good":
            book.mode, book.since_ms = "good", now

    def _broke(self, book: _Book, why: str, now: int) -> None:
        self.counts["books_broken"] += 1
        if now - book.since_ms >= FORGET_MS:
            book.strikes = 0
        book.strikes += 1
        if book.strikes <= 3:  # who breaks all the time has been told of
            self._broken[str(book.subscription)] = why
        if book.strikes == 1:
            self._ask(book, now)
        else:
            self._pause(book, now)

    def _rest(self, book: _Book, now: int) -> None:
        """Wait with a book that could not be had."""
        book.strikes += 1
        self._pause(book, now)

    def _pause(self, book: _Book, now: int) -> None:
        book.mode, book.since_ms = "resting", now
        book.due_ms = now + min(REST_MS << min(max(book.strikes - 2, 0), 20), MAX_REST_MS)

    def _wait(self, book: _Book, places: list[Numbers] | None, now: int) -> None:
        """Look at an update of a book that does not stand: is it time for something?"""
        first = None if places is None else places[0].before
        if book.mode == "new" or (book.mode == "asked" and now - book.since_ms >= RENEW_MS):
            book.bare = True
            self._ask(book, now, first)
        elif book.mode == "resting" and now >= book.due_ms:
            self._ask(book, now, first)

    def _ask(self, book: _Book, now: int, first: int | None = None) -> None:
        """Ask for a book: by another subscription, or of REST where that brings no snapshot and it can tell."""
        book.since_ms = now
        if not book.bare or book.subscription.channel != FETCHED:
            book.mode = "asked"
            self._renewals.append(book.subscription)
            self.counts["books_resubscribed"] += 1
        elif first is not None:
            self._fetch_number += 1
            book.mode, book.number = "fetched", self._fetch_number
            self._fetches.append(Fetch(book.subscription, first, book.number))
            self.counts["books_fetched"] += 1
        else:  # it begins with the next update, whose number tells how young the answer must be
            book.mode, book.due_ms = "resting", now


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
