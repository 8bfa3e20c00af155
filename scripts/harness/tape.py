"""Faults of the exchange and of the network, and kill -9, against the tape.

`okx collect` runs against a simulated exchange with connection cuts, mutes, fills that are never pushed (REST has them,
or nobody has), duplicates, REST answers from an old cache, 429 bursts, kill -9 of the collector. After each round the
rows, the ledger and every candle must equal what DuckDB makes of the exchange's own list of fills, and `complete` must
be true exactly where the ids prove it; `okx backfill` is run once where the collector alone did not get that far.
With --no-repair the collector repairs nothing, and exit 1 says that fewer than 95 of 100 rounds noticed.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from harness import common, oracle
from harness.oracle import Symbol, Verdict
from okxcli.local.exchange import LocalExchange
from okxcli.storage.embedded import THROWAWAY, EmbeddedServer, throwaway_base

POOL = ["BTC-USDT", "ETH-USDT", "SOL-USDT", "PEPE-USDT", "DOGE-USDT", "BTC-USDT-SWAP"]
KINDS = ["outage", "cut", "mute", "drop", "lose", "duplicate", "old cache", "429", "kill"]
#: The market runs so many times as fast as the clock, so that a bar of 15 s takes three quarters of one.
SPEED = 20
RATE = 65  # fills a second of the market's time
FILLS = 5_000
EDGES = 5
TRADING_S = 4.5
LATENESS_MS = 2_000
GRACE_MS = 200
#: Evidence that an id is absent must be spread over a minute; a round has not that long.
EVIDENCE_MS = 1_200

# `okx` as it is, but for how long evidence must be spread, and for the repair that `--no-repair` takes out.
_RUN = """
import sys
evidence, repair = int(sys.argv.pop(1)), sys.argv.pop(1) == "repair"
from okxcli.exchange import doubts
doubts.SPREAD_MS = evidence
from okxcli.storage import doubts
doubts.SPREAD_MS = evidence
from okxcli.exchange import feed
if not repair:
    made = feed.Feed.__init__
    def without(self, *arguments, **options):
        made(self, *arguments, **{**options, "repair": False, "resume": None})
    feed.Feed.__init__ = without
from okxcli.cli import main
main()
"""


@dataclass(frozen=True)
class Plan:
    """What all rounds share: the seed, whether `collect` repairs, faults left out, where failed rounds are kept."""

    seed: str
    repair: bool = True
    without: tuple[str, ...] = ()
    keep: str | None = None


@dataclass
class Round:
    """What came of a round."""

    number: int
    kinds: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)  # of these, what demonstrably met something
    verdict: Verdict = field(default_factory=Verdict)
    before: list[str] = field(default_factory=list)  # what was wrong before backfill
    seconds: float = 0.0
    folder: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything is wrong at the end."""
        return bool(self.verdict.problems or self.error)


