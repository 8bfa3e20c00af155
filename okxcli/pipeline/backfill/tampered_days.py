"""Days whose rows are not what was stored: what is lost is fetched again, what may be wrong is compared."""

import logging
from collections import Counter

from psycopg import sql

from okxcli.core.model import StandardizedTrade
from okxcli.core.tape import FAR
from okxcli.exchanges.interface import Page
from okxcli.pipeline.backfill.fetch_plan import Plan, pages
from okxcli.pipeline.backfill.tape_repair import Tape
from okxcli.pipeline.backfill.tools import TAIL_MS, Tools
from okxcli.storage.candles.remake import make_anew
from okxcli.storage.ledger import audit, id_ledger, recount, unsettled
from okxcli.storage.ledger.id_ledger import Ranges, holds
from okxcli.storage.ledger.proof import Proof
from okxcli.storage.ledger.recount import Difference
from okxcli.storage.rows.copying import copy
from okxcli.storage.rows.outcome import TAKEN_OUT
from okxcli.storage.rows.row_format import columns_of, fields_of, trade_rows
from okxcli.storage.schema.partitions import DAY_MS, Partitions, start_of

_log = logging.getLogger(__name__)

#: A row, and the fill that the exchange has in its place.
_Pair = tuple[StandardizedTrade, StandardizedTrade | None]
#: The exchange is asked so often for its newest fill: one of its nodes may be behind.
_ASKED = 3

_ROWS = sql.SQL(
    "SELECT {} FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0 AND trade_id BETWEEN %s AND %s"
).format(fields_of(StandardizedTrade))


class Healer:
    """Puts right the days that an audit found to differ, of symbols whose fills `tape` stores."""

    def __init__(self, tools: Tools, tape: Tape) -> None:
        self._tools = tools
        self._tape = tape

    def heal(self, symbol: str, counts: Counter[str]) -> bool:
        """Mend the days of a symbol that were found to differ, and their bars; whether all of them are mended.

        Rows that are lost are fetched again; those that may be wrong are compared with what the exchange shows, and
        replaced where they differ (the old ones go to the quarantine). Then the ledger takes the rows' word; what is
        still lost is missing from now on.

        Raises:
            ExchangeUnavailable: the exchange does not answer; what is not mended is found again.
        """
        connection = self._tools.connection
        days = set(audit.found_days(connection, self._tools.name, symbol))
        if not days:
            return True
        newest = max(self._tools.history.newest(symbol)[0] for _ in range(_ASKED))
        proof = Proof.load(connection, self._tools.name, symbol)
        absent = [part for day in proof.days if day.start in days for part in day.absent if part[1] - part[0] < FAR]
        lost = _ids(recount.recount(connection, self._tools.name, symbol, days), "lost")
        there, beyond = id_ledger.subtract(lost, [(newest + 1, 1 << 63)]), id_ledger.subtract(lost, [(0, newest)])
        again = id_ledger.union([*there, *absent])
        if again:
            plan = Plan(symbol, self._tools.exchange.page, wanted=again, ceiling=newest)
            self._tape.fetch_runs(plan, pages(again, plan.page), counts)
        doubtful = _ids(recount.recount(connection, self._tools.name, symbol, days), "lost", others=True)
        if doubtful and not self._checked(symbol, doubtful, days, newest, counts):
            _log.warning(
                "%s: the exchange shows not all fills of days whose rows were changed. To take the rows as they are:"
                " okx gaps %s --recount --repair", symbol, symbol
            )  # fmt: skip
            return False
        recount.repair(connection, self._tools.name, symbol, days)
        if beyond:  # ids that the exchange has not given out are not missing
            with id_ledger.locked(connection, (self._tools.name, symbol)):
                held = unsettled.load(connection, self._tools.name, symbol)
                unsettled.save(connection, self._tools.name, symbol, unsettled.without(held, beyond))
        for day in sorted(days):
            audit.audit_day(connection, self._tools.name, symbol, start_of("raw_trades", day))
            counts["candles"] += make_anew(connection, self._tools.name, symbol, day, day + DAY_MS)
        return True

    def _checked(self, symbol: str, ids: Ranges, days: set[int], newest: int, counts: Counter[str]) -> bool:
        """Compare rows with the exchange's fills, replace those that differ, add their days; return False if one lacks.

        It ends as soon as the days are again what was stored. The exchange has no fill with an id above `newest`.
        """
        tools, sure = self._tools, True
        beyond = [Page([], part[0], part[1], [part], True) for part in id_ledger.subtract(ids, [(0, newest)])]
        for first, last in [*id_ledger.subtract(ids, [(newest + 1, 1 << 63)]), (0, 0)]:
            asked = tools.history.range(symbol, first, last, newest) if last else beyond
            for page in asked:
                counts["requests"] += 1
                wrong, known = self._wrong(symbol, page, newest)
                sure &= known
                if wrong:
                    counts["fetched"] += len(wrong)
                    days.update(fill.timestamp // DAY_MS * DAY_MS for row, own in wrong for fill in (row, own or row))
                    self._replace(symbol, wrong)
                    if not recount.recount(tools.connection, self._tools.name, symbol, days):
                        return True
                if tools.stopped():
                    return False
        return sure

    def _wrong(self, symbol: str, page: Page, newest: int) -> tuple[list[_Pair], bool]:
        """Return the rows of a page that are not the exchange's fills, each with that, and whether it told of all."""
        fills = {fill.trade_id: fill for fill in self._tools.fills(page)}
        rows = self._tools.connection.execute(_ROWS, [self._tools.name, symbol, page.first, page.last], binary=True)
        wrong: list[_Pair] = []
        sure = True
        for row in (StandardizedTrade(*values) for values in rows.fetchall()):
            own = fills.get(row.trade_id)
            if row.trade_id > newest and row.timestamp > self._tools.clock() - TAIL_MS:
                continue  # it has come since the exchange was asked
            if own is None and not (page.evidence and holds(page.missing, row.trade_id)):
                sure = False
            elif own is None or _fill(own) != _fill(row):
                wrong.append((row, own))
        return wrong, sure

    def _replace(self, symbol: str, wrong: list[_Pair]) -> None:
        """Put the exchange's fills in the place of rows that differ; those go to the quarantine."""
        connection = self._tools.connection
        fills = {own.trade_id: own for _, own in wrong if own is not None}
        days = {own.timestamp // DAY_MS for own in fills.values()}
        Partitions().ensure(connection, "raw_trades", days, -1)
        with id_ledger.locked(connection, (self._tools.name, symbol)):
            for row, own in wrong:
                recount.take_out(connection, row, TAKEN_OUT + "not what the exchange says", own)
            there = connection.execute(
                "SELECT trade_id FROM raw_trades WHERE exchange = %s AND symbol = %s AND epoch = 0"
                " AND trade_id = ANY(%s)",
                [self._tools.name, symbol, list(fills)],
            ).fetchall()
            new = [own for number, own in sorted(fills.items()) if (number,) not in there]
            if new:
                copy(connection, "raw_trades", columns_of(StandardizedTrade), trade_rows(new))


def _fill(trade: StandardizedTrade) -> tuple[object, ...]:
    return trade.side, trade.price, trade.size, trade.timestamp


def _ids(found: list[Difference], kind: str, others: bool = False) -> Ranges:
    """Return the ids of the differences of a kind, or of all `others`."""
    return id_ledger.union((one.first, one.last) for one in found if (one.kind == kind) != others)
