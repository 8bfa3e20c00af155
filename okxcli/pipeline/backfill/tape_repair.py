"""Where fills are stored: the holes of the tape, filled and proved, and the bars that lacked them."""

import logging
from collections import Counter

from okxcli.core.timeframes import Timeframe
from okxcli.exchanges.interface import Page
from okxcli.pipeline.backfill.fetch_plan import Plan, pages
from okxcli.pipeline.backfill.tools import COMMIT_PAGES, FOREVER_MS, TAIL_MS, Tools
from okxcli.storage.candles.flat_bars import flats, store_flats
from okxcli.storage.candles.outdated import stale
from okxcli.storage.candles.rebuild import largest_part, rebuild
from okxcli.storage.candles.remake import make_anew
from okxcli.storage.ledger import id_ledger, unsettled
from okxcli.storage.ledger.id_ledger import Ranges
from okxcli.storage.ledger.proof import Proof, count_within
from okxcli.storage.read import gaps
from okxcli.storage.write.writer import Writer

_log = logging.getLogger(__name__)


class Tape:
    """Fills the holes of symbols of which fills are stored, or are to be. `frames` are the bars that are mended."""

    def __init__(self, tools: Tools, frames: tuple[Timeframe, ...]) -> None:
        self._tools = tools
        self._frames = frames
        self._restored: dict[str, list[id_ledger.Retired]] = {}

    # ---- what there is to do

    def plan(
        self, symbol: str, since_ms: int | None = None, until_ms: int | None = None, rebuild: bool = False
    ) -> Plan:
        """Return what a symbol lacks in `[since_ms, until_ms)`: holes, the tail since its newest fill, and the head.

        The tail is left alone while it is younger than a minute, and so are fills before the first one, unless
        `since_ms` asks for them: then it begins one fill early, for the link. With `rebuild` all bars of that time are
        to be made again.

        Raises:
            NoSuchInstrument, ExchangeUnavailable: the exchange does not tell how far the tail goes.
        """
        connection, now = self._tools.connection, self._tools.clock()
        proof = Proof.load(connection, self._tools.name, symbol)
        first_time, last_time, last_id = proof.first_time, proof.last_time, proof.last_id
        if (first_time is None or last_time is None or last_id is None) and not proof.wanted:
            return self._beginning(symbol, since_ms, until_ms)
        found = proof.holes()
        if since_ms is not None or until_ms is not None:
            touched = gaps.ranges(connection, self._tools.name, symbol, since_ms, until_ms)
            found = [
                (one.first, one.last) for one in touched if one.kind == "missing" and one.first and one.last is not None
            ]
        again = unsettled.due_again(unsettled.load(connection, self._tools.name, symbol), now)
        found += id_ledger.subtract(id_ledger.union(again), proof.covered)
        plan = Plan(symbol, self._tools.exchange.page, ceiling=proof.known[-1][1] if proof.known else 0)
        plan.anew = (since_ms or 0, until_ms or FOREVER_MS) if rebuild else None
        if last_time is not None and last_id is not None and last_time < min(until_ms or now, now - TAIL_MS):
            end, plan.end_ms = self._tools.newest_before(symbol, until_ms)
            if end > last_id:
                found.append((last_id + 1, end))
                plan.ceiling = end
        if since_ms is not None and first_time is not None and since_ms < first_time:
            plan.begin_ms = since_ms
            begin = max(self._tools.history.first_id_at(symbol, since_ms) - 1, 1)
            if begin < proof.covered[0][0]:
                plan.link = begin
                found.append((begin, proof.covered[0][0] - 1))
        plan.wanted = id_ledger.subtract(id_ledger.union(found), proof.retired)
        plan.ceiling = max(plan.ceiling, plan.wanted[-1][1] if plan.wanted else 0)
        return plan

    def _beginning(self, symbol: str, since_ms: int | None, until_ms: int | None) -> Plan:
        """Return the plan for a symbol of which no fill is stored."""
        page = self._tools.exchange.page
        if since_ms is None:
            return Plan(symbol, page, note=f"nothing of {symbol} is stored. Say where to begin: --since 1d")
        begin = max(self._tools.history.first_id_at(symbol, since_ms) - 1, 1)
        end, end_ms = self._tools.newest_before(symbol, until_ms)
        wanted = [(begin, end)] if begin < end else []
        return Plan(symbol, page, wanted, ceiling=end, link=begin, begin_ms=since_ms, end_ms=end_ms)

    def spans(self, plan: Plan) -> list[tuple[int, int, int]]:
        """Return what is wanted as (how many ids, since, until), in ms: the times of the fills on both sides.

        The time before the first fill is one of them where it is asked for, though REST may know of no id there.
        """
        proof = Proof.load(self._tools.connection, self._tools.name, plan.symbol)
        beside = {part: (proof.below(part[0]), proof.above(part[1])) for part in plan.wanted}
        times = proof.times(self._tools.connection, {n for pair in beside.values() for n in pair if n is not None})
        found = []
        for (first, last), (low, high) in beside.items():
            since = plan.begin_ms if low is None else times[low]
            until = plan.end_ms if high is None else times[high]
            if since is not None and until is not None:
                found.append((last - first + 1, since, until))
        if (
            plan.begin_ms is not None
            and proof.first_time is not None
            and None not in {low for low, _ in beside.values()}
        ):
            found.append((0, plan.begin_ms, proof.first_time))
        return found

    def stale_bars(self, symbol: str, since: int, until: int) -> int:
        """Return how many bars the ledger knows better already."""
        connection = self._tools.connection
        proof = Proof.load(connection, self._tools.name, symbol)
        found = sum(len(stale(connection, proof, frame, since, until)) for frame in self._frames)
        for frame in self._frames if self._tools.fill else ():
            found += sum(1 for _ in flats(connection, proof, frame, since, until))
        return found

    def left(self, plan: Plan) -> int:
        """Return how many of the wanted ids are not known yet."""
        return plan.left(Proof.load(self._tools.connection, self._tools.name, plan.symbol).known)

    # ---- doing it

    def fetch(self, plan: Plan, counts: Counter[str]) -> None:
        """Ask for what is wanted and not here yet, store what comes, and remember what does not.

        Raises:
            ExchangeUnavailable: the exchange does not answer; what had come is stored.
        """
        covered = Proof.load(self._tools.connection, self._tools.name, plan.symbol).covered
        self.fetch_runs(plan, pages(id_ledger.subtract(plan.wanted, covered), plan.page), counts)
        self._tidy(plan.symbol)

    def again(self, plan: Plan, counts: Counter[str]) -> None:
        """Ask once more for what the exchange has not shown.

        Raises:
            ExchangeUnavailable: as `fetch`.
        """
        self.fetch_runs(plan, pages(self.doubtful(plan.symbol), plan.page), counts)

    def fetch_runs(self, plan: Plan, runs: Ranges, counts: Counter[str]) -> None:
        """Ask for runs of ids, store what comes, and remember what does not.

        Raises:
            ExchangeUnavailable: as `fetch`.
        """
        if not runs:
            return
        tools = self._tools
        writer = Writer(tools.connect)
        try:
            tools.introduce(plan.symbol, writer)
            held: list[Page] = []
            for page in tools.pages(plan.symbol, runs, plan.ceiling):
                counts["requests"] += 1
                for fill in tools.fills(page):
                    if count_within(plan.wanted, fill.trade_id, fill.trade_id):
                        counts["fetched"] += 1
                        writer.add(fill)
                held.append(page)
                if len(held) >= COMMIT_PAGES:
                    self._commit(plan, held, writer, counts)
                    held = []
            self._commit(plan, held, writer, counts)
        finally:
            writer.close()

    def _commit(self, plan: Plan, held: list[Page], writer: Writer, counts: Counter[str]) -> None:
        """Store the fills of some pages, then what their answers prove about the ids that they lack."""
        writer.flush()
        if not any(page.missing for page in held):
            return
        key = (self._tools.name, plan.symbol)
        with id_ledger.locked(self._tools.connection, key):
            proof = Proof.load(self._tools.connection, *key)
            now = self._tools.clock()
            again = unsettled.due_again(unsettled.load(self._tools.connection, *key), now)
            settled = id_ledger.subtract(proof.absent, again)
            for page in held:
                asked = id_ledger.subtract([(page.first, page.last)], settled)
                lacking = id_ledger.subtract(page.missing, [*proof.covered, *settled])
                if page.evidence and lacking:
                    gone = unsettled.settle(self._tools.connection, *key, asked, lacking, now, self._tools.spread_ms)
                    counts["absent"] += id_ledger.size(gone)

    def _tidy(self, symbol: str) -> None:
        """Forget the doubts about ids that are here by now."""
        held = unsettled.load(self._tools.connection, self._tools.name, symbol)
        left = unsettled.without(held, Proof.load(self._tools.connection, self._tools.name, symbol).covered)
        if left != held:
            with id_ledger.locked(self._tools.connection, (self._tools.name, symbol)):
                unsettled.save(self._tools.connection, self._tools.name, symbol, left)

    def doubtful(self, symbol: str) -> Ranges:
        """Return the ids that the exchange has not shown and that are not proven absent."""
        proof = Proof.load(self._tools.connection, self._tools.name, symbol)
        held = unsettled.load(self._tools.connection, self._tools.name, symbol)
        return id_ledger.subtract([(one.first, one.last) for one in held if one.answers and not one.noted], proof.known)

    # ---- bars

    def mend(self, symbol: str, since: int, until: int, anew: tuple[int, int] | None = None) -> int:
        """Make every bar again that the ledger knows better, and of `anew` every one; return how many changed."""
        connection = self._tools.connection
        changed = 0 if anew is None else make_anew(connection, self._tools.name, symbol, *anew)
        for at, frame in enumerate(self._frames):
            proof = Proof.load(connection, self._tools.name, symbol)
            starts = stale(connection, proof, frame, since, until)
            source = largest_part(frame, self._frames[:at])
            changed += rebuild(connection, self._tools.name, symbol, frame, starts, source=source)
            if self._tools.fill:
                proof = Proof.load(connection, self._tools.name, symbol)
                changed += store_flats(connection, proof, frame, since, until)
        return changed

    # ---- retired days

    def restore(self, symbol: str, since_ms: int, until_ms: int) -> int:
        """Take the days in `[since_ms, until_ms)` whose rows retention dropped as missing; return how many fills.

        `retire` is to follow, when the fills have come or have not.
        """
        key = (self._tools.name, symbol)
        with id_ledger.locked(self._tools.connection, key):
            days = id_ledger.unarchive(self._tools.connection, *key, since_ms, until_ms)
            ids = id_ledger.union(part for one in days for part in one.ids)
            unsettled.want(self._tools.connection, *key, ids)
        self._restored[symbol] = days
        return id_ledger.size(ids)

    def retire(self, symbol: str) -> None:
        """Leave those fills of restored days as they were that the exchange does not show any more."""
        key, connection = (self._tools.name, symbol), self._tools.connection
        for one in self._restored.pop(symbol, ()):
            with id_ledger.locked(connection, key):
                lost = id_ledger.subtract(one.ids, Proof.load(connection, *key).known)
                if lost:
                    id_ledger.archive(connection, *key, one)
                    unsettled.save(connection, *key, unsettled.without(unsettled.load(connection, *key), one.ids))
                    _log.warning(
                        "%s: the exchange shows not all fills of %s any more: the others stay retired", symbol, one.day
                    )
