"""A scene: a simulated exchange, a Postgres of the harness's own, `okx collect` between them, and what they made of it.

Faults are dealt one after the other while everything runs. Each one closes with `hit`, so that every fill belongs to
the fault in whose time it was traded, and the table can tell which fault lost one.
"""

import json
import os
import signal
import subprocess
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import psycopg

from harness import common, oracle
from harness.common import Row
from harness.oracle import Symbol, Verdict
from harness.server import Postgres
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

NINE = (
    "BTC-USDT", "ETH-USDT", "SOL-USDT", "PEPE-USDT", "DOGE-USDT", "XRP-USDT", "TON-USDT", "UNI-USDT", "ETH-USDC",
)  # fmt: skip
#: Longer than any bar that is made.
_BEYOND_MS = 16_000
#: What is broken must be whole again by then.
PATIENCE_S = 90.0
_STOP_S = 10.0


@dataclass(frozen=True)
class Hit:
    """A fault that is over: its name, the state it met, the newest ids of the market then, and how long it took."""

    fault: str
    state: str
    newest: Mapping[str, int]
    recovered_s: float | None


class Scene:
    """A context manager; `collect` runs from `begin` to `end`.

    `postgres` must be running. `program` is what Python runs in place of `okx`, `variables` are added to its
    environment.
    """

    def __init__(
        self,
        folder: Path,
        postgres: Postgres,
        *,
        seed: int,
        rate: float,
        symbols: Sequence[str] = NINE,
        program: Sequence[str] = ("-m", "okxcli"),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.postgres = postgres
        self.symbols = tuple(symbols)
        self.problems: list[str] = []
        self.hits: list[Hit] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.ended_s = 0.0
        self._program = program
        self._variables = dict(variables or {})
        self._fills = folder / "fills.jsonl"
        self._begun: dict[str, int] = {}
        self._began_s = 0.0
        self._traded_s = 0.0
        self.exchange = LocalExchange(
            self.symbols,
            rate=rate,
            seed=seed,
            history_s=5,
            keep=200_000,
            fills_file=self._fills,
            options=Options(limits=0, seed=seed),
        )
        config = {
            "symbols": list(self.symbols),
            "channels": ["trades-all"],
            "timeframes": list(oracle.LENGTHS_MS),
            "candles": {"lateness": "2s", "grace": "1s"},
        }
        (folder / "okx.json").write_text(json.dumps(config))

    def __enter__(self) -> Self:
        self.exchange.__enter__()
        self.exchange.stop_market()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()
        self.exchange.__exit__(kind, error, _)

    # ---- collect

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every `okx` of this scene."""
        urls = {"OKX_WS_URL": self.exchange.ws_url, "OKX_REST_URL": self.exchange.rest_url}
        config = {"OKX_CONFIG": str(self.folder / "okx.json")}
        dsn = {"OKX_DSN": self.postgres.dsn} if self.postgres.private else {}
        return common.environment(self.folder, **dsn, **urls, **config) | self._variables

    @property
    def log(self) -> str:
        """Everything that `okx` has said."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def begin(self) -> None:
        """Start `collect`, let the market trade, and return once the tape of every symbol has begun."""
        self.start()
        self.subscribed()
        self.run_market()
        self.wait_stored()

    def run_market(self) -> None:
        """Let the market trade; what is traded from now on is to be stored."""
        self._begun = self.newest()
        self._began_s = time.monotonic()
        self.exchange.run_market()
        time.sleep(0.5)

    def start(self) -> None:
        """Start `collect`."""
        self.process = common.start(["collect", "-v"], self.folder, self.environment, self._program)

    def subscribed(self) -> None:
        """Wait until every symbol is subscribed to.

        Raises:
            RuntimeError: that does not happen.
        """
        for name in self.symbols:
            if not self.exchange.wait_subscribed("trades-all", name, 60):
                raise RuntimeError(f"nobody subscribes to {name}: {self.log[-400:]}")

    def kill(self) -> None:
        """Kill `collect` if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def alive(self) -> None:
        """Note it if `collect` has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            self.problems.append(f"collect ended by itself with {self.process.returncode}")
            raise RuntimeError(f"collect ended by itself with {self.process.returncode}: {self.log[-400:]}")

    def terminate(self) -> None:
        """End `collect` by SIGTERM, and note it if that takes too long or leaves something behind."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.problems.append("collect does not end at all")
            self.kill()
            return
        self.ended_s = max(self.ended_s, time.monotonic() - began)
        if self.ended_s > _STOP_S:
            self.problems.append(f"collect takes {self.ended_s:.1f} s to end")
        if status not in (-signal.SIGTERM, 128 + signal.SIGTERM):
            self.problems.append(f"collect ends with {status}")

    # ---- what is traded and stored

    def newest(self) -> dict[str, int]:
        """Return the newest id of each symbol."""
        return {name: self.exchange.fills(name)[-1].trade_id for name in self.symbols}

    def spooled(self) -> list[Path]:
        """Return the files that wait in spools."""
        state = Path(self.environment["XDG_STATE_HOME"])
        return sorted(state.glob("okx/spool/*/*.jsonl"))

    def wait_stored(self, patience_s: float = PATIENCE_S) -> float:
        """Wait until the newest of what is traded by now is stored and the spool is empty; return how long that took.

        Raises:
            RuntimeError: it does not happen.
        """
        wanted = self.newest()
        began = time.monotonic()
        while True:
            stored = self.stored()
            if all(stored.get(name, 0) >= last for name, last in wanted.items()) and not self.spooled():
                return time.monotonic() - began
            if time.monotonic() - began > patience_s:
                lacking = {name: last - stored.get(name, 0) for name, last in wanted.items()}
                raise RuntimeError(f"not stored after {patience_s:.0f} s: {lacking}, spool {self.spooled()}")
            self.alive()
            time.sleep(0.05)

    def stored(self) -> dict[str, int]:
        """Return the newest stored id of each symbol; none while the database is away."""
        try:
            with psycopg.connect(self.postgres.dsn, autocommit=True, connect_timeout=5) as connection:
                connection.execute("SET statement_timeout = '5s'")
                rows = connection.execute("SELECT symbol, max(last_id) FROM trade_ledger GROUP BY 1").fetchall()
                return {name: last for name, last in rows if last is not None}
        except psycopg.Error:
            return {}  # not back yet

    @contextmanager
    def play(self, name: str) -> Iterator[None]:
        """Note what cannot be played to its end, and stop the market: what was stored is judged all the same."""
        try:
            yield
        except RuntimeError as error:
            self.problems.append(str(error))
            self.stop_market()
            if not self.hits:
                self.hit(name, "stuck", None)

    def hit(self, fault: str, state: str, recovered_s: float | None) -> None:
        """Note that a fault is over: what was traded since the last one belongs to it."""
        self.hits.append(Hit(fault, state, self.newest(), recovered_s))

    # ---- the end

    def end(self) -> None:
        """Stop the market, wait until the last fill is stored, and end `collect`."""
        self.stop_market()
        self.wait_stored()
        self.terminate()

    def stop_market(self) -> None:
        """Stop the market with a last fill of each symbol past the end of every bar: what was before it is final."""
        self.exchange.stop_market()
        self._traded_s = time.monotonic() - self._began_s
        past = max(self.exchange.fills(name)[-1].ts for name in self.symbols) + _BEYOND_MS
        for name in self.symbols:
            last = self.exchange.fills(name)[-1]
            self.exchange.trade(name, last.price, last.size, ts=past)

    def judge(self) -> tuple[list[Row], Verdict, float]:
        """Compare what is stored with what was traded; return a row for each fault and state, all, and the rate."""
        if not self._begun:
            return [], Verdict(), 0.0
        last = self.newest()
        end = time.monotonic() + 20
        while not self._written(last):
            self.exchange.heal()  # it writes its file when something happens
            if time.monotonic() > end:
                raise RuntimeError("the exchange does not write its fills down")
            time.sleep(0.1)
        symbols = [Symbol(name, self._begun[name], []) for name in self.symbols]
        verdict = oracle.judge(self._fills, self.postgres.dsn, symbols)
        if "Traceback" in self.log or "a bug of okx" in self.log:
            verdict.say("a traceback or a bug in the log")
        rows = self._rows()
        return rows, verdict, sum(row.rows_in for row in rows) / max(self._traded_s, 0.001)

    def _written(self, last: Mapping[str, int]) -> bool:
        with self._fills.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 40_000))
            lines = file.read().split(b"\n")[1:-1]
        ids = {line["instId"]: int(line["tradeId"]) for line in map(json.loads, lines)}
        return all(ids.get(name) == number for name, number in last.items())

    def _rows(self) -> list[Row]:
        traded = duckdb.execute(
            "SELECT instId, tradeId::BIGINT FROM read_json(?, columns = {instId: 'VARCHAR', tradeId: 'VARCHAR'})",
            [str(self._fills)],
        ).fetchall()
        with psycopg.connect(self.postgres.dsn) as connection:
            found = Counter(
                {(name, number): n for name, number, n in connection.execute(
                    "SELECT symbol, trade_id, count(*) FROM raw_trades GROUP BY 1, 2"
                )}
            )  # fmt: skip
        first = {name: min(number for symbol, number in found if symbol == name) for name in {key[0] for key in found}}
        edges = {name: [one.newest[name] for one in self.hits] for name in self.symbols}
        sums: dict[tuple[str, str], list[int]] = {(one.fault, one.state): [0, 0, 0, 0] for one in self.hits}
        for name, number in traded:
            if number < self._begun[name] or (number == self._begun[name] and number < first.get(name, 0)):
                continue  # from before the start
            at = min(bisect_right(edges[name], number - 1), len(self.hits) - 1)
            row = sums[self.hits[at].fault, self.hits[at].state]
            count = found[name, number]
            for place, value in enumerate((1, count > 0, count == 0, max(count - 1, 0))):
                row[place] += value
        rounds = Counter((one.fault, one.state) for one in self.hits)
        slowest: dict[tuple[str, str], float] = {}
        for one in self.hits:
            if one.recovered_s is not None:
                slowest[one.fault, one.state] = max(slowest.get((one.fault, one.state), 0.0), one.recovered_s)
        return [Row(*key, rounds[key], *numbers, slowest.get(key)) for key, numbers in sorted(sums.items())]
