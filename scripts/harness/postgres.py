"""Faults of Postgres against `okx collect` and its spool: outages, kills, locks, a full disk.

`okx collect` takes nine symbols from a simulated exchange into a Postgres of the harness's own, to which all that
happens to servers is done while trades come in: 20 s of absence, `pg_ctl stop -m immediate` at random moments, kill -9
of the backend in the middle of its COMMIT (held there before or after it is durable), a table locked for 30 s, a full
disk under the database and under the spool, no connection left, read-only, in recovery, stopped without a word. Then
the rows, the ledger and every candle must equal what DuckDB makes of the exchange's fills. A full disk needs a tmpfs,
and so root. With --plant one line is thrown away on its way, and exit 1 says that this was noticed.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg

from harness import common
from harness.common import Row
from harness.scene import Scene
from harness.server import Postgres

# `okx` as it is, but for one trade that the keeper forgets.
_PLANT = """
from okxcli.storage.write.durable_writer import DurableWriter
add, add_fills, seen = DurableWriter.add, DurableWriter.add_fills, [0]
def forget(self, line, raw=None):
    if type(line).__name__ == "StandardizedTrade":
        seen[0] += 1
        if seen[0] == 500:
            return
    add(self, line, raw)
def forget_one(self, block):
    lines = block.lines.splitlines(keepends=True)
    before, seen[0] = seen[0], seen[0] + len(lines)
    if before < 500 <= seen[0]:
        del lines[500 - before - 1]
    if lines:
        add_fills(self, block._replace(lines=b"".join(lines), size=len(lines), rows=None))
DurableWriter.add, DurableWriter.add_fills = forget, forget_one
from okxcli.cli import main
main()
"""
_MIB = 1 << 20


class Plan:
    """How often and how long, and where the random moments come from."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.random = random.Random(f"postgres/{options.seed}")
        self.rounds: int = options.rounds
        self.rate: float = options.rate
        self.scale: float = options.scale


def outage(scene: Scene, plan: Plan) -> None:
    """Stop the server, start it again 20 s later."""
    scene.postgres.stop()
    time.sleep(20 * plan.scale)
    scene.postgres.start()
    scene.hit("server stopped", f"{20 * plan.scale:.0f} s away", scene.wait_stored())


def immediate(scene: Scene, plan: Plan) -> None:
    """Stop it without a checkpoint, as a crash would, at random moments."""
    for _ in range(plan.rounds):
        time.sleep(plan.random.uniform(0.2, 1.2))
        state = _doing(scene)
        scene.postgres.stop(immediately=True)
        time.sleep(plan.random.uniform(0, 0.5))
        scene.postgres.start()
        scene.hit("stop -m immediate", state, scene.wait_stored())


def commit(scene: Scene, plan: Plan) -> None:
    """Kill the backend with -9 while it commits: held there by `commit_delay` before the WAL is on disk, or by a
    standby that does not exist after it is. Afterwards the end of the WAL tells what became of the transaction."""
    for number in range(plan.rounds):
        after = bool(number % 2)
        hold = {"synchronous_standby_names": "nobody"} if after else {"commit_delay": "100000", "commit_siblings": "0"}
        release = dict.fromkeys(hold)
        mother, before = scene.postgres.pid, len(scene.postgres.log)
        with scene.postgres.admin() as connection:
            scene.postgres.note(connection, **hold)
            connection.execute("SELECT pg_reload_conf()")
            time.sleep(0.3)  # a backend looks at the new settings between two commands
            backend, written = _committing(connection, "SyncRep" if after else None)
            os.kill(backend, signal.SIGKILL)
        recovered = _released(scene, mother, release)
        # Who waits for a standby has its WAL on disk; of the others the end of the WAL tells.
        durable = after or _end_of_wal(scene.postgres.log[before:]) >= written
        state = "in COMMIT, was durable" if durable else "in COMMIT, was not durable"
        scene.hit("kill -9 of a backend", state, recovered)


