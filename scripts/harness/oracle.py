"""What a round of chaos must have left in Postgres, worked out without a line of okx's own candle or ledger code.

The truth is the exchange's file of fills. DuckDB makes the bars of it in SQL, and Python's fractions the one quotient
that a bar has; which bars must be `complete` follows from the ids by counting.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from pathlib import Path

import duckdb
import psycopg

LENGTHS_MS = {"1s": 1_000, "5s": 5_000, "15s": 15_000}

#: Id, price, size, side, time.
Fill = tuple[int, Decimal, Decimal, str, int]

#: Far more digits than any sum has: nothing is rounded.
_EXACT = Context(prec=100, traps=[Inexact])

# Prices of at most 10 places, sizes of at most 8: the products fit DuckDB's 38 digits exactly.
_FILLS = """
CREATE TABLE fills AS SELECT instId AS symbol, tradeId::BIGINT AS id, px::DECIMAL(19, 10) AS price,
    sz::DECIMAL(19, 8) AS size, side, ts::BIGINT AS ts
FROM read_json(?, columns = {instId: 'VARCHAR', tradeId: 'VARCHAR', px: 'VARCHAR', sz: 'VARCHAR', side: 'VARCHAR',
                             ts: 'VARCHAR'})
"""
_BARS = """
SELECT ts // $length * $length AS start, arg_min(price, id), max(price), min(price), arg_max(price, id), sum(size),
    sum(price * size), sum(CASE WHEN side = 'buy' THEN size ELSE 0 END), count(*), min(id), max(id)
FROM fills WHERE symbol = $symbol AND id BETWEEN $first AND $last GROUP BY 1 ORDER BY 1
"""
_STORED_BARS = """
SELECT (extract(epoch FROM start) * 1000)::bigint, open, high, low, close, volume, base_volume, quote_volume,
    buy_volume, trade_count, first_trade_id, last_trade_id, complete,
    (extract(epoch FROM timestamp) * 1000)::bigint, closed
FROM market_data WHERE symbol = %s AND timeframe = %s AND origin = 'trades' ORDER BY start
"""
_STORED_FILLS = """
SELECT trade_id, price, size, side, (extract(epoch FROM timestamp) * 1000)::bigint FROM raw_trades
WHERE symbol = %s ORDER BY trade_id
"""
_LEDGER = {
    "covered": "SELECT lower(r), upper(r) - 1 FROM trade_ledger, unnest(covered) AS r WHERE symbol = %s ORDER BY 1",
    "absent": "SELECT lower(r), upper(r) - 1 FROM trade_ledger, unnest(absent) AS r WHERE symbol = %s ORDER BY 1",
}


@dataclass
class Symbol:
    """What the harness knows of a symbol: the newest id when `collect` subscribed, what the exchange lost, its worth.

    `worth` is what a size of 1 is in the base currency; in the quote currency if `inverse`.
    """

    name: str
    begin: int
    lost: list[int]
    worth: Decimal = Decimal(1)
    inverse: bool = False


@dataclass
class Verdict:
    """What is wrong with a round; nothing if `problems` is empty."""

    fills: int = 0
    stored: int = 0
    missing: int = 0
    extra: int = 0
    bars: int = 0
    wrong_bars: int = 0
    wrong_complete: int = 0
    absent: int = 0
    doubtful: int = 0
    edges: int = -1  # of the symbol that crossed the fewest; -1 before any is looked at
    problems: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a problem."""
        self.problems.append(text)


def judge(fills_file: Path, dsn: str, symbols: Iterable[Symbol]) -> Verdict:
    """Compare the tape, the ledger and every candle of a round with the exchange's fills."""
    verdict = Verdict()
    duck = duckdb.connect()
    duck.execute(_FILLS, [str(fills_file)])
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        for symbol in symbols:
            _judge(duck, connection, symbol, verdict)
        refused = connection.execute("SELECT count(*), min(reason) FROM quarantine").fetchone()
        if refused is not None and refused[0]:
            verdict.say(f"{refused[0]} lines in quarantine: {refused[1]}")
    duck.close()
    return verdict


