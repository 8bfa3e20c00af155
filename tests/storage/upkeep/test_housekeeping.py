"""The chores: done beside collecting, whenever the database is there, and nobody waits for them."""

import threading
import time

from storage_samples import candle

from okxcli.errors import DatabaseUnavailable
from okxcli.storage.upkeep import housekeeping as chores_module
from okxcli.storage.upkeep.housekeeping import Housekeeping


class LiveMender:
    """Notes what it is told, and when it is asked to work."""

    def __init__(self):
        self.bars, self.ticks = [], 0

    def note(self, bar):
        self.bars.append(bar)

    def tick(self):
        self.ticks += 1


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_nothing_is_done_while_the_database_is_away(monkeypatch):
    """Bars are noted meanwhile; the first housekeeping comes when it is back."""
    monkeypatch.setattr(chores_module, "FIRST_HOUSEKEEPING_S", 0.0)
    there, done, mender = [False], [], LiveMender()
    chores = Housekeeping(lambda: there[0], lambda: done.append(1), mender)
    chores.note(candle())
    chores.work()
    assert (mender.bars, mender.ticks, done) == ([candle()], 0, [])
    there[0] = True
    chores.work()
    chores.work()
    assert (mender.ticks, done) == (2, [1])


def test_no_housekeeping_in_the_first_minutes(monkeypatch):
    """What drops rows by the clock waits until that may be right; then it comes, and again after a while."""
    now, done = [1_000.0], []
    monkeypatch.setattr(chores_module.time, "monotonic", lambda: now[0])
    chores = Housekeeping(lambda: True, lambda: done.append(now[0]), None)
    for _ in range(1_000):
        chores.work()
        now[0] += 1
    assert [moment - 1_000 for moment in done] == [300, 900]


def test_work_that_hangs_holds_nobody_up(monkeypatch):
    """Neither who notes bars nor who ends the collector."""
    monkeypatch.setattr(chores_module, "FIRST_HOUSEKEEPING_S", 0.0)
    hung, release = threading.Event(), threading.Event()

    def hang():
        hung.set()
        release.wait(30)

    chores = Housekeeping(lambda: True, hang, LiveMender())
    chores.start()
    try:
        assert hung.wait(20)
        began = time.monotonic()
        chores.note(candle())
        assert time.monotonic() - began < 0.5
        chores.stop()
        assert time.monotonic() - began < 8
    finally:
        release.set()


def test_work_that_fails_is_tried_again():
    """The database going away in the middle, or a bug in one chore, is not the end of the others."""
    times = []

    class Failing(LiveMender):
        def tick(self):
            super().tick()
            times.append(1)
            raise DatabaseUnavailable("gone") if len(times) % 2 else TypeError("a bug")

    mender = Failing()
    chores = Housekeeping(lambda: True, lambda: None, mender)
    chores.start()
    try:
        wait_for(lambda: mender.ticks >= 3)
    finally:
        chores.stop()
    assert len(times) >= 3
