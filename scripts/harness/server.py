"""The Postgres of the harness: everything that can be done to a server, as its administrator or with signals."""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from okxcli.errors import DatabaseUnavailable
from okxcli.storage.server import postmaster
from okxcli.storage.server.embedded import EmbeddedServer, throwaway_base

#: Small enough for a tmpfs; commits are forced to disk as they are for users.
SETTINGS = {"shared_buffers": "64MB", "max_wal_size": "96MB", "min_wal_size": "32MB", "max_connections": "30"}


class Postgres:
    """A server below `base`, from `with` to its end; a throw-away folder by default, which goes with it.

    One that is not `private` is left to the `okx` that starts it, until `use`.
    """

    def __init__(
        self, base: Path | None = None, settings: Mapping[str, str] | None = None, private: bool = True
    ) -> None:
        self._own = base is None
        self.private = private
        self._base = throwaway_base() if base is None else base
        self._server = EmbeddedServer(self._base, {**SETTINGS, **(settings or {})})

    def __enter__(self) -> "Postgres":
        if self.private:
            self._server.start()
        return self

    def use(self) -> None:
        """Start it if it does not run, and keep it running."""
        self._server.start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return postmaster.alive(self.data)

    def __exit__(self, *_: object) -> None:
        self.thaw()
        self._server.close()
        if self._own:
            shutil.rmtree(self._base, ignore_errors=True)

    @property
    def dsn(self) -> str:
        """The database that `okx` uses."""
        return self._server.dsn

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self._server.home / "log").read_text(errors="replace")

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self._server.data

    @property
    def pid(self) -> int:
        """The postmaster's."""
        pid = postmaster.pid_of(self.data)
        if pid is None:
            raise RuntimeError("the server does not run")
        return pid

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection]:
        """Give a connection to another database than the one that `okx` uses."""
        with psycopg.connect(make_conninfo(self.dsn, dbname="postgres"), autocommit=True) as connection:
            yield connection

    def set(self, **settings: str | None) -> None:
        """Change settings of the whole server, None: back to the default; they hold at once."""
        with self.admin() as connection:
            self.note(connection, **settings)
            connection.execute("SELECT pg_reload_conf()")

    @staticmethod
    def note(connection: psycopg.Connection, **settings: str | None) -> None:
        """Change settings that hold from the next reload on."""
        for name, value in settings.items():
            what = f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'"
            connection.execute(what)

    def stop(self, immediately: bool = False) -> None:
        """Stop it, as `pg_ctl stop -m fast` or `-m immediate`."""
        pid = self.pid
        os.kill(pid, signal.SIGQUIT if immediately else signal.SIGINT)
        end = time.monotonic() + 30
        while postmaster.alive(self.data) and postmaster.pid_of(self.data) == pid:
            if time.monotonic() > end:
                raise RuntimeError("the server does not stop")
            time.sleep(0.005)

    def start(self, patience_s: float = 60.0) -> None:
        """Start it again."""
        end = time.monotonic() + patience_s
        while True:
            try:
                self._server.revive()
                return
            except DatabaseUnavailable:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def freeze(self) -> None:
        """Stop all its processes where they are (SIGSTOP); the kernel goes on to take what is sent to them."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them run on."""
        if postmaster.alive(self.data):
            for pid in self._family():
                os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        mother = self.pid
        children = Path(f"/proc/{mother}/task/{mother}/children").read_text().split()
        return [mother, *map(int, children)]