def _released(scene: Scene, mother: int, release: Mapping[str, None]) -> float:
    """Take the settings back that hold a COMMIT, and wait until everything is stored; return how long that took."""
    began = time.monotonic()
    while True:
        try:
            with scene.postgres.admin() as connection:
                scene.postgres.note(connection, **release)
            break
        except psycopg.OperationalError:  # it is in recovery
            if time.monotonic() > began + 30:
                raise
            time.sleep(0.02)
    os.kill(mother, signal.SIGHUP)
    scene.wait_stored()
    return time.monotonic() - began


def _end_of_wal(log: str) -> int:
    """Return where the WAL ended that the recovery found, by what the server says of it."""
    lines = log.splitlines()
    done = max(number for number, line in enumerate(lines) if "redo done at" in line or "redo is not required" in line)
    if "redo is not required" in lines[done]:
        return 0
    for line in reversed(lines[:done]):  # clients that are turned away have lines in between
        if "redo starts" in line:
            break
        if (found := re.search(_LSN, line)) is not None:
            return _number(found[1])
    found = re.search(_LSN, lines[done])
    assert found is not None
    return _number(found[1])


_LSN = r" at ([0-9A-F]+/[0-9A-F]+)"


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


def _committing(connection: psycopg.Connection, event: str | None) -> tuple[int, int]:
    """Wait until a backend of `collect` is held in COMMIT, at `event` or before the WAL is on disk.

    Return its pid, and where the WAL ends that its commit is part of. Nothing shows the delay before the WAL is
    written; but who is there for longer than it takes to write is in it.
    """
    end = time.monotonic() + 30
    while time.monotonic() < end:
        row = connection.execute(_COMMITTING).fetchone()
        if row is None or (event is not None and row[2] != event):
            continue
        if event is None:
            time.sleep(0.03)
            again = connection.execute(_COMMITTING).fetchone()
            if again is None or again[:2] != row[:2] or again[2] is not None:
                continue
        return int(row[0]), _number(row[3])
    raise RuntimeError("no COMMIT was met in 30 s")


_COMMITTING = (
    "SELECT pid, backend_xid::text, wait_event, pg_current_wal_insert_lsn()::text FROM pg_stat_activity"
    " WHERE application_name = 'okx collect' AND datname = 'okx' AND state = 'active' AND query = 'COMMIT'"
    " AND backend_xid IS NOT NULL"
)


def lock(scene: Scene, plan: Plan) -> None:
    """Hold a table locked for 30 s."""
    with psycopg.connect(scene.postgres.dsn) as connection:
        connection.execute("LOCK TABLE raw_trades IN ACCESS EXCLUSIVE MODE")
        time.sleep(30 * plan.scale)
    scene.hit("table locked", f"{30 * plan.scale:.0f} s ACCESS EXCLUSIVE", scene.wait_stored())


def connections(scene: Scene, plan: Plan) -> None:
    """Take all connections there are, and end those of `collect`."""
    taken: list[psycopg.Connection] = []
    try:
        _take_all(scene, taken)
        taken[0].execute(_END_ALL)
        taken[0].commit()
        _take_all(scene, taken)
        time.sleep(10 * plan.scale)
    finally:
        for one in taken:
            one.close()
    scene.hit("no connection left", f"{10 * plan.scale:.0f} s refused", scene.wait_stored())


_END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'okx collect'"


def _take_all(scene: Scene, taken: list[psycopg.Connection]) -> None:
    refused = 0
    while refused < 20:  # one that has just ended may not be counted out yet
        try:
            taken.append(psycopg.connect(scene.postgres.dsn))
        except psycopg.OperationalError:
            refused += 1
            time.sleep(0.01)


def read_only(scene: Scene, plan: Plan) -> None:
    """Let the server refuse to write."""
    scene.postgres.set(default_transaction_read_only="on")
    time.sleep(10 * plan.scale)
    with scene.postgres.admin() as connection:
        connection.execute("SET default_transaction_read_only = off")
        scene.postgres.note(connection, default_transaction_read_only=None)
        connection.execute("SELECT pg_reload_conf()")
    scene.hit("read-only", f"{10 * plan.scale:.0f} s refused", scene.wait_stored())


