"""Which databases were in use here: noted with the origin of their data, and not for ever."""

import os

from okxcli.storage.database import open_database
from okxcli.storage.server import known_databases as module
from okxcli.storage.server.known_databases import Seen


def test_a_database_is_known_by_its_place_and_origin(tmp_path):
    """Data from elsewhere makes it another one."""
    env = {"XDG_STATE_HOME": str(tmp_path)}
    seen = Seen("db:5432/okx", env)
    assert not seen.before("okx.com")
    seen.note("okx.com")
    assert Seen("db:5432/okx", env).before("okx.com")
    assert not Seen("db:5432/okx", env).before("local")
    assert not Seen("db:5432/other", env).before("okx.com")


def test_only_writers_that_know_their_origin_note_it(database, tmp_path):
    """`okx db start` in between does not make a known database unknown."""
    env = {"XDG_STATE_HOME": str(tmp_path)}
    with open_database(database, create=True, origin="local", env=env) as opened:
        seen = Seen(opened.where, env)
    assert seen.before("local")
    open_database(database, create=True, env=env).close()
    open_database(database, create=False, env=env).close()
    assert seen.before("local")


def test_old_notes_go(tmp_path, monkeypatch):
    """Those of databases that are in use stay."""
    monkeypatch.setattr(module, "_MOST", 3)
    folder = tmp_path / "okx" / "seen"
    seen = [Seen(f"db:{number}/okx", {"XDG_STATE_HOME": str(tmp_path)}) for number in range(4)]
    for age, one in enumerate(seen[:3]):
        one.note("local")
        for path in folder.iterdir():
            os.utime(path, (path.stat().st_mtime - 100 * (3 - age),) * 2)
    seen[0].note("local")
    seen[3].note("local")
    assert [one.before("local") for one in seen] == [True, False, True, True]


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path):
    """Nothing is remembered then."""
    (tmp_path / "file").touch()
    seen = Seen("db:5432/okx", {"XDG_STATE_HOME": str(tmp_path / "file")})
    seen.note("local")
    assert not seen.before("local")
