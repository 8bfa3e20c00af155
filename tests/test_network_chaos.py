"""The short form of `scripts/chaos network`: faults of the connection with times a tenth as long."""

import re
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos"
FAULTS = [
    "half open", "no ack", "mute channel", "mute connection", "64008", "no such host", "tls expired", "tls cut",
    "delisted", "wall clock",
]  # fmt: skip
#: Rounds, rows in, stored, lost and duplicated of a row of the table.
_ROW = r"^(all|{}) +\S.*?((?: +[0-9,]+){{5}})(?: |$)"


def chaos(*arguments):
    """Run the script; return (the numbers of each row by its fault, all output, exit status)."""
    command = [sys.executable, str(CHAOS), "network", "--rounds", "1", "--scale", "10", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    output = done.stdout + done.stderr
    rows = re.findall(_ROW.format("|".join([*FAULTS, "dropped"])), done.stdout, re.MULTILINE)
    return {name: [int(n.replace(",", "")) for n in cells.split()] for name, cells in rows}, output, done.returncode


def test_every_fault_is_noticed_in_time_and_the_tape_is_whole():
    """Half open, mute, unanswered, ended, expired, delisted: each is seen within its bound, and nothing is lost."""
    rows, output, status = chaos(*(part for fault in FAULTS for part in ("--only", fault)))
    assert status == 0, output
    assert rows.keys() == {*FAULTS, "all"}, output
    assert all(
        one[0] == 1 and one[1] == one[2] > 0 and one[3:] == [0, 0] for name, one in rows.items() if name != "all"
    )
    assert rows["all"][0] == len(FAULTS)
    assert "0 came from REST" in output


def test_a_planted_loss_is_noticed():
    """Without the repair, fills that are left out of the pushes are lost, and the harness says so."""
    rows, output, status = chaos("--plant")
    assert status == 1, output
    assert rows["dropped"][3] == 3, output
