"""One run over several symbols: what each lacks, whole days from files, the rest from REST, and a row of what was done.

Composes what the filters call: the past as raw lines, the normaliser, the writer, and the rebuild of bars. Everything
is in the database from page to page, so that a run which is killed at any moment is taken up by the next one.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

from okxcli.core.tape import ANSWERS, FAR, pause_ms
from okxcli.core.timeframes import parse_list
from okxcli.errors import ExchangeUnavailable
from okxcli.pipeline.backfill.candle_repair import Candles
from okxcli.pipeline.backfill.fetch_plan import Plan
from okxcli.pipeline.backfill.tampered_days import Healer
from okxcli.pipeline.backfill.tape_repair import Tape
from okxcli.pipeline.backfill.tools import FOREVER_MS, Tools
from okxcli.pipeline.backfill.whole_days import BulkFiles
from okxcli.storage.ledger import audit, id_ledger
from okxcli.storage.schema.partitions import DAY_MS

_log = logging.getLogger(__name__)

_Counts = Counter[str]
#: For so many seconds the rows of the tape are counted first, the days whose turn it is.
_AUDIT_S = 10.0


@dataclass
class Backfill:
    """Fills the holes of symbols and mends their bars, with `tools`.

    `timeframes` are the bars that are mended where fills are stored; where only candles are, those are mended that are
    stored. With `wait` ids that the exchange does not show are asked for until that proves them absent, for a minute at
    most. With `files` whole days come from bulk files; `unread` tells at the end whether something in one could not be
    read, and `lacking` whether ids that exist are still not here. Of `taped` symbols fills are to be stored, whatever
    is.
    """

    tools: Tools
    timeframes: Sequence[str]
    _: KW_ONLY
    keep_candles_days: int | None = None
    wait: bool = True
    files: BulkFiles | None = None
    taped: Collection[str] = ()
    lacking: bool = field(default=False, init=False)
    unread: bool = field(default=False, init=False)  # whether rows of bulk files, or whole files, could not be read

    def __post_init__(self) -> None:
        """Divide the work."""
        self.tape = Tape(self.tools, parse_list(self.timeframes) if self.timeframes else ())
        self._candles = Candles(self.tools, self.files)
        self._healer = Healer(self.tools, self.tape)

    def close(self) -> None:
        """Close the connection."""
        self.tools.connection.close()

    def _of(self, symbol: str) -> Tape | Candles:
        """Return who works on a symbol: by what is stored of it, or is to be."""
        return self._candles if symbol not in self.taped and self._candles.has(symbol) else self.tape

    def plan(
        self, symbol: str, since_ms: int | None = None, until_ms: int | None = None, rebuild: bool = False
    ) -> Plan:
        """Return what a symbol lacks in `[since_ms, until_ms)`, and which whole days of it come from files.

        Raises:
            NoSuchInstrument, ExchangeUnavailable: the exchange does not tell how far the tail goes.
        """
        worker = self._of(symbol)
        plan = worker.plan(symbol, since_ms, until_ms, rebuild)
        if plan.count > FAR:
            self._bound(plan)
        if self.files is not None and (plan.count or plan.begin_ms is not None):
            plan.days = self.files.choose(worker.spans(plan))
        return plan

    def _bound(self, plan: Plan) -> None:
        """Leave out the ids above the newest fill there is: a wild one is stored, and what is below it is nowhere."""
        newest = max(self.tools.history.newest(plan.symbol)[0] for _ in range(2))
        if plan.wanted[-1][1] <= newest:
            return
        _log.warning(
            "%s: ids are missing up to %d, and the newest there is %d: see okx gaps %s, and take the wild one out with"
            " okx db forget", plan.symbol, plan.wanted[-1][1], newest, plan.symbol
        )  # fmt: skip
        self.lacking = True
        plan.wanted = id_ledger.subtract(plan.wanted, [(newest + 1, 1 << 63)])
        plan.ceiling = newest
        if plan.stretches is not None:
            plan.stretches = [one._replace(last=min(one.last, newest)) for one in plan.stretches if one.first <= newest]

    def stale_bars(self, symbol: str, since_ms: int | None = None, until_ms: int | None = None) -> int:
        """Return how many bars could be made better of what is stored already."""
        return self._of(symbol).stale_bars(symbol, *self._span(since_ms, until_ms))

    def run(
        self,
        symbols: Iterable[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        loaded: dict[str, _Counts] | None = None,
        rebuild: bool = False,
    ) -> Iterator[dict[str, object]]:
        """Fill and mend each symbol; yield a row for each of which there was something to do.

        With `rebuild` every bar of the time is made again, whatever is stored of it. A symbol that fails does not keep
        the others from being filled. `loaded` is what was done about a symbol before.

        Raises:
            ExchangeUnavailable: at the end, if the exchange could not be asked for one or several of the symbols.
        """
        failed: list[ExchangeUnavailable] = []
        waiting: list[tuple[Plan, _Counts]] = []
        plans: list[Plan] = []
        before = loaded or {}
        self.unread = any(counts["damaged"] or counts["unreadable"] for counts in before.values())
        names = list(symbols)
        audit.audit(self.tools.connection, _AUDIT_S, names)
        healed: dict[str, _Counts] = {name: Counter(before.get(name, {})) for name in names}
        for symbol in names:
            try:
                self.lacking |= not self._healer.heal(symbol, healed[symbol])
                plans.append(self.plan(symbol, since_ms, until_ms, rebuild))
            except ExchangeUnavailable as error:
                failed.append(error)
                plans.append(Plan(symbol, self.tools.exchange.page))  # its bars can be mended all the same
        self.tools.total = sum(plan.requests for plan in plans)
        for plan in plans:
            if plan.note is not None:
                _log.warning("%s", plan.note)
                self.lacking |= self._candles.has(plan.symbol)
                continue
            counts = healed[plan.symbol]
            self._fill(plan, counts, failed)
            self.unread |= bool(counts["damaged"] or counts["unreadable"])
            counts["candles"] += self._mend(plan, since_ms, until_ms)
            if self.wait and self._of(plan.symbol).doubtful(plan.symbol):
                waiting.append((plan, counts))
            elif plan.count or any(counts[name] for name in ("files", "fetched", "candles", "damaged")):
                yield self._row(plan, counts)
        for plan, counts in self._settled(waiting, failed):
            counts["candles"] += self._mend(plan, since_ms, until_ms)
            yield self._row(plan, counts)
        for plan in plans:
            self.tape.retire(plan.symbol)
        if failed:
            raise failed[0]

    def _fill(self, plan: Plan, counts: _Counts, failed: list[ExchangeUnavailable]) -> None:
        """Take whole days from files and ask REST for the rest."""
        worker = self._of(plan.symbol)
        try:
            if self.files is not None and plan.days:
                if isinstance(worker, Tape):
                    self.files.load(plan, counts)
                else:
                    self.files.fetch(plan)
            worker.fetch(plan, counts)
        except ExchangeUnavailable as error:
            failed.append(error)

    def _mend(self, plan: Plan, since_ms: int | None, until_ms: int | None) -> int:
        return self._of(plan.symbol).mend(plan.symbol, *self._span(since_ms, until_ms), plan.anew)

    def _row(self, plan: Plan, counts: _Counts) -> dict[str, object]:
        left = self._of(plan.symbol).left(plan)
        self.lacking |= left > 0
        if left:
            _log.warning(
                "%s: %d ids are left that the exchange does not show. Ids that nobody can have any more are given up by"
                " okx db forget %s --ids FIRST-LAST --for-good", plan.symbol, left, plan.symbol
            )  # fmt: skip
        return {
            "symbol": plan.symbol,
            "missing": plan.count,
            **{name: counts[name] for name in ("files", "fetched", "absent")},
            "left": left,
            **{name: counts[name] for name in ("damaged", "candles", "requests")},
        }

    def _settled(
        self, waiting: list[tuple[Plan, _Counts]], failed: list[ExchangeUnavailable]
    ) -> Iterator[tuple[Plan, _Counts]]:
        """Ask for what the exchange has not shown until that proves it absent, and yield the plans as they come out."""
        for attempt in range(ANSWERS):
            if not waiting or self.tools.stopped():
                break
            if attempt:
                self.tools.sleep(pause_ms(self.tools.spread_ms) / 1000 + 0.01)
            still: list[tuple[Plan, _Counts]] = []
            for plan, counts in waiting:
                worker = self._of(plan.symbol)
                try:
                    if attempt:
                        worker.again(plan, counts)
                except ExchangeUnavailable as error:
                    failed.append(error)
                if worker.doubtful(plan.symbol):
                    still.append((plan, counts))
                else:
                    yield plan, counts
            waiting = still
        yield from waiting

    def _span(self, since_ms: int | None, until_ms: int | None) -> tuple[int, int]:
        """Return the span whose bars are looked at: not those that retention drops."""
        kept = 0 if self.keep_candles_days is None else self.tools.clock() - self.keep_candles_days * DAY_MS
        return max(since_ms or 0, kept), until_ms or FOREVER_MS
