"""Long work: does `okx collect` stay as it is, hour after hour?

`okx collect` takes nine symbols and three channels (trades-all, books5, tickers) from a simulated exchange, whose
fills come at --rate a second, for --minutes. Its memory, descriptors and threads must stay as they are after a
warm-up; every fill must be stored, right and once; every bar of 1, 5 and 15 s must be that of the fills; and the time
from the exchange's stamp to the commit must stay bounded. That time is taken from the commit time that Postgres itself
notes for each row. For Linux alone: the rest is what /proc tells.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from harness import common, oracle
from harness.oracle import Symbol, Verdict
from okxcli.local.exchange import LocalExchange
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base

SYMBOLS = (
    "BTC-USDT", "ETH-USDT", "SOL-USDT", "DOGE-USDT", "TON-USDT", "ETH-USDC", "BTC-USDC", "UNI-USDT", "PEPE-USDT"
)  # fmt: skip
CHANNELS = ("trades-all", "books5", "tickers")
#: The simulated market has lively and dull minutes: it is asked for somewhat more, so that no run gets less.
ASKED = 1.15
#: Descriptors and threads that may come and go: a connection of the database for a moment, a request of REST.
ALLOWED_MORE = 2
_SAMPLE_S = 1.0
_WARM_UP_S = 120.0
_SETTLE_S = 60.0

_WORST = """
SELECT round(extract(epoch FROM max(pg_xact_commit_timestamp(xmin) - timestamp)) * 1000)::bigint
FROM raw_trades WHERE timestamp >= to_timestamp(%(since)s / 1000.0)
GROUP BY floor((extract(epoch FROM timestamp) * 1000 - %(since)s) / %(step)s)
ORDER BY floor((extract(epoch FROM timestamp) * 1000 - %(since)s) / %(step)s)
"""
LAGS = sql.SQL("""
SELECT array_agg((extract(epoch FROM lag) * 1000)::bigint ORDER BY lag) FROM (
    SELECT unnest(percentile_disc(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP (ORDER BY {} - timestamp)) AS lag
    FROM raw_trades WHERE timestamp >= to_timestamp(%s / 1000.0)) AS lags
""")
#: The moments that are compared with the exchange's stamp.
COMMIT, _RECEIPT = sql.SQL("pg_xact_commit_timestamp(xmin)"), sql.SQL("received")


@dataclass(frozen=True)
class Sample:
    """The process at one moment: seconds since the start, resident KiB, descriptors, threads, seconds of CPU so far."""

    at_s: float
    rss: int
    fds: int
    threads: int
    cpu_s: float


@dataclass
class Result:
    """What a run measured."""

    seconds: float = 0.0
    pushed: int = 0
    samples: list[Sample] = field(default_factory=list)
    warm_up_s: float = 0.0
    lags_ms: list[int] = field(default_factory=lambda: [0, 0, 0])  # p50, p99, maximum
    receipts_ms: list[int] = field(default_factory=lambda: [0, 0, 0])
    worst_ms: list[int] = field(default_factory=list)  # of each tenth of the time
    others: dict[str, int] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    problems: list[str] = field(default_factory=list)

    @property
    def steady(self) -> list[Sample]:
        """The samples after the warm-up."""
        return [sample for sample in self.samples if sample.at_s >= self.warm_up_s]


def look(pid: int, at_s: float) -> Sample:
    """Return what /proc says of a process."""
    base = Path("/proc") / str(pid)
    pages = int((base / "statm").read_text().split()[1])
    fds, threads = (len(os.listdir(base / name)) for name in ("fd", "task"))  # noqa: PTH208 - names alone, no objects
    times = (base / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
    cpu_s = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return Sample(at_s, pages * os.sysconf("SC_PAGE_SIZE") // 1024, fds, threads, cpu_s)


class Soak:
    """One run in `folder`, against a database of its own."""

    def __init__(self, options: argparse.Namespace, dsn: str, folder: Path) -> None:
        self._options = options
        self._dsn = dsn
        self._folder = folder
        self.result = Result(warm_up_s=min(_WARM_UP_S, options.minutes * 60 / 3))

    def run(self) -> Result:
        """Let it work, stop it, and judge what is there."""
        config = {"symbols": SYMBOLS, "channels": CHANNELS, "timeframes": [*oracle.LENGTHS_MS, "1m", "5m", "1h"]}
        (self._folder / "okx.json").write_text(json.dumps(config))
        fills = self._folder / "fills.jsonl"
        with LocalExchange(
            SYMBOLS,
            rate=ASKED * self._options.rate,
            seed=int(self._options.seed),
            history_s=5,
            fills_file=fills,
        ) as exchange:
            exchange.stop_market()
            urls = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url, "OKX_DSN": self._dsn}
            env = common.environment(self._folder, **urls)
            process = common.start(["collect", "--config", str(self._folder / "okx.json")], self._folder, env)
            try:
                symbols, since_ms, behind_ms = self._work(exchange, process)
                self._stop(process)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        self.result.verdict = oracle.judge(fills, self._dsn, symbols)
        self._ask(since_ms, behind_ms)
        self._judge()
        return self.result

    def _work(self, exchange: LocalExchange, process: "subprocess.Popen[bytes]") -> tuple[list[Symbol], int, int]:
        """Trade for the time given; return the symbols, when the market began, and how far its clock is behind."""
        result = self.result
        for name in SYMBOLS:
            for channel in CHANNELS:
                if not exchange.wait_subscribed(channel, name, 40):
                    raise RuntimeError(f"collect does not subscribe {channel} of {name}")
        symbols = [Symbol(name, exchange.fills(name)[-1].trade_id, []) for name in SYMBOLS]
        since_ms = exchange.now_ms()
        exchange.run_market()
        behind_ms = time.time_ns() // 1_000_000 - exchange.now_ms()
        began = time.monotonic()
        while (at := time.monotonic() - began) < self._options.minutes * 60 and process.poll() is None:
            result.samples.append(look(process.pid, at))
            time.sleep(_SAMPLE_S)
        exchange.stop_market()
        result.seconds = time.monotonic() - began
        end_ms = exchange.now_ms() + 16_000  # past the end of every judged bar: what was before it is final
        last = {}
        for name in SYMBOLS:
            newest = exchange.fills(name)[-1]
            last[name] = exchange.trade(name, newest.price, newest.size, ts=end_ms)
        result.pushed = sum(last[symbol.name] - symbol.begin for symbol in symbols)
        self._wait_stored(last)
        exchange.heal()  # the file of fills is written out when something happens
        time.sleep(0.5)
        exchange.heal()
        return symbols, since_ms, behind_ms

    def _wait_stored(self, last: dict[str, int]) -> None:
        end = time.monotonic() + _SETTLE_S
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while time.monotonic() < end:
                rows = connection.execute("SELECT symbol, max(last_id) FROM trade_ledger GROUP BY symbol").fetchall()
                if dict(rows) == last:
                    return
                time.sleep(0.2)
        self.result.problems.append(f"the last fills are not stored after {_SETTLE_S:.0f} s")

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        if process.poll() is not None:
            self.result.problems.append(f"collect ended by itself with {process.returncode}")
            return
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(15)
        except subprocess.TimeoutExpired:
            self.result.problems.append("collect does not end within 15 s of SIGTERM")
            return
        if status not in (-signal.SIGTERM, 128 + signal.SIGTERM):
            self.result.problems.append(f"collect ends with {status}")

    def _ask(self, since_ms: int, behind_ms: int) -> None:
        """Ask Postgres for the lags, and for the rows of the other channels."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for moment, lags in ((COMMIT, self.result.lags_ms), (_RECEIPT, self.result.receipts_ms)):
                row = connection.execute(LAGS.format(moment), [since_ms]).fetchone()
                lags[:] = [int(lag) - behind_ms for lag in row[0]] if row is not None and row[0] else lags
            step = max(1, int(self.result.seconds * 100))
            values = {"since": since_ms, "step": step}
            self.result.worst_ms = [row[0] - behind_ms for row in connection.execute(_WORST, values).fetchall()][:10]
            for table in ("order_books", "tickers"):
                query = sql.SQL("SELECT count(DISTINCT symbol), count(*) FROM {}")
                found = connection.execute(query.format(sql.Identifier(table))).fetchone()
                self.result.others[table] = found[1] if found is not None else 0
                if found is None or found[0] != len(SYMBOLS):
                    self.result.problems.append(f"{table}: not of every symbol")

    def _judge(self) -> None:
        """Say what is not as it must be."""
        result, options = self.result, self._options
        result.problems += result.verdict.problems
        if result.verdict.fills < result.pushed:
            result.problems.append(f"the judge saw {result.verdict.fills} fills of {result.pushed}")
        if result.pushed < options.rate * result.seconds:
            result.problems.append(f"only {result.pushed / result.seconds:.0f} fills a second were sent")
        if result.lags_ms[2] > options.lag * 1000:
            result.problems.append(f"a fill was committed {result.lags_ms[2]} ms after its time")
        steady = result.steady
        if len(steady) < 3:
            result.problems.append("too few looks at the process")
            return
        growth = max(sample.rss for sample in steady) / steady[0].rss - 1
        if growth > options.growth / 100:
            result.problems.append(f"the memory grew by {growth:.1%} after the warm-up")
        for name in ("fds", "threads"):
            first, last = (statistics.median(getattr(s, name) for s in third) for third in _ends(steady))
            if last > first + ALLOWED_MORE:
                result.problems.append(f"{name}: {first:.0f} at first, {last:.0f} at last")


def _ends(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the first and the last third."""
    third = max(1, len(samples) // 3)
    return samples[:third], samples[-third:]


def table(result: Result) -> str:
    """Return what was measured, a line each."""
    steady, verdict = result.steady or result.samples, result.verdict
    rss = [sample.rss / 1024 for sample in steady]
    rows = [("fills sent", f"{result.pushed:,} in {result.seconds:.0f} s: {result.pushed / result.seconds:,.0f}/s")]
    rows.append(("fills stored", f"{verdict.stored:,} of {verdict.fills:,}"))
    rows.append(("lost, not of the exchange", f"{verdict.missing:,}, {verdict.extra:,}"))
    rows.append(("bars judged, wrong", f"{verdict.bars:,}, {verdict.wrong_bars + verdict.wrong_complete:,}"))
    rows += [(f"rows of {name}", f"{count:,}") for name, count in result.others.items()]
    rows.append(("time to commit, ms", "p50 {:,}, p99 {:,}, max {:,}".format(*result.lags_ms)))
    rows.append(("  of it until it is received", "p50 {:,}, p99 {:,}, max {:,}".format(*result.receipts_ms)))
    rows.append(("  its maximum over time", " ".join(f"{lag:,}" for lag in result.worst_ms)))
    if rss:
        spent = steady[-1].cpu_s - steady[0].cpu_s
        rows.append(("CPU", f"{spent / max(steady[-1].at_s - steady[0].at_s, 1):.0%} of a core"))
        rows.append((f"memory after {result.warm_up_s:.0f} s, MiB", f"{rss[0]:.1f}"))
        rows.append(("  from then on", f"{min(rss):.1f} to {max(rss):.1f}, {max(rss) / rss[0] - 1:+.1%}"))
        for name, title in (("fds", "descriptors"), ("threads", "threads")):
            values = [getattr(sample, name) for sample in steady]
            medians = [statistics.median(getattr(s, name) for s in third) for third in _ends(steady)]
            text = f"{min(values)} to {max(values)}, median {medians[0]:.0f} at first, {medians[1]:.0f} at last"
            rows.append((title, text))
        every = max(1, len(result.samples) // 10)
        rows.append(("memory over time, MiB", " ".join(f"{s.rss / 1024:.0f}" for s in result.samples[::every])))
    width = max(len(title) for title, _ in rows)
    return "\n".join(f"{title.ljust(width)}  {text}" for title, text in rows)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--minutes", type=float, default=15.0, metavar="N", help="how long (default 15)")
    parser.add_argument("--rate", type=float, default=2000.0, metavar="N", help="fills a second (default 2000)")
    parser.add_argument(
        "--growth", type=float, default=5.0, metavar="PERCENT", help="memory allowed after the warm-up (default 5)"
    )
    parser.add_argument(
        "--lag", type=float, default=5.0, metavar="SECONDS", help="from a fill to its commit, at most (default 5)"
    )


def main(options: argparse.Namespace) -> int:
    """Run it and print the table; 1 when something is not as it must be."""
    if not Path("/proc/self/statm").exists():
        sys.exit("scripts/chaos soak: there is no /proc here: it needs Linux")
    base = throwaway_base()
    folder = Path(tempfile.mkdtemp(prefix="okx-soak-"))
    try:
        with EmbeddedServer(base, {**THROWAWAY, "shared_buffers": "256MB", "track_commit_timestamp": "on"}) as server:
            result = Soak(options, server.dsn, folder).run()
        print(table(result), flush=True)
        for problem in result.problems:
            print(f"scripts/chaos soak: {problem}", file=sys.stderr)
        if result.problems and options.keep:
            shutil.copytree(folder, options.keep, dirs_exist_ok=True)
        return 1 if result.problems else 0
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
