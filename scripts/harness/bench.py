"""How fast is okx, beside what everybody knows?

Each row runs okx, on both of its roads, and a rival by turns, whole processes, and tells the medians and how many times
as fast okx is. What is made is compared before a time is believed, since a wrong answer can be had in no time.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import orjson

from harness import bench_books, bench_growth, bench_latency, bench_live, bench_memory
from harness.bench_bulk import bulk
from harness.bench_database import COLUMNS, Postgres
from harness.bench_inputs import OKX, SYMBOL, DailyFile, Inputs, run
from harness.bench_table import PURE, Act, C, Contest, Report, machine, markdown
from okxcli.runtime.road import road
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base

ROOT = Path(__file__).resolve().parents[2]
_PEERS = ROOT / "scripts" / "peers"
SIX = "1m,5m,15m,1h,4h,1d"
#: A local exchange that is not there: neither is the real one asked, nor a simulation stored as real.
_NOWHERE = {"OKX_WS_URL": "ws://127.0.0.1:1", "OKX_REST_URL": "http://127.0.0.1:1"}
_LOAD = """
import sys
from okxcli.exchanges.registry import exchange
from okxcli.pipeline.bulk_import import BulkLoader
from okxcli.storage.database import open_database
with open_database(sys.argv[1], create=True, origin="local", application="bench") as database:
    print(BulkLoader(database, [sys.argv[2]], sys.argv[4].split(","), source=exchange()).load([sys.argv[3]]))
