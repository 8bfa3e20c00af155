"""How late is a trade: from its sending to the line that tells of it, and to its commit.

The source notes when it sends each fill (CLOCK_MONOTONIC, which all processes share), the bench when it can read the
line. Whoever reads lines is the same for every contestant.
"""

import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import common
from harness.bench_live import SCRIPTS, Load, Source, collect
from harness.bench_table import Gauge, Report
from harness.soak import SYMBOLS

if TYPE_CHECKING:
    from harness.bench import Bench

#: Shares of the fills that are as early or earlier.
_SHARES = (50, 99)
_TRADES_S = 1_000
_COMMITS_S = 2_000
_INTERVAL_MS = 250
#: A raw line, and one of ours: symbol and id.
_RAW = re.compile(rb'"instId":"([^"]+)","tradeId":"([0-9]+)"')
_OURS = re.compile(rb'"symbol":"([^"]+)","trade_id":([0-9]+)')

Fill = tuple[bytes, int]


def sent_at(log: Path, symbols: Sequence[str]) -> dict[Fill, int]:
    """Return when each fill was sent, in ns."""
    numbers = array("q")
    numbers.frombytes(log.read_bytes())
    every = iter(numbers)
    return {(symbols[place].encode(), number): at for place, number, at in zip(every, every, every, strict=True)}


def read_at(blocks: Sequence[tuple[int, bytes]], form: "re.Pattern[bytes]") -> dict[Fill, int]:
    """Return when each line was whole, in ns, from what was read and when."""
    found: dict[Fill, int] = {}
    rest = b""
    for at, block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            match = form.search(line)
            if match is not None:
                found[match[1], int(match[2])] = at
    return found


def delays(sent: Mapping[Fill, int], read: Mapping[Fill, int]) -> list[float]:
    """Return how long each fill took in ms, in order; exit unless every one that was sent was read."""
    lost = [fill for fill in sent if fill not in read]
    if lost or not sent:
        sys.exit(f"{len(lost)} of {len(sent)} fills that were sent were not read, such as {lost[:3]}")
    return sorted((read[fill] - at) / 1e6 for fill, at in sent.items())


def share(values: Sequence[float], percent: int) -> float:
    """Return the value below which so many percent lie."""
    return values[min(len(values) - 1, len(values) * percent // 100)]


def _follow(bench: "Bench", command: Callable[[str], list[str]], form: "re.Pattern[bytes]", road: str) -> list[float]:
    """Run one contestant while the source pushes; return the delays."""
    log = bench.folder / "latency.log"
    seconds = max(1.0, bench.seconds / 6)
    rates = {"trades-all": _TRADES_S}
    plan = {"symbols": SYMBOLS, "channels": ["trades-all"], "rates": rates, "seconds": seconds, "log": str(log)}
    with Source(plan) as source:
        env = common.environment(bench.folder, OKX_PURE=road, **source.urls)
        run = command(source.urls["OKX_WS_URL"])
        process = subprocess.Popen(run, stdout=subprocess.PIPE, env=env, start_new_session=True)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        try:
            source.line(60.0)
            blocks = _blocks(process.stdout.fileno(), source)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            process.stdout.close()
    return delays(sent_at(log, SYMBOLS), read_at(blocks, form))


def _blocks(fd: int, source: Source) -> list[tuple[int, bytes]]:
    """Return what can be read, and when, until the source has sent all and nothing comes any more."""
    found: list[tuple[int, bytes]] = []
    until = None
    while until is None or time.monotonic() < until:
        try:
            block = os.read(fd, 1 << 20)
        except BlockingIOError:
            time.sleep(0.0002)
            if until is None and source.done:
                until = time.monotonic() + 1.0
            continue
        if not block:
            break
        found.append((time.monotonic_ns(), block))
    return found


def to_a_line(bench: "Bench") -> Report:
    """`okx stream | okx normalize`, and the bare loop, from the sending to the line."""
    okx = shlex.join([sys.executable, "-m", "okxcli"])
    pipe = ["sh", "-c", f"{okx} stream -q {' '.join(SYMBOLS)} | {okx} normalize -q"]
    loop = [sys.executable, str(SCRIPTS / "peers" / "plain_stream.py")]
    names = ",".join(SYMBOLS)
    everybody: dict[str, tuple[Callable[[str], list[str]], re.Pattern[bytes], str]] = {
        "C kernels": (lambda _: pipe, _OURS, ""),
        "Python alone": (lambda _: pipe, _OURS, "1"),
        "bare loop": (lambda url: [*loop, f"{url}/ws/v5/business", names, str(10**9), "at once"], _RAW, ""),
    }

    def measure(rounds: int) -> list[Gauge]:
        taken: dict[str, list[list[float]]] = {name: [] for name in everybody}
        for _ in range(rounds):
            for name, contestant in everybody.items():
                taken[name].append(_follow(bench, *contestant))
        return gauges(taken)

    return Report(
        f"latency: {_TRADES_S:,} trades/s, from the sending to a line", measure,
        "okx stream | okx normalize beside a websocket-client loop that writes each push out at once and reads nothing "
        "of it; every fill that was sent has its line. At most: the bare loop and 1 ms at the median, 5 ms at p99.",
    )  # fmt: skip


def gauges(taken: Mapping[str, Sequence[Sequence[float]]]) -> list[Gauge]:
    """Return the rows of the table, with what the bare loop takes and a little as the limit of ours."""
    found = []
    for percent, more in zip(_SHARES, (1.0, 5.0), strict=True):
        values = {name: [share(one, percent) for one in some] for name, some in taken.items()}
        limit = statistics.median(values["bare loop"]) + more
        for name, some in values.items():
            found.append(Gauge(f"{name}: p{percent}", some, "ms", limit if name == "C kernels" else None))
    return found


def to_commit(bench: "Bench") -> Report:
    """`okx collect`, from the sending to the commit, as Postgres noted it."""
    load = Load("", SYMBOLS, {"trades-all": _COMMITS_S})

    def measure(_rounds: int) -> list[Gauge]:
        with bench.timed_postgres.fresh() as dsn:
            seen = collect(bench.folder / "commits", load, bench.seconds, dsn, bench.timed_postgres.data)
        limits = (None, 2.0 * _INTERVAL_MS, None)
        names = ("p50", "p99", "longest")
        return [Gauge(name, [value], "ms", most) for name, value, most in zip(names, seen.lags_ms, limits, strict=True)]

    return Report(
        f"latency: {_COMMITS_S:,} trades/s, from the sending to the commit", measure,
        f"okx collect, which commits every {_INTERVAL_MS} ms; by the clock of Postgres, to the ms; all fills stored.",
    )  # fmt: skip


ROWS: dict[str, Callable[["Bench"], Report]] = {"latency-line": to_a_line, "latency-commit": to_commit}
