"""Faults of the exchange and of the network, and kill -9, against the tape.

`okx collect` runs against a simulated exchange with connection cuts, mutes, fills that are never pushed (REST has them,
or nobody has), duplicates, REST answers from an old cache, 429 bursts, kill -9 of the collector. After each round the
rows, the ledger and every candle must equal what DuckDB makes of the exchange's own list of fills, and `complete` must
be true exactly where the ids prove it; `okx backfill` is run once where the collector alone did not get that far.
With --no-repair the collector repairs nothing, and exit 1 says that fewer than 95 of 100 rounds noticed.
"""

import argparse
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from harness.rounds import Plan, Round, rare, table, tell
from harness.stage import Stage
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base


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
        seldom = rare(done, options.without)
        if seldom:
            print(f"which proves little: in nine of ten rounds these met nothing: {', '.join(seldom)}")
        return 1 if failed or seldom else 0
    noticed = sum(bool(one.verdict.problems) for one in done)
    enough = noticed * 100 >= 95 * len(done)
    words = "as wanted" if enough else "which is NOT enough"
    print(f"seed {options.seed}, repair off: the oracle finds fault with {noticed} of {len(done)} rounds, {words}")
    return 0 if enough else 1
