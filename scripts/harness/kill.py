"""kill -9 of `okx collect`, of each stage of the pipe, and of the embedded server.

`okx collect` is killed at random moments, and in each of the states that a batch goes through, which it notes in a
shared byte: decoding, in COPY, between COPY and COMMIT, in COMMIT, between COMMIT and what follows, writing the spool,
between COMMIT and the deletion of the spool file. It is started again each time and must come to the exchange's fills
and candles by itself. Then each stage of `stream | normalize | candles --pass | store` is killed, and `okx backfill`
run at the end; SIGTERM is sent under load, which must end within 10 s; the embedded server's postmaster is killed; and
two collectors are started at once on an empty home. With --plant one batch is called committed that is not, and exit 1
says that this was noticed.
"""

import argparse
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness import common
from harness.common import Row
from harness.oracle import LENGTHS_MS
from harness.scene import Scene
from harness.server import Postgres

STATES = {
    0: "starting, or between steps",
    1: "idle",
    2: "decode",
    3: "candles",
    4: "COPY",
    5: "between COPY and COMMIT",
    6: "COMMIT",
    7: "after COMMIT, before more is taken",
    8: "writing the spool, before fsync",
    9: "between COMMIT and spool delete",
    10: "in the transaction, before COPY",
}
#: What is waited for, each in its turn; the others are met at random.
AIMS = (2, 3, 4, 5, 7, 8, 9)
_WITH_SPOOL = (8, 9)
#: It keeps to OKX's limits, at some requests for each hole.
_BACKFILL_S = 1_200.0

# `okx` as it is, but that it notes what it does in a shared byte, and waits to be killed in the state that the second
# byte asks for, which it notes in the fourth. The third makes it call one batch committed that it never sends.
_RUN = """
import mmap, os, sys, threading, time
board = mmap.mmap(os.open(sys.argv.pop(1), os.O_RDWR), 16)

def ours():
    return threading.current_thread() is threading.main_thread()

def at(state):
    board[0] = state
    if board[1] == state:
        board[3] = 1
        time.sleep(60)

def during(state, real):
    def wrapped(*arguments, **options):
        if not ours():
            return real(*arguments, **options)
        before = board[0]
        at(state)
        try:
            return real(*arguments, **options)
        finally:
            board[0] = before
    return wrapped

def then(state, real, after):
    def wrapped(*arguments, **options):
        if not ours():
            return real(*arguments, **options)
        at(state)
        result = real(*arguments, **options)
        board[0] = after
        return result
    return wrapped

def copying(real):
    def copy(connection, table, columns, rows):
        def pieces():
            for piece in rows:
                yield piece
                at(4)
        if not ours():
            return real(connection, table, columns, rows)
        board[0] = 4
        real(connection, table, columns, pieces())
        board[0] = 5
    return copy

from okxcli.core.candles.block_processor import BlockCandleProcessor
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.runtime.signals import Lifecycle
from okxcli.storage.rows import candle_table
from okxcli.storage.write import spool, trade_tables, writer

Lifecycle.wait = during(1, Lifecycle.wait)
Normalizer.feed, Normalizer.take = during(2, Normalizer.feed), during(2, Normalizer.take)
RealTimeCandleProcessor.feed = during(3, RealTimeCandleProcessor.feed)
BlockCandleProcessor.take = during(3, BlockCandleProcessor.take)
trade_tables.copy, candle_table.insert = copying(trade_tables.copy), then(4, candle_table.insert, 5)
writer.quarantine = then(5, writer.quarantine, 6)
spool.SpoolFile.done = during(9, spool.SpoolFile.done)
write_all = spool._write_all
def written(file, data):
    write_all(file, data)
    at(8)
spool._write_all = written
transact = writer.Writer._transact
def transaction(self, connection, batch, *rest):
    if board[2] and batch:
        board[2] = 0
        return writer.Outcome()
    board[0] = 10
    outcome = transact(self, connection, batch, *rest)
    at(7)
    board[0] = 0
    return outcome
writer.Writer._transact = transaction
from okxcli.cli import main
main()
"""


