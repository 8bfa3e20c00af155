"""The holes of the tape, found in the ledger, filled from OKX, and the bars mended that lacked them.

Composes what the filters call: the past as raw lines, the normaliser, the writer, and the rebuild of bars. Everything
is in the database from page to page, so that a run which is killed at any moment is taken up by the next one.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from okxcli.core.model import Line, StandardizedTrade
from okxcli.core.timeframes import Timeframe, parse_list
from okxcli.errors import ExchangeUnavailable, InvalidLine
from okxcli.exchange.history import Page, TradeHistory
from okxcli.exchange.normalize import Normalizer, PartlyInvalid
from okxcli.exchange.rest import TRADES_PAGE
from okxcli.exchange.rows import EXCHANGE
from okxcli.runtime.clock import now_ms
from okxcli.storage import doubts, gaps, ledger
from okxcli.storage.database import Connection
from okxcli.storage.flats import flats, store_flats
from okxcli.storage.ledger import Ranges
from okxcli.storage.proof import Proof, count_within
from okxcli.storage.rebuild import rebuild
from okxcli.storage.stale import stale
from okxcli.storage.writer import Writer

_log = logging.getLogger(__name__)

#: Pages between two commits: a second or two of OKX's patience, and all that a kill can cost.
_COMMIT_PAGES = 10
#: Fills younger than this may still be on their way from a collector; it is what `okx gaps` leaves out too.
TAIL_MS = 60_000
_FOREVER_MS = 1 << 42


@dataclass
class Plan:
    """What one symbol lacks. `wanted` are the ids to ask for, `runs` the requests: each run in pages of a hundred ids.

    `note` says why nothing can be asked for. `ceiling` is an id that is known to exist, at or above all of `wanted`.
    `link` is the id before the first that is asked for, which need not exist; it is wanted and not counted.
    """

    symbol: str
    wanted: Ranges = field(default_factory=list)
    ceiling: int = 0
    note: str | None = None
    link: int = 0

    @property
    def runs(self) -> Ranges:
        """The ids to ask for, so that every page holds as many wanted ones as possible."""
        return pages(self.wanted)

    @property
    def requests(self) -> int:
        """How many pages that is."""
        return sum(-(-(last - first + 1) // TRADES_PAGE) for first, last in self.runs)

    @property
    def count(self) -> int:
        """How many ids are wanted, those counted that exist for certain."""
        return sum(last - first + 1 for first, last in ledger.subtract(self.wanted, [(self.link, self.link)]))


def pages(wanted: Ranges, size: int = TRADES_PAGE) -> Ranges:
    """Return runs of ids that hold all of `wanted` and cost the fewest pages of `size` ids.

    Each page begins at a wanted id; a run is cut after the last wanted id in its last page.
    """
    runs: Ranges = []
    end = 0  # the last id that the page at hand can hold
    for first, last in wanted:
        start = first
        if start <= end:
            runs[-1] = (runs[-1][0], min(last, end))
            start = end + 1
        if start <= last:
            if runs and start == end + 1 and runs[-1][1] == end:
                runs[-1] = (runs[-1][0], last)
            else:
                runs.append((start, last))
            end = start + -(-(last - start + 1) // size) * size - 1
    return runs


class Backfill:
    """Fills the holes of symbols and mends their bars. `stopped` is asked between pages whether to end early.

    `describe` gives raw lines of what a symbol is. `sleep` waits so many seconds, and may return early; `progress` is
    told how many pages are done and how many there are. With `wait` ids that OKX does not show are asked for until
    that proves them absent, for a minute at most.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        history: TradeHistory,
        timeframes: Iterable[str],
        *,
        fill: bool = False,
        keep_candles_days: int | None = None,
        wait: bool = True,
        spread_ms: int = doubts.SPREAD_MS,
        describe: Callable[[str], list[bytes]] = lambda _: [],
        stopped: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], object] = time.sleep,
        progress: Callable[[int, int | None], None] = lambda done, total: None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        names = list(timeframes)
        self._connect = connect
        self._connection = connect()
        self._history = history
        self._frames: tuple[Timeframe, ...] = parse_list(names) if names else ()
        self._fill = fill
        self._keep_candles_ms = None if keep_candles_days is None else keep_candles_days * 86_400_000
        self._wait = wait
        self._spread_ms = spread_ms
        self._describe = describe
        self._stopped = stopped
        self._sleep = sleep
        self._progress = progress
        self._clock = clock
        self._normalizer = Normalizer()
        self._done = 0
        self._total: int | None = None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # ---- what there is to do

    def plan(self, symbol: str, since_ms: int | None = None, until_ms: int | None = None) -> Plan:
        """Return what a symbol lacks in `[since_ms, until_ms)`: holes, the tail since its newest fill, and the head.

        The tail is left alone while it is younger than a minute, and so are fills before the first one, unless
        `since_ms` asks for them: then it begins one fill early, for the link.

        Raises:
            NoSuchInstrument, ExchangeUnavailable: OKX does not tell how far the tail goes.
        """
        connection = self._connection
        proof = Proof.load(connection, EXCHANGE, symbol)
        first_time, last_time, last_id = proof.first_time, proof.last_time, proof.last_id
        if (first_time is None or last_time is None or last_id is None) and not proof.wanted:
            return self._beginning(symbol, since_ms, until_ms)
        found = proof.holes()
        if since_ms is not None or until_ms is not None:
            touched = gaps.ranges(connection, EXCHANGE, symbol, since_ms, until_ms)
            found = [
                (one.first, one.last) for one in touched if one.kind == "missing" and one.first and one.last is not None
            ]
        again = doubts.due_again(doubts.load(connection, EXCHANGE, symbol), self._clock())
        found += ledger.subtract(ledger.union(again), proof.covered)
        top = proof.known[-1][1] if proof.known else 0
        tail = min(until_ms or self._clock(), self._clock() - TAIL_MS)
        if last_time is not None and last_id is not None and last_time < tail:
            end = self._end(symbol, until_ms)
            if end > last_id:
                found.append((last_id + 1, end))
                top = end
        link = 0
        if since_ms is not None and first_time is not None and since_ms < first_time:
            begin = max(self._history.first_id_at(symbol, since_ms) - 1, 1)
            if begin < proof.covered[0][0]:
                link = begin
                found.append((begin, proof.covered[0][0] - 1))
        wanted = ledger.union(found)
        return Plan(symbol, wanted, max(top, wanted[-1][1] if wanted else 0), link=link)

    def _beginning(self, symbol: str, since_ms: int | None, until_ms: int | None) -> Plan:
        """Return the plan for a symbol of which no fill is stored."""
        if since_ms is None:
            only = ": only candles are stored of it" if symbol in gaps.taped(self._connection) else ""
            return Plan(symbol, note=f"no fill of {symbol} is stored{only}. Say where to begin: --since 1d")
        begin, end = max(self._history.first_id_at(symbol, since_ms) - 1, 1), self._end(symbol, until_ms)
        return Plan(symbol, [(begin, end)] if begin < end else [], end, link=begin)

    def _end(self, symbol: str, until_ms: int | None) -> int:
        newest, newest_ms = self._history.newest(symbol)
        if until_ms is None or newest_ms < until_ms:
            return newest
        return self._history.first_id_at(symbol, until_ms) - 1

    def stale_bars(self, symbol: str, since_ms: int | None = None, until_ms: int | None = None) -> int:
        """Return how many bars the ledger knows better already."""
        proof = Proof.load(self._connection, EXCHANGE, symbol)
        since, until = self._span(since_ms, until_ms)
        found = sum(len(stale(self._connection, proof, frame, since, until)) for frame in self._frames)
        for frame in self._frames if self._fill else ():
            found += sum(1 for _ in flats(self._connection, proof, frame, since, until))
        return found

    # ---- doing it

    def run(
        self, symbols: Iterable[str], since_ms: int | None = None, until_ms: int | None = None
    ) -> Iterator[dict[str, object]]:
        """Fill and mend each symbol; yield a row for each of which there was something to do.

        A symbol that fails does not keep the others from being filled.

        Raises:
            ExchangeUnavailable: at the end, if OKX could not be asked for one or several of the symbols.
        """
        failed: list[ExchangeUnavailable] = []
        waiting: list[tuple[Plan, Counter[str]]] = []
        plans: list[Plan] = []
        for symbol in symbols:
            try:
                plans.append(self.plan(symbol, since_ms, until_ms))
            except ExchangeUnavailable as error:
                failed.append(error)
                plans.append(Plan(symbol))  # its bars can be mended all the same
        self._total = sum(plan.requests for plan in plans)
        for plan in plans:
            if plan.note is not None:
                _log.warning("%s", plan.note)
                continue
            counts: Counter[str] = Counter()
            try:
                self._fetch(plan, plan.runs, counts)
            except ExchangeUnavailable as error:
                failed.append(error)
            self._tidy(plan.symbol)
            counts["candles"] += self.mend(plan.symbol, since_ms, until_ms)
            if self._wait and self._doubtful(plan.symbol):
                waiting.append((plan, counts))
            elif plan.count or counts["fetched"] or counts["candles"]:
                yield self._row(plan, counts)
        for plan, counts in self._settled(waiting, failed):
            counts["candles"] += self.mend(plan.symbol, since_ms, until_ms)
            yield self._row(plan, counts)
        if failed:
            raise failed[0]

    def _row(self, plan: Plan, counts: Counter[str]) -> dict[str, object]:
        left = self._left(plan)
        return {
            "symbol": plan.symbol,
            "missing": plan.count,
            "fetched": counts["fetched"],
            "absent": counts["absent"],
            "left": left,
            "candles": counts["candles"],
            "requests": counts["requests"],
        }

    def _left(self, plan: Plan) -> int:
        proof = Proof.load(self._connection, EXCHANGE, plan.symbol)
        here = sum(count_within(proof.known, first, last) for first, last in plan.wanted)
        return plan.count - here + count_within(proof.known, plan.link, plan.link)

    def _fetch(self, plan: Plan, runs: Ranges, counts: Counter[str]) -> None:
        """Ask for runs of ids, store what comes, and remember what does not."""
        if not runs:
            return
        writer = Writer(self._connect)
        try:
            self._introduce(plan.symbol, writer)
            held: list[Page] = []
            for first, last in runs:
                for page in self._history.range(plan.symbol, first, last, max(plan.ceiling, last)):
                    self._take(plan, page, writer, counts)
                    held.append(page)
                    if len(held) >= _COMMIT_PAGES:
                        self._commit(plan, held, writer, counts)
                        held = []
                    self._done += 1
                    self._progress(self._done, self._total)
                    if self._stopped():
                        break
                if self._stopped():
                    break
            self._commit(plan, held, writer, counts)
        finally:
            writer.close()

    def _introduce(self, symbol: str, writer: Writer) -> None:
        """Store what a symbol is, if nothing says so yet: it tells what the sizes in its bars mean."""
        found = self._connection.execute(
            "SELECT FROM instruments WHERE exchange = %s AND symbol = %s LIMIT 1", [EXCHANGE, symbol]
        ).fetchone()
        for raw in self._describe(symbol) if found is None else ():
            for line in self._normalized(raw):
                writer.add(line)

    def _take(self, plan: Plan, page: Page, writer: Writer, counts: Counter[str]) -> None:
        counts["requests"] += 1
        for raw in page.lines:
            for line in self._normalized(raw):
                if isinstance(line, StandardizedTrade) and count_within(plan.wanted, line.trade_id, line.trade_id):
                    counts["fetched"] += 1
                    writer.add(line)

    def _normalized(self, raw: bytes) -> list[Line]:
        try:
            return self._normalizer.feed(raw)
        except PartlyInvalid as reason:
            _log.warning("rejected a part of a message: %s", reason)
            return reason.lines
        except InvalidLine as reason:
            _log.warning("rejected a message: %s: %s", reason, raw[:300].decode(errors="replace"))
            return []

    def _commit(self, plan: Plan, held: list[Page], writer: Writer, counts: Counter[str]) -> None:
        """Store the fills of some pages, then what their answers prove about the ids that they lack."""
        writer.flush()
        if not any(page.missing for page in held):
            return
        key = (EXCHANGE, plan.symbol)
        with self._connection.transaction():
            ledger.introduce(self._connection, [key])
            ledger.lock(self._connection, [key])
            proof = Proof.load(self._connection, *key)
            now = self._clock()
            again = doubts.due_again(doubts.load(self._connection, *key), now)
            settled = ledger.subtract(proof.absent, again)
            for page in held:
                asked = ledger.subtract([(page.first, page.last)], settled)
                lacking = ledger.subtract(page.missing, [*proof.covered, *settled])
                if page.evidence and lacking:
                    gone = doubts.settle(self._connection, *key, asked, lacking, now, self._spread_ms)
                    counts["absent"] += sum(last - first + 1 for first, last in gone)

    def _tidy(self, symbol: str) -> None:
        """Forget the doubts about ids that are here by now."""
        held = doubts.load(self._connection, EXCHANGE, symbol)
        left = doubts.without(held, Proof.load(self._connection, EXCHANGE, symbol).covered)
        if left != held:
            with self._connection.transaction():
                ledger.lock(self._connection, [(EXCHANGE, symbol)])
                doubts.save(self._connection, EXCHANGE, symbol, left)

    def _doubtful(self, symbol: str) -> Ranges:
        """Return the ids that OKX has not shown and that are not proven absent."""
        proof = Proof.load(self._connection, EXCHANGE, symbol)
        held = doubts.load(self._connection, EXCHANGE, symbol)
        return ledger.subtract([(one.first, one.last) for one in held if one.answers and not one.noted], proof.known)

    def _settled(
        self, waiting: list[tuple[Plan, Counter[str]]], failed: list[ExchangeUnavailable]
    ) -> Iterator[tuple[Plan, Counter[str]]]:
        """Ask for what OKX has not shown until that proves it absent, and yield the plans as they come out."""
        for attempt in range(doubts.ANSWERS):
            if not waiting or self._stopped():
                break
            if attempt:
                self._sleep(self._spread_ms / 1000 / (doubts.ANSWERS - 1) + 0.01)
            still: list[tuple[Plan, Counter[str]]] = []
            for plan, counts in waiting:
                try:
                    if attempt:
                        self._fetch(plan, pages(self._doubtful(plan.symbol)), counts)
                except ExchangeUnavailable as error:
                    failed.append(error)
                if self._doubtful(plan.symbol):
                    still.append((plan, counts))
                else:
                    yield plan, counts
            waiting = still
        yield from waiting

    # ---- bars

    def mend(self, symbol: str, since_ms: int | None = None, until_ms: int | None = None) -> int:
        """Make every bar again that the ledger knows better; return how many changed."""
        since, until = self._span(since_ms, until_ms)
        changed = 0
        for at, frame in enumerate(self._frames):
            proof = Proof.load(self._connection, EXCHANGE, symbol)
            starts = stale(self._connection, proof, frame, since, until)
            smaller = [other for other in self._frames[:at] if frame.holds(other)]
            source = smaller[-1] if smaller else None
            changed += rebuild(self._connection, EXCHANGE, symbol, frame, starts, source=source)
            if self._fill:
                proof = Proof.load(self._connection, EXCHANGE, symbol)
                changed += store_flats(self._connection, proof, frame, since, until)
        return changed

    def _span(self, since_ms: int | None, until_ms: int | None) -> tuple[int, int]:
        """Return the span whose bars are looked at: not those that retention drops."""
        kept = 0 if self._keep_candles_ms is None else self._clock() - self._keep_candles_ms
        return max(since_ms or 0, kept), until_ms or _FOREVER_MS

    # ---- retired days

    def restore(self, symbol: str, since_ms: int, until_ms: int) -> int:
        """Take the days in `[since_ms, until_ms)` whose rows retention dropped as missing; return how many fills."""
        key = (EXCHANGE, symbol)
        with self._connection.transaction():
            ledger.introduce(self._connection, [key])
            ledger.lock(self._connection, [key])
            ids = ledger.unarchive(self._connection, *key, since_ms, until_ms)
            doubts.want(self._connection, *key, ids)
        return sum(last - first + 1 for first, last in ids)
