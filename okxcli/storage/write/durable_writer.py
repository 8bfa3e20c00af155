"""Lines into Postgres whatever happens to it: committed while it is there, spooled while it is away, drained after.

States: `up` (batches are committed), `away` (batches go to the spool; a thread tries whether the database takes writes
again), `draining` (the spool goes into the database, oldest first; what is new queues up behind it).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from okxcli.core.codec import decode, encode
from okxcli.core.model import Line
from okxcli.errors import BUGS, DatabaseUnavailable, InvalidLine, LoginRefused
from okxcli.runtime.clock import now_ms
from okxcli.storage.database import Database
from okxcli.storage.rows.fill_block import FillBlock, FillScanner
from okxcli.storage.server.pooled_connection import Connection
from okxcli.storage.server.statement_watch import Watchdog
from okxcli.storage.write.probe import Probe
from okxcli.storage.write.spool import Spool, SpoolFile
from okxcli.storage.write.writer import BATCH_MS, BATCH_ROWS, Writer

_log = logging.getLogger(__name__)

#: Time between two tries to reach the database; it doubles up to the longest while one that answers takes no batch.
_PROBE_S = 1.0
_LONGEST_PROBE_S = 8.0
#: A statement that takes longer has met a lock or a slow server; the batch is spooled instead.
_LOCK_TIMEOUT = "5s"
_STATEMENT_TIMEOUT = "20s"
#: Longest wait for an answer where even those time-outs are not kept, and once the process is to end.
_SILENCE_S = 30.0
_HURRY_S = 3.0
#: The one who takes lines in waits for a connection at most so long; the thread that probes may wait longer.
_CONNECT_S = 3
#: The share of the spool's bound at which a word is due, and the room that is little on any disk: an hour of nine busy
#: symbols.
_NEARLY_FULL = 0.8
_LITTLE_BYTES = 512 << 20
#: Time between two looks for what a process that died has left in the spool.
_LOOK_S = 60.0


@dataclass(eq=False)
class DurableWriter:
    """Takes lines and never loses one that `add` has taken.

    `on_durable` is called with the raw lines of each commit, as by `Writer`: while the database is away they wait.
    `full` says that there is no room for more, neither in Postgres nor in the spool: whoever feeds it must wait.
    `hurried` tells that the process is to end now: nothing is waited for any more that may take long. `ahead` as for
    `Writer`.
    """

    database: Database
    spool: Spool
    on_durable: Callable[[list[bytes]], None] | None = None
    clock: Callable[[], int] = now_ms
    hurried: Callable[[], bool] = lambda: False
    ahead: bool = False

    def __post_init__(self) -> None:
        self.full = False
        self.spooled = 0
        self._watchdog = Watchdog(_SILENCE_S, _HURRY_S, self.hurried)
        self._writer = Writer(
            self._connect,
            where=self.database.where,
            clock=self.clock,
            patience_s=0.3,
            on_durable=self.on_durable,
            ahead=self.ahead,
            watch=self._watchdog.over,
        )
        self._scanner = FillScanner()
        self._state: Literal["up", "away", "draining"] = "up"
        self._outage = False  # from the first failure until a batch is committed again
        self._pause_s = _PROBE_S
        self._held: list[bytes] = []  # not in the spool yet, while away or draining
        self._held_since = 0
        self._file: SpoolFile | None = None
        self._search = Probe(self.database, self._new_connection)
        self._warned = False
        self._drained = False
        self._next_look = time.monotonic() + _LOOK_S
        where, folder = self.database.where, self.spool.folder
        obstacle = self.spool.obstacle()
        if obstacle is not None:
            _log.warning("%s, so there is no spool: nothing is taken in while %s is away", obstacle, where)
        if not self.database.ready:
            self._outage = True
            self._state = "away"
            _log.warning("spooling to %s until %s is there", folder, where)
            self._search.begin(self._pause_s)
        elif self.spool.size():
            _log.info("lines of an earlier run wait in %s: storing them", folder)
            self._state = "draining"

    @property
    def up(self) -> bool:
        """Whether lines go straight into the database: it is there, and nothing waits before them."""
        return self._state == "up"

    # ---- taking in

    def add(self, line: Line, raw: bytes | None = None) -> None:
        """Take a line; commit or spool the batch if it is full. `raw` is what it came in as."""
        if self._state == "up":
            try:
                self._writer.add(line, raw)
            except DatabaseUnavailable as error:
                self._go_away(error)
            return
        self._hold(raw if raw is not None else encode(line))

    @property
    def room(self) -> int:
        """How many lines a block of fills may have."""
        return self._writer.room

    def add_fills(self, block: FillBlock) -> None:
        """Take everyday lines of fills, as many as there is `room` for, as `add` takes each."""
        if self._state == "up":
            self._attempt(self._writer.add_fills, block)
        else:
            for line in block.lines[:-1].split(b"\n"):
                self._hold(line)

    def refuse(self, raw: bytes, reason: str) -> None:
        """Take a line that could not be decoded, for the quarantine."""
        if self._state == "up":
            self._attempt(self._writer.refuse, raw, reason)
        else:
            self._hold(raw)

    def _hold(self, line: bytes) -> None:
        if not self._held:
            self._held_since = self.clock()
        self._held.append(line)
        if len(self._held) % BATCH_ROWS == 0:  # not at every line of a poll when there is no room
            self._keep()

    def due_in(self, now: int) -> float | None:
        """Return the seconds until `tick` wants to be called; None when nothing waits."""
        if self._state == "up":
            return self._writer.due_in(now)
        if self._state == "draining" or self._search.found:
            return 0.0
        if self._held and not self.full:
            return min(max(self._held_since + BATCH_MS - now, 0), BATCH_MS) / 1000
        return _PROBE_S

    def tick(self) -> None:
        """Do what is due: a batch, a look whether the database is back, a piece of the spool.

        Raises:
            ConfigError: a database that was away at the start is there now, and is not the one that we are for.
        """
        now = self.clock()
        if self._state == "up":
            if self._writer.due_in(now) == 0:
                self._attempt(self._writer.tick, now)
            elif time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + _LOOK_S
                if self.spool.size():  # of a process that was killed: nobody else drains it before the next start
                    self._attempt(self._writer.flush)
                    if self.up:
                        self._state = "draining"
            return
        if self._held and (now - self._held_since >= BATCH_MS or now < self._held_since):
            self._keep()
        if self._state == "away" and self._search.found:
            self._keep()
            self._search.result()
            self._state = "draining"
        if self._state == "draining":
            self._drain_piece()

    def finish(self) -> int:
        """Commit everything, or leave it in the spool; return how many lines wait there.

        Lines that find no room there either are waited with, until `hurried`. A spool that takes long to drain is
        drained some seconds then and left.
        """
        until = None
        while True:
            if until is None and self.hurried():
                until = time.monotonic() + _HURRY_S
            if self._state == "draining" and (until is None or time.monotonic() < until):
                self._keep()
                self._drain_piece()
                continue
            if self._state == "up":
                self._attempt(self._writer.flush)
            if self._state != "up":
                self._keep()
            if self._state == "up" or not self._held or self.hurried():
                break
            time.sleep(_PROBE_S / 4)
            self.tick()
        self.spool.rotate()
        return 0 if self._state == "up" else self.spool.lines() + len(self._held)

    def explain_left(self, count: int) -> str:
        """Return in a line where lines wait that `finish` could not commit, and how they get into the database."""
        lost = f" {len(self._held):,} of them found no room there and are lost." if self._held else ""
        where = self.database.where
        begin = f"{where} is away:" if self._state == "away" else f"stopped before everything was in {where}:"
        return (
            f"{begin} {count:,} lines wait in {self.spool.folder}.{lost} "
            "The next run of okx store or okx collect stores them; so does okx store --drain"
        )

    def counts(self) -> dict[str, int]:
        """Return the writer's counts, and how many lines went through the spool."""
        return self._writer.counts() | {"spooled": self.spooled}

    def close(self) -> None:
        self._search.stop()
        self._watchdog.stop()
        if self._file is not None:
            self._file.leave()
            self._file = None
        self.spool.rotate()
        self._writer.close()

    # ---- the database

    def _connect(self) -> Connection:
        return self._search.take() or self._new_connection(_CONNECT_S)

    def _new_connection(self, timeout_s: int | None = None) -> Connection:
        try:
            return self.database.connect(timeout_s, lock_timeout=_LOCK_TIMEOUT, statement_timeout=_STATEMENT_TIMEOUT)
        except LoginRefused as error:  # it let us in before: a password or a rule was changed, and may be again
            raise DatabaseUnavailable(str(error)) from None

    def _attempt(self, work: Callable[..., None], *arguments: object) -> None:
        """Have the writer do something, or spool from now on."""
        try:
            work(*arguments)
        except DatabaseUnavailable as error:
            self._go_away(error)

    def _go_away(self, error: DatabaseUnavailable) -> None:
        """From now on spool, beginning with the batch that could not be committed."""
        if self._outage:  # it answered, and still took nothing
            self._pause_s = min(self._pause_s * 2, _LONGEST_PROBE_S)
            _log.debug("%s: still spooling, trying again in %.0f s", error, self._pause_s)
        else:
            self._outage = True
            self._pause_s = _PROBE_S
            _log.warning("%s: spooling to %s until it is back", error, self.spool.folder)
        self._state = "away"
        self._held[:0] = self._writer.take_pending()
        self._keep()
        self._writer.close()  # the session may be what is wrong: begin anew
        self._search.begin(self._pause_s)

    def _came_back(self) -> None:
        """Note that a batch was committed."""
        if self._outage:
            self._outage = False
            _log.info("%s is back", self.database.where)

    # ---- the spool

    def _keep(self) -> None:
        """Put what is held into the spool; when that has no room it stays held, and `full` is set."""
        if not self._held:
            return
        try:
            self.spool.write(self._held)
        except OSError as error:
            if not self.full:
                reason = f"cannot write to {self.spool.folder}: {error.strerror}" if error.strerror else error
                _log.error("%s: taking no more in until there is room, or the database is back", reason)
            self.full = True
            self._held_since = self.clock()
            return
        if self.full:
            _log.info("there is room again: taking more in")
        self.full = False
        self.spooled += len(self._held)
        self._held.clear()
        room = self.spool.room()
        if room < min((1 - _NEARLY_FULL) * self.spool.max_bytes, _LITTLE_BYTES) and not self._warned:
            self._warned = True
            _log.warning("the spool %s is nearly full: room for %d MiB is left", self.spool.folder, room >> 20)

    def _drain_piece(self) -> None:
        """Store one batch of the spool, oldest first; when nothing waits any more, go on directly."""
        if self._file is None:
            self.spool.rotate()
            self._file = next(self.spool.files(), None)
        if self._file is None:
            self._drain_held()
            return
        lines = self._file.read(BATCH_ROWS)
        at_end = not lines
        try:
            self._store(lines)
        except DatabaseUnavailable as error:
            self._writer.take_pending()  # they are in the file
            self._file.again()
            self._go_away(error)
            return
        if at_end:
            self._file.done()
            self._file = None
            self._drained = True
        else:
            self._came_back()

    def _drain_held(self) -> None:
        """Store what came while the spool was drained, and be up again."""
        held, self._held = self._held, []
        self._state = "up"
        self.full = self._warned = False
        try:
            self._store(held)
        except DatabaseUnavailable as error:
            self._held = held  # what is left of it
            self._go_away(error)
            return
        self._came_back()
        if self._drained:
            self._drained = False
            _log.info("the spool is empty: storing directly")

    def _store(self, lines: list[bytes]) -> None:
        """Commit lines, the everyday fills among them by the block; what the writer has taken is gone from the list."""
        taken = at = 0
        try:
            while taken < len(lines):
                block, at = b"".join([line + b"\n" for line in lines[taken : taken + BATCH_ROWS]]), 0
                while at < len(block):
                    found = self._scanner.fills(block, at, now_ms(), self._writer.room)
                    if found.size:
                        taken, at = taken + found.size, at + len(found.lines)
                        self._writer.add_fills(found)
                    else:
                        line = lines[taken]
                        taken, at = taken + 1, at + len(line) + 1
                        self._store_line(line)
        finally:
            del lines[:taken]
        self._writer.flush()

    def _store_line(self, line: bytes) -> None:
        try:
            self._writer.add(decode(line, now_ms()), line)
        except InvalidLine as reason:
            self._writer.refuse(line, str(reason))
        except BUGS as error:
            _log.exception("a bug of okx, on the line %s", line[:500].decode(errors="replace"))
            self._writer.refuse(line, f"a bug of okx: {type(error).__name__}: {error}")
