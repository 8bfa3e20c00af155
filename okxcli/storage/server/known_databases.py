"""Which databases were in use here before.

One that was, and is away at the start of `okx collect`, is waited for while data goes to the spool: after a reboot
Postgres may come up later than we do. One that never was is rather a mistake in the configuration.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from okxcli.runtime.files import private, private_folder, user_folder

_log = logging.getLogger(__name__)

#: Notes kept: of databases that were thrown away, as each simulation's, they would never go.
_MOST = 100


def state_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Return `$XDG_STATE_HOME/okx` (`~/.local/state/okx`)."""
    return user_folder("XDG_STATE_HOME", ".local/state", env) / "okx"


def name_of(where: str) -> str:
    """Return a file name for a database."""
    return hashlib.sha256(where.encode()).hexdigest()[:12]


class Seen:
    """The note about one database, a small file below `$XDG_STATE_HOME/okx`, by the place that `Database.where` names.

    Its content is the origin of the data, so that data from elsewhere is not even spooled for it.
    """

    def __init__(self, where: str, env: Mapping[str, str] = os.environ) -> None:
        self._path = state_folder(env) / "seen" / name_of(where)

    def before(self, origin: str | None) -> bool:
        """Whether it was in use here, with data from `origin`."""
        try:
            return self._path.read_text() == f"{origin}\n"
        except (OSError, UnicodeDecodeError):
            return False

    def note(self, origin: str) -> None:
        """Remember that it is in use. Where nothing can be written that is not remembered, and does no harm."""
        try:
            if self.before(origin):
                self._path.touch()  # it is in use still
                return
            private_folder(self._path.parent)
            with open(self._path, "w", encoding="utf-8", opener=private) as file:
                file.write(f"{origin}\n")
            notes = sorted(self._path.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            for old in notes[:-_MOST]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("cannot remember the database in %s: %s", self._path, error.strerror)
