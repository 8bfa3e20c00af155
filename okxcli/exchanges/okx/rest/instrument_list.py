"""What OKX lists: instruments by name, found by REST, and the nearest name to a mistyped one."""

import difflib
import logging
import re
from collections.abc import Callable, Iterable

import orjson

from okxcli.errors import OkxError
from okxcli.exchanges.okx.rest.endpoints import RestClient, Row

_log = logging.getLogger(__name__)

#: Kinds whose lists can be had without naming a family. Margin has the ids of spot.
LISTED_KINDS = ("SPOT", "SWAP", "FUTURES")

_OPTION = re.compile(r"([A-Z0-9]+-[A-Z0-9_]+)-[0-9]{6}-[0-9.]+-[CP]", re.ASCII)
_FUTURE = re.compile(r"[A-Z0-9]+-[A-Z0-9_]+-[0-9]{6}", re.ASCII)


def likely_kind(symbol: str) -> str:
    """Return which list to look at first; the list decides, not the name."""
    if symbol.endswith("-SWAP"):
        return "SWAP"
    if _OPTION.fullmatch(symbol):
        return "OPTION"
    return "FUTURES" if _FUTURE.fullmatch(symbol) else "SPOT"


class Catalogue:
    """OKX's lists of instruments, each asked for once, when it is first needed."""

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest
        self._asked: set[tuple[str, str | None]] = set()
        self._rows: dict[str, Row] = {}

    def find(self, symbols: Iterable[str]) -> dict[str, Row]:
        """Return the rows of those `symbols` that exist, in their order.

        Raises:
            ExchangeUnavailable: a list could not be had.
        """
        wanted = list(symbols)
        for symbol in wanted:
            option = _OPTION.fullmatch(symbol)
            self._load(likely_kind(symbol), option[1] if option else None)
        for kind in LISTED_KINDS:
            if all(symbol in self._rows for symbol in wanted):
                break
            self._load(kind)
        return {symbol: self._rows[symbol] for symbol in wanted if symbol in self._rows}

    def tried(self, symbols: Iterable[str], stopping: Callable[[], bool]) -> dict[str, Row]:
        """As `find`; none where that cannot be, which is told unless we are `stopping`."""
        try:
            return self.find(symbols)
        except OkxError as error:
            if not stopping():
                _log.warning("streaming without instruments: %s", error)
        except Exception:
            _log.exception("a bug of okx: streaming without instruments")
        return {}

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._rows

    def nearest(self, symbol: str) -> str | None:
        """Return the listed name most like `symbol`, if one is like it at all."""
        found = difflib.get_close_matches(symbol.upper(), self._rows, 1, cutoff=0.6)
        return found[0] if found else None

    def _load(self, kind: str, family: str | None = None) -> None:
        if (kind, family) in self._asked:
            return
        for row in self._rest.instruments(kind, family):
            self._rows.setdefault(str(row.get("instId", "")), row)
        self._asked.add((kind, family))


def instrument_line(row: Row) -> bytes:
    """Return an instrument's row in the shape of OKX's `instruments` push."""
    argument = {"channel": "instruments", "instType": row.get("instType", "")}
    return orjson.dumps({"arg": argument, "data": [row]})
