"""The short form of `scripts/chaos postgres`: outages under load, judged by an oracle that shares no code with okx."""

import re
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos"


def chaos(*arguments):
    """Run the script; return (fault, state, rounds, rows in, stored, lost, duplicated) of each row, output, status."""
    command = [sys.executable, str(CHAOS), "postgres", "--rate", "600", "--scale", "0.1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    output = done.stdout + done.stderr
    lines = [re.split("  +", line) for line in done.stdout.splitlines()]
    rows = [line for line in lines if len(line) > 6 and line[2] != "rounds"]
    return [(*row[:2], *(int(n.replace(",", "")) for n in row[2:7])) for row in rows], output, done.returncode


def test_nothing_is_lost_whatever_postgres_does():
    """A crash, a COMMIT whose end nobody saw, and a read-only server: every fill once, and every candle right."""
    faults = ["--only", "immediate", "--only", "commit", "--only", "read-only"]
    rows, output, status = chaos("--rounds", "2", "--together", *faults)
    assert status == 0, output
    assert {row[0] for row in rows} == {"stop -m immediate", "kill -9 of a backend", "read-only", "all"}, output
    assert any(row[1] == "in COMMIT, was durable" for row in rows), output
    total = rows[-1]
    assert total[2] == 5
    assert total[3] == total[4] > 2_000
    assert total[5:] == (0, 0)


def test_a_planted_loss_is_noticed():
    """A harness that would not notice a loss proves nothing."""
    rows, output, status = chaos("--only", "outage", "--plant")
    assert status == 1, output
    assert rows[-1][5] == 1, output