def _judge(duck: duckdb.DuckDBPyConnection, connection: psycopg.Connection, symbol: Symbol, verdict: Verdict) -> None:
    name = symbol.name
    truth = duck.execute(
        "SELECT id, price, size, side, ts FROM fills WHERE symbol = ? AND id >= ? ORDER BY id", [name, symbol.begin]
    ).fetchall()
    stored = connection.execute(_STORED_FILLS, [name]).fetchall()
    if not stored:
        verdict.fills += len(truth)
        verdict.missing += len(truth)
        verdict.say(f"{name}: nothing is stored")
        return
    if stored[0][0] > truth[0][0] and truth[0][0] == symbol.begin:
        truth = truth[1:]  # the push that comes with a subscription may be old; nobody needs it
    expected, found = {row[0]: row for row in truth}, [row[0] for row in stored]
    verdict.fills += len(truth)
    verdict.stored += len(stored)
    missing, extra = expected.keys() - set(found), set(found) - expected.keys()
    verdict.missing += len(missing)
    verdict.extra += len(extra)
    if missing:
        verdict.say(f"{name}: {len(missing)} fills are not stored, {_some(missing)}")
    if extra:
        verdict.say(f"{name}: {len(extra)} rows are no fills of the exchange, {_some(extra)}")
    if len(found) != len(set(found)):
        verdict.say(f"{name}: {len(found) - len(set(found))} fills are stored twice")
    changed = [row[0] for row in stored if row[0] in expected and tuple(row) != tuple(expected[row[0]])]
    if changed:
        verdict.say(f"{name}: {len(changed)} fills are stored with other values, {_some(changed)}")
    absent = _judge_ledger(connection, symbol, sorted(expected), verdict)
    known = _Known({number: row[4] for number, row in expected.items()}, absent)
    for timeframe in LENGTHS_MS:
        _judge_bars(duck, connection, symbol, timeframe, truth, known, verdict)


def _judge_ledger(connection: psycopg.Connection, symbol: Symbol, expected: list[int], verdict: Verdict) -> list[int]:
    """Compare the ledger with the ids that exist; return the ids that it has as absent."""
    ranges = {column: connection.execute(query, [symbol.name]).fetchall() for column, query in _LEDGER.items()}
    covered = [number for first, last in ranges["covered"] for number in range(first, last + 1)]
    absent = [number for first, last in ranges["absent"] for number in range(first, last + 1)]
    if covered != expected:
        only_ledger, only_truth = set(covered) - set(expected), set(expected) - set(covered)
        verdict.say(
            f"{symbol.name}: the ledger covers {len(only_ledger)} ids too many {_some(only_ledger)} and lacks "
            f"{len(only_truth)} {_some(only_truth)}"
        )
    wrong = set(absent) - set(symbol.lost)
    if wrong:
        verdict.say(f"{symbol.name}: {len(wrong)} ids are called absent that the exchange has, {_some(wrong)}")
    inside = [number for number in symbol.lost if expected[0] < number < expected[-1]]
    verdict.absent += len(set(absent) & set(inside))
    verdict.doubtful += len(set(inside) - set(absent))
    return absent


class _Known:
    """Ids that are stored, with their times, or absent."""

    def __init__(self, times: dict[int, int], absent: Iterable[int]) -> None:
        self._ids = sorted({*times, *absent})
        self._begun: dict[int, int] = {}  # the time of the first fill of a run of ids, by each id of the run
        before = -1
        for number in self._ids:
            begun = self._begun.get(before) if before == number - 1 else None
            self._begun[number] = times.get(number, -1) if begun in (None, -1) else begun
            before = number

    def prove(self, start: int, first: int, last: int) -> bool:
        """Whether a bar is complete: all ids from before its first to after its last are known, from before `start`."""
        whole = bisect_right(self._ids, last + 1) - bisect_left(self._ids, first - 1) == last - first + 3
        return whole and self._begun[first - 1] < start


