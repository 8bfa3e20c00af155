"""Ends the wait for a server that does not answer.

Time-outs of the server's own do not help when it is stopped, or its disk hangs in the middle of a COMMIT, and over a
Unix socket, or to a machine that still acknowledges what we send, nothing else ever fails. So a thread looks at how
long a transaction takes, and shuts the socket under it: the wait then ends as with any lost connection.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from okxcli.storage.server.pooled_connection import Connection

_log = logging.getLogger(__name__)

_PACE_S = 0.25


class Watchdog:
    """Watches one transaction at a time. `limit_s` is how long it may take; `hurry_s`, once `hurried` says so."""

    def __init__(self, limit_s: float, hurry_s: float, hurried: Callable[[], bool]) -> None:
        self._limit_s = limit_s
        self._hurry_s = hurry_s
        self._hurried = hurried
        self._hurried_since: float | None = None
        self._lock = threading.Lock()
        self._watched: tuple[Connection, float] | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, connection: Connection) -> Iterator[None]:
        """Watch what is done with `connection` in the block."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="okx watchdog", daemon=True)
            self._thread.start()
        with self._lock:
            self._watched = connection, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._watched = None

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_PACE_S):
            if self._hurried_since is None and self._hurried():
                self._hurried_since = time.monotonic()
            with self._lock:
                if self._watched is not None and self._late(self._watched[1]):
                    _shut(self._watched[0])
                    self._watched = None

    def _late(self, since: float) -> bool:
        now = time.monotonic()
        if now - since > self._limit_s:
            return True
        return self._hurried_since is not None and now - max(since, self._hurried_since) > self._hurry_s


def _shut(connection: Connection) -> None:
    _log.debug("no answer from Postgres: giving the connection up")
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.Error) as error:  # the other end has just gone
        _log.debug("the connection is gone already: %s", error)
