"""How much of a core do order books take: 50 of 400 levels, ten updates a second each, collected and in a pipe?"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg

from harness import common
from harness.bench_live import Load, Source, collecting, high_water, many
from harness.bench_table import Gauge, Report
from harness.soak import look

if TYPE_CHECKING:
    from harness.bench import Bench

LOAD = Load("books: 50 of 400 levels, ten updates a second each", many(50), {"books": 500}, cpu=20)
_PARTS = 5
_PIPE = (
    ["stream", "-q", "-c", "books", *LOAD.symbols],
    ["normalize", "-q"],
    ["books", "-q", "--every", "1s", "--depth", "25"],
)


def _shares(source: Source, seconds: float, pids: Iterable[int]) -> list[float]:
    """Return the share of a core, in percent, that processes take together, in equal parts of the time of pushing."""
    source.line(120.0)
    marks: list[tuple[float, float]] = []
    while not source.done:
        now = time.monotonic()
        if not marks or now - marks[-1][0] >= seconds / _PARTS:
            marks.append((now, sum(look(pid, 0).cpu_s for pid in pids)))
        time.sleep(0.05)
    source.line(60.0)
    return [100 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(marks)]


def _plan(seconds: float) -> dict[str, object]:
    return {"symbols": LOAD.symbols, "channels": ["books"], "rates": LOAD.rates, "seconds": seconds}


def collected(bench: "Bench") -> tuple[list[float], float]:
    """Return what `okx collect` takes, and its peak memory in MiB; exit unless a book a second is stored of each."""
    with (
        bench.timed_postgres.fresh() as dsn,
        Source(_plan(bench.seconds)) as source,
        collecting(bench.folder / "collect-books", source, LOAD, dsn, "") as process,
    ):
        shares = _shares(source, bench.seconds, [process.pid])
        peak = high_water(process.pid) / 1024
        time.sleep(1.0)
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute("SELECT count(*), count(DISTINCT symbol) FROM order_books").fetchone()
    _whole(bench, row[0] if row else 0)
    return shares, peak


def piped(bench: "Bench") -> list[float]:
    """Return what `okx stream | okx normalize | okx books` take together; exit if a book of it broke."""
    counts = bench.folder / "books.stats"
    with Source(_plan(bench.seconds)) as source, ExitStack() as stack:
        env = common.environment(bench.folder, **source.urls)
        stages: list[subprocess.Popen[bytes]] = []
        for stage in _PIPE:
            last = len(stages) + 1 == len(_PIPE)
            stages.append(
                subprocess.Popen(
                    [sys.executable, "-m", "okxcli", *stage, *(["--stats", str(counts)] if last else [])],
                    stdin=stages[-1].stdout if stages else subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                    env=env,
                )
            )
            stack.callback(stages[-1].kill)
        for one in stages[:-1]:
            one.stdout.close()  # type: ignore[union-attr]
        shares = _shares(source, bench.seconds, [one.pid for one in stages])
        stages[0].terminate()
        for one in stages:
            one.wait(60)
    found = json.loads(counts.read_text())
    if found["gaps"]:
        sys.exit(f"okx books: {found}")
    _whole(bench, found["books"])
    return shares


def _whole(bench: "Bench", books: int) -> None:
    if books < 50 * (bench.seconds - 3):
        sys.exit(f"{books} books: not one a second of each symbol")


def books(bench: "Bench") -> Report:
    """Return the row."""
    says = (
        f"for {bench.seconds:g} s, updates of 26 levels as recorded, a book of 25 levels a second written of each. CPU "
        "is user and system time, of one core, over fifths of the time; of the pipe, that of all three processes."
    )

    def measure(_rounds: int) -> list[Gauge]:
        shares, peak = collected(bench)
        return [
            Gauge("okx collect: CPU", shares, "%", LOAD.cpu),
            Gauge("okx collect: peak memory", [peak], "MiB"),
            Gauge("stream | normalize | books: CPU", piped(bench), "%"),
        ]

    return Report(LOAD.title, measure, says)


ROWS: dict[str, Callable[["Bench"], Report]] = {"books": books}
