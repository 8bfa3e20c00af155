"""Damaged input: no traceback, no hang, and nothing taken for what it is not.

Real recordings of OKX are damaged in the ways that --seed draws, and given to all that reads input: `normalize` (raw
messages), `candles` and `store` (our lines), `replay` (recordings), and the reader of bulk files. A decoder of another
make (Python's `json`, its `csv`) says which of them are what they claim to be, and what they say: of each one that is
taken every value must be the same, digit for digit. Some go through the commands as processes as well. Where the
kernels in C are built, what they take is held against the Python road.
"""

import argparse
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from harness import decoder
from harness.fuzz_bulk import BulkRoads
from harness.fuzz_files import Files, Replay
from harness.fuzz_lines import Candles, Normalize
from harness.fuzz_processes import Processes
from harness.fuzz_roads import Roads
from harness.fuzz_store import Store
from harness.mutation import Mutator, our_corpus, raw_corpus
from harness.tally import Hang, Tally, table
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base

#: A single input that takes longer than this hangs.
HANG_S = 20
#: What part of a hundred inputs each target gets.
SHARES = {"normalize": 28, "candles": 16, "store": 14, "replay": 14, "files": 8, "processes": 4, "roads": 16}
#: Inputs of a batch of `processes`, through its five commands.
_BATCH = 1_000


class Fuzz:
    """All targets, fed from one seed."""

    def __init__(self, seed: str, inputs: int, dsn: str, folder: Path) -> None:
        self._seed = seed
        self._counts = {name: inputs * share // 100 for name, share in SHARES.items()}
        self._dsn = dsn
        self._folder = folder
        self._raw = raw_corpus()
        self._ours = our_corpus(self._raw)

    def run(self) -> list[Tally]:
        """Try everything; return the counts."""
        normalize, candles, store, replay = Normalize(), Candles(), Store(self._dsn), Replay(self._folder)
        self._feed("normalize", self._raw, normalize.feed)
        self._feed("candles", self._ours, candles.feed)
        candles.finish()
        self._feed("store", self._ours, store.feed)
        store.finish()
        self._feed("replay", self._raw, replay.feed)
        files = Files(self._seed, self._trades(), self._folder)
        for _ in range(self._counts["files"]):
            signal.alarm(HANG_S)
            files.next()
        signal.alarm(0)
        roads = Roads(self._seed)
        if roads.built:
            roads.run(self._raw, self._counts["roads"])
        bulk = BulkRoads(self._seed, self._folder)
        bulk.run(max(self._counts["roads"] // 100, 1))
        targets = (normalize, candles, store, replay, files, self._processes(), *[roads, bulk] * roads.built)
        return [target.tally for target in targets]

    def _feed(self, name: str, corpus: list[bytes], feed: Callable[[bytes], None]) -> None:
        mutator = Mutator(f"{self._seed}/{name}", corpus)
        for _ in range(self._counts[name]):
            signal.alarm(HANG_S)
            feed(mutator.next())
        signal.alarm(0)

    def _trades(self) -> list[dict[str, object]]:
        """Return trades of one symbol, by id, each once."""
        lines = (line for line in self._ours if line.startswith(b'{"type":"trade"') and b'"BTC-USDT"' in line)
        found = {int(trade["trade_id"]): trade for trade in map(decoder.shown, lines)}
        return [found[key] for key in sorted(found)]

    def _processes(self) -> Processes:
        raw = Mutator(f"{self._seed}/raw", self._raw)
        ours = Mutator(f"{self._seed}/ours", self._ours)
        processes = Processes(self._folder, self._dsn)
        while processes.tally.inputs < self._counts["processes"]:
            size = max(20, min(_BATCH, self._counts["processes"]) // 4)
            batches = [[mutator.next().replace(b"\n", b" ") for _ in range(size)] for mutator in (raw, ours)]
            processes.batch(*batches)
        return processes


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument("--inputs", type=int, default=20_000, metavar="N", help="how many (default 20000)")


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"no end after {HANG_S} s")


def main(options: argparse.Namespace) -> int:
    """Run it and print the table; 1 when anything crashed, hung or was taken for what it is not."""
    signal.signal(signal.SIGALRM, _hang)
    logger = logging.getLogger("okxcli")
    logger.propagate = False  # every damaged line is told; of interest is only what the targets count
    logger.addHandler(logging.NullHandler())
    base = throwaway_base()
    folder = Path(tempfile.mkdtemp(prefix="okx-fuzz-"))
    try:
        with EmbeddedServer(base, THROWAWAY) as server:
            tallies = Fuzz(options.seed, options.inputs, server.dsn, folder).run()
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(table([*tallies, _total(tallies)]), flush=True)
    findings = [finding for tally in tallies for finding in tally.findings]
    for finding in findings[:20]:
        print(f"\n{finding}", file=sys.stderr)
    if findings and options.keep:
        Path(options.keep).mkdir(parents=True, exist_ok=True)
        (Path(options.keep) / "findings.txt").write_text("\n\n".join(findings))
    return 1 if any(tally.wrong for tally in tallies) else 0


def _total(tallies: list[Tally]) -> Tally:
    total = Tally("all", slowest_ms=max(tally.slowest_ms for tally in tallies))
    for name in ("inputs", "accepted", "rejected", "disagreements", "crashes"):
        setattr(total, name, sum(getattr(tally, name) for tally in tallies))
    return total
