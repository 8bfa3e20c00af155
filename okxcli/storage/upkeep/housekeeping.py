"""What a collector does beside collecting, in a thread of its own: mend bars, drop what is kept no longer.

Such work may wait for a lock, for a slow query or for a server that hangs; the collector must not wait with it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from okxcli.core.model import OHLCVCandle
from okxcli.errors import BUGS, OkxError
from okxcli.storage.candles.live_mending import LiveMender
from okxcli.storage.database import Database
from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

#: Time between two runs of the housekeeping, and before the first: a clock that was wrong at the start of the machine
#: may be right by then, and the exchange's is known.
HOUSEKEEPING_S = 600.0
FIRST_HOUSEKEEPING_S = 300.0
_PACE_S = 0.25
_STOP_S = 1.0


class Housekeeping:
    """Runs `mender` and `housekeep` now and then, as long as `possible` says that the database is there.

    `note` may be called from any thread.
    """

    def __init__(self, possible: Callable[[], bool], housekeep: Callable[[], None], mender: LiveMender | None) -> None:
        self._possible = possible
        self._housekeep = housekeep
        self._mender = mender
        self._notes: deque[OHLCVCandle] = deque()
        self._next_housekeeping = time.monotonic() + FIRST_HOUSEKEEPING_S
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, bar: OHLCVCandle) -> None:
        """Tell the mender of a closed bar that is being written."""
        if self._mender is not None:
            self._notes.append(bar)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="okx chores", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that waits for Postgres is left, and ends with the process."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def work(self) -> None:
        """Do what is due, here and now."""
        while self._mender is not None and self._notes:
            self._mender.note(self._notes.popleft())
        if not self._possible():
            return
        if self._mender is not None:
            self._guarded("bars are mended later", self._mender.tick)
        if time.monotonic() >= self._next_housekeeping:
            self._next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            self._guarded("no housekeeping this time", self._housekeep)

    def _run(self) -> None:
        while not self._stopped.wait(_PACE_S):
            self.work()

    @staticmethod
    def _guarded(told: str, work: Callable[[], None]) -> None:
        """Do what can wait until another time."""
        try:
            work()
        except OkxError as error:
            _log.debug("%s: %s", told, error)
        except BUGS:
            _log.exception("a bug of okx: %s", told)


def session(database: Database) -> AbstractContextManager[Connection]:
    """Give a connection for a `with` block that waits for no lock for long: a writer may be waiting behind us.

    Raises:
        DatabaseUnavailable, LoginRefused: as `Database.session`.
    """
    return database.session(lock_timeout="5s", idle_in_transaction_session_timeout="60s")
