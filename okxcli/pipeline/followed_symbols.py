"""Symbols that patterns select, while an exchange lists new ones and takes others off.

The exchange's lists are read at the start and every few minutes; between that its channel of instruments tells what
happens. Lists come from caches and may be behind: what was pushed lately counts more, and a symbol is gone only when
two lists in a row lack it, or a push says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Self

from okxcli.core.model import Instrument
from okxcli.core.selection import USUAL_TYPES, Selection
from okxcli.errors import BUGS, InvalidLine, OkxError, UsageError
from okxcli.exchanges.interface import Exchange, Market
from okxcli.runtime.configuration.config import Config

_log = logging.getLogger(__name__)

#: How old a list may be before it is read anew.
AGE_S = 600.0
#: What was listed before the channel of instruments stood is found after so long; so long is waited after a failure.
_FIRST_S = 30.0
#: For so long a push counts more than a list: caches are seconds behind.
_PUSHED_S = 120.0
#: States of an instrument that does not trade yet, or any more.
_ABSENT = ("preopen", "expired", "test")


def listed(market: Market, selection: Selection) -> list[Instrument]:
    """Return the instruments of all lists that patterns may select from.

    Raises:
        UsageError: options are wanted, which come by family, and no pattern names one.
        ExchangeUnavailable: a list could not be had.
    """
    kinds = selection.types or USUAL_TYPES
    found = list(market.listed([kind for kind in kinds if kind != "option"], None))
    if "option" in kinds:
        families = selection.families()
        if not families:
            raise UsageError("options come by family: name it in the pattern, such as 'BTC-USD-*-C'")
        for family in families:
            found += market.listed(["option"], family)
    return found


@dataclass(eq=False)
class FollowedSymbols:
    """What a selection means now. `market` is asked for lists, within `with` again and again in a thread.

    One thread calls everything else.
    """

    exchange: Exchange
    market: Market
    selection: Selection = field(default_factory=lambda: Selection(()))
    age_s: float = AGE_S
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, Instrument] = field(default_factory=dict, init=False)
    _symbols: list[str] = field(default_factory=list, init=False)
    _lacking: set[str] = field(default_factory=set, init=False)  # those that the last list lacked
    _pushed_s: dict[str, float] = field(default_factory=dict, init=False)
    _read_s: float | None = field(default=None, init=False)  # when the lists were read
    _lists: list[Instrument] | None = field(default=None, init=False)  # read by the thread and not looked at

    def __post_init__(self) -> None:
        self._normalizer = self.exchange.normalizer()
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def begin(self, selection: Selection | None = None) -> list[str]:
        """Return the symbols that a selection means, by lists that are not older than their age.

        Raises:
            UsageError: it means nothing that is listed.
            ExchangeUnavailable: the lists could not be had.
        """
        before, self.selection = self.selection, selection or self.selection
        if not self.selection.open:
            self._symbols = self.selection.names
            return self._symbols
        fresh = self._read_s is not None and self.clock() - self._read_s < self.age_s
        if not fresh or (before.types, before.families()) != (self.selection.types, self.selection.families()):
            self._take(listed(self.market, self.selection))
        self._symbols = self._selected()
        if not self._symbols:
            patterns = ", ".join(self.selection.patterns)
            types = " or ".join(self.selection.types or USUAL_TYPES)
            raise UsageError(
                f"no {types} that {self.exchange.title} lists is like {patterns}. All names: okx instruments --symbols"
            )
        return self._symbols

    def settled(self, config: Config) -> Config:
        """Return a configuration with the symbols that it means; raises as `begin`."""
        symbols = self.begin(Selection(config.symbols, config.types))
        return replace(config, symbols=tuple(symbols), wanted=config.symbols)

    def __enter__(self) -> Self:
        """Begin to read the lists anew whenever they are too old, while there are patterns."""
        threading.Thread(target=self._run, name="okx lists", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Read no more."""
        self._stopping.set()
        self.market.close()

    def wants(self, symbol: str) -> bool:
        """Whether news of an instrument are wanted, streamed or not; from any thread."""
        return self.selection.selects(symbol)

    def see(self, lines: Iterable[bytes]) -> None:
        """Take note of raw lines that tell of instruments; others are passed over."""
        preface = self.exchange.preface
        for line in lines if self.selection.open else ():
            if line.startswith(preface):
                try:
                    found = self._normalizer.feed(line)
                except InvalidLine:
                    continue  # whoever reads it says what is wrong with it
                for one in found:
                    if isinstance(one, Instrument):
                        self._known[one.symbol] = one
                        self._pushed_s[one.symbol] = self.clock()

    def news(self) -> list[str] | None:
        """Return the symbols that are meant now, if they are others than before."""
        with self._lock:
            lists, self._lists = self._lists, None
        if lists is not None:
            self._take(lists)
        if not self.selection.open or (found := self._selected()) == self._symbols or not found:
            return None
        new = [symbol for symbol in found if symbol not in self._symbols]
        gone = [symbol for symbol in self._symbols if symbol not in found]
        _log.info("listed now: %s", " ".join([*(f"+{one}" for one in new), *(f"-{one}" for one in gone)]) or "the same")
        self._symbols = found
        return found

    def _take(self, lists: list[Instrument]) -> None:
        """Take in whole lists: what they lack twice is gone."""
        now = self.clock()
        self._read_s = now
        there = {one.symbol: one for one in lists}
        self._pushed_s = {symbol: at for symbol, at in self._pushed_s.items() if now - at < _PUSHED_S}
        lacking = self._known.keys() - there.keys() - self._pushed_s.keys()
        for symbol in lacking & self._lacking:
            del self._known[symbol]
        self._lacking = lacking
        self._known |= {symbol: one for symbol, one in there.items() if symbol not in self._pushed_s}

    def _selected(self) -> list[str]:
        """Return what is meant: what trades, and what is followed already and only pauses."""
        before = set(self._symbols)
        known = {
            symbol: one.kind
            for symbol, one in self._known.items()
            if one.state not in _ABSENT and (symbol in before or (one.state == "live" and one.tick_size is not None))
        }
        return self.selection.among(known)

    def _run(self) -> None:
        due_s = self.clock() + min(self.age_s, _FIRST_S)
        while not self._stopping.wait(min(self.age_s, 1.0)):
            if self.clock() < due_s or self._lists is not None or not self.selection.open:
                continue
            due_s = self.clock() + self.age_s
            try:
                lists = listed(self.market, self.selection)
            except (OkxError, *BUGS) as error:
                _log.debug("the lists of instruments cannot be had: %s", error)
                due_s = self.clock() + min(self.age_s, _FIRST_S)
                continue
            with self._lock:
                self._lists = lists