"""
#: What each peer is installed from; each has an environment of its own.
_REQUIREMENTS = {
    "cryptofeed": ("cryptofeed==2.4.1",),
    "ccxt": ("ccxt",),
    "freqtrade": ("freqtrade",),
    "nautilus": ("nautilus_trader", "msgspec"),
}


class Bench:
    """The inputs, the database and the peers, each made when it is first asked for."""

    def __init__(self, folder: Path, rows: int, peers: Path, seconds: float = 60.0, big: int = 5_000_000) -> None:
        self.folder = folder
        self.rows = rows
        self.seconds = seconds
        self.big = big
        self._peers = peers
        self._ends = ExitStack()

    @cached_property
    def inputs(self) -> Inputs:
        """Pushes and lines of nine symbols."""
        return Inputs(self.folder, self.rows)

    @cached_property
    def day(self) -> DailyFile:
        """A daily file."""
        return DailyFile(self.folder, self.rows)

    @cached_property
    def postgres(self) -> Postgres:
        """A server; `close` ends it."""
        return self._server(THROWAWAY)

    @cached_property
    def timed_postgres(self) -> Postgres:
        """A server that remembers when rows were committed."""
        return self._server({**THROWAWAY, "shared_buffers": "256MB", "track_commit_timestamp": "on"})

    @cached_property
    def still_postgres(self) -> Postgres:
        """A server that does nothing by itself."""
        return self._server({**THROWAWAY, "shared_buffers": "256MB", "autovacuum": "off", "max_wal_size": "16GB"})

    def _server(self, settings: Mapping[str, str]) -> Postgres:
        base = throwaway_base()
        self._ends.callback(shutil.rmtree, base, ignore_errors=True)
        return Postgres(self._ends.enter_context(EmbeddedServer(base, settings)))

    def close(self) -> None:
        """End the servers, if there are any."""
        self._ends.close()

    def python_of(self, peer: str) -> str:
        """Return the Python that has a peer; it is installed the first time."""
        home = self._peers / peer
        python = home / "bin" / "python"
        if not (home / "whole").exists():
            print(f"setting up {peer} in {home}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *_REQUIREMENTS[peer]], check=True)
            (home / "whole").touch()
        return str(python)

    def roads(self, command: list[str], source: Path, fails: bool = False, **env: str) -> dict[str, Act]:
        """Return a command of ours on both roads; what it makes goes nowhere."""
        return {
            name: lambda pure=pure: run([*OKX, *command], source, fails=fails, OKX_PURE=pure, **env)  # type: ignore[misc]
            for name, pure in ((C, ""), (PURE, "1"))
        }

    def made(self, command: list[str], source: Path, name: str, fails: bool = False, **env: str) -> bytes:
        """Return what a command makes, for a comparison."""
        target = self.folder / name
        run(command, source, target, fails, **env)
        return target.read_bytes()


def _same_on_both(bench: Bench, command: list[str], source: Path, fails: bool = False) -> bytes:
    """Return what a command of ours makes; exit unless it is the same on both roads."""
    found = [bench.made([*OKX, *command], source, "made", fails, OKX_PURE=pure) for pure in ("", "1")]
    if found[0] != found[1]:
        sys.exit(f"okx {' '.join(command)}: not the same on both roads")
    return found[0]


def _agree(ours: list[tuple[object, ...]], theirs: list[tuple[object, ...]], who: str) -> None:
    if ours != theirs or not ours:
        at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), -1)
        sys.exit(
            f"{who} made {len(theirs)} and okx {len(ours)}; {theirs[at : at + 1]} where okx has {ours[at : at + 1]}"
        )


def _trades(lines: bytes) -> list[tuple[object, ...]]:
    keys = ("symbol", "trade_id", "count", "side", "timestamp", "received", "source", "origin")
    return [
        (*(trade[key] for key in keys), Decimal(trade["price"]), Decimal(trade["size"]))
        for trade in map(orjson.loads, lines.splitlines())
    ]


def normalize_jq(bench: Bench) -> Contest:
    """`okx normalize` and jq."""
    source, command = bench.inputs.good, ["normalize", "-q"]
    jq = ["jq", "-c", "-f", str(_PEERS / "normalize.jq")]
    if shutil.which("jq") is None:
        sys.exit("needs jq: apt-get install jq")
    _same_on_both(bench, command, bench.inputs.raw, fails=True)
    _agree(_trades(_same_on_both(bench, command, source)), _trades(bench.made(jq, source, "jq")), "jq")
    return Contest(
        "normalize, beside jq", bench.rows, bench.roads(command, source), "jq", lambda: run(jq, source),
        {C: 20, PURE: 2}, "renames the keys; it checks nothing, and a bad line would end it.",
    )  # fmt: skip


def normalize_script(bench: Bench) -> Contest:
    """`okx normalize` and a plain script."""
    source, command = bench.inputs.good, ["normalize", "-q"]
    script = [sys.executable, str(_PEERS / "plain_normalize.py")]
    _agree(_trades(_same_on_both(bench, command, source)), _trades(bench.made(script, source, "script")), "the script")
    return Contest(
        "normalize, beside a plain script", bench.rows, bench.roads(command, source), "json and Decimal",
        lambda: run(script, source), {C: 12, PURE: 1.5}, "checks nothing, and a bad line would end it.",
    )  # fmt: skip


def candles_msgspec(bench: Bench) -> Contest:
    """`okx candles` in six timeframes and a plain script."""
    source, command = bench.inputs.trades, ["candles", "-q", "--no-live", "--tf", SIX]
    script = [sys.executable, str(_PEERS / "msgspec_bars.py")]
    lengths = dict(zip(SIX.split(","), (60_000, 300_000, 900_000, 3_600_000, 14_400_000, 86_400_000), strict=True))
    keys = ("start", "open", "high", "low", "close", "volume", "quote_volume", "trade_count")
    ours = [
        (bar["symbol"], lengths[bar["timeframe"]], *(Decimal(bar[key]) for key in keys))
        for bar in map(orjson.loads, _same_on_both(bench, command, source).splitlines())
    ]
    every = [line.split() for line in bench.made(script, source, "script").decode().splitlines()]
    theirs = [(row[0], int(row[1]), *map(Decimal, row[2:])) for row in every]
    over = {(bar[0], bar[1], bar[2]) for bar in ours}  # the script writes the running bars too
    _agree(sorted(ours), sorted(row for row in theirs if row[:3] in over), "the script")
    return Contest(
        "candles of six timeframes from trade lines", bench.rows, bench.roads(command, source), "msgspec and Decimal",
        lambda: run(script, source), {C: 1 / 0.12, PURE: 1},
        "no checks, no duplicates, no late trades, nothing is proved complete.",
    )  # fmt: skip


def _pipe(bench: Bench, frames: str, source: Path) -> dict[str, Act]:
    okx = shlex.join(OKX)
    command = ["sh", "-c", f"{okx} normalize -q | {okx} candles -q --no-live --tf {frames}"]
    return {C: lambda: run(command, source, OKX_PURE=""), PURE: lambda: run(command, source, OKX_PURE="1")}


def _peer(
    bench: Bench, peer: str, title: str, ours: str, merged: bool, targets: dict[str, float], lacks: str
) -> Contest:
    source = bench.inputs.merged if merged else bench.inputs.good
    command = [bench.python_of(peer), str(_PEERS / f"{peer}_bars.py")]
    if bench.made(command, source, peer).count(b"\n") < 9:
        sys.exit(f"{peer} made nothing")
    return Contest(
        f"pushes to candles, beside {title}", bench.rows, _pipe(bench, ours, bench.inputs.good), title,
        lambda: run(command, source), targets, lacks,
    )  # fmt: skip


def cryptofeed(bench: Bench) -> Contest:
    """`normalize | candles` in six timeframes and cryptofeed's parser with its OHLCV in one."""
    return _peer(bench, "cryptofeed", "cryptofeed 2.4.1", SIX, True, {C: 10, PURE: 1},
                 "one timeframe, by one clock for all symbols; no ids, no gaps.")  # fmt: skip


