"""The chain of a book's messages, by their numbers alone: what follows on what, and where something is missing.

Each update names the number before its own. What follows on the last message is right, whatever its own number: numbers
jump, an unchanged book repeats its number now and then, and the exchange may count on from a lower one.
"""

from collections import deque
from enum import Enum
from typing import NamedTuple

#: Messages whose numbers are remembered: one of them that comes again is no gap.
_REMEMBERED = 256
#: By how much an update may seem younger than a snapshot that has it already.
_YOUNGER_MS = 1_000


class Step(Enum):
    """What a message was to a book."""

    SNAPSHOT = "snapshots"
    UPDATE = "updates"
    KEEP_ALIVE = "keep_alives"  # nothing has changed
    RESET = "resets"  # the exchange counts on from a lower number; the book goes on
    OLD = "duplicates"  # it was in the book already
    GAP = "gaps"  # the book is not known from here on
    IGNORED = "ignored"  # the book is not known yet, or not any more


#: Steps that leave the chain where it was.
PASSED = (Step.OLD, Step.IGNORED)


class Numbers(NamedTuple):
    """What a message says of its place: is it a `snapshot`, its number and the one before, and its time (ms).

    `before` is -1 for a snapshot, None for one that was fetched. Both numbers are None in old recordings.
    """

    snapshot: bool
    seq_id: int | None
    before: int | None
    timestamp: int


class Chain:
    """Where the messages of one book stand. `standing` is None before the first snapshot, False after a gap."""

    __slots__ = ("_joining_ms", "_recent", "seq_id", "standing")

    def __init__(self) -> None:
        self.seq_id: int | None = None
        self.standing: bool | None = None
        self._joining_ms: int | None = None  # when the snapshot was made that the next update joins
        self._recent: deque[tuple[int | None, int | None]] = deque(maxlen=_REMEMBERED)

    def expected(self, at: Numbers) -> Step:
        """Say what a message will be, which is not taken in."""
        seq, before, last = at.seq_id, at.before, self.seq_id
        if at.snapshot:
            return Step.SNAPSHOT
        if not self.standing:
            return Step.IGNORED
        if seq is None or before is None or last is None:
            return Step.UPDATE if seq is None and last is None else Step.GAP
        if self._joining_ms is not None:
            return self._joined(seq, before, last, at.timestamp - self._joining_ms)
        if before != last:
            return Step.OLD if (before, seq) in self._recent else Step.GAP
        if seq == before:
            return Step.KEEP_ALIVE
        return Step.RESET if seq < before else Step.UPDATE

    @staticmethod
    def _joined(seq: int, before: int, fetched: int, younger_ms: int) -> Step:
        """Say the same right after a snapshot that was fetched: it stands at one of the updates, or between two."""
        if seq < before:
            return Step.RESET if before == fetched else Step.GAP
        if seq < fetched or (seq == fetched and before < seq):
            # A lower number that is younger was counted anew: what that snapshot has to do with it nobody knows.
            return Step.OLD if younger_ms <= _YOUNGER_MS else Step.GAP
        if before > fetched:
            return Step.GAP
        return Step.UPDATE if seq > before else Step.KEEP_ALIVE

    def take(self, at: Numbers) -> Step:
        """Take in the next message; say what it was."""
        step = self.expected(at)
        if step in PASSED:
            return step
        if step is Step.GAP:
            self.standing = False
            return step
        if step is Step.SNAPSHOT:
            self.standing = True
            self._recent.clear()
            self._joining_ms = at.timestamp if at.seq_id is not None and at.before is None else None
        else:
            self._recent.append((at.before, at.seq_id))
            self._joining_ms = None
        self.seq_id = at.seq_id
        return step

    def why(self, at: Numbers) -> str:
        """Say why a message is a gap."""
        if at.seq_id is None or at.before is None or self.seq_id is None:
            return "messages with and without numbers follow on each other"
        if self._joining_ms is not None:
            return f"a snapshot of {self.seq_id} was fetched, and what comes after it follows on {at.before}"
        return f"an update that follows on {at.before}, and the book is at {self.seq_id}"