def recovery(scene: Scene, plan: Plan) -> None:
    """Start it as a standby, which answers and takes no writes, and promote it."""
    scene.postgres.stop(immediately=True)
    wish, owner = scene.postgres.data / "standby.signal", (scene.postgres.data / "PG_VERSION").stat()
    wish.touch(mode=0o600)
    os.chown(wish, owner.st_uid, owner.st_gid)
    scene.postgres.start()
    time.sleep(10 * plan.scale)
    with scene.postgres.admin() as connection:
        connection.execute("SELECT pg_promote()")
    scene.hit("in recovery", f"{10 * plan.scale:.0f} s a standby", scene.wait_stored())


def frozen(scene: Scene, plan: Plan) -> None:
    """Stop its processes without a word, for longer than any time-out."""
    seconds = 45.0 if plan.scale == 1 else 34.0
    scene.postgres.freeze()
    time.sleep(seconds)
    scene.postgres.thaw()
    scene.hit("server frozen", f"{seconds:.0f} s without an answer", scene.wait_stored())


def disk(scene: Scene, plan: Plan) -> None:
    """Fill the disk of the database until it refuses, and give the room back."""
    before = len(scene.postgres.log)
    with _ballast(scene.postgres.data.parent, 0):
        _until_said(scene, "spooling to", 120)
        time.sleep(10 * plan.scale)
    scene.postgres.start()
    recovered = scene.wait_stored()
    said = scene.postgres.log[before:]
    panics = len(re.findall("PANIC", said))
    state = "ENOSPC, and the server crashed" if panics else "ENOSPC"
    if "No space left" not in said:
        raise RuntimeError("the disk was never full")
    scene.hit("disk of Postgres full", state, recovered)


def spool_disk(scene: Scene, plan: Plan) -> None:
    """With Postgres away, fill the spool's disk too: nothing more is taken in, and what is there is kept."""
    state = Path(scene.environment["XDG_STATE_HOME"])
    scene.postgres.stop()
    with _ballast(state, 65 * _MIB):
        _until_said(scene, "taking no more in", 120)
        time.sleep(5 * plan.scale)
    _until_said(scene, "there is room again", 60)
    scene.postgres.start()
    scene.hit("disk of the spool full", "Postgres away", scene.wait_stored())


@contextmanager
def _ballast(folder: Path, room: int) -> Iterator[None]:
    """Fill the disk of `folder` up to so many bytes for the length of the block."""
    free = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        left = max(free.f_bavail * free.f_frsize - room, 0)
        try:
            while left > 0:
                left -= file.write(b"\0" * min(left, _MIB))
            file.flush()
        except OSError:
            pass  # full, which is what it is for
    try:
        yield
    finally:
        ballast.unlink()


def _until_said(scene: Scene, word: str, seconds: float) -> None:
    """Wait until `collect` says something for one more time."""
    before = scene.log.count(word)
    end = time.monotonic() + seconds
    while scene.log.count(word) <= before:
        scene.alive()
        if time.monotonic() > end:
            raise RuntimeError(f"nobody says {word!r}")
        time.sleep(0.1)


def _doing(scene: Scene) -> str:
    """Return what the backend of `collect` does at this moment."""
    with scene.postgres.admin() as connection:
        row = connection.execute(
            "SELECT state, query FROM pg_stat_activity WHERE application_name = 'okx collect' AND datname = 'okx'"
            " ORDER BY state LIMIT 1"
        ).fetchone()
    if row is None:
        return "not connected"
    return f"in {row[1].split()[0]}" if row[0] == "active" else str(row[0])


