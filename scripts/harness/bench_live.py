"""What okx does while the market talks: how much of a core, how late, how much memory, and is everything there?

Pushes come from `bench_source`, a process of its own that is not counted and stamps each push when it sends it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from harness import common
from harness.bench_source import FIRST_ID, write_frames
from harness.bench_table import PURE, C, Contest, Gauge, Report
from harness.soak import COMMIT, LAGS, SYMBOLS, Sample, look
from okxcli.storage.server import postmaster

if TYPE_CHECKING:
    from harness.bench import Bench

SCRIPTS = Path(__file__).resolve().parents[1]
#: A connection is dialled a second, and there are 50 subscriptions on each.
_DIALS_S, _SETTLE_S = 2.0, 60.0
_WARM_UP_S = 3.0
_WINDOWS = 5


class Source:
    """`bench_source` with a plan, as a process; from `with` to its end."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "harness.bench_source", json.dumps(plan)]
        env = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        os.set_blocking(self._out.fileno(), False)
        self._read = b""
        self._port = self.line(20.0)["port"]

    @property
    def _out(self) -> Any:
        return self._process.stdout

    def line(self, timeout_s: float) -> dict[str, Any]:
        """Return the next line that it writes; exit if none comes."""
        end = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            if time.monotonic() > end or self._process.poll() is not None:
                sys.exit(f"the source of pushes says nothing for {timeout_s:.0f} s")
            self._read += self._out.read() or b""
            time.sleep(0.005)
        line, _, self._read = self._read.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def done(self) -> bool:
        """Whether the report is there to be read."""
        self._read += self._out.read() or b""
        return b"\n" in self._read

    @property
    def urls(self) -> dict[str, str]:
        """What okx is told by its environment."""
        place = f"127.0.0.1:{self._port}"
        return {"OKX_WS_URL": f"ws://{place}", "OKX_REST_URL": f"http://{place}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()


@dataclass(frozen=True)
class Load:
    """What is pushed a second, and what `collect` may take for it: of one core in percent, of time in ms, of MiB."""

    title: str
    symbols: tuple[str, ...]
    rates: Mapping[str, int]
    cpu: float | None = None
    lag_ms: float | None = None
    mib: float | None = None
    says: str = ""

    @property
    def connections(self) -> int:
        """How many `collect` takes for it, at most."""
        return len(self.rates) * (len(self.symbols) // 50 + 1) + 1


@dataclass
class Collected:
    """What was seen of a run."""

    report: dict[str, Any]
    began_s: float = 0.0
    samples: list[tuple[Sample, float]] = field(default_factory=list)  # with the CPU of Postgres so far
    peak_kib: int = 0
    lags_ms: list[int] = field(default_factory=list)  # p50, p99, maximum

    def shares(self, of_postgres: bool = False) -> list[float]:
        """Return the share of a core, in percent, in each of some equal parts of the time after the warm-up."""
        steady = [pair for pair in self.samples if pair[0].at_s >= min(_WARM_UP_S, self.samples[-1][0].at_s / 2)]
        step = max(1, (len(steady) - 1) // _WINDOWS)
        ends = steady[::step]
        return [
            100 * (b[1] - a[1] if of_postgres else b[0].cpu_s - a[0].cpu_s) / (b[0].at_s - a[0].at_s)
            for a, b in pairwise(ends)
        ]


def many(count: int) -> tuple[str, ...]:
    """Return so many names of symbols."""
    return tuple(f"S{n:04d}-USDT" for n in range(count))


def high_water(pid: int) -> int:
    """Return the peak resident memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def cpu_of_server(data: Path) -> float:
    """Return the seconds of CPU that a Postgres has taken, with all its processes."""
    mother = postmaster.pid_of(data)
    if mother is None:
        return 0.0
    children = map(int, Path(f"/proc/{mother}/task/{mother}/children").read_text().split())
    ticks = 0
    for pid in (mother, *children):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended; its mother knows
            continue
        ticks += sum(map(int, fields[11 : 15 if pid == mother else 13]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def collecting(folder: Path, source: Source, load: Load, dsn: str, pure: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Have `okx collect` take it all in; it is ended by SIGTERM, and what it says is in log.txt of the folder."""
    folder.mkdir(exist_ok=True)
    config: dict[str, Any] = {"symbols": load.symbols, "channels": list(load.rates)}
    if "trades-all" not in load.rates:
        config["timeframes"] = []
    (folder / "okx.json").write_text(json.dumps(config))
    env = common.environment(folder, OKX_DSN=dsn, OKX_PURE=pure, **source.urls)
    process = common.start(["collect", "--config", str(folder / "okx.json")], folder, env)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def collect(
    folder: Path, load: Load, seconds: float, dsn: str, data: Path, pure: str = "", profile: Sequence[str] = ()
) -> Collected:
    """Run `collect` for so long; exit unless everything is stored. `profile`: a command that is given its pid."""
    plan = {"symbols": load.symbols, "channels": list(load.rates), "rates": load.rates, "seconds": seconds}
    with Source(plan) as source, collecting(folder, source, load, dsn, pure) as process:
        began = source.line(load.connections * _DIALS_S + _SETTLE_S)
        watching = subprocess.Popen([*profile, str(process.pid)]) if profile else None
        seen = Collected({}, began["began"])
        while not source.done and process.poll() is None:
            at_s = time.monotonic() - began["began"]
            seen.samples.append((look(process.pid, at_s), cpu_of_server(data)))
            time.sleep(min(0.5, seconds / 20))
        if process.poll() is not None:
            sys.exit(f"okx collect ended by itself:\n{(folder / 'log.txt').read_text()[-2000:]}")
        seen.report = source.line(_SETTLE_S)
        _wait_stored(dsn, seen.report["ids"])
        seen.peak_kib = high_water(process.pid)
        if watching is not None:
            watching.wait()
    with psycopg.connect(dsn, autocommit=True) as connection:
        compare(connection, seen.report)
        row = connection.execute(LAGS.format(COMMIT), [began["wall_ms"]]).fetchone()
        seen.lags_ms = list(map(int, row[0])) if row is not None else []
    return seen


def _wait_stored(dsn: str, ids: Mapping[str, int]) -> None:
    end = time.monotonic() + _SETTLE_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < end:
            rows = connection.execute("SELECT symbol, max(last_id) FROM trade_ledger GROUP BY symbol").fetchall()
            if dict(rows) == ids:
                return
            time.sleep(0.1)


def compare(connection: psycopg.Connection, report: Mapping[str, Any]) -> None:
    """Exit unless all fills and tickers that were sent are stored, once, and a book of each symbol that had any."""
    rows = connection.execute("SELECT symbol, count(*), max(trade_id) FROM raw_trades GROUP BY symbol").fetchall()
    stored = {symbol: (count, last) for symbol, count, last in rows}
    sent = {symbol: (last - FIRST_ID, last) for symbol, last in report["ids"].items()}
    if stored != sent:
        odd = [symbol for symbol in sent if stored.get(symbol) != sent[symbol]]
        told = ", ".join(f"{symbol} {stored.get(symbol)} of {sent[symbol]}" for symbol in odd[:5])
        sys.exit(f"not the fills that were sent, by number and last id: {told}")
    for table, channel in (("raw_trades", "trades-all"), ("tickers", "tickers")):
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        if found != (report["sent"].get(channel, 0) - report["same"].get(channel, 0),):
            sys.exit(f"{table}: {found} rows of {report['sent'].get(channel, 0)}")
    books = connection.execute("SELECT count(DISTINCT symbol) FROM order_books").fetchone()
    if "books5" in report["sent"] and books != (len(sent),):
        sys.exit(f"order_books: of {books} symbols of {len(sent)}")


LOADS = {
    "300x3": Load(
        "collect: 300 symbols, three channels, 4,000 messages/s", many(300),
        {"trades-all": 1_000, "books5": 2_000, "tickers": 1_000}, cpu=25,
    ),
    "nine": Load("collect: nine symbols, 5,000 trades/s", SYMBOLS, {"trades-all": 5_000}, cpu=15),
    "thousand": Load(
        "collect: 1,000 symbols, 10,000 trades/s", many(1_000), {"trades-all": 10_000}, lag_ms=2_000, mib=200
    ),
}  # fmt: skip


def row_of(bench: "Bench", load: Load, pure: bool = True) -> Report:
    """Return a row about `collect`; told for the Python road too, if `pure`."""
    says = (
        f"{'; '.join(f'{rate:,} {channel}/s' for channel, rate in load.rates.items())}, for {bench.seconds:g} s, six "
        f"timeframes, a book a second; every fill{' and ticker' * ('tickers' in load.rates)} that was sent is stored. "
        "CPU is user and system time of the collector's process, of one core, spread over fifths of the time."
    )

    def measure(_rounds: int) -> list[Gauge]:
        return [
            gauge
            for name, road in ((("C kernels", ""), ("Python alone", "1")) if pure else (("C kernels", ""),))
            for gauge in _gauges(bench, load, name, road)
        ]

    return Report(load.title, measure, says)


def _gauges(bench: "Bench", load: Load, name: str, road: str) -> list[Gauge]:
    postgres = bench.timed_postgres
    with postgres.fresh() as dsn:
        folder = bench.folder / f"collect-{len(load.symbols)}-{road}"
        seen = collect(folder, load, bench.seconds, dsn, postgres.data, road)
    first = not road
    late = seen.report["late_ms"]
    sent = sum(seen.report["sent"].values()) / seen.report["seconds"]
    return [
        Gauge(f"{name}: CPU", seen.shares(), "%", load.cpu if first else None),
        Gauge(f"{name}: CPU of Postgres", seen.shares(of_postgres=True), "%"),
        Gauge(f"{name}: threads", [seen.samples[-1][0].threads]),
        Gauge(f"{name}: peak memory", [seen.peak_kib / 1024], "MiB", load.mib if first else None),
        Gauge(f"{name}: sent to committed, p50", [seen.lags_ms[0]], "ms"),
        Gauge(f"{name}: sent to committed, p99", [seen.lags_ms[1]], "ms", load.lag_ms if first else None),
        Gauge(f"{name}: sent", [sent], "a second"),
        Gauge(f"{name}: behind its plan was the source, p99", [late["99"]], "ms"),
        Gauge(f"{name}: unread by the collector, at most", [seen.report["backlog"] / 1024], "KiB"),
    ]


def stream(bench: "Bench") -> Contest:
    """`okx stream` and a bare loop over websocket-client's recv_data, one after the other from the same source."""
    rows = min(bench.rows, 1_000_000)
    frames, lines, out = (bench.folder / f"stream.{name}" for name in ("frames", "lines", "out"))
    write_frames(frames, lines, list(SYMBOLS), rows)
    plan = {"symbols": SYMBOLS, "channels": ["trades-all"], "file": str(frames)}
    names = ",".join(SYMBOLS)
    script = [sys.executable, str(SCRIPTS / "peers" / "plain_stream.py")]

    def taken(command: Callable[[str], list[str]], **env: str) -> float:
        with Source(plan) as source, out.open("wb") as target:
            home = common.environment(bench.folder, **source.urls, **env)
            process = subprocess.Popen(command(source.urls["OKX_WS_URL"]), stdout=target, env=home)
            began = source.line(60.0)["began"]
            status = process.wait()
            took = time.monotonic() - began
        if status:
            sys.exit(f"{' '.join(command(''))}: exit {status}")
        compare_lines(out, lines)
        return float(took)

    okx = [sys.executable, "-m", "okxcli", "stream", "-q", *SYMBOLS, "-n", str(rows)]
    return Contest(
        "stream: trades-all of nine symbols, at full speed", rows,
        {C: lambda: taken(lambda _: okx, OKX_PURE=""), PURE: lambda: taken(lambda _: okx, OKX_PURE="1")},
        "websocket-client's recv_data", lambda: taken(lambda url: [*script, f"{url}/ws/v5/business", names, str(rows)]),
        {C: 1.2, PURE: 1.2}, "no keep-alive, no repair of holes, no reconnect. From the first push to the end.",
    )  # fmt: skip


def compare_lines(made: Path, sent: Path) -> None:
    """Exit unless a file ends with what was sent, byte for byte; before that may stand what symbols are."""
    size = sent.stat().st_size
    with made.open("rb") as ours, sent.open("rb") as theirs:
        head = ours.read(max(0, made.stat().st_size - size))
        odd = [line for line in head.splitlines() if b'"channel":"instruments"' not in line and b'"event"' not in line]
        while not odd and (block := theirs.read(1 << 20)):
            odd = [] if ours.read(len(block)) == block else [block]
    if odd or len(head) + size != made.stat().st_size:
        sys.exit(f"not the lines that were sent: {made.stat().st_size} bytes of {size}")


ROWS: dict[str, Callable[["Bench"], Contest | Report]] = {
    "stream": stream,
    "collect-300x3": lambda bench: row_of(bench, LOADS["300x3"]),
    "collect-nine": lambda bench: row_of(bench, LOADS["nine"]),
    "collect-thousand": lambda bench: row_of(bench, LOADS["thousand"], pure=False),
}
