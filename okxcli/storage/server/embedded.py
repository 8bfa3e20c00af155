"""The embedded server: a private Postgres below one folder, started on demand, stopped by the last one out.

Every process that uses it holds a shared lock on `use.lock` for as long; who starts or stops it holds `door.lock`
(see `postmaster.py`, whose watcher stops a server that nobody could stop any more). It listens on a Unix socket that
only its owner can reach, and nowhere else.
"""

import fcntl
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import quote

from okxcli.errors import DatabaseUnavailable
from okxcli.runtime.files import private, private_folder, user_folder
from okxcli.storage.server import postmaster
from okxcli.storage.server.binaries import WHEEL_LIBRARIES, Account, Binaries, account, find

_log = logging.getLogger(__name__)

NAME = "okx"

# Chosen for one machine that records and queries: few sessions, a steady stream of commits, no network.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}

#: For servers that are deleted with their data: nothing is forced to disk.
THROWAWAY: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
}

# sun_path holds 104 bytes on macOS, 108 on Linux, with its closing NUL.
_LONGEST_SOCKET = 100
_SOCKET_NAME = "/.s.PGSQL.5432.lock"
_LOG_LIMIT = 10 << 20
_RECOVERY_S = 600.0
_UNUSABLE = "cannot use {}: {}. Name another place by {}"
_NAMED_BY = "XDG_DATA_HOME, or a server by --dsn"


