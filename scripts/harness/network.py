"""Faults of the connection to the exchange, one by one, in real time.

`okx collect` runs against a simulated exchange for each fault: cuts, half-open connections, missing pongs and
answers, mute channels, closes, the planned 64008, refused connections, a name server that fails, certificates that do
not do, TLS that is cut in the middle of the handshake, delistings, 60018, a process that is stopped, a wall clock that
steps. Each must be noticed within its time, and afterwards the rows, the ledger and every candle must equal what DuckDB
makes of the exchange's own list of fills. All faults run side by side; a round takes a minute and a half. --plant takes
the repair out, so that fills that are left out of the pushes are lost: exit 1 says that this was noticed.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from harness import common
from harness.common import Row
from harness.gate import Gate
from harness.network_faults import FAULTS, RUN, Field, flags
from harness.scene import Scene
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base

SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
RATE = 60.0
#: A machine that is short of time may be late by so much in a run with shorter times.
_SLACK_S = 3.0


@dataclass(frozen=True)
class Place:
    """A database for a scene: as much of a server as that needs."""

    dsn: str
    private: bool = True


class Present(Scene):
    """A scene whose market has the time of the wall clock: bars of a live market are closed by that, too."""

    def run_market(self) -> None:
        """Let the market trade from now on, beginning with what it would have by now."""
        self.exchange.set_time(time.time_ns() // 1_000_000)
        super().run_market()


@dataclass(frozen=True)
class Plan:
    """What all faults share."""

    seed: str
    rounds: int
    scale: float = 1.0
    repair: bool = True
    keep: str | None = None


@dataclass
class Played:
    """What came of all rounds of a fault."""

    name: str
    rows: list[Row] = field(default_factory=list)
    found_s: float | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bars: int = 0


def play(name: str, plan: Plan, server_dsn: str) -> Played:
    """Deal one fault so many times as the plan says, in a scene of its own."""
    played = Played(name)
    rng = random.Random(f"network/{plan.seed}/{name}")
    database = f"network_{sum(name.encode())}_{rng.randrange(1 << 40)}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")
    folder = Path(tempfile.mkdtemp(prefix="okx-chaos-"))
    program = ("-c", RUN, str(plan.scale), str(flags(folder)), "repair" if plan.repair else "none")
    place = Place(make_conninfo(server_dsn, dbname=database))
    with ExitStack() as stack:
        gate = stack.enter_context(Gate(folder)) if name.startswith("tls") else None
        scene = Present(
            folder, place, seed=rng.randrange(1 << 30), rate=RATE, symbols=SYMBOLS, program=program,
            variables=None if gate is None else gate.urls(),
        )  # fmt: skip
        stack.enter_context(scene)
        if gate is not None:
            gate.to = int(scene.exchange.ws_url.rpartition(":")[2])
        with scene.play(name):
            scene.begin()
            deal(name, Field(scene, rng, plan.scale, gate), plan, played)
            scene.end()
        rows, verdict, _ = scene.judge()
        played.rows, played.bars = rows, verdict.bars
        played.problems += [*scene.problems, *verdict.problems]
    if played.problems and plan.keep:
        shutil.copytree(folder, Path(plan.keep) / name.replace(" ", "-"), dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {database} WITH (FORCE)")
    return played


def deal(name: str, place: Field, plan: Plan, played: Played) -> None:
    """Deal a fault, again and again; note how long it took to be noticed and to be over."""
    make, bound_s = FAULTS[name]
    for _ in range(plan.rounds):
        place.scene.subscribed()  # what was broken before is over: else the same word is not said again
        time.sleep(place.rng.uniform(0.5, 2.0))
        met = make(place)
        recovered_s = place.scene.wait_stored()
        place.scene.hit(name, met.state, recovered_s)
        if met.found_s is not None:
            played.found_s = max(played.found_s or 0.0, met.found_s)
        if bound_s is not None and met.found_s is not None:
            limit_s = bound_s / plan.scale + (_SLACK_S if plan.scale > 1 else 0)
            if met.found_s > limit_s:
                played.problems.append(f"noticed after {met.found_s:.1f} s, which is over {limit_s:.1f} s")
        if met.note:
            played.notes.append(met.note)


def run(names: Sequence[str], plan: Plan, jobs: int) -> list[Played]:
    """Play these faults, several side by side; return them in order."""
    base = throwaway_base()
    done: list[Played] = []
    try:
        with EmbeddedServer(base, THROWAWAY) as server, ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            waiting = [pool.submit(play, name, plan, server.dsn) for name in names]
            try:
                for future in as_completed(waiting):
                    done.append(future.result())
                    for problem in done[-1].problems[:8]:
                        print(f"    {done[-1].name}: {problem[:400]}", file=sys.stderr, flush=True)
            except BaseException:  # Ctrl-C: what runs ends by itself, the rest does not begin
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return sorted(done, key=lambda one: list(FAULTS).index(one.name))


def table(done: Sequence[Played], scale: float) -> str:
    """Return a row for each fault and state, with the time that noticing it took and may take, and one for all."""
    rows = [(row, one) for one in done for row in one.rows]
    numbers = (
        sum(getattr(row, name) for row, _ in rows) for name in ("rounds", "rows_in", "stored", "lost", "duplicated")
    )
    recovered = [row.recovered_s for row, _ in rows if row.recovered_s is not None]
    total = replace(Row("all", "any", *numbers), recovered_s=max(recovered, default=None))
    lines = common.table([*(row for row, _ in rows), total]).splitlines()
    heads = f"{'noticed in s':>14}{'at most':>9}"
    cells = [
        f"{'' if one.found_s is None else f'{one.found_s:.1f}':>14}{'' if bound is None else f'{bound / scale:g}':>9}"
        for _, one in rows
        for bound in [FAULTS[one.name].bound_s]
    ]
    return "\n".join(line + more for line, more in zip(lines, [heads, *cells, ""], strict=True))


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each fault (default 3)")
    parser.add_argument("--only", action="append", choices=list(FAULTS), metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="make all times X times as short")
    parser.add_argument("--plant", action="store_true", help="take the repair out: the loss must be noticed (exit 1)")
    parser.set_defaults(jobs=8)


def main(options: argparse.Namespace) -> int:
    """Play the faults, print the table, and return the exit status."""
    names = ["dropped"] if options.plant else options.only or list(FAULTS)
    plan = Plan(options.seed, options.rounds, options.scale, not options.plant, options.keep)
    done = run(names, plan, options.jobs)
    print(table(done, options.scale))
    for one in done:
        for note in one.notes:
            print(f"{one.name}: {note}")
    failed = sum(bool(one.problems) for one in done)
    bars = sum(one.bars for one in done)
    print(f"seed {options.seed}: {failed} of {len(done)} faults left something wrong; {bars:,} bars compared")
    return 1 if failed else 0