class Stage:
    """One round: the exchange, `collect`, and the database, from the plan to the verdict."""

    def __init__(self, number: int, plan: Plan, dsn: str, folder: Path) -> None:
        self.result = Round(number, folder=str(folder))
        self._rng = random.Random(f"{plan.seed}/{number}")
        self._without = plan.without
        self._dsn = dsn
        self._folder = folder
        self._repair = plan.repair
        self._process: subprocess.Popen[bytes] | None = None
        self._symbols: list[str] = self._rng.sample(POOL, self._rng.choice([3, 3, 4]))
        self._begin: dict[str, int] = {}
        self._rates: dict[str, int] = {}

    def run(self) -> Round:
        """Play the round."""
        began = time.monotonic()
        rng = self._rng
        (self._folder / "okx.json").write_text(json.dumps(self._config()))
        start_ms = time.time_ns() // 1_000_000 - rng.randrange(5_000, 55_000)
        with LocalExchange(
            self._symbols,
            rate=RATE,
            seed=rng.randrange(1 << 30),
            start_ms=start_ms,
            speed=SPEED,
            history_s=30,
            quiet=0,
            fills_file=self._folder / "fills.jsonl",
        ) as exchange:
            exchange.stop_market()
            try:
                self._play(exchange)
            finally:
                self._kill()
            lost = {name: exchange.absent(name) for name in self._symbols}
            worth = {name: _worth(exchange.row(name)) for name in self._symbols}
            final = {name: exchange.fills(name)[-1].trade_id for name in self._symbols}
            symbols = [Symbol(name, self._begin[name], lost[name], worth[name]) for name in self._symbols]
            for _ in range(3):  # the file of fills is written out now and then, when something happens
                exchange.heal()
                time.sleep(0.2)
            verdict = self._judge(symbols, final)
            self.result.before = verdict.problems
            if verdict.problems and self._repair:
                self._backfill(exchange)
                verdict = self._judge(symbols, final)
        self.result.verdict = verdict
        if verdict.fills < FILLS or verdict.edges < EDGES:
            self._say(f"the round is too small: {verdict.fills} fills, {verdict.edges} edges of 15 s")
        self.result.seconds = time.monotonic() - began
        return self.result

    def _config(self) -> dict[str, object]:
        return {
            "symbols": self._symbols,
            "channels": ["trades-all"],
            "timeframes": list(oracle.LENGTHS_MS),
            "candles": {"lateness": f"{LATENESS_MS}ms", "grace": f"{GRACE_MS}ms"},
        }

    # ---- the play

    def _play(self, exchange: LocalExchange) -> None:
        rng = self._rng
        self._start(exchange)
        self._subscribed(exchange, "at the start")
        self._begin = {name: exchange.fills(name)[-1].trade_id for name in self._symbols}
        already = {name: len(exchange.fills(name)) for name in self._symbols}
        first_ms = exchange.now_ms()
        exchange.run_market()
        began = time.monotonic()
        self._stored_something()
        plan = self._plan()
        for at, kind in plan:
            time.sleep(max(0.0, began + at - time.monotonic()))
            self.result.kinds[kind] += 1
            self._inflict(exchange, kind)
        while (
            time.monotonic() < began + TRADING_S
            or exchange.now_ms() < first_ms + (EDGES + 1) * 15_000
            or sum(len(exchange.fills(name)) - already[name] for name in self._symbols) < FILLS + 50
        ):
            time.sleep(0.05)
        self._count_hits(exchange)
        exchange.heal()
        self._alive()
        self._subscribed(exchange, "after the faults")
        time.sleep(0.2 + rng.random() * 0.3)
        exchange.stop_market()
        # One more fill of each, past the end of every bar: what was before it is final, and nothing follows.
        end_ms = max(exchange.fills(name)[-1].ts for name in self._symbols) + 16_000
        for name in self._symbols:
            last = exchange.fills(name)[-1]
            exchange.trade(name, last.price, last.size, ts=end_ms)
        self._settled(exchange)
        self._stop()

    def _plan(self) -> list[tuple[float, str]]:
        """Return what goes wrong and when: always one outage, and about half of everything else."""
        rng = self._rng
        chosen = [kind for kind in KINDS if kind != "outage" and rng.random() < (0.3 if kind == "kill" else 0.45)]
        chosen += [rng.choice(["cut", "drop", "duplicate"])]
        # REST must be asked while it is out of order, so that begins before the outage ends.
        latest = {"old cache": 1.2, "429": 2.2}
        plan = [(rng.uniform(0.4, latest.get(kind, TRADING_S - 1.2)), kind) for kind in chosen]
        plan = [(at, kind) for at, kind in plan if kind not in self._without]
        return sorted([*plan, (rng.uniform(0.4, 2.0), "outage")])

    def _inflict(self, exchange: LocalExchange, kind: str) -> None:
        """Make a fault happen; note a hit where that shows at once."""
        rng = self._rng
        name = rng.choice(self._symbols)
        hit = True
        if kind == "cut":
            hit = exchange.cut() > 0
        elif kind == "outage":
            self._outage(exchange, name)
        elif kind == "mute":
            newest = exchange.fills(name)[-1].trade_id
            exchange.mute("trades-all", name)
            time.sleep(rng.uniform(0.1, 0.5))
            exchange.cut()
            exchange.unmute()
            hit = exchange.fills(name)[-1].trade_id > newest
        elif kind == "drop":
            exchange.drop(name, rng.choice([1, 3, 40, 250]))
        elif kind == "lose":
            exchange.lose(name, rng.choice([1, 2, 30]))
        elif kind == "duplicate":
            exchange.duplicate(name, rng.choice([1, 20, 100]))
        elif kind == "old cache":
            hit = False  # `_count_hits` will tell
            exchange.stale_rest(rng.choice([500, 5_000, 40_000]))
        elif kind == "429":
            hit = False
            exchange.busy(rng.uniform(0.3, 1.5))
        elif kind == "kill":
            self._kill()
            time.sleep(rng.uniform(0, 0.3))
            self._start(exchange)
        self.result.hits[kind] += hit

    def _count_hits(self, exchange: LocalExchange) -> None:
        """Note which faults of REST met a request."""
        counts = exchange.counts()
        for kind, count in (("old cache", "old answers"), ("429", "429")):
            self.result.hits[kind] += bool(self.result.kinds[kind] and counts.get(count))

    def _outage(self, exchange: LocalExchange, name: str) -> None:
        """Keep one symbol silent across an edge of 15 s and for longer than lateness and grace; the others trade on."""
        newest = {other: exchange.fills(other)[-1].trade_id for other in self._symbols}
        exchange.mute("trades-all", name)
        began, now = time.monotonic(), exchange.now_ms()
        until = now - now % 15_000 + 15_000 + LATENESS_MS + 500
        while exchange.now_ms() < until or time.monotonic() < began + 2 * GRACE_MS / 1000:
            time.sleep(0.01)
        unseen = {other: exchange.fills(other)[-1].trade_id - newest[other] for other in self._symbols}
        if self._rng.random() < 0.5:
            exchange.cut()
        exchange.unmute()
        if not unseen[name] or not any(unseen[other] for other in self._symbols if other != name):
            self._say("the outage hit nothing: nobody traded")

    # ---- processes

    def _run(self, exchange: LocalExchange, *arguments: str) -> subprocess.Popen[bytes]:
        urls = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
        env = common.environment(self._folder, OKX_DSN=self._dsn, **urls)
        program = ["-c", _RUN, str(EVIDENCE_MS), "repair" if self._repair else "no"]
        return common.start(arguments, self._folder, env, program)

    def _start(self, exchange: LocalExchange) -> None:
        self._process = self._run(exchange, "collect", "-v", "--config", str(self._folder / "okx.json"))

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._say("collect does not end within 15 s of SIGTERM")
            return
        if status not in (-signal.SIGTERM, 128 + signal.SIGTERM):
            self._say(f"collect ends with {status}")

    def _alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._say(f"collect ended by itself with {self._process.returncode}")

    def _backfill(self, exchange: LocalExchange) -> None:
        process = self._run(exchange, "backfill", "--config", str(self._folder / "okx.json"))
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = -9
        if status not in (0, 1):
            self._say(f"backfill ends with {status}")

    def _say(self, text: str) -> None:
        self.result.error = "; ".join(filter(None, [self.result.error, text]))

    # ---- waiting

    def _subscribed(self, exchange: LocalExchange, when: str) -> None:
        for name in self._symbols:
            if not exchange.wait_subscribed("trades-all", name, 40):
                raise RuntimeError(f"collect does not subscribe {name} {when}")

    def _stored_something(self) -> None:
        """Wait until the tape of every symbol has begun: where it begins must not depend on a kill."""
        end = time.monotonic() + 20
        while len(self._covered()) < len(self._symbols):
            if time.monotonic() > end:
                raise RuntimeError("collect stores nothing")
            time.sleep(0.05)

    def _settled(self, exchange: LocalExchange) -> None:
        """Wait until the last fills are stored, and then as long as holes are being filled."""
        final = {name: exchange.fills(name)[-1].trade_id for name in self._symbols}
        lost = sum(len(exchange.absent(name)) for name in self._symbols)
        patience_s = 10.0 if self._repair else 3.0
        seen, changed = None, time.monotonic()
        while time.monotonic() < changed + patience_s:
            state = self._covered()
            there = all(state.get(name, (0, 0, 0))[0] >= final[name] for name in self._symbols)
            if there and not self._repair:
                return
            holes = sum(state[name][1] for name in state)
            if there and not holes:
                return
            if there and holes <= lost:
                patience_s = 3.0  # only what the exchange does not have
            if state != seen:
                seen, changed = state, time.monotonic()
            time.sleep(0.05)

    def _covered(self) -> dict[str, tuple[int, int, int]]:
        """Return, by symbol, the newest id, how many below it are neither here nor absent, and how many are absent."""
        query = (
            "SELECT symbol, max(last_id), max(last_id) - min(first_id) + 1"
            " - sum((SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(covered + absent) AS r)),"
            " sum((SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(absent) AS r))"
            " FROM trade_ledger WHERE first_id IS NOT NULL GROUP BY symbol"
        )
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                return {row[0]: (int(row[1]), int(row[2]), int(row[3])) for row in connection.execute(query)}
        except psycopg.errors.UndefinedTable:
            return {}

    def _judge(self, symbols: list[Symbol], final: dict[str, int]) -> Verdict:
        verdict = oracle.judge(self._folder / "fills.jsonl", self._dsn, symbols)
        state = self._covered()
        for name, newest in final.items():
            if name in state and state[name][0] > newest:
                verdict.say(f"{name}: the ledger ends at {state[name][0]}, the exchange at {newest}")
        log = (self._folder / "log.txt").read_text(errors="replace")
        if "Traceback" in log or "a bug of okx" in log:
            verdict.say("a traceback or a bug in the log")
        return verdict


