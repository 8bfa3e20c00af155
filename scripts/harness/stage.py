"""One tape round: a simulated exchange, `okx collect`, the faults, and what the oracle finds in the database after it.

Whatever is waited for is waited for by its condition, so that a slow machine makes a round longer and nothing else.
"""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from harness import common, ledger, oracle
from harness.oracle import Symbol, Verdict
from harness.rounds import KINDS, Plan, Round
from okxcli.local.exchange import LocalExchange

#: Spot, a linear and an inverse swap: the base volume of the last is a quotient.
POOL = ["BTC-USDT", "ETH-USDT", "SOL-USDT", "PEPE-USDT", "DOGE-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP"]
#: The market runs so many times as fast as the clock, so that a bar of 15 s takes three quarters of one.
SPEED = 20
RATE = 65  # fills a second of the market's time
FILLS = 5_000
EDGES = 5
EDGE_MS = 15_000
TRADING_S = 4.5
LATENESS_MS = 2_000
GRACE_MS = 200
#: Evidence that an id is absent must be spread over a minute; a round has not that long.
EVIDENCE_MS = 1_200
#: A market without quiet minutes that does not get on for so long is a fault of the harness.
PATIENCE_S = 40.0

# `okx` as it is, but for how long evidence must be spread, and for the repair that `--no-repair` takes out.
_RUN = (
    """
import sys
evidence, repair = int(sys.argv.pop(1)), sys.argv.pop(1) == "repair"
from okxcli.core import tape
tape.SPREAD_MS = evidence  # before anybody takes it
"""
    + common.RUN
)


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
        self.result.symbols = self._symbols
        self._begin: dict[str, int] = {}

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
            fills_file=self._folder / "fills.jsonl",
        ) as exchange:
            exchange.stop_market()
            try:
                self._play(exchange)
            finally:
                self._kill()
            symbols = [self._symbol(exchange, name) for name in self._symbols]
            final = {name: exchange.fills(name)[-1].trade_id for name in self._symbols}
            self._written(exchange, final)
            verdict = self._judge(symbols, final)
            self.result.before = verdict.problems
            if verdict.problems and self._repair:
                self._backfill(exchange)
                verdict = self._judge(symbols, final)
        self.result.verdict = verdict
        if verdict.fills < FILLS or verdict.edges < EDGES:
            self.result.say(f"the round is too small: {verdict.fills} fills, {verdict.edges} edges of 15 s")
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
        exchange.run_market()
        began = time.monotonic()
        ledger.wait_begun(self._dsn, self._symbols, PATIENCE_S)
        for at, kind in self._plan():
            time.sleep(max(0.0, began + at - time.monotonic()))
            self.result.kinds[kind] += 1
            self._inflict(exchange, kind)
        time.sleep(max(0.0, began + TRADING_S - time.monotonic()))
        _wait(lambda: self._enough(exchange), "trades enough")
        self._count_hits(exchange)
        exchange.heal()
        self._alive()
        self._subscribed(exchange, "after the faults")
        time.sleep(0.2 + rng.random() * 0.3)
        exchange.stop_market()
        # One more fill of each, past the end of every bar: what was before it is final, and nothing follows.
        end_ms = max(exchange.fills(name)[-1].ts for name in self._symbols) + EDGE_MS + 1_000
        for name in self._symbols:
            last = exchange.fills(name)[-1]
            exchange.trade(name, last.price, last.size, ts=end_ms)
        lost = sum(len(exchange.absent(name)) for name in self._symbols)
        final = {name: exchange.fills(name)[-1].trade_id for name in self._symbols}
        ledger.settle(self._dsn, final, lost, 10.0 if self._repair else 3.0, self._repair)
        self._stop()

    def _enough(self, exchange: LocalExchange) -> bool:
        """Tell whether every symbol has crossed the edges that a round is to have, and all have traded enough."""
        total, crossed = 0, []
        for name in self._symbols:
            new = [fill for fill in exchange.fills(name) if fill.trade_id > self._begin[name]]
            total += len(new)
            crossed.append(len({fill.ts // EDGE_MS for fill in new}))
        return total > FILLS + 50 and min(crossed) > EDGES + 1

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
            exchange.fault(f"mute=trades-all:{name}")
            time.sleep(rng.uniform(0.1, 0.5))
            exchange.cut()
            exchange.fault("unmute")
            hit = exchange.fills(name)[-1].trade_id > newest
        elif kind == "drop":
            exchange.fault(f"drop={rng.choice([1, 3, 40, 250])}:{name}")
        elif kind == "lose":
            exchange.fault(f"lose={rng.choice([1, 2, 30])}:{name}")
        elif kind == "duplicate":
            exchange.fault(f"duplicate={rng.choice([1, 20, 100])}:{name}")
        elif kind == "old cache":
            hit = False  # `_count_hits` will tell
            exchange.fault(f"stale-rest={rng.choice([500, 5_000, 40_000])}ms")
        elif kind == "429":
            hit = False
            exchange.fault(f"busy={rng.uniform(0.3, 1.5)}s")
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
        """Keep one symbol silent across an edge of 15 s and for longer than lateness and grace; the others trade on.

        It lasts until the silent symbol has traded on both sides of an edge, and another one has traded beside it.
        """
        exchange.fault(f"mute=trades-all:{name}")
        newest = {other: exchange.fills(other)[-1].trade_id for other in self._symbols}
        began = time.monotonic()

        def over() -> bool:
            new = {other: [f.ts for f in exchange.fills(other) if f.trade_id > newest[other]] for other in newest}
            across = len({ts // EDGE_MS for ts in new[name]}) > 1 and new[name][-1] - new[name][0] > LATENESS_MS
            return (
                across
                and time.monotonic() > began + 2 * GRACE_MS / 1000
                and any(new[other] for other in newest if other != name)
            )

        _wait(over, f"trades {name} across an edge")
        if self._rng.random() < 0.5:
            exchange.cut()
        exchange.fault("unmute")

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
            self.result.say("collect does not end within 15 s of SIGTERM")
            return
        if status not in (-signal.SIGTERM, 128 + signal.SIGTERM):
            self.result.say(f"collect ends with {status}")

    def _alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.result.say(f"collect ended by itself with {self._process.returncode}")

    def _backfill(self, exchange: LocalExchange) -> None:
        process = self._run(exchange, "backfill", "--config", str(self._folder / "okx.json"))
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = -9
        if status not in (0, 1):
            self.result.say(f"backfill ends with {status}")

    # ---- waiting

    def _subscribed(self, exchange: LocalExchange, when: str) -> None:
        for name in self._symbols:
            if not exchange.wait_subscribed("trades-all", name, 40):
                raise RuntimeError(f"collect does not subscribe {name} {when}")

    def _written(self, exchange: LocalExchange, final: dict[str, int]) -> None:
        """Wait until the file of fills holds the last ones: it is written out now and then, when something happens."""

        def there() -> bool:
            exchange.heal()
            whole, _, _ = (self._folder / "fills.jsonl").read_text().rpartition("\n")
            ids = {line["instId"]: int(line["tradeId"]) for line in map(json.loads, whole.splitlines()[-200:])}
            return all(ids.get(name) == newest for name, newest in final.items())

        _wait(there, "writes its fills down")

    # ---- the verdict

    def _symbol(self, exchange: LocalExchange, name: str) -> Symbol:
        row = exchange.row(name)
        if row["instType"] == "SPOT":
            return Symbol(name, self._begin[name], exchange.absent(name))
        worth = Decimal(str(row["ctVal"])) * Decimal(str(row["ctMult"] or "1"))
        return Symbol(name, self._begin[name], exchange.absent(name), worth, row["ctType"] == "inverse")

    def _judge(self, symbols: list[Symbol], final: dict[str, int]) -> Verdict:
        verdict = oracle.judge(self._folder / "fills.jsonl", self._dsn, symbols)
        state = ledger.tapes(self._dsn)
        for name, newest in final.items():
            if name in state and state[name].newest > newest:
                verdict.say(f"{name}: the ledger ends at {state[name].newest}, the exchange at {newest}")
        log = (self._folder / "log.txt").read_text(errors="replace")
        if "Traceback" in log or "a bug of okx" in log:
            verdict.say("a traceback or a bug in the log")
        return verdict


def _wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until the exchange has done something.

    Raises:
        RuntimeError: it has not after PATIENCE_S.
    """
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"the exchange is given {PATIENCE_S:.0f} s and never {what}")
        time.sleep(0.02)