class Board:
    """The bytes that the harness and `collect` share."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(16))
        self.path = path
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 16)

    @property
    def state(self) -> int:
        """What `collect` does, or did when it was killed."""
        return self._bytes[0]

    def clear(self) -> None:
        """Before a start: no state, none wanted."""
        self._bytes[0] = self._bytes[1] = self._bytes[3] = 0

    @property
    def held(self) -> bool:
        """Whether it waits in the state that was wanted."""
        return bool(self._bytes[3])

    def want(self, state: int) -> None:
        """Have it wait in a state."""
        self._bytes[1] = state

    def plant(self) -> None:
        """Have it call a batch committed that is not."""
        self._bytes[2] = 1


@dataclass
class Plan:
    """How often, and where the random moments come from."""

    random: random.Random
    rounds: int
    each: int
    rate: float
    plant: bool


def collect(scene: Scene, board: Board, plan: Plan) -> None:
    """Kill `collect` in each state as often as is asked for, and at random moments for the rest."""
    aims: list[int | None] = [state for state in AIMS for _ in range(plan.each)]
    aims += [None] * max(0, plan.rounds - len(aims))
    plan.random.shuffle(aims)
    if plan.plant:
        board.plant()
    for aim in aims:
        time.sleep(plan.random.uniform(0.1, 1.0))
        if aim in _WITH_SPOOL:
            scene.postgres.stop()
            time.sleep(1)
        if aim == 9:
            board.want(aim)
            scene.postgres.start()
        if aim is not None:
            board.want(aim)
            _met(scene, board)
        scene.kill()
        state = board.state
        board.clear()
        if aim == 8:
            scene.postgres.start()
        time.sleep(plan.random.uniform(0, 0.3))
        began = time.monotonic()
        scene.start()
        scene.subscribed()
        scene.wait_stored()
        scene.hit("kill -9 of collect", STATES[state], time.monotonic() - began)


def _met(scene: Scene, board: Board) -> None:
    """Wait until `collect` waits in the state that is wanted."""
    end = time.monotonic() + 30
    while not board.held:
        scene.alive()
        if time.monotonic() > end:
            raise RuntimeError("the state that is wanted was not met in 30 s")
        time.sleep(0.001)


def terminate(scene: Scene, board: Board, plan: Plan) -> None:
    """End `collect` by SIGTERM under load: what had come before is committed by then."""
    for _ in range(plan.each):
        time.sleep(plan.random.uniform(0.5, 1.5))
        come = scene.newest()
        time.sleep(0.5)
        scene.terminate()
        lacking = [name for name, number in scene.stored().items() if number < come[name]]
        if lacking or scene.spooled():
            scene.problems.append(f"not all was committed at SIGTERM: {lacking}, {scene.spooled()}")
        began = time.monotonic()
        scene.start()
        scene.subscribed()
        scene.wait_stored()
        scene.hit("SIGTERM of collect", f"{plan.rate:,.0f} trades/s", time.monotonic() - began)


def server(scene: Scene, board: Board, plan: Plan) -> None:
    """Kill the embedded server's first process; `collect` starts it again."""
    for _ in range(plan.each):
        time.sleep(plan.random.uniform(0.3, 1.5))
        os.kill(scene.postgres.pid, signal.SIGKILL)
        time.sleep(0.1)
        scene.hit("kill -9 of the postmaster", "embedded", scene.wait_stored())


def twice(scene: Scene, board: Board, plan: Plan) -> None:
    """Start a second collector beside the first, at the same moment for all that they share."""
    time.sleep(2)
    scene.hit("two starts at once", "no database yet", scene.wait_stored())


FAULTS: dict[str, Callable[[Scene, Board, Plan], None]] = {
    "collect": collect,
    "terminate": terminate,
    "server": server,
    "twice": twice,
}
_EMBEDDED = ("server", "twice")
STAGES = ("stream", "normalize", "candles", "store")