def _worth(row: dict[str, object]) -> Decimal:
    if row["instType"] == "SPOT":
        return Decimal(1)
    return Decimal(str(row["ctVal"])) * Decimal(str(row["ctMult"] or "1"))


def play(number: int, plan: Plan, server_dsn: str, base: str) -> Round:
    """Play one round in a database and a folder of its own; the folder stays if it fails and is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"round-{number}-", dir=base))
    name = f"round_{number}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    stage = Stage(number, plan, make_conninfo(server_dsn, dbname=name), folder)
    try:
        result = stage.run()
    except Exception as error:
        result = stage.result
        result.error = f"{type(error).__name__}: {error}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    if plan.keep is None or not result.failed:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def run(numbers: range, plan: Plan, jobs: int) -> list[Round]:
    """Play these rounds, several side by side; tell each that fails, and return them in order."""
    base = throwaway_base()
    folder = Path(plan.keep or tempfile.mkdtemp(prefix="okx-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Round] = []
    try:
        with (
            EmbeddedServer(base, THROWAWAY) as server,
            ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
        ):
            waiting = [pool.submit(play, number, plan, server.dsn, str(folder)) for number in numbers]
            try:
                for future in as_completed(waiting):
                    done.append(future.result())
                    if done[-1].failed and plan.repair:
                        tell(done[-1])
                    elif sys.stderr.isatty():
                        print(f"\r{len(done)} of {len(numbers)} rounds", end="", file=sys.stderr, flush=True)
            except BaseException:  # Ctrl-C: the rounds that run end by themselves, the others do not begin
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        shutil.rmtree(base, ignore_errors=True)
        if plan.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return sorted(done, key=lambda one: one.number)


def tell(one: Round) -> None:
    """Say on stderr what is wrong with a round."""
    print(f"round {one.number} fails ({', '.join(one.kinds)}): {one.error}", file=sys.stderr)
    problems = one.verdict.problems or [f"before backfill: {problem}" for problem in one.before]
    for problem in problems[:8]:
        print(f"    {problem if len(problem) < 400 else problem[:397] + '...'}", file=sys.stderr)
    if len(problems) > 8:
        print(f"    and {len(problems) - 8} more", file=sys.stderr, flush=True)


def table(done: list[Round]) -> str:
    """Return what the rounds came to: a row for each kind of fault, and all of them.

    `hit`: the fault met something, a request or a fill; `by itself`: all was right before `okx backfill`.
    """
    sums = ("fills", "stored", "missing", "extra", "bars", "wrong_bars", "wrong_complete")
    heads = ["rounds", "hit", "failed", *(name.replace("_", " ") for name in sums), "by itself"]
    lines = [f"{'fault':<10}" + "".join(f"{head:>{max(11, len(head) + 2)}}" for head in heads)]
    for kind in [*KINDS, "all"]:
        some = done if kind == "all" else [one for one in done if one.kinds[kind]]
        numbers = [len(some), sum(kind == "all" or one.hits[kind] > 0 for one in some), sum(one.failed for one in some)]
        numbers += [sum(getattr(one.verdict, name) for one in some) for name in sums]
        numbers.append(sum(not one.before and not one.error for one in some))
        cells = (f"{number:>{max(11, len(head) + 2)},}" for number, head in zip(numbers, heads, strict=True))
        lines.append(f"{kind:<10}" + "".join(cells))
    absent, doubtful = (sum(getattr(one.verdict, name) for one in done) for name in ("absent", "doubtful"))
    seconds = sorted(one.seconds for one in done)
    lines.append(
        f"ids that the exchange lost: {absent} found absent, {doubtful} still in doubt; "
        f"a round takes {seconds[len(seconds) // 2]:.1f} s"
    )
    return "\n".join(lines)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--rounds", type=int, default=200, metavar="N")
    parser.add_argument("--no-repair", dest="repair", action="store_false", help="show that the oracle notices")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="number of the first round, to play it again")
    parser.add_argument("--without", action="append", default=[], metavar="FAULT", help="leave a kind of fault out")


def main(options: argparse.Namespace) -> int:
    """Play the rounds, print the table, and return the exit status."""
    numbers = range(options.first, options.first + options.rounds)
    done = run(numbers, Plan(options.seed, options.repair, tuple(options.without), options.keep), options.jobs)
    print(table(done))
    failed = sum(one.failed for one in done)
    if options.repair:
        print(f"seed {options.seed}: {failed} of {len(done)} rounds failed")
        return 1 if failed else 0
    noticed = sum(bool(one.verdict.problems) for one in done)
    enough = noticed * 100 >= 95 * len(done)
    words = "as wanted" if enough else "which is NOT enough"
    print(f"seed {options.seed}, repair off: the oracle finds fault with {noticed} of {len(done)} rounds, {words}")
    return 0 if enough else 1
