"""Is `complete` ever wrong? Whole markets, damaged on the way, against every candle that is called complete.

Markets are drawn from --seed, with ids that no fill has, quiet stretches, fills on edges, times that step back. What
comes of them lacks fills, repeats and swaps them, brings them late, calls ids absent whose fills then come. Kinds:
`trades` (candles of trade lines), `from` (larger candles of damaged candle lines), `store` (fills and candles in
Postgres, of several collectors with restarts, then mended, then fetched) and `chain` (the same, candles alone). Each
goes on until --bars complete bars with fills were looked at. A bar is wrong if it lacks a fill of the market, or any
figure differs; `owed` are bars that can be proved by what came, `unsaid` those of them that were not called complete.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import fields
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from harness.complete_lines import Count, from_candles, from_trades
from harness.complete_stored import Round
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base

KINDS = ("trades", "from", "store", "chain")
HEADS = ("kind", "markets", "complete", "flat", "wrong", "owed", "unsaid")
#: Markets of lines that are tried at a time, and those that are in one database.
_MARKETS = 50
_SYMBOLS = 30


def play_lines(kind: str, seed: str, numbers: Iterable[int]) -> list[Count]:
    """Try some markets of lines."""
    found = Count(kind)
    for number in numbers:
        if kind == "trades":
            from_trades(f"{seed}/{number}", found)
        else:
            from_candles(f"{seed}/{number}", found)
    return [found]


def play_stored(kind: str, seed: str, number: int, server_dsn: str) -> list[Count]:
    """Try some markets in a database of their own."""
    logging.getLogger("okxcli").setLevel(logging.CRITICAL)  # of interest is only what is stored
    name = f"{kind}_{number}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        one = Round(f"{kind}/{seed}/{number}", make_conninfo(server_dsn, dbname=name), kind == "store", _SYMBOLS)
        try:
            found = one.play()
        finally:
            one.close()
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    for step in found.values():
        step.kind = f"{kind}, {step.kind}"
    return list(found.values())


def run(kind: str, seed: str, bars: int, jobs: int, server_dsn: str, sums: dict[str, Count]) -> None:
    """Try markets of a kind until so many complete bars were looked at; add what is seen to `sums`, by row."""
    numbers = count(1)
    seen = 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:

        def next_one() -> object:
            number = next(numbers)
            if kind in ("trades", "from"):
                return pool.submit(play_lines, kind, seed, range((number - 1) * _MARKETS, number * _MARKETS))
            return pool.submit(play_stored, kind, seed, number, server_dsn)

        waiting = {next_one() for _ in range(jobs)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)  # type: ignore[type-var]
            for one in done:
                for found in one.result():
                    _add(sums.setdefault(found.kind, Count(found.kind)), found)
                    seen += found.complete
            if seen < bars:
                waiting |= {next_one() for _ in done}
            if sys.stderr.isatty():
                print(f"\r{kind}: {seen:,}", end=" ", file=sys.stderr, flush=True)


def _add(total: Count, found: Count) -> None:
    for one in fields(Count)[1:]:
        setattr(total, one.name, getattr(total, one.name) + getattr(found, one.name))


def table(counts: Iterable[Count]) -> str:
    """Return the counts under their heads."""
    grid: list[tuple[str, ...]] = [HEADS]
    grid += [(one.kind, *(f"{getattr(one, head):,}" for head in HEADS[1:])) for one in counts]
    widths = [max(len(line[column]) for line in grid) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in grid)
    )


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--bars", type=int, default=100_000, metavar="N", help="of each kind (default 100000)")
    parser.add_argument("--kind", action="append", choices=KINDS, dest="some", help="only this; may be repeated")


def main(options: argparse.Namespace) -> int:
    """Try all kinds, print the table, and return 1 if anything was wrong, or too little called complete."""
    base = throwaway_base()
    sums: dict[str, Count] = {}
    try:
        with EmbeddedServer(base, THROWAWAY) as server:
            for kind in options.some or KINDS:
                run(kind, options.seed, options.bars, options.jobs, server.dsn, sums)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        print(table(sums.values()), flush=True)  # who is stopped tells what he saw
    rows = list(sums.values())
    findings = [finding for row in rows for finding in row.findings]
    for finding in findings[:20]:
        print(finding, file=sys.stderr)
    if findings and options.keep:
        Path(options.keep).mkdir(parents=True, exist_ok=True)
        (Path(options.keep) / "findings.txt").write_text("\n".join(findings))
    return 1 if any(row.wrong or row.unsaid * 100 > row.owed for row in rows) else 0
