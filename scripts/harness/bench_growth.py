"""How the cost of a trade grows: with symbols, timeframes, rows that are stored, ranges in a ledger, merged trades.

Cost is user and system time of the processes per trade, less what they take for nothing; where a database is
written or read, that of Postgres as well. Each variant works by turns, and what came of it is counted.
"""

import json
import os
import random
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from harness import common
from harness.bench_database import COLUMNS
from harness.bench_inputs import OKX, START, run
from harness.bench_live import cpu_of_server, many
from harness.bench_source import FIRST_ID, fill
from harness.bench_table import Gauge, Report
from okxcli.storage.schema.partitions import Partitions

if TYPE_CHECKING:
    from harness.bench import Bench

FLAT = 1.2
_DAY_MS = 86_400_000
_ONE = "A-USDT"
_FRAMES = {
    1: "1m",
    6: "1m,5m,15m,1h,4h,1d",
    20: "1m,2m,3m,4m,5m,6m,10m,12m,15m,20m,30m,1h,2h,3h,4h,6h,8h,12h,1d,1w",
}
_NOWHERE = {"OKX_WS_URL": "ws://127.0.0.1:1", "OKX_REST_URL": "http://127.0.0.1:1"}
_SHAPES = 50

#: Does the work of a variant once; returns the seconds of CPU.
Cost = Callable[[], float]