FAULTS: dict[str, Callable[[Scene, Plan], None]] = {
    "outage": outage,
    "immediate": immediate,
    "commit": commit,
    "lock": lock,
    "connections": connections,
    "read-only": read_only,
    "recovery": recovery,
    "frozen": frozen,
    "disk": disk,
    "spool-disk": spool_disk,
}
#: Tmpfs of these sizes: (database, spool). `okx` leaves 64 MiB of the spool's disk alone.
_TMPFS = {"disk": (400, None), "spool-disk": (None, 96)}


@contextmanager
def _tmpfs(folder: Path, mib: int | None) -> Iterator[Path]:
    """Mount a small file system on a new folder, if one is wanted."""
    folder.mkdir(mode=0o711, parents=True)
    if mib is None:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=711", "okx-chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def play(names: Sequence[str], options: argparse.Namespace) -> tuple[list[Row], list[str], str]:
    """Deal faults in one scene; return its rows, what is wrong, and a line about the rest."""
    title = "+".join(names)
    folder = Path(tempfile.mkdtemp(prefix="okx-chaos-"))
    folder.chmod(0o711)
    plan = Plan(options)
    program = ("-c", _PLANT) if options.plant else ("-m", "okxcli")
    database, spool = _TMPFS.get(names[0], (None, None))
    with (
        _tmpfs(folder / "db", database) as base,
        _tmpfs(folder / "state", spool) as state,
        Postgres(base) as postgres,
        Scene(
            folder,
            postgres,
            seed=plan.random.randrange(1 << 30),
            rate=plan.rate,
            program=program,
            variables={"XDG_STATE_HOME": str(state)},
        ) as scene,
    ):
        with scene.play(title):
            scene.begin()
            for name in names:
                time.sleep(1)
                FAULTS[name](scene, plan)
            time.sleep(1)
            scene.end()
        rows, verdict, rate = scene.judge()
        problems = [*scene.problems, *verdict.problems]
        text = (
            f"{title}: {rate:,.0f} trades/s, {verdict.bars:,} bars equal to the offline rebuild but for "
            f"{verdict.wrong_bars + verdict.wrong_complete}, ended {scene.ended_s:.1f} s after SIGTERM"
        )
    if problems and options.keep:
        shutil.copytree(folder, Path(options.keep) / title, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return rows, problems, text


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="of what strikes at a moment (default 50)")
    parser.add_argument("--rate", type=float, default=2_500, metavar="N", help="trades a second (default 2,500)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="shorten what lasts, 0.1: to a tenth")
    parser.add_argument("--only", action="append", choices=FAULTS, metavar="FAULT", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--together", action="store_true", help="in one scene, but for the full disks")
    parser.add_argument("--plant", action="store_true", help="lose a line on purpose: it must be noticed (exit 1)")


def main(options: argparse.Namespace) -> int:
    """Deal the faults one after the other, print the table, and return the exit status."""
    rows: list[Row] = []
    failed = 0
    names = list(options.only or FAULTS)
    if os.geteuid() != 0 and (left := [name for name in names if name in _TMPFS]):
        print(f"{', '.join(left)}: left out, since only root mounts a small disk")
        names = [name for name in names if name not in _TMPFS]
    alone = [[name] for name in names if not options.together or name in _TMPFS]
    beside = [name for name in names if [name] not in alone]
    scenes = [*([beside] if beside else []), *alone]
    for scene in scenes:
        found, problems, text = play(scene, options)
        rows += found
        failed += bool(problems)
        print(text, flush=True)
        for problem in problems[:8]:
            print(f"    {problem[:400]}", file=sys.stderr, flush=True)
    total = Row("all", "any", *(sum(getattr(row, field) for row in rows) for field in _NUMBERS))
    slowest = max((row.recovered_s for row in rows if row.recovered_s is not None), default=None)
    print(common.table([*rows, replace(total, recovered_s=slowest)]))
    print(f"seed {options.seed}: {failed} of {len(scenes)} scenes failed")
    return 1 if failed else 0


_NUMBERS = ("rounds", "rows_in", "stored", "lost", "duplicated")
