"""The short form of `scripts/chaos kill`: kill -9 in every state a batch goes through, and of the pipe."""

import re
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos"
STATES = {
    "decode",
    "candles",
    "COPY",
    "between COPY and COMMIT",
    "after COMMIT, before more is taken",
    "writing the spool, before fsync",
    "between COMMIT and spool delete",
}


def chaos(*arguments):
    """Run the script; return (fault, state, rounds, rows in, stored, lost, duplicated) of each row, output, status."""
    command = [sys.executable, str(CHAOS), "kill", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    output = done.stdout + done.stderr
    lines = [re.split("  +", line) for line in done.stdout.splitlines()]
    rows = [line for line in lines if len(line) > 6 and line[2] != "rounds"]
    return [(*row[:2], *(int(n.replace(",", "")) for n in row[2:7])) for row in rows], output, done.returncode


def test_killed_in_every_state():
    """Started again it comes to every fill once and to every candle, whatever it was killed in."""
    rows, output, status = chaos("--only", "collect", "--rounds", "8", "--each", "1")
    assert status == 0, output
    assert {row[1] for row in rows} >= STATES, output
    assert rows[-1][2] == 8
    assert rows[-1][3] == rows[-1][4] > 1_000
    assert rows[-1][5:] == (0, 0)


def test_each_stage_of_the_pipe_is_killed():
    """`okx backfill` fetches what was missed meanwhile, and mends the candles."""
    rows, output, status = chaos("--only", "pipe", "--stage-rounds", "1")
    assert status == 0, output
    assert {row[1] for row in rows} == {"stream", "normalize", "candles", "store", "all of them", "any"}, output
    assert rows[-1][3] == rows[-1][4] > 200
    assert rows[-1][5:] == (0, 0)


def test_a_batch_that_was_not_committed_is_noticed():
    """A harness that would not notice a loss proves nothing."""
    rows, output, status = chaos("--only", "collect", "--rounds", "1", "--each", "0", "--plant")
    assert status == 1, output
    assert rows[-1][5] > 0, output
