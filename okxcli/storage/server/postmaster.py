"""A Postgres server seen from its data folder: is it alive, is its pid file stale, stop it; and the watcher.

Run as a script it is the watcher: a small process beside a server of ours that stops it when its last user is gone,
however that user ended (`kill -9` leaves nobody to clean up). It is run by path, isolated and without site packages,
so this module imports the standard library alone.

Two lock files in the base folder arrange who may do what. `door.lock`, held exclusively, is for starting and stopping:
one process at a time. `use.lock`, held shared, says "I use it"; the kernel drops it whatever ends the holder.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

DOOR = "door.lock"
USE = "use.lock"
KEEP = "keep"

#: How long a server may take to stop: its last checkpoint writes all that is in memory.
STOP_S = 60.0

# Beyond any kernel's highest pid (Linux: 2**22), so that signalling it says "no such process".
_NOBODY = 2**30


def pid_of(data: Path) -> int | None:
    """Return the pid that the server's own pid file names; None without such a file."""
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def alive(data: Path) -> bool:
    """Whether the process that the pid file names is a server of this very folder.

    It is not when it is a zombie, or a process that got the number later; in doubt it is ours.
    """
    pid = pid_of(data)
    if pid is None:
        return False
    if Path("/proc/self/stat").exists():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            return state not in "ZX" and Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
        except (FileNotFoundError, ProcessLookupError):
            return False
        except PermissionError:  # it lives, as another user
            return True
    shown = subprocess.run(["ps", "-o", "stat=,command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, command = shown.stdout.strip().partition(" ")
    return bool(state) and not state.startswith("Z") and "postgres" in command and str(data) in command


def disown_stale(data: Path, socket: Path) -> None:
    """Let what a dead server left behind (its pid names nobody, a zombie or a stranger) no longer stop a start.

    The pid file stays, with a pid that nobody has: its other lines let Postgres see backends that outlived their
    server and still write, and refuse to start beside them. The socket and its lock file go.
    """
    if alive(data):
        return
    for left in socket.glob(".s.PGSQL.*"):
        left.unlink(missing_ok=True)
    if pid_of(data) is None:
        return
    file = data / "postmaster.pid"
    lines = file.read_text().split("\n")
    lines[0] = str(_NOBODY)
    file.write_text("\n".join(lines))


def stop(data: Path, timeout_s: float = STOP_S) -> bool:
    """Stop the server of `data`: sessions end, everything committed is on disk. Return False if it is still there."""
    until = time.monotonic() + timeout_s
    pid = pid_of(data) if alive(data) else None
    if pid is None:
        return True
    os.kill(pid, signal.SIGINT)  # Postgres' "fast" shutdown
    while time.monotonic() < until:
        if pid_of(data) != pid or not alive(data):
            return True
        time.sleep(0.005)
    return False


def locked(lock: int | BinaryIO, until: float) -> bool:
    """Lock a file exclusively, trying until then (`time.monotonic`); return whether it is locked."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        else:
            return True


def _watch(base: Path, data: Path) -> None:
    """Wait until nobody uses the server, then stop it, unless it is to be kept."""
    use = os.open(base / USE, os.O_RDWR)
    door = os.open(base / DOOR, os.O_RDWR)
    while True:
        fcntl.flock(use, fcntl.LOCK_EX)
        # Let go at once: who starts or stops holds the door and asks for this lock next.
        fcntl.flock(use, fcntl.LOCK_UN)
        fcntl.flock(door, fcntl.LOCK_EX)
        if locked(use, until=0.0):
            if not (base / KEEP).exists():
                stop(data)
            return
        fcntl.flock(door, fcntl.LOCK_UN)


def _detach() -> None:
    """Leave the session and the terminal of who started us, and every descriptor of theirs."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # a service manager signals its whole group; we go when the users went


if __name__ == "__main__":
    _detach()
    _watch(Path(sys.argv[1]), Path(sys.argv[2]))
