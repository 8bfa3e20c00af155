"""PgBouncer in front of the Postgres of a test, with a pool that is smaller than the number of those who use it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from okxcli.storage.server.binaries import account

#: Where Debian has it is not on everybody's PATH.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needed = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ, reason="no pgbouncer here: apt-get install pgbouncer"
)


class Pooler:
    """One PgBouncer, from `with` to its end; `behind` is the DSN of the server. `settings` are PgBouncer's own."""

    def __init__(self, folder, behind, **settings):
        self.folder = folder
        self.behind = behind
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        to = conninfo_to_dict(behind)
        self.dsn = f"host=127.0.0.1 port={self.port} user={to['user']} dbname={to['dbname']}"
        names = " ".join(f"{key}={to[key]}" for key in ("host", "port", "user", "dbname") if key in to)
        ours = {
            "listen_addr": "127.0.0.1", "listen_port": self.port, "unix_socket_dir": "", "auth_type": "any",
            "pool_mode": "transaction", "default_pool_size": 4, "logfile": folder / "pgbouncer.log",
            "admin_users": "admin", "server_login_retry": 1,
        } | settings  # fmt: skip
        text = "".join(f"{key} = {value}\n" for key, value in ours.items())
        self.file = folder / "pgbouncer.ini"
        self.file.write_text(f"[databases]\n{to['dbname']} = {names}\n[pgbouncer]\n{text}")
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start it, and wait until it takes connections. As root it is run as the server is, whom it must reach."""
        who = account()
        if who.uid is not None:
            os.chown(self.folder, who.uid, who.gid)
        self.process = subprocess.Popen(
            [*who.prefix, PROGRAM, "-q", self.file], user=who.uid, group=who.gid,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end and self.process.poll() is None, self.log
                time.sleep(0.02)

    def stop(self):
        """End it at once, as its clients see a crash."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None

    @contextmanager
    def without_server(self):
        """Let nobody into the database, and nobody stay, until the end of the block."""
        name = conninfo_to_dict(self.dsn)["dbname"]
        with psycopg.connect(make_conninfo(self.behind, dbname="postgres"), autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            try:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
                yield
            finally:
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    @property
    def log(self):
        return (self.folder / "pgbouncer.log").read_text()
