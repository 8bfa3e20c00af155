"""The past from OKX's REST as raw lines: fills by id, and candles; oldest first, a page at a time.

Ids of an instrument are consecutive, so it is known beforehand which ids a page must hold, and seen which it does not.
REST is served by several nodes, each with a cache of its own: an answer may lack what is newer than its cache. It
says something about an id only if it holds one above and one at or below it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson

from okxcli.errors import Refused, UsageError
from okxcli.exchanges.interface import Clock, Page
from okxcli.exchanges.okx.channels import TRADES_PAGE
from okxcli.exchanges.okx.normalize.row_forms import NO_TIMEFRAME, TIMEFRAMES
from okxcli.exchanges.okx.rest.endpoints import CANDLES_PAGE, RECENT_BARS, RestClient, Row
from okxcli.runtime.clock import iso, now_ms

_log = logging.getLogger(__name__)

#: Answers that show nothing of what is asked, before it is given up: caches are some seconds behind at most.
_ATTEMPTS = 4
_PAUSE_S = 0.3
#: Requests for one page, however odd the answers are.
_MAX_REQUESTS = 64
#: Keys of a trade row in the order of OKX's pushes.
_KEYS = ("instId", "tradeId", "px", "sz", "side", "ts", "source")
_FIRST_STEP_MS = 60_000


def trade_line(row: Row) -> bytes:
    """Return a fill of REST in the shape of a push of `trades-all`."""
    ordered = {key: row[key] for key in _KEYS if key in row} | row
    argument = {"channel": "trades-all", "instId": row["instId"]}
    return orjson.dumps({"arg": argument, "data": [ordered], "origin": "rest"})


def candle_line(symbol: str, bar: str, row: list[str]) -> bytes:
    """Return a bar of REST in the shape of a push of `candle<bar>`."""
    return orjson.dumps({"arg": {"channel": f"candle{bar}", "instId": symbol}, "data": [row], "origin": "rest"})


def settlement_line(row: Row) -> bytes:
    """Return a settlement of funding of REST in the shape of a push of `funding-rate`."""
    argument = {"channel": "funding-rate", "instId": row["instId"]}
    return orjson.dumps({"arg": argument, "data": [row], "origin": "rest"})


@dataclass(eq=False)
class TradeHistory:
    """The past by REST. `sleep` is called between attempts that brought nothing; safe in several threads."""

    rest: RestClient
    sleep: Callable[[float], object] = time.sleep
    attempts: int = _ATTEMPTS
    clock: Clock = now_ms

    def range(self, symbol: str, first: int, last: int, known: int | None = None) -> Iterator[Page]:
        """Yield the fills with the ids `first .. last`, lowest first, at most a page of OKX's (100) at a time.

        The pages follow on each other without a gap. `known` is an id above `last` that is known to exist: it serves
        as proof when `last` itself does not. A hundred ids cost one request, more only where ids are absent.

        Raises:
            NoSuchInstrument: OKX has no such symbol.
            ExchangeUnavailable: no answer in all attempts.
        """
        while first <= last:
            page = self._page(symbol, first, last, last if known is None else max(last, known))
            yield page
            first = page.last + 1

    def _page(self, symbol: str, low: int, last: int, ceiling: int) -> Page:
        """Return what is known about the ids from `low` on, `last` at most; at least about one of them."""
        after = min(low + TRADES_PAGE - 1, last) + 1
        tries, nothing_below, lowest = 0, low, 0  # no id is in [low, nothing_below), `lowest` is one above, if not 0
        for _ in range(_MAX_REQUESTS):
            page = self.rest.history_trades(symbol, after)
            rows = {number: row for row in page if (number := int(row["tradeId"])) < after}
            above = [number for number in rows if number >= low]
            if above and min(rows) <= low:
                return _page_of(rows, low, min(max(above), last))
            if above and len(page) < TRADES_PAGE:
                # Cut short, which another node may not be, or what is older is beyond OKX's horizon: nobody can tell.
                tries += 1
                if tries >= self.attempts:
                    return _page_of(rows, low, min(max(above), last), evidence=False)
                self.sleep(_PAUSE_S * tries)
                continue
            if above:
                lowest = min(above)
                nothing_below = nothing_below if nothing_below <= lowest else low
            elif after > ceiling or 0 < lowest < after:  # this cache is behind, or there is nothing
                tries += 1
                if tries >= self.attempts:
                    break
                self.sleep(_PAUSE_S * tries)
            else:
                nothing_below = after
            if not lowest:
                after = min(low + 2 * (after - low), ceiling + 1)
            elif lowest - nothing_below < TRADES_PAGE:
                after = lowest + 1  # it and what lies right below in one answer
            else:
                after = (nothing_below + lowest) // 2
        return Page([], low, last, [(low, last)], evidence=False)

    def newest(self, symbol: str) -> tuple[int, int]:
        """Return the id and the time (ms) of the newest fill.

        Raises:
            Refused: there is none.
        """
        rows = self.rest.trades(symbol, limit=1)
        if not rows:
            raise Refused("", f"OKX shows no trade of {symbol}: there is no past to be had")
        return int(rows[0]["tradeId"]), int(rows[0]["ts"])

    def first_id_at(self, symbol: str, since_ms: int) -> int:
        """Return the lowest id of the fills at or after `since_ms`; if there is none yet, the one that it will have.

        Where OKX's history begins later (it shows three months), the oldest id that it has. Times may step back: the
        ids from here on may hold a few fills that are older.
        """
        before = self.last_id_before(symbol, since_ms)
        below = self.rest.history_trades(symbol, before + 1)
        return min([before + 1, *(int(row["tradeId"]) for row in below if int(row["ts"]) >= since_ms)])

    def last_id_before(self, symbol: str, until_ms: int) -> int:
        """Return the highest id of the fills before `until_ms`; below the oldest that OKX has if there is none.

        Times may step back: the ids up to here may hold a few fills that are younger.
        """
        for tries in range(1, self.attempts + 1):
            rows = self.rest.history_trades(symbol, until_ms, by_time=True)
            older = [int(row["tradeId"]) for row in rows if int(row["ts"]) < until_ms]
            if older:
                break
            self.sleep(_PAUSE_S * tries)
        else:
            return self._oldest(symbol, until_ms) - 1
        before = max(older)
        tries = 0
        for _ in range(_MAX_REQUESTS):
            # The cache may have been behind: fills right after it may be older than `until_ms` too.
            rows = self.rest.history_trades(symbol, before + TRADES_PAGE)
            later = [int(row["tradeId"]) for row in rows if int(row["ts"]) < until_ms]
            if later and max(later) > before:
                before, tries = max(later), 0
                continue
            tries += 1
            # Only a younger fill in the same answer proves that this cache had got there.
            if tries == self.attempts or any(int(row["tradeId"]) > before for row in rows):
                break
        return before

    def _oldest(self, symbol: str, since_ms: int) -> int:
        """Return the lowest id that OKX shows, which is younger than `since_ms`."""
        early, step, until = since_ms, _FIRST_STEP_MS, self.clock() + _FIRST_STEP_MS
        rows: list[Row] = []
        while not rows:
            if early >= until:
                return self.newest(symbol)[0] + 1
            late = min(early + step, until)
            rows = self.rest.history_trades(symbol, late, by_time=True)
            if not rows:
                early, step = late, step * 4
        # `early` is before all fills and `late` is not: halve until one page reaches the beginning.
        while len(rows) == TRADES_PAGE and late - early > 1:
            middle = (early + late) // 2
            found = self.rest.history_trades(symbol, middle, by_time=True)
            if found:
                late, rows = middle, found
            else:
                early = middle
        lowest = min(int(row["tradeId"]) for row in rows)
        for page in self.rest.trade_pages(symbol, lowest) if len(rows) == TRADES_PAGE else ():
            lowest = min(lowest, *(int(row["tradeId"]) for row in page))
        return lowest

    def span(self, symbol: str, since_ms: int, until_ms: int | None = None) -> tuple[int, int]:
        """Return the first and the last id of `[since_ms, until_ms)`, beginning one fill early for the link.

        None is up to the newest. The last id is below the first when there is nothing.
        """
        first = self.first_id_at(symbol, since_ms)
        first -= bool(self.rest.history_trades(symbol, first, limit=1))
        last = self.newest(symbol)[0]
        if until_ms is not None and until_ms < self.clock():
            last = min(last, self.last_id_before(symbol, until_ms))
        return first, last

    def trades(self, symbol: str, since_ms: int, until_ms: int | None = None) -> Iterator[Page]:
        """Yield the pages of a `span`."""
        return self.range(symbol, *self.span(symbol, since_ms, until_ms))

    def candles(self, symbol: str, bar: str, since_ms: int, until_ms: int) -> Iterator[bytes]:
        """Yield OKX's own bars (`bar` as OKX names it) that start in `[since_ms, until_ms)` and are over, oldest first.

        Raises:
            UsageError: no such bar, or one that no timeframe of ours describes.
        """
        timeframe = TIMEFRAMES.get(f"candle{bar}")
        if timeframe is None:
            reason = NO_TIMEFRAME.get(f"candle{bar}", "OKX has 1s, 1m, 3m, 5m, 15m, 30m, 1H, 2H, 4H, 1Dutc ...")
            raise UsageError(f"no candles of {bar}: {reason}")
        start = timeframe.start_of(max(since_ms, 0))
        start = start if start >= since_ms else timeframe.end_of(start)
        since_ms, begun = start, False
        while start < until_ms:
            end, wanted = start, 0
            while end < until_ms and wanted < CANDLES_PAGE:
                end, wanted = timeframe.end_of(end), wanted + 1
            now = self.clock()
            if start >= now:
                return
            recent = start > now - RECENT_BARS * ((end - start) // wanted)
            over = wanted if end <= now else max(0, (now - start) // ((end - start) // wanted) - 1)
            # Before the listing there is nothing, page after page; an empty one elsewhere is some node's fault.
            patient = begun or recent or start == since_ms
            rows = self._bars(symbol, bar, start, end, recent, over, patient)
            lacks = over - len(rows) - (0 if begun or not rows else (int(rows[0][0]) - start) * wanted // (end - start))
            begun = begun or bool(rows)
            if begun and lacks > 0:
                when = f"{iso(start)} and {iso(min(end, now))}"
                _log.warning("%s: OKX shows %d bars of %s between %s too few", symbol, lacks, bar, when)
            for row in rows:
                yield candle_line(symbol, bar, row)
            start = end

    def _bars(
        self, symbol: str, bar: str, start: int, end: int, recent: bool, over: int, patient: bool
    ) -> list[list[str]]:
        """Return the bars of one page that are over, oldest first, asking again while some of `over` are missing.

        OKX has a bar for every minute from the listing on, so only before it may bars be missing for good: where there
        may be none at all, it is asked again if `patient`.
        """
        found: dict[int, list[str]] = {}
        for attempt in range(self.attempts):
            for page in self.rest.candle_pages(symbol, bar, start, end, recent):
                found |= {at: row for row in page if row[-1] == "1" and start <= (at := int(row[0])) < end}
            if len(found) >= over or not (found or patient):
                break
            if attempt + 1 < self.attempts:
                self.sleep(_PAUSE_S * (attempt + 1))
        return [found[at] for at in sorted(found)]


def _page_of(rows: dict[int, Row], first: int, last: int, evidence: bool = True) -> Page:
    """Return the fills `first .. last` of an answer."""
    there = [number for number in sorted(rows) if first <= number <= last]
    missing: list[tuple[int, int]] = []
    at = first
    for number in [*there, last + 1]:
        if number > at:
            missing.append((at, number - 1))
        at = number + 1
    return Page([trade_line(rows[number]) for number in there], first, last, missing, evidence)
