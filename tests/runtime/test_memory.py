"""Freed memory goes back to the operating system."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from okxcli.runtime.memory import give_back
def rss():
    return int(open("/proc/self/statm").read().split()[1])
keep, drop = [], []
for number in range(60_000):  # pieces that stay lie between those that go
    (keep if number % 200 == 0 else drop).append(bytes(1000))
high = rss()
del drop
before = rss()
give_back()
print(high, before, rss())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc tells the memory of a process")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has to be told")
def test_what_was_freed_is_given_back():
    """Sixty megabytes in small pieces, a few of which stay, are gone from the resident set afterwards."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    high, before, after = map(int, done.stdout.split())
    assert before > high * 0.8
    assert after < high * 0.6