class Pipe:
    """`stream | normalize | candles --pass | store` as four processes."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        stages = {
            "stream": [*scene.symbols],
            "normalize": [],
            "candles": ["--tf", ",".join(LENGTHS_MS), "--pass"],
            "store": [],
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        source: int | None = None
        with (scene.folder / "log.txt").open("ab") as log:
            for name, arguments in stages.items():
                last = name == "store"
                self.processes[name] = process = subprocess.Popen(
                    [sys.executable, "-m", "okxcli", name, *arguments],
                    env=scene.environment,
                    stdin=subprocess.DEVNULL if source is None else source,
                    stdout=log if last else subprocess.PIPE,
                    stderr=log,
                )
                if source is not None:
                    os.close(source)
                if process.stdout is not None:
                    source = os.dup(process.stdout.fileno())
                    process.stdout.close()

    def kill(self, stage: str) -> None:
        """Kill one stage with -9, and wait until the others have ended for it."""
        self.processes[stage].kill()
        self._ended(f"{stage} was killed")

    def stop(self) -> None:
        """End it as Ctrl-C does: the source stops, the others drain."""
        self.processes["stream"].send_signal(signal.SIGINT)
        self._ended("the interrupt")

    def _ended(self, why: str) -> None:
        for name, process in self.processes.items():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                self._scene.problems.append(f"{name} does not end within 20 s after {why}")
                process.kill()
                process.wait()


def pipe(scene: Scene, plan: Plan, rounds: int) -> None:
    """Kill each stage at random moments, start the pipe again each time; fetch what is missing at the end."""
    one = Pipe(scene)
    scene.subscribed()
    scene.run_market()
    scene.wait_stored()
    for stage in STAGES:
        for _ in range(rounds):
            time.sleep(plan.random.uniform(0.1, 0.8))
            one.kill(stage)
            one = Pipe(scene)
            scene.subscribed()
            scene.hit("kill -9 in the pipe", stage, None)
    scene.wait_stored()
    scene.stop_market()
    scene.wait_stored()
    one.stop()
    began = time.monotonic()
    backfill = common.start(["backfill"], scene.folder, scene.environment)
    try:
        status = backfill.wait(_BACKFILL_S)
    except subprocess.TimeoutExpired:
        backfill.kill()
        status = backfill.wait()
    if status:
        scene.problems.append(f"backfill ends with {status}")
    scene.hit("the end, and backfill", "all of them", time.monotonic() - began)


def play(name: str, options: argparse.Namespace) -> tuple[list[Row], list[str], str]:
    """Play one kind in a scene of its own; return its rows, what is wrong, and a line about the rest."""
    folder = Path(tempfile.mkdtemp(prefix="okx-chaos-"))
    folder.chmod(0o711)
    rate = min(options.rate, {"terminate": options.rate, "pipe": 120.0}.get(name, 400.0))
    plan = Plan(random.Random(f"kill/{options.seed}/{name}"), options.rounds, options.each, rate, options.plant)
    board = Board(folder / "board")
    embedded = name in _EMBEDDED
    symbols = ("BTC-USDT", "ETH-USDT") if name == "pipe" else ("BTC-USDT", "ETH-USDT", "SOL-USDT", "DOGE-USDT")
    postgres = Postgres(folder / "data" / "okx", private=not embedded)
    program = ("-c", _RUN, str(board.path))
    seed = plan.random.randrange(1 << 30)
    others: list[subprocess.Popen[bytes]] = []
    with postgres, Scene(folder, postgres, seed=seed, rate=rate, symbols=symbols, program=program) as scene:
        try:
            with scene.play(name):
                if name == "pipe":
                    pipe(scene, plan, options.stage_rounds)
                else:
                    if name == "twice":
                        others.append(common.start(["collect", "-v"], folder, scene.environment))
                    scene.begin()
                    FAULTS[name](scene, board, plan)
                    time.sleep(1)
                    scene.end()
                    for other in others:
                        _end(scene, other)
        finally:
            for other in others:
                other.kill()
                other.wait()
        if embedded:
            _gone(scene)
        rows, verdict, traded = scene.judge()
        problems = [*scene.problems, *verdict.problems]
        text = (
            f"{name}: {traded:,.0f} trades/s, {verdict.bars:,} bars equal to the offline rebuild but for "
            f"{verdict.wrong_bars + verdict.wrong_complete}, ended {scene.ended_s:.1f} s after SIGTERM at the latest"
        )
    if problems and options.keep:
        shutil.copytree(folder, Path(options.keep) / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("data"))
    shutil.rmtree(folder, ignore_errors=True)
    return rows, problems, text


def _end(scene: Scene, other: subprocess.Popen[bytes]) -> None:
    """End a second collector by SIGTERM, and note it if that is not how it ends."""
    other.send_signal(signal.SIGTERM)
    try:
        status = other.wait(10)
    except subprocess.TimeoutExpired:
        scene.problems.append("the second collector does not end within 10 s of SIGTERM")
        return
    if status not in (-signal.SIGTERM, 128 + signal.SIGTERM):
        scene.problems.append(f"the second collector ends with {status}")


def _gone(scene: Scene) -> None:
    """Note it if the embedded server outlives its users, and start it for the judge."""
    end = time.monotonic() + 10
    while scene.postgres.alive:
        if time.monotonic() > end:
            scene.problems.append("the embedded server runs on without users")
            break
        time.sleep(0.05)
    scene.postgres.use()


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="kills of collect (default 100)")
    parser.add_argument("--each", type=int, default=7, metavar="N", help="at least, in each state (default 7)")
    parser.add_argument("--stage-rounds", type=int, default=50, metavar="N", help="kills of each stage (default 50)")
    parser.add_argument("--rate", type=float, default=2_000, metavar="N", help="trades a second, for SIGTERM")
    kinds = [*FAULTS, "pipe"]
    parser.add_argument("--only", action="append", choices=kinds, metavar="KIND", help=f"of {', '.join(kinds)}")
    parser.add_argument("--plant", action="store_true", help="lose a batch on purpose: it must be noticed (exit 1)")


def main(options: argparse.Namespace) -> int:
    """Play all kinds, print the table, and return the exit status."""
    rows: list[Row] = []
    failed = 0
    names = options.only or [*FAULTS, "pipe"]
    for name in names:
        found, problems, text = play(name, options)
        rows += found
        failed += bool(problems)
        print(text, flush=True)
        for problem in problems[:8]:
            print(f"    {problem[:400]}", file=sys.stderr, flush=True)
    numbers = (sum(getattr(row, field) for row in rows) for field in _NUMBERS)
    slowest = max((row.recovered_s for row in rows if row.recovered_s is not None), default=None)
    print(common.table([*rows, replace(Row("all", "any", *numbers), recovered_s=slowest)]))
    print(f"seed {options.seed}: {failed} of {len(names)} kinds failed")
    return 1 if failed else 0


_NUMBERS = ("rounds", "rows_in", "stored", "lost", "duplicated")
