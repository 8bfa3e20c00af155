"""Our candles against the exchange's own, bar by bar: what differs, and what the evidence says of the cause.

A difference is never put down to the exchange lightly: an answer that disagrees is asked for again, since its nodes
answer from caches of their own, and a bar counts as revised by the exchange only when its finer bars, or its own bar as
it was stored when it came, agree with ours.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from okxcli.core.candles import compare
from okxcli.core.model import OHLCVCandle
from okxcli.core.timeframes import DAY
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import Bars
from okxcli.runtime.clock import iso
from okxcli.storage.candles.bar_evidence import Evidence

#: Bars taken at a time: five pages of the exchange's.
CHUNK = 1440
#: A bar that disagrees is asked for so many times more.
_ASK_AGAIN = 3
_PAGE = 300
_EAST_MS = 16 * 3_600_000  # where a UTC+8 day begins in the UTC day

ABSENT = "absent"
INCOMPLETE = "incomplete"
DAY_BOUNDARY = "day boundary"
BOUNDARY = "bar boundary"
SWAPPED = "open and close swapped"
ALTERED = "not what its fills say"
MISSING = "missing fills"
REVISED = "revised by the exchange"
NOT_THERE = "not at the exchange"
UNPROVEN = "quiet not proven"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Difference:
    """One bar about which we and the exchange disagree; a side that has no such bar is None."""

    symbol: str
    timeframe: str
    start: int
    timestamp: int
    cause: str
    note: str
    fields: list[str]
    ours: OHLCVCandle | None
    theirs: OHLCVCandle | None

    def line(self) -> bytes:
        """Return it as a line: both values of the fields that differ."""
        return orjson.dumps(
            {
                "type": "difference",
                "symbol": self.symbol,
                "timeframe": self.timeframe,
                "start": self.start,
                "timestamp": self.timestamp,
                "cause": self.cause,
                "note": self.note,
                "fields": self.fields,
                "ours": None if self.ours is None else compare.values(self.ours, self.fields),
                "exchange": None if self.theirs is None else compare.values(self.theirs, self.fields),
            }
        )


#: Bars of these causes come right when their fills do; those of the others have to be made again.
_BY_FILLS = frozenset((ABSENT, INCOMPLETE, MISSING, UNPROVEN))


def span_of(line: bytes) -> tuple[str, int, int]:
    """Return symbol, start and end (ms) of the bar that a line of `Difference.line` tells of.

    Raises:
        InvalidLine: it is no such line.
    """
    try:
        found = orjson.loads(line)
        span = found["symbol"], found["start"], found["timestamp"]
    except (ValueError, TypeError, KeyError):
        raise InvalidLine("not a line of okx verify") from None
    if not isinstance(span[0], str) or type(span[1]) is not int or type(span[2]) is not int:
        raise InvalidLine("not a line of okx verify")
    return span


class Cure:
    """Which command puts right what differs of a symbol.

    `mended`: bars of this timeframe are among those that a backfill makes of its own accord; others have to be asked
    for. `more` are words that the command needs besides.
    """

    def __init__(self, symbol: str, mended: bool = True, more: str = "") -> None:
        self._symbol = symbol
        self._mended = mended
        self._more = more
        self._fills = False
        self._span: tuple[int, int] | None = None

    def note(self, found: Difference) -> None:
        """Take a difference in; what the exchange revised needs no cure."""
        if found.cause in _BY_FILLS and self._mended:
            self._fills = True
        elif found.cause != REVISED:
            low, high = self._span or (found.start, found.timestamp)
            self._span = (min(low, found.start), max(high, found.timestamp))

    def command(self) -> str | None:
        """Return the command; None where nothing is to be done."""
        command = f"okx backfill {self._symbol}{self._more}"
        if self._span is not None:
            return f"{command} --rebuild --since {iso(self._span[0])} --until {iso(self._span[1])}"
        return command if self._fills else None


class Verifier:
    """Compares one symbol in one timeframe. Counts are attributes, complete when `differences` has ended.

    `quiet`: bars that are flat at the exchange and absent here, as the ids prove; `unproven`: the same outside of our
    first and last bar, where no id can prove it.
    """

    def __init__(self, evidence: Evidence, bars: Bars) -> None:
        self.compared = self.equal = self.quiet = self.unproven = 0
        self.causes: Counter[str] = Counter()
        self._evidence = evidence
        self._bars = bars
        self._symbol = evidence.symbol
        self._timeframe = evidence.timeframe
        self._rounded = bars.rounded_fields(evidence.symbol)
        self._proofs: dict[tuple[int, int], bool] = {}

    def differences(self, since_ms: int, until_ms: int) -> Iterator[Difference]:
        """Yield, oldest first, each bar that lies whole in `[since_ms, until_ms)` and differs.

        Raises:
            ExchangeUnavailable, DatabaseUnavailable: one side could not be asked.
        """
        timeframe = self._timeframe
        start = timeframe.start_of(since_ms)
        start = start if start == since_ms else timeframe.end_of(start)
        while timeframe.end_of(start) <= until_ms:
            starts = [start]
            while len(starts) < CHUNK and timeframe.end_of(timeframe.end_of(starts[-1])) <= until_ms:
                starts.append(timeframe.end_of(starts[-1]))
            yield from self._chunk(starts)
            start = timeframe.end_of(starts[-1])

    def _chunk(self, starts: list[int]) -> Iterator[Difference]:
        # One bar more on both sides: a boundary that was cut wrong shows in the two bars beside it.
        low, high = self._step_back(starts[0]), self._timeframe.end_of(self._timeframe.end_of(starts[-1]))
        ours = self._evidence.bars(low, high)
        theirs = self._bars.between(self._symbol, self._timeframe, low, high)
        wrong = [start for start in starts if not self._agree(ours.get(start), theirs.get(start))]
        self._ask_again(wrong, ours, theirs)
        traded = sorted(
            (bar for bar in ours.values() if bar.first_trade_id is not None), key=lambda candle: candle.start
        )
        before, after = self._evidence.before(low), self._evidence.after(high)
        traded = [*([before] if before else []), *traded, *([after] if after else [])]
        for start in starts:
            mine, other = ours.get(start), theirs.get(start)
            if mine is None and other is None:
                continue
            self.compared += 1
            if mine is None and other is not None and compare.is_flat(other):
                found = self._silence(other, traded)
            elif self._agree(mine, other):
                found = self._miscounted(mine, other)
                self.equal += found is None
            else:
                found = self._explained(start, ours, theirs)
            if found is not None:
                self.causes[found.cause] += 1
                yield found
        yield from self._beside(starts, ours)

    def _beside(self, starts: list[int], ours: dict[int, OHLCVCandle]) -> Iterator[Difference]:
        """Yield the stored bars of a time that are cut where no bar is."""
        wanted, until = set(starts), self._timeframe.end_of(starts[-1])
        for start, bar in sorted(ours.items()):
            if starts[0] <= start < until and (start not in wanted or bar.timestamp != self._timeframe.end_of(start)):
                self.compared += 1
                self.causes[NOT_THERE] += 1
                yield self._difference(start, NOT_THERE, "no bar is cut like that", bar, None)

    def _miscounted(self, mine: OHLCVCandle | None, theirs: OHLCVCandle | None) -> Difference | None:
        """Judge the ids and the count of a bar, which the other has not, by its fills: do they fit together."""
        if mine is None or mine.first_trade_id is None or mine.last_trade_id is None:
            return None
        if mine.trade_count == mine.last_trade_id - mine.first_trade_id + 1:
            return None
        made = self._evidence.rebuilt(mine.start, mine.timestamp)
        names = ("trade_count", "first_trade_id", "last_trade_id")
        if made is None or all(getattr(made, name) == getattr(mine, name) for name in names):
            return None
        return self._difference(mine.start, ALTERED, "its fills have other ids, or are not as many", mine, theirs)

    def _agree(self, ours: OHLCVCandle | None, theirs: OHLCVCandle | None) -> bool:
        if ours is None or theirs is None:
            return ours is None and (theirs is None or compare.is_flat(theirs))
        return not compare.differing(ours, theirs, self._rounded)

    def _step_back(self, start: int) -> int:
        return self._timeframe.start_of(start - 1)

    def _ask_again(self, wrong: list[int], ours: dict[int, OHLCVCandle], theirs: dict[int, OHLCVCandle]) -> None:
        """Ask for the bars that disagree once more, and take over what agrees or knows of more trading."""
        for _ in range(_ASK_AGAIN):
            left = [start for start in wrong if not self._agree(ours.get(start), theirs.get(start))]
            while left:
                page = [start for start in left if start < left[0] + _PAGE * self._timeframe.length]
                left = left[len(page) :]
                again = self._bars.between(self._symbol, self._timeframe, page[0], page[-1] + 1)
                for start in page:
                    new, old = again.get(start), theirs.get(start)
                    if new is not None and (
                        old is None or self._agree(ours.get(start), new) or new.volume > old.volume
                    ):
                        theirs[start] = new

    def _silence(self, flat: OHLCVCandle, traded: list[OHLCVCandle]) -> Difference | None:
        """Judge a bar that is flat at the exchange and absent here."""
        at = bisect_right(traded, flat.start, key=lambda candle: candle.start)
        if at == 0 or at == len(traded):
            self.unproven += 1
            return None
        last, first = traded[at - 1].last_trade_id or 0, traded[at].first_trade_id or 0
        ids = (min(last, first), max(last, first))
        if ids not in self._proofs:
            self._proofs[ids] = first == last + 1 or self._evidence.knows(*ids)
        if self._proofs[ids]:
            self.quiet += 1
            return None
        note = f"ids {ids[0] + 1} to {ids[1] - 1} are not all known"
        return self._difference(flat.start, UNPROVEN, note, None, flat)

    def _explained(self, start: int, ours: dict[int, OHLCVCandle], theirs: dict[int, OHLCVCandle]) -> Difference:
        mine, other = ours.get(start), theirs.get(start)
        if other is None:
            return self._difference(start, NOT_THERE, "the exchange has no such bar", mine, None)
        if mine is None:
            return self._difference(start, ABSENT, self._why_absent(other), None, other)
        if not mine.complete:
            return self._difference(start, INCOMPLETE, "the ids of its fills are not all known", mine, other)
        cause, note = self._boundary(mine, ours, theirs) or self._by_fills(mine, other)
        return self._difference(start, cause, note, mine, other)

    def _difference(
        self, start: int, cause: str, note: str, ours: OHLCVCandle | None, theirs: OHLCVCandle | None
    ) -> Difference:
        both = ours is not None and theirs is not None
        fields = compare.differing(ours, theirs, self._rounded) if both else list(compare.FIELDS)  # type: ignore[arg-type]
        end = self._timeframe.end_of(start)
        return Difference(self._symbol, self._timeframe.name, start, end, cause, note, fields, ours, theirs)

    # Causes, the most certain first

    def _why_absent(self, theirs: OHLCVCandle) -> str:
        made = self._evidence.rebuilt(theirs.start, theirs.timestamp)
        if made is None:
            return "no fill of it is stored"
        if self._agree(made, theirs):
            return "its fills are stored, the bar is not"
        return f"{made.trade_count} fills of it are stored, not all"

    def _boundary(
        self, mine: OHLCVCandle, ours: dict[int, OHLCVCandle], theirs: dict[int, OHLCVCandle]
    ) -> tuple[str, str] | None:
        """Whether the bar was cut elsewhere: at the other midnight, one bar off, or a fill on the wrong side."""
        start, end = mine.start, mine.timestamp
        other = self._bars.other_day(self._timeframe)
        if other is not None:
            found = self._bars.between(self._symbol, other, other.start_of(start), end)
            if any(self._agree(mine, bar) for bar in found.values()):
                return DAY_BOUNDARY, f"it is the exchange's bar of {other.name}"
        for name, near in (("before", self._step_back(start)), ("after", end)):
            beside, their_beside = ours.get(near), theirs.get(near)
            if their_beside is not None and not compare.is_flat(their_beside) and self._agree(mine, their_beside):
                return BOUNDARY, f"it is the exchange's bar {name} it"
            if beside is None or their_beside is None:
                continue
            pair = [(beside, their_beside), (mine, theirs[start])][:: 1 if name == "before" else -1]
            if compare.is_shared_edge(pair[0][0], pair[1][0], pair[0][1], pair[1][1]):
                edge = pair[1][0].start
                cause = DAY_BOUNDARY if edge % DAY in (0, _EAST_MS) else BOUNDARY
                return cause, f"with the bar {name} it holds what the exchange's two hold: a fill is on the wrong side"
        return None

    def _by_fills(self, mine: OHLCVCandle, theirs: OHLCVCandle) -> tuple[str, str]:
        """Judge by the stored fills, the ids, and what the exchange itself says in other places."""
        made = self._evidence.rebuilt(mine.start, mine.timestamp)
        if compare.is_swapped(mine, theirs):
            return SWAPPED, "all else agrees"
        if made is not None and self._agree(made, theirs):
            return ALTERED, "its fills make the exchange's bar: okx backfill --rebuild writes it again"
        missing = self._missing(mine, made is not None)
        if missing:
            return MISSING, missing
        if self._revised(mine):
            return REVISED, "the exchange's finer bars or its earlier bar agree with ours"
        return UNKNOWN, "" if made is None else "its fills make neither bar" if not self._agree(made, mine) else ""

    def _missing(self, mine: OHLCVCandle, has_rows: bool) -> str:
        before, after = self._evidence.before(mine.start), self._evidence.after(mine.timestamp)
        if mine.first_trade_id is None or mine.last_trade_id is None:
            return ""
        first = mine.first_trade_id if before is None else (before.last_trade_id or 0) + 1
        last = mine.last_trade_id if after is None else (after.first_trade_id or 0) - 1
        if has_rows:
            since = mine.start if before is None else before.start
            until = mine.timestamp if after is None else after.timestamp
            gone = self._evidence.missing(first, last, since, until)
            return "ids " + ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in gone[:5]) if gone else ""
        short = last - first + 1 - (mine.trade_count or 0)
        return f"{short} ids between its neighbours are in no bar" if short > 0 else ""

    def _revised(self, mine: OHLCVCandle) -> bool:
        stored = self._evidence.exchange_copy(mine.timestamp)
        if stored is not None and self._agree(mine, stored):
            return True
        small = self._bars.finer(self._timeframe)
        if small is None:
            return False
        parts = self._bars.between(self._symbol, small, mine.start, mine.timestamp)
        whole = compare.merged(parts.values(), mine)
        return whole is not None and self._agree(mine, whole)