def write_pushes(
    path: Path, symbols: Sequence[str], rows: int, counts: Sequence[int] = (), overlaps: int = 0, first: int = FIRST_ID
) -> None:
    """Write so many pushes, one a millisecond. Of trades-all, or merged ones of so many fills (drawn from `counts`).

    Of merged ones each of so many (`overlaps`) begins with the last fill of the one before.
    """
    rng = random.Random(1)
    stamp, number = b"0000000000000", b"%d" % FIRST_ID
    shapes = []
    for symbol in symbols:
        for _ in range(_SHAPES):
            shape = fill(symbol, number, rng, stamp).replace(number, b"%d", 1).replace(stamp, b"%d", 1)
            if counts:
                shape = shape.replace(b"trades-all", b"trades", 1).replace(b'"}]}', b'","count":"%d"}]}')
            shapes.append(shape)
    ids = dict.fromkeys(range(len(symbols)), first)
    with path.open("wb") as file:
        for n in range(rows):
            shape = rng.randrange(len(shapes))
            count = rng.choice(counts) if counts else 1
            last = ids[shape // _SHAPES] = ids[shape // _SHAPES] + count
            count += bool(overlaps) and n % overlaps == overlaps - 1
            values = (last, START + (first - FIRST_ID) + n)
            file.write(shapes[shape] % (*values, count) if counts else shapes[shape] % values)
            file.write(b"\n")


def cpu(command: Sequence[str], source: Path, home: Path, **env: str) -> float:
    """Run a command to its end; return the seconds of CPU of all its processes."""
    with source.open("rb") as stdin:
        full = common.environment(home, **env)
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=full)
        assert process.stderr is not None
        told = process.stderr.read()
        process.stderr.close()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)[:300]}: exit {process.returncode}\n{told.decode()[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def growth(title: str, rows: int, idle: Cost, variants: Mapping[str, Cost], says: str) -> Report:
    """Return a row: what a trade costs in each variant, and how many times as much as in the first."""

    def measure(rounds: int) -> list[Gauge]:
        nothing = statistics.median(idle() for _ in range(min(rounds, 3)))
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, act in variants.items():
                taken[name].append(max(0.0, act() - nothing) / rows * 1e6)
        return gauges(taken)

    return Report(f"growth: {title} ({rows:,} trades)", measure, says)


def gauges(taken: Mapping[str, Sequence[float]]) -> list[Gauge]:
    """Return what a trade costs in each variant (us), and beside all but the first how many times as much that is."""
    first = statistics.median(next(iter(taken.values()))) or 0.001  # so few trades that they cost nothing
    found = []
    for at, (name, values) in enumerate(taken.items()):
        found.append(Gauge(f"{name}: CPU of a trade", values, "us"))
        if at:
            found.append(Gauge(f"{name}: beside the first", [statistics.median(values) / first], "x", FLAT))
    return found


def counted(stats: Path, rows: int) -> None:
    """Exit unless `candles` has told, in its counts, of all trades."""
    found = json.loads(stats.read_text())
    kinds = ("trades", "duplicates", "overlapping", "late")
    if sum(found[kind] for kind in kinds[:3]) != rows or found["trades"] == 0:
        sys.exit(f"candles took { ({kind: found[kind] for kind in kinds}) } of {rows} trades")


def _candles(bench: "Bench", source: Path, rows: int, frames: str) -> float:
    """Run `normalize | candles`."""
    stats = bench.folder / "growth.stats"
    okx = shlex.join(OKX)
    pipe = f"{okx} normalize -q | {okx} candles -q --no-live --tf {frames} --stats {shlex.quote(str(stats))}"
    took = cpu(["sh", "-c", pipe], source, bench.folder)
    if rows:
        counted(stats, rows)
    return took


def _idle(bench: "Bench") -> Cost:
    return lambda: _candles(bench, Path("/dev/null"), 0, _FRAMES[6])


def symbols(bench: "Bench") -> Report:
    """`normalize | candles` of 1 to 1,000 symbols at one total rate."""
    rows = min(bench.rows, 1_000_000)
    variants: dict[str, Cost] = {}
    for count in (1, 10, 100, 1_000):
        source = bench.folder / f"growth-{count}.jsonl"
        write_pushes(source, many(count), rows)
        variants[f"{count:,} symbols"] = lambda source=source: _candles(bench, source, rows, _FRAMES[6])  # type: ignore[misc]
    says = (
        "okx normalize | okx candles, six timeframes, a trade a millisecond over all symbols. A thousand times the "
        "symbols have a thousand times the bars, of sixty trades in place of sixty thousand: it is they that cost."
    )
    return growth("symbols", rows, _idle(bench), variants, says)


def timeframes(bench: "Bench") -> Report:
    """`normalize | candles` with 1 to 20 timeframes."""
    rows = min(bench.rows, 1_000_000)
    source = bench.folder / "growth-9.jsonl"
    write_pushes(source, many(9), rows)
    variants: dict[str, Cost] = {
        f"{count} timeframes": lambda frames=frames: _candles(bench, source, rows, frames)  # type: ignore[misc]
        for count, frames in _FRAMES.items()
    }
    return growth("timeframes", rows, _idle(bench), variants, "okx normalize | okx candles, nine symbols.")


def merged(bench: "Bench") -> Report:
    """`normalize | candles` of trades that the exchange has merged."""
    rows = min(bench.rows, 1_000_000)
    shapes: dict[str, tuple[Sequence[int], int]] = {
        "trades-all": ((), 0),
        "trades, of one fill each": ((1,), 0),
        "trades, of one to three fills": ((1, 1, 2, 3), 0),
        "the same, 1 % overlap": ((1, 1, 2, 3), 100),
    }
    variants: dict[str, Cost] = {}
    for at, (name, (counts, overlaps)) in enumerate(shapes.items()):
        source = bench.folder / f"growth-merged-{at}.jsonl"
        write_pushes(source, many(9), rows, counts, overlaps)
        variants[name] = lambda source=source: _candles(bench, source, rows, _FRAMES[6])  # type: ignore[misc]
    says = "okx normalize | okx candles, nine symbols; a trade that overlaps is refused and leaves a hole."
    return growth("merged trades", rows, _idle(bench), variants, says)


# Databases


def fill_database(connection: psycopg.Connection, rows: int, day_rows: int = 1_000_000) -> None:
    """Store so many fills of one symbol by SQL, in the days before START, with their ledger; ids end at FIRST_ID."""
    connection.execute("INSERT INTO symbols (exchange, symbol) VALUES ('okx', %s) ON CONFLICT DO NOTHING", [_ONE])
    for number in range(-(-rows // day_rows)):
        last = FIRST_ID - number * day_rows
        first = max(last - day_rows, FIRST_ID - rows) + 1
        _fill_day(connection, START // _DAY_MS - 1 - number, first, last, [(first, last)])


def fill_ranges(connection: psycopg.Connection, ranges: int) -> None:
    """Store fills of one symbol on the day of START, six of each ten ids, so that there are so many ranges of them."""
    connection.execute("INSERT INTO symbols (exchange, symbol) VALUES ('okx', %s) ON CONFLICT DO NOTHING", [_ONE])
    first = FIRST_ID - 10 * ranges + 5
    parts = [(at, at + 5) for at in range(first, FIRST_ID, 10)]
    _fill_day(connection, START // _DAY_MS, first, FIRST_ID, parts)


def _fill_day(
    connection: psycopg.Connection, day: int, first: int, last: int, ranges: Sequence[tuple[int, int]]
) -> None:
    Partitions().ensure(connection, "raw_trades", [day], 0)
    values = {"symbol": _ONE, "first": first, "last": last, "since": day * 86_400, "count": last - first + 1}
    covered = "{" + ",".join(f"[{low},{high}]" for low, high in ranges) + "}"
    of_range = "AND (g - %(first)s) %% 10 < 6" if len(ranges) > 1 else ""
    connection.execute(
        f"INSERT INTO raw_trades ({COLUMNS}) SELECT 'okx', %(symbol)s, g, 1, 'buy', 100 + g %% 1000, 1.5,"  # noqa: S608
        " to_timestamp(%(since)s) + (g - %(first)s) * interval '1 ms' * least(1000, 3600000 / %(count)s),"
        f" NULL, 0, 'trades-all' FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS g WHERE true {of_range}",
        values,
    )
    connection.execute(
        "INSERT INTO trade_ledger (exchange, symbol, day, covered, first_id, last_id, first_time, last_time)"
        " SELECT 'okx', %(symbol)s, to_timestamp(%(since)s)::date, %(covered)s::int8multirange, %(first)s, %(last)s,"
        " min(timestamp), max(timestamp) FROM raw_trades WHERE symbol = %(symbol)s"
        " AND timestamp >= to_timestamp(%(since)s) AND timestamp < to_timestamp(%(since)s) + interval '1 day'",
        {**values, "covered": covered},
    )


@contextmanager
def _databases(bench: "Bench", fills: Mapping[str, Callable[[psycopg.Connection], None]]) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        found = {}
        for name, make in fills.items():
            found[name] = stack.enter_context(bench.still_postgres.fresh())
            with psycopg.connect(found[name], autocommit=True, options="-c timezone=UTC") as connection:
                make(connection)
                connection.execute("ANALYZE")
                connection.execute("CHECKPOINT")
        yield found


def _stored(bench: "Bench", dsn: str, source: Path, rows: int) -> float:
    """Run `okx store` and count what it stored; return its CPU and Postgres'."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = _newer(connection)
        began = cpu_of_server(bench.still_postgres.data)
        took = cpu([*OKX, "store", "-q"], source, bench.folder, OKX_DSN=dsn, **_NOWHERE)
        took += cpu_of_server(bench.still_postgres.data) - began
        if _newer(connection) - before != rows:
            sys.exit(f"{_newer(connection) - before} of {rows} trades were stored")
    return took


def _newer(connection: psycopg.Connection) -> int:
    """Return how many rows there are of what is stored here, in the end."""
    query = "SELECT count(*) FROM raw_trades WHERE trade_id > %s AND timestamp >= to_timestamp(%s)"
    rows = connection.execute(query, [FIRST_ID, START / 1000]).fetchone()
    return 0 if rows is None else int(rows[0])


def _into(bench: "Bench", title: str, fills: Mapping[str, Callable[[psycopg.Connection], None]], says: str) -> Report:
    """Return a row about `store` into databases that are filled differently; each round goes on where one ended."""
    rows = max(1, min(bench.rows, 500_000) // 5)

    def measure(rounds: int) -> list[Gauge]:
        inputs = []
        for at in range(rounds):
            raw, lines = bench.folder / "growth-store.raw", bench.folder / f"growth-store-{at}.jsonl"
            write_pushes(raw, [_ONE], rows, first=FIRST_ID + at * rows)
            run([*OKX, "normalize", "-q"], raw, lines)
            inputs.append(lines)
        with _databases(bench, fills) as dsns:
            left = {name: iter(inputs) for name in dsns}
            variants: dict[str, Cost] = {
                name: lambda name=name, dsn=dsn: _stored(bench, dsn, next(left[name]), rows)  # type: ignore[misc]
                for name, dsn in dsns.items()
            }
            dsn = next(iter(dsns.values()))
            idle: Cost = lambda: _stored(bench, dsn, Path("/dev/null"), 0)  # noqa: E731
            return growth("", rows, idle, variants, "").measure(rounds)

    return Report(f"growth: {title} ({rows:,} trades a round)", measure, says)


def database(bench: "Bench") -> Report:
    """`store` into databases of few and of many rows."""
    sizes = (min(1_000_000, bench.big // 5), bench.big)
    fills = {
        f"{size:,} rows": lambda connection, size=size: fill_database(connection, size)  # type: ignore[misc]
        for size in sizes
    }
    return _into(bench, "rows that are stored already", fills, "okx store of new trades, and Postgres.")


def ledger(bench: "Bench") -> Report:
    """`store` beside ledgers of few and of many ranges."""
    fills = {
        f"{ranges:,} ranges": lambda connection, ranges=ranges: fill_ranges(connection, ranges)  # type: ignore[misc]
        for ranges in (10, 10_000)
    }
    says = "okx store of new trades, and Postgres; the day that they belong to has so many ranges of ids, with holes."
    return _into(bench, "ranges in the ledger", fills, says)


def store(bench: "Bench") -> Report:
    """`store` of 1 to 1,000 symbols."""
    rows = max(1, min(bench.rows, 500_000) // 5)
    variants: dict[str, Cost] = {}

    def stored(source: Path) -> float:
        with bench.still_postgres.fresh([START // _DAY_MS]) as dsn:
            return _stored(bench, dsn, source, rows)

    for count in (1, 10, 100, 1_000):
        raw, lines = bench.folder / "growth-store.raw", bench.folder / f"growth-store-{count}-symbols.jsonl"
        write_pushes(raw, many(count), rows)
        run([*OKX, "normalize", "-q"], raw, lines)
        variants[f"{count:,} symbols"] = lambda lines=lines: stored(lines)  # type: ignore[misc]

    def idle() -> float:
        with bench.still_postgres.fresh([START // _DAY_MS]) as dsn:
            return _stored(bench, dsn, Path("/dev/null"), 0)

    says = "okx store, and Postgres; a batch of 5,000 rows has a row of the ledger for each of its symbols."
    return growth("symbols that are stored", rows, idle, variants, says)


ROWS: dict[str, Callable[["Bench"], Report]] = {
    "growth-symbols": symbols,
    "growth-timeframes": timeframes,
    "growth-merged": merged,
    "growth-store": store,
    "growth-database": database,
    "growth-ledger": ledger,
}
