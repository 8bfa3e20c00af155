"""Where only candles are stored: the broken links of their chain, mended by fills that are fetched and not kept.

The fills of the bars beside a hole are fetched once more with those that are missing, so that each bar is made whole;
larger bars are merged of the stored smaller ones.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.model import Absent, OHLCVCandle, StandardizedTrade
from okxcli.errors import DatabaseUnavailable
from okxcli.exchanges.interface import Page
from okxcli.pipeline.backfill.fetch_plan import Plan, Stretch
from okxcli.pipeline.backfill.tools import COMMIT_PAGES, FOREVER_MS, TAIL_MS, Tools
from okxcli.pipeline.backfill.whole_days import BulkFiles
from okxcli.storage.candles.candle_chain import (
    Chain,
    Link,
    completed,
    ids_between,
    is_candles_only,
    merge_larger,
    stale_larger,
    step_outside,
)
from okxcli.storage.candles.flat_bars import flats, store_flats
from okxcli.storage.candles.rebuild import starts_in, store_bars
from okxcli.storage.candles.remake import remove_false
from okxcli.storage.ledger import id_ledger, unsettled
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.ledger.proof import count_within
from okxcli.storage.rows import reader
from okxcli.storage.rows.reader import Series
from okxcli.storage.write.writer import Writer

_log = logging.getLogger(__name__)

#: Fills come by id, and a time hardly steps back by a second; a bar is kept open for as long as it may.
_LATENESS_MS = 600_000
#: A stretch is made again with the bars beside it when fills turn out to belong there; times do not step back further.
_ROUNDS = 3


class Candles:
    """Mends the chain of candles of symbols of which no fill is stored, and stores none."""

    def __init__(self, tools: Tools, files: BulkFiles | None = None) -> None:
        self._tools = tools
        self._files = files

    def has(self, symbol: str) -> bool:
        """Whether candles alone are stored of a symbol."""
        return is_candles_only(self._tools.connection, self._tools.name, symbol)

    # ---- what there is to do

    def plan(
        self, symbol: str, since_ms: int | None = None, until_ms: int | None = None, rebuild: bool = False
    ) -> Plan:
        """Return what the bars lack in `[since_ms, until_ms)`: broken links, bars since the newest one, and the head.

        Bars that are not over, or younger than a minute, are left alone; and so are those before the first one, unless
        `since_ms` asks for them. With `rebuild` all bars that are stored in that time are to be made again.

        Raises:
            NoSuchInstrument, ExchangeUnavailable: the exchange does not tell how far the tail goes.
        """
        chain = self._chain(symbol)
        plan = Plan(symbol, self._tools.exchange.page, stretches=[], ceiling=chain.known[-1][1])
        holes = [one for one in chain.broken(chain.base) if _touches(one, since_ms, until_ms)]
        spans = _broken(chain, since_ms, until_ms)
        wanted = [(one.first, one.last) for one in holes]
        stretches = [one for span in spans if (one := self._stretch(chain, *span)) is not None]
        stretches += self._tail(chain, plan, until_ms, wanted)
        stretches += self._head(chain, plan, since_ms, wanted)
        begin, end = max(since_ms or 0, chain.base.links[0].start), min(until_ms or FOREVER_MS, chain.base.sure_ms)
        if rebuild and begin < end:
            plan.anew = begin, end = _whole(chain, begin, end)
            ids = [self._tools.history.first_id_at(symbol, begin), self._tools.history.last_id_before(symbol, end)]
            stretches.append(Stretch(max(ids[0] - 1, 1), ids[1] + 1, begin, end))
        plan.wanted = id_ledger.union(wanted)
        plan.stretches = _joined(stretches)
        plan.ceiling = max([plan.ceiling, *(one.last for one in plan.stretches)])
        return plan

    def _chain(self, symbol: str) -> Chain:
        chain = Chain.load(self._tools.connection, self._tools.name, symbol)
        if chain is None:  # retention has dropped them meanwhile
            raise DatabaseUnavailable(f"the candles of {symbol} are gone: try again")
        return chain

    def _stretch(self, chain: Chain, since: int, until: int) -> Stretch | None:
        """Return the fills of the bars that touch a span, one more on each side; None where no bar is stored."""
        since, until = _whole(chain, since, until)
        frame = chain.base.frame
        low, high = frame.start_of(since), frame.end_of(frame.start_of(until - 1))
        ids = ids_between(self._tools.connection, chain, low, high)
        if ids is None:
            return None
        first = ids[0] - 1
        if low <= chain.base.links[0].start:  # where the chain begins nobody knows how far its first bar goes back
            first = min(first, self._tools.history.first_id_at(chain.symbol, since) - 1)
        return Stretch(max(first, 1), ids[1] + 1, since, until)

    def _tail(self, chain: Chain, plan: Plan, until_ms: int | None, wanted: Ranges) -> Iterator[Stretch]:
        """Yield the fills of the bars that are over and newer than the newest one."""
        tools, newest, base = self._tools, chain.base.newest, chain.base.frame
        limit = min(until_ms or tools.clock(), tools.clock() - TAIL_MS)
        if all(bars.frame.end_of(bars.sure_ms) > limit for bars in chain.roots):
            return
        moment = min(tools.newest_before(plan.symbol, until_ms)[1], limit)
        behind = [bars for bars in chain.roots if bars.frame.start_of(moment) > bars.sure_ms]
        if not behind:
            return
        begin, top = min(bars.sure_ms for bars in behind), max(bars.frame.start_of(moment) for bars in behind)
        last, known = tools.history.last_id_before(plan.symbol, top), chain.covered[-1][1]
        ended = (
            last if base.start_of(moment) == top else tools.history.last_id_before(plan.symbol, base.start_of(moment))
        )
        lacking = id_ledger.subtract([(known + 1, ended)] if ended > known else [], chain.absent)
        if not lacking and begin == newest.timestamp:
            return  # a quiet since
        wanted += lacking
        plan.end_ms = top
        # Times can step back across the edge: the first of the new bars may hold fills from before the last of the old.
        early = max((newest.first_trade_id or 1) - 1, known - plan.page)
        stored = self._stretch(chain, begin, newest.timestamp) if begin < newest.timestamp else None
        first, since = (early, begin) if stored is None else (min(early, stored.first), stored.since_ms)
        yield Stretch(max(first, 1), max(last, known) + 1, since, top)

    def _head(self, chain: Chain, plan: Plan, since_ms: int | None, wanted: Ranges) -> Iterator[Stretch]:
        """Yield the fills of the bars before the first one, if they are asked for, and of that one."""
        link, frame = chain.base.links[0], chain.base.frame
        if since_ms is None or since_ms >= link.start:
            return
        start = frame.start_of(since_ms)
        begin = max(self._tools.history.first_id_at(plan.symbol, start) - 1, 1)
        stored = self._stretch(chain, link.start, frame.end_of(link.start))
        if begin >= link.first or stored is None:
            return
        plan.link, plan.begin_ms = begin, start
        wanted.append((begin, link.first - 1))
        yield Stretch(begin, stored.last, start, stored.until_ms)

    def spans(self, plan: Plan) -> list[tuple[int, int, int]]:
        """Return what is wanted as (how many ids, since, until), in ms: the times of the bars on both sides."""
        chain = self._chain(plan.symbol)
        low, high = chain.base.links[0], chain.base.newest
        found = [
            (one.last - one.first + 1, one.start, one.end)
            for one in chain.broken(chain.base)
            if count_within(plan.wanted, one.first, one.first)
        ]
        if plan.begin_ms is not None:
            found.append((count_within(plan.wanted, 1, low.first - 1), plan.begin_ms, low.start))
        if plan.end_ms is not None:
            found.append((count_within(plan.wanted, chain.covered[-1][1] + 1, 1 << 62), high.timestamp, plan.end_ms))
        return found

    def stale_bars(self, symbol: str, since: int, until: int) -> int:
        """Return how many bars the chain knows better already."""
        chain, connection = self._chain(symbol), self._tools.connection
        found = 0
        for frame in chain.frames:
            if frame in [bars.frame for bars in chain.roots]:
                found += len(completed(connection, chain, frame, since, until))
            else:
                found += len(stale_larger(connection, chain, frame, since, until))
            if self._tools.fill:
                found += sum(1 for _ in flats(connection, chain, frame, since, until))
        return found

    def left(self, plan: Plan) -> int:
        """Return how many of the wanted ids are in no bar yet, and not absent."""
        return plan.left(self._chain(plan.symbol).known)

    # ---- doing it

    def fetch(self, plan: Plan, counts: Counter[str]) -> None:
        """Fetch the fills of each stretch and store the bars that they make.

        Raises:
            ExchangeUnavailable: the exchange does not answer; the bars that were whole by then are stored.
        """
        todo = list(plan.stretches or ())
        for _ in range(_ROUNDS):
            beside: list[Stretch] = []
            for stretch in todo:
                if self._tools.stopped():
                    return
                beside += self._make(plan, stretch, counts)
            todo = _joined(beside)

    def again(self, plan: Plan, counts: Counter[str]) -> None:
        """Ask once more for what the exchange has not shown.

        Raises:
            ExchangeUnavailable: as `fetch`.
        """
        chain = self._chain(plan.symbol)
        found = [self._stretch(chain, *span) for span in _broken(chain, None, None)]
        stretches = _joined([one for one in found if one is not None])
        asked = self.doubtful(plan.symbol)
        some = [one for one in stretches if any(one.first <= last and one.last >= first for first, last in asked)]
        self.fetch(replace(plan, stretches=some), counts)

    def doubtful(self, symbol: str) -> Ranges:
        """Return the ids between the stored bars that the exchange has not shown and that are not proven absent."""
        held = unsettled.load(self._tools.connection, self._tools.name, symbol)
        open_ids = [(one.first, one.last) for one in held if one.answers and not one.noted]
        return id_ledger.common(self._chain(symbol).holes(), open_ids)

    def _make(self, plan: Plan, stretch: Stretch, counts: Counter[str]) -> list[Stretch]:
        """Store the bars of a stretch; return the stretches beside it into which some of its fills belong."""
        tools = self._tools
        chain = self._chain(plan.symbol)
        writer, proven = Writer(tools.connect), Writer(tools.connect, proven=True)
        strays: list[StandardizedTrade] = []
        since, until = plan.anew or (0, 0)
        traded: dict[str, set[int]] = {bars.frame.name: set() for bars in chain.roots}

        def keep(bar: OHLCVCandle) -> None:
            if stretch.since_ms <= bar.start and bar.timestamp <= stretch.until_ms:
                traded[bar.timeframe].add(bar.start)
                anew = bar.complete and since <= bar.start and bar.timestamp <= until
                (proven if anew else writer).add(bar)

        names = [bars.frame.name for bars in chain.roots]
        maker = RealTimeCandleProcessor(names, keep, lateness_ms=_LATENESS_MS, live=False)
        # A stretch alone may not show how far time steps back; bars that are to be made again may be wrong.
        step = chain.step if plan.anew is None else step_outside(tools.connection, chain, since, until)
        maker.seed(self._tools.name, plan.symbol, (), step, (), 0)
        try:
            tools.introduce(plan.symbol, writer)
            writer.flush()
            fills = self._fills(plan, stretch, writer, maker, counts)
            for line in reader.with_context(tools.connection, Series(self._tools.name, plan.symbol), fills):
                maker.feed(line)
                if isinstance(line, StandardizedTrade) and not stretch.since_ms <= line.timestamp < stretch.until_ms:
                    strays.append(line)
            maker.finish()
            for one in (writer, proven):
                one.flush()
                counts["candles"] += one.counts()["market_data"]
            if since < until and not tools.stopped() and not self.left(plan):
                counts["candles"] += sum(
                    remove_false(tools.connection, chain, one.frame, since, until, traded[one.frame.name])
                    for one in chain.roots
                )
        finally:
            writer.close()
            proven.close()
        return list(self._beside(plan, chain, stretch, strays))

    def _beside(self, plan: Plan, chain: Chain, stretch: Stretch, strays: list[StandardizedTrade]) -> Iterator[Stretch]:
        """Yield the bars beside a stretch that lack fills which came with it."""
        wanted = id_ledger.subtract(plan.wanted, [(plan.link, plan.link)])
        top = plan.end_ms or chain.base.newest.timestamp
        for low, high in ((plan.begin_ms or 0, stretch.since_ms), (stretch.until_ms, top)):
            inside = [one for one in strays if low <= one.timestamp < high]
            times = [one.timestamp for one in inside if count_within(wanted, one.trade_id, one.trade_id)]
            if not times:
                continue
            since, until = _whole(chain, min(times), max(times) + 1)
            ids = [one.trade_id for one in inside if since <= one.timestamp < until]
            stored = self._stretch(chain, since, until)
            ids += [] if stored is None else [stored.first + 1, stored.last - 1]
            yield Stretch(max(min(ids) - 1, 1), max(ids) + 1, since, until)

    def _fills(
        self, plan: Plan, stretch: Stretch, writer: Writer, maker: RealTimeCandleProcessor, counts: Counter[str]
    ) -> Iterator[StandardizedTrade]:
        """Yield the fills of a stretch by rising id: whole days from files that were fetched, the others from REST."""

        def asked(first: int, last: int) -> Iterator[StandardizedTrade]:
            """Yield the fills `first .. last`; what is not there is told to `maker` once that is proven."""
            for number, page in enumerate(tools.pages(plan.symbol, [(first, last)], plan.ceiling), 1):
                counts["requests"] += 1
                for fill in tools.fills(page):
                    counts["fetched"] += count_within(plan.wanted, fill.trade_id, fill.trade_id)
                    yield fill
                for low, high in self._absent(plan.symbol, page, counts):
                    maker.absent(Absent(tools.name, plan.symbol, low, high))
                if number % COMMIT_PAGES == 0:
                    writer.flush()

        tools, at = self._tools, stretch.first
        for fill in self._files.fills(plan, stretch.since_ms, stretch.until_ms) if self._files is not None else ():
            if not at <= fill.trade_id <= stretch.last:
                continue
            yield from asked(at, fill.trade_id - 1)
            if tools.stopped():
                return
            counts["files"] += count_within(plan.wanted, fill.trade_id, fill.trade_id)
            yield fill
            at = fill.trade_id + 1
        yield from asked(at, stretch.last)

    def _absent(self, symbol: str, page: Page, counts: Counter[str]) -> Ranges:
        """Take note of what an answer lacks; return those ids of the page that are proven absent by now."""
        if not page.missing:
            return []
        connection, now = self._tools.connection, self._tools.clock()
        with id_ledger.locked(connection, (self._tools.name, symbol)):
            found = unsettled.load(connection, self._tools.name, symbol)
            if page.evidence:
                answered = unsettled.answered(found, [(page.first, page.last)], page.missing, now)
                gone = [one for one in answered if unsettled.proven(one, spread_ms=self._tools.spread_ms)]
                counts["absent"] += sum(one.last - one.first + 1 for one in gone)
                found = [replace(one, noted=True) if one in gone else one for one in answered]
                unsettled.save(connection, self._tools.name, symbol, found)
        noted = [(one.first, one.last) for one in found if one.noted]
        return id_ledger.common(page.missing, noted)

    # ---- bars

    def mend(self, symbol: str, since: int, until: int, anew: tuple[int, int] | None = None) -> int:
        """Make every bar again that the chain knows better, and of `anew` every larger one; return how many changed."""
        chain, connection = self._chain(symbol), self._tools.connection
        changed = 0
        for frame in chain.frames:
            if frame in [bars.frame for bars in chain.roots]:
                changed += store_bars(connection, completed(connection, chain, frame, since, until))
            else:
                changed += merge_larger(connection, chain, frame, stale_larger(connection, chain, frame, since, until))
                starts = [one for one in starts_in(frame, *anew) if frame.end_of(one) <= anew[1]] if anew else []
                changed += merge_larger(connection, chain, frame, starts, force=True)
            if self._tools.fill:
                changed += store_flats(connection, chain, frame, since, until)
        return changed


def _broken(chain: Chain, since_ms: int | None, until_ms: int | None) -> list[tuple[int, int]]:
    """Return the spans (ms) of the bars on both sides of each broken link that touches `[since_ms, until_ms)`."""
    return [
        (bars.frame.start_of(one.start - 1), bars.frame.end_of(one.end))
        for bars in chain.roots
        for one in chain.broken(bars)
        if _touches(one, since_ms, until_ms)
    ]


def _whole(chain: Chain, since: int, until: int) -> tuple[int, int]:
    """Return the span of all bars that touch a span."""
    return (
        min(bars.frame.start_of(since) for bars in chain.roots),
        max(bars.frame.end_of(bars.frame.start_of(until - 1)) for bars in chain.roots),
    )


def _touches(hole: Link, since_ms: int | None, until_ms: int | None) -> bool:
    """Whether a hole, between two moments, touches `[since_ms, until_ms)`."""
    return (since_ms is None or hole.end >= since_ms) and (until_ms is None or hole.start <= until_ms)


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    """Return stretches by rising id, those as one that overlap in ids or in time."""
    found: list[Stretch] = []
    for one in sorted(stretches):
        if found and (one.first <= found[-1].last + 1 or one.since_ms < found[-1].until_ms):
            before = found[-1]
            span = min(before.since_ms, one.since_ms), max(before.until_ms, one.until_ms)
            found[-1] = Stretch(before.first, max(before.last, one.last), *span)
        else:
            found.append(one)
    return found
