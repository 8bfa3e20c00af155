"""Which order books a collector stores: one of each span of those that come whole, and those that it keeps itself."""

import logging
import re
from collections.abc import Callable

from okxcli.core.books.book_maker import BookMaker
from okxcli.core.books.chain import Step
from okxcli.core.books.local_book import LocalBook
from okxcli.core.model import BookSnapshot, BookUpdate, Line
from okxcli.runtime.clock import passed_ms
from okxcli.runtime.configuration.config import Config

_log = logging.getLogger(__name__)

#: How many books a message names.
_NAMED = 5
#: The symbol, time and origin of a book, as `core.codec` writes them.
_BOOK = re.compile(
    rb'\{"type":"book","exchange":"[^"]*","symbol":"([^"]*)","timestamp":([0-9]+),.*"origin":"([^"]*)"\}'
).fullmatch


class BookKeeping:
    """Takes books and updates of books; gives those that are to be stored to `add`.

    `mend(symbol, origin)` is called for a book whose chain is broken, once all that has come is taken in (`settle`).
    """

    def __init__(self, config: Config, add: Callable[[Line], None], mend: Callable[[str, str], None]) -> None:
        self._add = add
        self._mend = mend
        self._slots: dict[tuple[str, str], int] = {}
        self._broken: dict[tuple[str, str, str], None] = {}
        self._told: dict[str, list[tuple[str, str]]] = {}  # by what is told: of which books, and the whole text
        self._maker = BookMaker(self._keep, self._tell)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Go on as another configuration says; books that it wants, too, stay as they are."""
        self._every = config.books_every_ms
        self._depth = config.books_depth
        self._channels = frozenset(config.channels)
        self._maker.set_interval(self._every or None, self._depth)
        self._maker.retain(self._channels)

    def is_needless(self, line: bytes) -> bool:
        """Whether a line is a book of a span that has one already."""
        found = _BOOK(line)
        return found is not None and self._has(found[1].decode(), found[3].decode(), int(found[2]))

    def take(self, item: BookSnapshot | BookUpdate) -> None:
        """Store a book unless its span has one; keep the book of an update."""
        if isinstance(item, BookUpdate):
            if item.origin not in self._channels:  # it was under way when its channel was given up
                return
            key = item.exchange, item.symbol, item.origin
            step = self._maker.take(item)
            if step is Step.GAP:
                self._broken[key] = None
            elif step is Step.SNAPSHOT:
                self._broken.pop(key, None)
        elif not self._has(item.symbol, item.origin, item.timestamp):
            if self._every:
                self._slots[item.symbol, item.origin] = item.timestamp // self._every
            self._add(item)

    def settle(self) -> None:
        """Have what is broken by now mended, and tell what books are worth: what has come was taken in."""
        self._say()
        for _, symbol, origin in self._broken:
            self._mend(symbol, origin)
        self._broken.clear()

    def advance(self) -> None:
        """Tell of books of which nothing comes any more."""
        self._maker.advance(passed_ms())
        self._say()

    def forget(self, exchange: str, symbol: str) -> None:
        """Keep the books of a symbol no longer."""
        self._maker.forget(exchange, symbol)

    def counts(self) -> dict[str, int]:
        """Return what was counted of the books that were kept; nothing where there were none."""
        return {f"book_{name}": count for name, count in self._maker.counts().items() if count}

    def _has(self, symbol: str, origin: str, timestamp: int) -> bool:
        return bool(self._every) and self._slots.get((symbol, origin)) == timestamp // self._every

    def _keep(self, book: LocalBook, moment: int, known: int | None) -> None:
        self._add(book.snapshot(moment, known, self._depth))

    def _tell(self, book: LocalBook, text: str) -> None:
        self._told.setdefault(text.partition(":")[0], []).append((f"{book.symbol} {book.origin}", text))

    def _say(self) -> None:
        """Tell what is to be told, of many books in one line."""
        told, self._told = self._told, {}
        for state, books in told.items():
            names = ", ".join(name for name, _ in books[:_NAMED])
            more = f" and {len(books) - _NAMED} more" if len(books) > _NAMED else ""
            _log.warning("%s%s: %s", names, more, books[0][1] if len(books) == 1 else state)