def _judge_bars(
    duck: duckdb.DuckDBPyConnection,
    connection: psycopg.Connection,
    symbol: Symbol,
    timeframe: str,
    truth: list[Fill],
    known: _Known,
    verdict: Verdict,
) -> None:
    length = LENGTHS_MS[timeframe]
    over = max(row[4] for row in truth)  # what ended by then is final
    values = {"length": length, "symbol": symbol.name, "first": truth[0][0], "last": truth[-1][0]}
    expected = {}
    quotients = _base_volumes(symbol.worth, truth, length) if symbol.inverse else {}
    for start, opened, high, low, close, size, turnover, buys, count, first, last in duck.execute(
        _BARS, values
    ).fetchall():
        if symbol.inverse:
            amounts = (size, quotients[start], _EXACT.multiply(size, symbol.worth), buys)
        else:
            amounts = (size, *(_EXACT.multiply(number, symbol.worth) for number in (size, turnover)), buys)
        bar = (opened, high, low, close, *amounts, count, first, last)
        expected[start] = bar, known.prove(start, first, last)
    stored = {row[0]: row for row in connection.execute(_STORED_BARS, [symbol.name, timeframe])}
    final = {start for start in expected if start + length <= over}
    verdict.bars += len(final)
    if timeframe == "15s":
        edges = len({row[4] // length for row in truth if row[4] + 2 * length < over})
        verdict.edges = edges if verdict.edges < 0 else min(verdict.edges, edges)
    absent, unknown = final - stored.keys(), stored.keys() - expected.keys()
    wrong = [start for start in final & stored.keys() if stored[start][1:12] != expected[start][0]]
    odd = [row[0] for row in stored.values() if row[13] - row[0] != length or not row[14]]
    verdict.wrong_bars += len(absent) + len(unknown) + len(wrong) + len(odd)
    if absent:
        verdict.say(f"{symbol.name} {timeframe}: {len(absent)} bars are not stored, {_some(absent)}")
    if unknown:
        verdict.say(f"{symbol.name} {timeframe}: {len(unknown)} bars hold no fill of the exchange, {_some(unknown)}")
    for start in wrong[:3]:
        verdict.say(f"{symbol.name} {timeframe}: the bar at {start} is {stored[start][1:13]}, not {expected[start]}")
    if len(wrong) > 3:
        verdict.say(f"{symbol.name} {timeframe}: {len(wrong)} bars have wrong values")
    if odd:
        verdict.say(f"{symbol.name} {timeframe}: {len(odd)} bars are not closed or of another length")
    right = [start for start in final & stored.keys() if start not in wrong]
    rash = [start for start in right if stored[start][12] and not expected[start][1]]
    rash += [start for start in stored.keys() - final if stored[start][12]]
    shy = [start for start in right if not stored[start][12] and expected[start][1]]
    verdict.wrong_complete += len(rash) + len(shy)
    if rash:
        verdict.say(f"{symbol.name} {timeframe}: {len(rash)} bars are called complete and are not, {_some(rash)}")
    if shy:
        verdict.say(f"{symbol.name} {timeframe}: {len(shy)} bars are complete and not called so, {_some(shy)}")


def _base_volumes(worth: Decimal, truth: list[Fill], length: int) -> dict[int, Decimal]:
    """Return the base volume of every bar of an inverse contract: a quotient for each fill, then an exact sum.

    A quotient has 18 places, a half goes to the even neighbour (which is what `round` does with a fraction).
    """
    units: dict[int, int] = {}
    for _, price, size, _, ts in truth:
        start = ts // length * length
        units[start] = units.get(start, 0) + round(Fraction(size) * Fraction(worth) / Fraction(price) * 10**18)
    return {start: _EXACT.scaleb(Decimal(number), -18) for start, number in units.items()}


def _some(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    return f"({', '.join(map(str, ordered[:3]))}{', ...' if len(ordered) > 3 else ''})" if ordered else ""
