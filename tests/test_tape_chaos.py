"""The short form of `scripts/chaos tape`: every kind of fault, judged by an oracle that shares no code with okx."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from harness.rounds import KINDS, Round, rare

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos"


def chaos(*arguments):
    """Run the script; return (table rows by their first word, all output, exit status)."""
    command = [sys.executable, str(CHAOS), "tape", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    output = done.stdout + done.stderr
    rows = dict(
        re.findall(r"^(outage|cut|mute|drop|lose|duplicate|old cache|429|kill|all) +(.+)$", output, re.MULTILINE)
    )
    return {name: [int(n.replace(",", "")) for n in row.split()] for name, row in rows.items()}, output, done.returncode


def test_the_tape_is_whole_whatever_breaks():
    """Three rounds with every kind of fault leave the exchange's fills, their ledger, and candles right to a digit."""
    rows, output, status = chaos("--rounds", "3", "--seed", "10")
    assert status == 0, output
    assert len(rows) == 10
    assert all(row[0] >= 1 and row[2] == 0 for row in rows.values()), output
    rounds, _, _, fills, stored, missing, extra, bars, wrong, wrong_complete, _ = rows["all"]
    assert rounds == 3
    assert fills == stored > 15_000
    assert bars > 300
    assert missing == extra == wrong == wrong_complete == 0


def test_what_seldom_happens_proves_little():
    """Of 200 rounds each kind of fault must have met something in 20, or it is named; in short runs nobody counts."""
    done = [Round(number, hits=Counter(KINDS)) for number in range(200)]
    assert rare(done) == []
    for one in done[19:]:
        one.hits["kill"] = one.hits["429"] = 0
    assert rare(done) == ["429", "kill"]
    assert rare(done, ["kill"]) == ["429"]
    assert rare(done[100:]) == []


def test_the_rounds_prove_something():
    """With repair off, every round fails: the oracle notices what is missing."""
    rows, output, status = chaos("--rounds", "2", "--seed", "10", "--no-repair")
    assert status == 0, output
    assert rows["all"][:3] == [2, 2, 2]
    assert rows["all"][5] > 0
