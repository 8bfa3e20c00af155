"""Which symbols are meant by names, by patterns such as `*-USDT`, and by types of instrument."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

#: Types of instrument that patterns look among where none is named, and all that there are.
USUAL_TYPES = ("spot", "swap", "futures")
TYPES = (*USUAL_TYPES, "option")
#: Signs that stand for others: any number of them, and exactly one.
_MANY, _ONE = "*", "?"


def is_pattern(text: str) -> bool:
    """Whether a text stands for many symbols."""
    return _MANY in text or _ONE in text


@dataclass(frozen=True)
class Selection:
    """Symbols by `wanted` names and patterns; `types` narrows what patterns select, and alone selects all of them.

    A pattern is about the whole name: `*` stands for any number of signs, hyphens too, `?` for one.
    """

    wanted: tuple[str, ...]
    types: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The symbols that are named."""
        return list(dict.fromkeys(one for one in self.wanted if not is_pattern(one)))

    @property
    def patterns(self) -> list[str]:
        """The patterns; that of everything where types alone are given."""
        found = [one for one in self.wanted if is_pattern(one)]
        return found if self.wanted or not self.types else [_MANY]

    @property
    def open(self) -> bool:
        """Whether there are patterns, so that symbols may come and go."""
        return bool(self.patterns)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        signs = {_MANY: ".*", _ONE: "."}
        texts = ["".join(signs.get(sign) or re.escape(sign) for sign in one) for one in self.patterns]
        return re.compile("|".join(f"(?:{text})" for text in texts) or r"(?!)", re.DOTALL)

    def selects(self, symbol: str, kind: str | None = None) -> bool:
        """Whether a pattern selects a symbol of a type; None: nobody knows of which, and any will do."""
        return (not self.types or kind is None or kind in self.types) and self._pattern.fullmatch(symbol) is not None

    def among(self, known: Mapping[str, str | None]) -> list[str]:
        """Return the named symbols, and after them, by name, what patterns select of `known` ones with their types."""
        names = self.names
        return names + sorted(
            symbol for symbol, kind in known.items() if symbol not in names and self.selects(symbol, kind)
        )

    def families(self) -> list[str]:
        """Return the families that the patterns name, as those of options must: `BTC-USD` of `BTC-USD-*-C`."""
        parts = [one.split("-") for one in self.patterns]
        return list(dict.fromkeys("-".join(p[:2]) for p in parts if len(p) > 2 and not is_pattern(p[0] + p[1])))


def expanded(wanted: Iterable[str], types: Iterable[str], known: Mapping[str, str | None]) -> list[str]:
    """Return the symbols that names and patterns mean, patterns by what is `known`."""
    return Selection(tuple(wanted), tuple(types)).among(known)