def ccxt(bench: Bench) -> Contest:
    """`normalize | candles` in six timeframes and ccxt.pro in one."""
    return _peer(bench, "ccxt", "ccxt.pro", SIX, False, {C: 40},
                 "one timeframe, floats, of the last 1,000 trades of a symbol.")  # fmt: skip


def freqtrade(bench: Bench) -> Contest:
    """`normalize | candles` in six timeframes and freqtrade in one."""
    return _peer(bench, "freqtrade", "freqtrade", SIX, False, {C: 12}, "one timeframe, floats, all of it in memory.")


def nautilus(bench: Bench) -> Contest:
    """`normalize | candles` in six timeframes and nautilus_trader in one."""
    return _peer(bench, "nautilus", "nautilus_trader", SIX, False, {C: 3}, "one timeframe, no ids, no gaps.")


def store(bench: Bench) -> Contest:
    """`okx store` and psql's \\copy into the same table with its key."""
    day, postgres = bench.day, bench.postgres

    def stored(pure: str) -> float:
        with postgres.fresh() as dsn:
            began = time.perf_counter()
            run([*OKX, "store", "-q"], day.trades, OKX_DSN=dsn, OKX_PURE=pure, **_NOWHERE)
            took = time.perf_counter() - began
            postgres.check(dsn, day.rows, candles=False)
        return took

    return Contest(
        "store: trade lines into a fresh database", day.rows, {C: lambda: stored(""), PURE: lambda: stored("1")},
        "psql \\copy", lambda: _copied(bench), {C: 0.8, PURE: 0.5}, "no ledger, no duplicates, one transaction.",
    )  # fmt: skip


def _copied(bench: Bench) -> float:
    day, postgres = bench.day, bench.postgres
    with postgres.fresh(day.days) as dsn:
        began = time.perf_counter()
        run([postgres.psql, "-X", "-q", dsn, "-c", f"\\copy raw_trades ({COLUMNS}) from '{day.table}' csv"])
        took = time.perf_counter() - began
        postgres.check(dsn, day.rows, candles=False)
    return took


