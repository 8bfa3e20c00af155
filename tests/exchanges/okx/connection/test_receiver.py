"""One thread that reads the sockets of many connections, against sockets of its own."""

import contextlib
import socket
import threading
import time

from okxcli.exchanges.okx.connection.live_session import Link
from okxcli.exchanges.okx.connection.receiver import Receiver


class Bytes:
    """A wire whose every byte is a frame."""

    def __init__(self, limit=3):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.pending = False
        self.limit = limit

    def fileno(self):
        return self.near.fileno()

    def read(self):
        found = b""
        with contextlib.suppress(BlockingIOError):
            found = self.near.recv(self.limit)
        self.pending = len(found) == self.limit
        return [bytes([one]) for one in found]


class Owner:
    """Is driven: writes down what happens."""

    def __init__(self, receiver, *wires, read=None, work=None):
        self.due_ms = 0
        self.links = [Link(wire, None) for wire in wires]
        self.errors, self.works, self.behind = [], 0, []
        self.over = False
        self._receiver = receiver
        self._read, self._work = read, work

    def read(self, link, now, pushes):
        if self._read is not None:
            self._read()
        pushes += link.wire.read()
        return False

    def work(self, now, behind):
        if not self.works:
            for link in self.links:
                self._receiver.watch(link, self)
        self.due_ms = None
        self.works += 1
        self.behind.append(behind)
        if self._work is not None:
            self._work()
        if self.over:
            self._leave()
        return not self.over

    def fail(self, error):
        self.errors.append(error)
        self._leave()

    def _leave(self):
        for link in self.links:
            self._receiver.unwatch(link)
            link.wire.near.close()


def receivers():
    return [thread for thread in threading.enumerate() if thread.name == "okx receiver"]


def until(true, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


class Batches:
    """A receiver, and what it has handed on."""

    def __init__(self, **options):
        self.batches, self.full = [], False
        self.receiver = Receiver(self.batches.append, lambda: self.full, **options)
        self.owners = []

    def drive(self, *wires, **how):
        owner = Owner(self.receiver, *wires, **how)
        self.owners.append(owner)
        self.receiver.drive(owner)
        until(lambda: owner.works)
        return owner

    @property
    def all(self):
        return b"".join(frame for batch in self.batches for frame in batch)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for owner in self.owners:
            owner.over = True
        self.receiver.wake()
        until(lambda: not receivers())


def test_one_thread_reads_all_and_ends_with_the_last():
    """Ten owners share a thread, which is gone when they are and comes back for another."""
    for _ in range(2):
        with Batches() as run:
            wires = [Bytes() for _ in range(10)]
            for wire in wires:
                run.drive(wire)
            assert len(receivers()) == 1
            for number, wire in enumerate(wires):
                wire.far.send(b"%d" % number)
            until(lambda: sorted(run.all) == sorted(b"0123456789"))


def test_what_many_sockets_have_is_one_batch():
    """One round reads all that is there and hands it on once."""
    with Batches() as run:
        wires = [Bytes() for _ in range(5)]
        run.full = True
        run.drive(*wires)
        for wire in wires:
            wire.far.send(b"ab")
        run.full = False
        run.receiver.wake()
        until(lambda: len(run.all) == 10)
        assert [len(batch) for batch in run.batches] == [10]


def test_a_flood_on_one_socket_holds_up_no_other():
    """What is read in part waits for its turn: the other socket comes in the next round."""
    with Batches() as run:
        flood, quiet = Bytes(), Bytes()
        run.full = True
        run.drive(flood, quiet)
        flood.far.send(b"x" * 3000)
        quiet.far.send(b"q")
        run.full = False
        run.receiver.wake()
        until(lambda: len(run.all) == 3001)
        assert run.all.index(b"q") <= 3
        assert len(run.batches) >= 1000


def test_no_room_means_no_reading_and_no_work_thought_done():
    """While there is no room nothing is read; the first work afterwards knows that more may be there."""
    with Batches() as run:
        wire = Bytes()
        owner = run.drive(wire)
        run.full = True
        for _ in range(2):  # the first may end a wait that began before
            works = owner.works
            run.receiver.wake()
            until(lambda works=works: owner.works > works)
        wire.far.send(b"abc")
        works = owner.works
        run.receiver.wake()
        until(lambda: owner.works > works)
        assert run.all == b"" and owner.behind[-1] is True
        works = owner.works
        time.sleep(0.1)  # it waits for room now
        run.full = False
        run.receiver.wake()
        until(lambda: run.all == b"abc" and owner.works > works)
        assert owner.behind[works] is True
        works = owner.works
        run.receiver.wake()
        until(lambda: owner.works > works)
        assert owner.behind[-1] is False


def test_a_bug_in_one_costs_that_one_alone():
    """Whatever is raised ends its owner, told; the others are read on."""

    def broken():
        raise ZeroDivisionError

    with Batches() as run:
        first, second, good = Bytes(), Bytes(), Bytes()
        reads = run.drive(first, second, read=broken)
        alive = run.drive(good)
        first.far.send(b"x")
        with contextlib.suppress(BrokenPipeError):  # it may have ended by then
            second.far.send(b"y")
        until(lambda: reads.errors)
        works = Owner(run.receiver, work=broken)
        run.receiver.drive(works)
        until(lambda: works.errors)
        good.far.send(b"z")
        until(lambda: run.all == b"z")
        assert [type(e) for e in reads.errors + works.errors] == [ZeroDivisionError] * 2
        assert not alive.errors
        run.owners = [alive]


def test_time_passes_between_batches_but_not_before_the_first():
    """With a pause a thousand messages are a few batches; one that comes after a silence is there at once."""
    with Batches(pause_s=0.05) as run:
        wire = Bytes(limit=10_000)
        run.drive(wire)
        began = time.monotonic()
        wire.far.send(b"a")
        until(lambda: run.all == b"a")
        assert time.monotonic() - began < 0.045
        for _ in range(100):
            wire.far.send(b"b" * 10)
            time.sleep(0.001)
        until(lambda: len(run.all) == 1001)
        assert len(run.batches) <= 12
