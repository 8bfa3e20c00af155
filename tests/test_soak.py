"""The short form of `scripts/chaos soak`, and that it notices what it is made to notice."""

import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from harness.oracle import Verdict
from harness.soak import Sample, Soak

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos"

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc tells the memory of a process")


@needs_proc
def test_a_few_seconds_of_work():
    """Every fill is stored once, the bars are right, nothing leaks; the numbers of it are printed."""
    options = ("--minutes", "0.12", "--rate", "300", "--growth", "40", "--lag", "60", "--seed", "3")
    command = [sys.executable, str(CHAOS), "soak", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = re.search(r"^fills sent +([0-9,]+) in", done.stdout, re.MULTILINE)[1]
    stored, judged = re.search(r"^fills stored +([0-9,]+) of ([0-9,]+)$", done.stdout, re.MULTILINE).groups()
    assert stored == judged and int(stored.replace(",", "")) >= int(sent.replace(",", "")) > 1500
    assert re.search(r"^lost, not of the exchange +0, 0$", done.stdout, re.MULTILINE)
    for name in ("time to commit, ms", "memory after", "descriptors", "threads", "CPU", "rows of tickers"):
        assert re.search(rf"^ *{name}.* [0-9]", done.stdout, re.MULTILINE), done.stdout


def judged(change=lambda result: None, **options):
    """Return what is wrong with a made-up run of ten minutes that is right but for `change`."""
    soak = Soak(Namespace(minutes=10, rate=100, seed="1", growth=5, lag=5, **options), "", Path())
    result = soak.result
    result.seconds, result.pushed, result.lags_ms = 600.0, 60_000, [100, 200, 300]
    result.verdict = Verdict(fills=60_000, stored=60_000)
    result.samples = [Sample(at, 50_000 + min(at, 120) * 50, 15, 6, at / 10) for at in range(600)]
    change(result)
    soak._judge()
    return result.problems


def later(**values):
    """Change the samples of the last five minutes."""

    def change(result):
        result.samples = [
            Sample(s.at_s, *(values.get(name, getattr(s, name)) for name in ("rss", "fds", "threads")), s.cpu_s)
            if s.at_s > 300
            else s
            for s in result.samples
        ]

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (later(rss=60_000), "memory grew"),
        (later(fds=30), "fds: 15 at first, 30 at last"),
        (later(threads=12), "threads: 6 at first, 12 at last"),
        (lambda result: setattr(result, "pushed", 50_000), "only 83 fills a second"),
        (lambda result: setattr(result, "lags_ms", [1, 2, 6_000]), "committed 6000 ms after"),
        (lambda result: setattr(result.verdict, "fills", 59_999), "59999 fills of 60000"),
        (lambda result: result.verdict.say("a fill is not stored"), "a fill is not stored"),
        (lambda result: setattr(result, "samples", result.samples[:2]), "too few looks"),
    ],
)
def test_what_is_broken_is_noticed(change, problem):
    """Growth after the warm-up, leaks, a slack market, late commits, and whatever the judge of fills and bars says."""
    assert judged() == []
    assert any(problem in found for found in judged(change)), judged(change)