def files(bench: Bench) -> Contest:
    """A daily file into a fresh database, candles included, and psql's \\copy of its rows."""
    day, postgres = bench.day, bench.postgres

    def loaded() -> float:
        with postgres.fresh() as dsn:
            began = time.perf_counter()
            run([sys.executable, "-c", _LOAD, dsn, SYMBOL, str(day.zip), "1m,5m"])
            took = time.perf_counter() - began
            postgres.check(dsn, day.rows, candles=True)
        return took

    return Contest(
        "files: a daily file into a fresh database, candles included", day.rows, {"okx": loaded}, "psql \\copy",
        lambda: _copied(bench), {"okx": 0.5}, "only the rows: no candles, no ledger.",
    )  # fmt: skip


def read(bench: Bench) -> Contest:
    """`okx read trades` and psql's \\copy to standard output."""
    day, postgres = bench.day, bench.postgres
    dsn = bench.folder / "read-dsn"
    if not dsn.exists():
        context = postgres.fresh(day.days)
        name = context.__enter__()
        run([*OKX, "store", "-q"], day.trades, OKX_DSN=name, **_NOWHERE)
        dsn.write_text(name)
    copy = f"\\copy (SELECT {COLUMNS} FROM raw_trades ORDER BY trade_id) TO STDOUT"  # noqa: S608
    psql = [postgres.psql, "-X", "-q", dsn.read_text(), "-c", copy]
    command, env = ["read", "trades", SYMBOL], {"OKX_DSN": dsn.read_text(), **_NOWHERE}
    made = bench.made([*OKX, *command], Path("/dev/null"), "read", **env)
    if made != day.trades.read_bytes():
        sys.exit("okx read: not the lines that were stored")
    return Contest(
        "read: stored trades as lines", day.rows, bench.roads(command, Path("/dev/null"), **env),
        "psql \\copy", lambda: run(psql), {C: 0.3}, "columns as Postgres spells them, no lines.",
    )  # fmt: skip


def start_up(bench: Bench) -> Contest:
    """`okx normalize </dev/null` and the import of typer and msgspec."""
    nothing = Path("/dev/null")
    imports = [sys.executable, "-c", "import typer, msgspec"]
    return Contest(
        "start-up", 0, bench.roads(["normalize", "-q"], nothing), "python importing typer and msgspec",
        lambda: run(imports), {C: 1 / 1.3, PURE: 1 / 1.3},
    )  # fmt: skip


ROWS: dict[str, Callable[[Bench], Contest | Report]] = {
    "normalize-jq": normalize_jq,
    "normalize-script": normalize_script,
    "candles": candles_msgspec,
    "cryptofeed": cryptofeed,
    "freqtrade": freqtrade,
    "ccxt": ccxt,
    "nautilus": nautilus,
    "store": store,
    "files": files,
    "read": read,
    "bulk": lambda bench: bulk(bench.folder, bench.rows),
    "start-up": start_up,
    **bench_live.ROWS,
    **bench_books.ROWS,
    **bench_latency.ROWS,
    **bench_growth.ROWS,
    **bench_memory.ROWS,
}


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="okx-bench-") as folder:
        bench = Bench(Path(folder), options.rows, options.peers, options.seconds, options.big)
        try:
            yield bench
        finally:
            bench.close()


def main() -> int:
    """Run the rows that the command line names; all of them if it names none. 1: a target is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="pushes, or trades (2 million)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="how long what is live goes on (60)")
    parser.add_argument("--big", type=int, default=5_000_000, metavar="N", help="rows of a large database (5 million)")
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench", metavar="DIR", help="where peers are installed")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to a file as well")
    options = parser.parse_args()
    if odd := set(options.names) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(odd))}")
    head = (
        f"{machine()}; okx {version('okxcli')}, {road()[0]}; medians of {options.rounds}, whole processes by turns.\n"
    )
    print(head, flush=True)
    parts, missed = [head], []
    with _bench(options) as bench:
        for name in options.names or ROWS:
            contest = ROWS[name](bench)
            contest.run(max(options.rounds, 15) if name == "start-up" else options.rounds)
            parts.append(markdown(contest))
            print(parts[-1], flush=True)
            missed += [] if contest.met() else [name]
    if options.write:
        options.write.write_text("# How fast\n\n" + "\n".join(parts))
    if missed:
        print(f"targets missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