def default_base(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the embedded database: `$XDG_DATA_HOME/okx`, by default `~/.local/share/okx`."""
    return user_folder("XDG_DATA_HOME", ".local/share", env) / "okx"


class EmbeddedServer:
    """One use of the server below `base`; a context manager, from `start` to `close`.

    `settings` are Postgres' own, on top of the usual ones, while the server runs; `named_by` says what names `base`.
    """

    def __init__(self, base: Path, settings: Mapping[str, str] | None = None, named_by: str = _NAMED_BY) -> None:
        self.base = base.absolute()
        self._settings = dict(settings or {})
        self._named_by = named_by
        self._use: BinaryIO | None = None

    @property
    def home(self) -> Path:
        """Where the server's files are: the base, or where a link in it points when another user runs the server."""
        link = self.base / "home"
        try:
            return link.readlink() if link.is_symlink() else self.base
        except PermissionError as error:
            raise DatabaseUnavailable(_UNUSABLE.format(self.base, error.strerror, self._named_by)) from None

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def socket(self) -> Path:
        """The folder of the socket: below the base, or a short one elsewhere when that path is too long for one."""
        folder = self.home / "s"
        if len(os.fsencode(folder)) + len(_SOCKET_NAME) <= _LONGEST_SOCKET:
            return folder
        name = f"okx-{os.getuid()}-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]}"
        # Not $XDG_RUNTIME_DIR: it is there in a login and not in cron, and both must find the one server.
        return Path("/tmp") / name

    @property
    def dsn(self) -> str:
        """How to connect to it, while it runs."""
        return f"host='{self.socket}' port=5432 user={NAME} dbname={NAME}"

    @property
    def url(self) -> str:
        return f"postgresql://{NAME}@/{NAME}?host={quote(str(self.socket), safe='/')}&port=5432"

    @property
    def exists(self) -> bool:
        """Whether there is a database, running or not."""
        return (self.data / "PG_VERSION").exists()

    def running(self) -> bool:
        """Whether it takes connections at this moment."""
        return self.exists and _ping(self.dsn) == "ok"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Use the server; make and start it first if need be. Returns when it takes connections.

        Raises:
            DatabaseUnavailable: the folder cannot be used, no Postgres fits it, or it does not start.
        """
        if self._use is not None:
            return
        try:
            private_folder(self.base, above=0o711)  # a server of another user must get through to it
            use = _open_lock(self.base / postmaster.USE)
        except OSError as error:
            raise DatabaseUnavailable(_UNUSABLE.format(self.base, error.strerror, self._named_by)) from None
        try:
            self._run(use)
        except BaseException:
            use.close()
            raise
        self._use = use

    def revive(self) -> None:
        """Start the server again if it has died while it was used; raises DatabaseUnavailable if it does not start."""
        if self._use is not None:
            self._run(self._use)

    def _run(self, use: BinaryIO) -> None:
        """Have the server run, and be one of its users."""
        try:
            with _open_lock(self.base / postmaster.DOOR) as door:
                fcntl.flock(door, fcntl.LOCK_EX)
                started = self._ensure()
                fcntl.flock(use, fcntl.LOCK_SH)
                if started:
                    self._spawn_watcher()
        except OSError as error:
            raise DatabaseUnavailable(f"cannot start Postgres in {self.base}: {error.strerror or error}") from None

    def close(self, patience_s: float = postmaster.STOP_S) -> None:
        """Stop using the server; stop it if nobody else does and it is not to be kept.

        Returns when that is done, or when the patience is over: it then stops by itself, or by its watcher where
        another process, which is just starting it, held the door all the time.
        """
        use, self._use = self._use, None
        if use is None:
            return
        until = time.monotonic() + patience_s
        with _open_lock(self.base / postmaster.DOOR) as door, use:
            if postmaster.locked(door, until):
                fcntl.flock(use, fcntl.LOCK_UN)
                if not (self.base / postmaster.KEEP).exists() and _unused(use):
                    self._stop(max(until - time.monotonic(), 0.0))

    def keep(self) -> None:
        """Let it go on running when its last user has gone, until `release`."""
        (self.base / postmaster.KEEP).touch(mode=0o600)

    def release(self, force: bool = False) -> bool:
        """Keep it no longer: stop it now if nobody uses it (or with `force`), else with its last user.

        Return whether it is stopped. Call it without using the server oneself.
        """
        if not self.exists:
            return True
        with _open_lock(self.base / postmaster.DOOR) as door, _open_lock(self.base / postmaster.USE) as use:
            fcntl.flock(door, fcntl.LOCK_EX)
            (self.base / postmaster.KEEP).unlink(missing_ok=True)
            if not force and not _unused(use):
                self._spawn_watcher()
                return False
            return self._stop()

    def _stop(self, patience_s: float = postmaster.STOP_S) -> bool:
        """Stop the server and remove the socket's folder if it is outside of ours. The door is ours meanwhile."""
        stopped = postmaster.stop(self.data, patience_s)
        if stopped and self.socket.parent != self.home:
            with suppress(OSError):
                self.socket.rmdir()
        return stopped

    def _ensure(self) -> bool:
        """Start the server unless it runs; return whether it was started. The door is ours meanwhile."""
        if self.exists and _settle(self.dsn) == "ok":
            return False
        who = account()
        if not self.exists:
            self._make_home(who)
        binaries = self._binaries(who)
        _private(self.socket, who)
        if not self.exists:
            self._initialise(who, binaries)
        postmaster.disown_stale(self.data, self.socket)
        self._launch(who, binaries)
        self._make_database()
        return True

    def _binaries(self, who: Account) -> Binaries:
        """Return the programs for this folder, copied to where the server's user reaches them if need be."""
        version = self.data / "PG_VERSION"
        found = find(int(version.read_text()) if version.exists() else None, self.base)
        if who.reaches(found.folder / "postgres"):
            return found
        copy = self.home / f"programs-{found.major}"
        # As deep as in the wheel, whose programs look for their libraries from there.
        tree = Path("package", "postgres")
        if not copy.exists():
            half = copy.with_suffix(".new")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(found.folder.parent, half / tree, symlinks=True)
            libraries = found.folder.parent.parent.parent / WHEEL_LIBRARIES
            if libraries.is_dir():
                shutil.copytree(libraries, half / WHEEL_LIBRARIES, symlinks=True)
            for folder in (half, half / tree.parent):
                folder.chmod(0o755)  # whatever the umask is
            half.rename(copy)
        return Binaries(copy / tree / found.folder.name, found.major)

    def _make_home(self, who: Account) -> None:
        """Give a server that runs as another user a folder of its own, where that user can get to it."""
        if who.uid is None or who.gid is None:
            return
        home = self.base / "server"
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, who.uid, who.gid)
        self.base.chmod(0o711)
        if not who.reaches(home):  # below a private home, as root's own is
            self.base.chmod(0o700)
            home.rmdir()
            name = hashlib.sha256(os.fsencode(self.base)).hexdigest()[:12]
            home = Path("/var/lib/okx") / name
            home.parent.mkdir(mode=0o711, exist_ok=True)
            home.mkdir(mode=0o700, exist_ok=True)
            home.chmod(0o700)
            os.chown(home, who.uid, who.gid)
        link = self.base / "home"
        link.unlink(missing_ok=True)
        link.symlink_to(home)

    def _initialise(self, who: Account, binaries: Binaries) -> None:
        """Make the data folder under another name first, so that one made by half is never taken for whole."""
        half = self.home / "data.new"
        shutil.rmtree(half, ignore_errors=True)
        options = ["-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums"]
        if self._settings.get("fsync") == "off":
            options.append("--no-sync")
        who.run([binaries.folder / "initdb", "-D", half, *options])
        with (half / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
        half.rename(self.data)

    def _launch(self, who: Account, binaries: Binaries) -> None:
        log = self.home / "log"
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.rename(log.with_suffix(".old"))
        at = log.stat().st_size if log.exists() else 0
        options = ["-k", str(self.socket), *(f"-c{name}={value}" for name, value in self._settings.items())]
        start: list[str | Path] = [binaries.folder / "pg_ctl", "start", "-s", "-w", "-t", str(int(_RECOVERY_S))]
        try:
            who.run([*start, "-D", self.data, "-l", log, "-o", shlex.join(options)])
        except DatabaseUnavailable:
            raise DatabaseUnavailable(f"Postgres does not start in {self.base}: {_last_word(log, at)}") from None
        _log.debug("started Postgres %d in %s", binaries.major, self.base)

    def _make_database(self) -> None:
        """Make the database `okx`; here on every start, since the first one may have been cut short before it."""
        import psycopg

        with psycopg.connect(self.dsn.replace(f"dbname={NAME}", "dbname=postgres"), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone() is None:
                connection.execute("CREATE DATABASE okx")

    def _spawn_watcher(self) -> None:
        """Start the watcher. A safety net: without it, a server whose users were all killed waits for the next."""
        command = [sys.executable, "-I", "-S", postmaster.__file__, str(self.base), str(self.data)]
        try:
            subprocess.run(command, cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            _log.debug("no watcher beside the embedded Postgres: %s", error)


def _open_lock(path: Path) -> BinaryIO:
    return open(path, "a+b", opener=private)


def _unused(lock: BinaryIO) -> bool:
    """Lock it, unless another process holds it for longer than the instant for which a watcher does."""
    return postmaster.locked(lock, time.monotonic() + 0.01)


def _ping(dsn: str) -> str:
    """Ask as pg_isready does: `ok` also when all connections are taken, `busy` while it starts, recovers or stops."""
    from psycopg import pq

    answer = pq.Ping(pq.PGconn.ping(f"{dsn} connect_timeout=5".encode()))
    return {pq.Ping.OK: "ok", pq.Ping.REJECT: "busy"}.get(answer, "down")


def _settle(dsn: str) -> str:
    """Wait until the server is either up or down, and say which."""
    until = time.monotonic() + _RECOVERY_S
    told = time.monotonic() + 2
    while (state := _ping(dsn)) == "busy" and time.monotonic() < until:
        if told and time.monotonic() > told:
            _log.info("the embedded Postgres is starting up or shutting down: waiting")
            told = 0
        time.sleep(0.02)
    return state


def _private(folder: Path, who: Account) -> None:
    """Make the socket's folder, or refuse one there that others could have prepared (it may be below /tmp)."""
    private_folder(folder)
    owner = os.geteuid() if who.uid is None else who.uid
    if who.uid is not None and who.gid is not None and folder.lstat().st_uid == os.geteuid():
        os.chown(folder, who.uid, who.gid)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise DatabaseUnavailable(f"{folder} is not a private folder of ours: remove it")


def _last_word(log: Path, at: int) -> str:
    """Return why the server did not start: the last FATAL line that it logged from byte `at` on, or where to look."""
    try:
        with log.open("rb") as file:
            file.seek(at)
            lines = file.read(1 << 20).decode(errors="replace").splitlines()
    except OSError:
        lines = []
    fatal = [line.split("FATAL:", 1)[1].strip() for line in lines if "FATAL:" in line]
    return f"{fatal[-1]}. Its log: {log}" if fatal else f"see {log}"


def throwaway_base() -> Path:
    """Return a new private folder for a server that is deleted with it."""
    return Path(tempfile.mkdtemp(prefix="okx-"))
