"""Lines into Postgres whatever happens to it: committed while it is there, spooled while it is away, drained after.

States: `up` (batches are committed), `away` (batches go to the spool; a thread tries to reach the database every
second), `draining` (the spool goes into the database, oldest first; what is new queues up behind it).
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from okxcli.core.codec import decode, encode
from okxcli.core.model import Line
from okxcli.errors import DatabaseUnavailable, InvalidLine, OkxError
from okxcli.runtime.clock import now_ms
from okxcli.storage.database import Connection, Database
from okxcli.storage.spool import Spool, SpoolFile
from okxcli.storage.writer import BATCH_MS, BATCH_ROWS, Writer

_log = logging.getLogger(__name__)

_PROBE_S = 1.0
#: A statement that takes longer has met a lock or a stuck server; the batch is spooled instead.
_LOCK_TIMEOUT = "5s"
_STATEMENT_TIMEOUT = "20s"
#: The share of the spool's bound at which a word is due.
_NEARLY_FULL = 0.8


class Keeper:
    """Takes lines and never loses one that `add` has taken.

    `on_durable` is called with the raw lines of each commit, as by `Writer`: while the database is away they wait.
    `full` says that there is no room for more, neither in Postgres nor in the spool: whoever feeds it must wait.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        on_durable: Callable[[list[bytes]], None] | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.full = False
        self.spooled = 0
        self._database = database
        self._spool = spool
        self._clock = clock
        self._writer = Writer(self._connect, where=database.where, clock=clock, patience_s=0.3, on_durable=on_durable)
        self._state: Literal["up", "away", "draining"] = "up"
        self._held: list[bytes] = []  # not in the spool yet, while away or draining
        self._held_since = 0
        self._file: SpoolFile | None = None
        self._reachable = threading.Event()
        self._stopped = threading.Event()
        self._warned = False
        if spool.size():
            _log.info("lines of an earlier run wait in %s: storing them", spool.folder)
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
        if not self._held:
            self._held_since = self._clock()
        self._held.append(raw if raw is not None else encode(line))
        if len(self._held) >= BATCH_ROWS:
            self._keep()

    def due_in(self, now: int) -> float | None:
        """Return the seconds until `tick` wants to be called; None when nothing waits."""
        if self._state == "up":
            return self._writer.due_in(now)
        if self._state == "draining":
            return 0.0
        if self._held:
            return min(max(self._held_since + BATCH_MS - now, 0), BATCH_MS) / 1000 if not self.full else _PROBE_S
        return 0.0 if self._reachable.is_set() else _PROBE_S

    def tick(self) -> None:
        """Do what is due: a batch, a look whether the database is back, a piece of the spool."""
        now = self._clock()
        if self._state == "up":
            if self._writer.due_in(now) == 0:
                self._commit()
            return
        if self._held and now - self._held_since >= BATCH_MS:
            self._keep()
        if self._state == "away" and self._reachable.is_set():
            self._reachable.clear()
            self._state = "draining"
            _log.info("%s is back", self._database.where)
        if self._state == "draining":
            self._drain_piece()

    def finish(self) -> int:
        """Commit everything, or leave it in the spool; return how many lines wait there."""
        while self._state == "draining":
            self._keep()
            self._drain_piece()
        if self._state == "up":
            self._commit()
        if self._state == "away":
            self._keep()
        self._spool.rotate()
        return 0 if self._state == "up" else self._spool.lines() + len(self._held)

    def explain_left(self, count: int) -> str:
        """Return in a line where lines wait that `finish` could not commit, and how they get into the database."""
        lost = f" {len(self._held):,} of them found no room there and are lost." if self._held else ""
        return (
            f"{self._database.where} is away: {count:,} lines wait in {self._spool.folder}.{lost} "
            "The next run of okx store or okx collect stores them; so does okx store --drain"
        )

    def counts(self) -> dict[str, int]:
        """Return the writer's counts, and how many lines went through the spool."""
        return self._writer.counts() | {"spooled": self.spooled}

    def close(self) -> None:
        """Close connection and spool."""
        self._stopped.set()
        if self._file is not None:
            self._file.leave()
            self._file = None
        self._spool.close()
        self._writer.close()

    # ---- the database

    def _connect(self) -> Connection:
        connection = self._database.connect()
        connection.execute(
            "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
            [_LOCK_TIMEOUT, _STATEMENT_TIMEOUT],
        )
        return connection

    def _commit(self) -> None:
        try:
            self._writer.flush()
        except DatabaseUnavailable as error:
            self._go_away(error)

    def _go_away(self, error: DatabaseUnavailable) -> None:
        """From now on spool, beginning with the batch that could not be committed."""
        _log.warning("%s: spooling to %s until it is back", error, self._spool.folder)
        self._state = "away"
        self._take_back()
        self._keep()
        self._probe()

    def _take_back(self) -> None:
        pending = [raw if raw is not None else encode(line) for line, raw in self._writer.take_pending()]
        if pending and not self._held:
            self._held_since = self._clock()
        self._held[:0] = pending

    def _probe(self) -> None:
        self._writer.close()  # the session may be what is wrong: begin anew
        self._reachable.clear()
        threading.Thread(target=self._reach, name="okx reach database", daemon=True).start()

    def _reach(self) -> None:
        """Try until the database takes writes again, in a thread of its own: an attempt may hang for seconds."""
        while not self._stopped.wait(_PROBE_S):
            try:
                self._database.revive()
                with self._connect() as connection:
                    row = connection.execute(
                        "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
                    ).fetchone()
                if row is not None and not row[0]:
                    self._reachable.set()
                    return
            except (OkxError, OSError) as error:
                _log.debug("still away: %s", error)
            except Exception as error:
                _log.debug("still away: %s: %s", type(error).__name__, error)

    # ---- the spool

    def _keep(self) -> None:
        """Put what is held into the spool; when that has no room it stays held, and `full` is set."""
        if not self._held:
            return
        try:
            self._spool.write(self._held)
        except OSError as error:
            if not self.full:
                _log.error("%s: taking no more in until there is room, or the database is back", error)
            self.full = True
            self._held_since = self._clock()
            return
        if self.full:
            _log.info("there is room again: taking more in")
        self.full = False
        self.spooled += len(self._held)
        self._held.clear()
        size = self._spool.size()
        if size > _NEARLY_FULL * self._spool.max_bytes and not self._warned:
            self._warned = True
            _log.warning("the spool %s is nearly full: %d MiB", self._spool.folder, size >> 20)

    def _drain_piece(self) -> None:
        """Store one batch of the spool, oldest first; when nothing waits any more, go on directly."""
        if self._file is None:
            self._spool.rotate()
            self._file = next(self._spool.files(), None)
        if self._file is None:
            self._drain_held()
            return
        lines = self._file.read(BATCH_ROWS)
        try:
            for line in lines:
                self._store(line)
            self._writer.flush()
        except DatabaseUnavailable as error:
            self._writer.take_pending()  # they are in the file
            self._file.leave()
            self._file = None
            _log.warning("%s: spooling to %s until it is back", error, self._spool.folder)
            self._state = "away"
            self._probe()
            return
        if not lines:
            self._file.done()
            self._file = None

    def _drain_held(self) -> None:
        """Store what came while the spool was drained, and be up again."""
        held, self._held = self._held, []
        self._state = "up"
        self.full = self._warned = False
        began = time.monotonic()
        waiting = iter(held)
        try:
            for line in waiting:
                self._store(line)
            self._writer.flush()
        except DatabaseUnavailable as error:
            self._held = list(waiting)  # the line at hand is the writer's already
            self._go_away(error)
            return
        _log.info("the spool is empty: storing directly (%.1f s)", time.monotonic() - began)

    def _store(self, line: bytes) -> None:
        try:
            self._writer.add(decode(line), line)
        except InvalidLine as reason:
            _log.error("passed over in the spool: %s: %s", reason, line[:200].decode(errors="replace"))
