"""The connection: every statement in a transaction with settings of its own, and what libpq's options ask for."""

import time
from contextlib import suppress

import psycopg
import pytest

from okxcli.storage.database import open_database
from okxcli.storage.server import pooled_connection as connections
from okxcli.storage.server.pooled_connection import lone, settings_in


@pytest.fixture
def opened(database):
    with open_database(database, create=True) as opened:
        yield opened


def test_a_block_that_went_on_after_a_failure(opened):
    """What follows a failed statement is not stored, and that is no commit."""
    with opened.connect() as connection:
        with pytest.raises(psycopg.OperationalError), connection.transaction(), suppress(psycopg.Error):
            connection.execute("INSERT INTO meta VALUES ('a', 'b')")
            connection.execute("SELECT 1 / 0")
        assert connection.execute("SELECT 1 FROM meta WHERE key = 'a'").fetchone() is None


def test_a_savepoint_gives_back_its_part_alone(opened):
    """A block within another is a savepoint; the whole is one commit."""
    with opened.connect() as connection:
        with connection.transaction():
            connection.execute("INSERT INTO meta VALUES ('a', '')")
            with suppress(psycopg.Error), connection.transaction():
                connection.execute("INSERT INTO meta VALUES ('b', '')")
                connection.execute("SELECT 1 / 0")
        found = connection.execute("SELECT key FROM meta WHERE value = '' ORDER BY 1").fetchall()
    assert found == [("a",)]


def test_a_block_that_is_to_be_taken_back(opened):
    """Nothing of it is stored, whether it is a transaction or within one."""
    with opened.connect() as connection:
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO meta VALUES ('a', '')")
        with connection.transaction(), connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO meta VALUES ('b', '')")
        assert connection.execute("SELECT key FROM meta WHERE value = ''").fetchall() == []


def test_settings_hold_within_a_transaction_alone(opened):
    """Ours in a lone statement too; afterwards the session is as it was."""
    with opened.connect(lock_timeout="7s") as connection:
        wanted = "SELECT current_setting('lock_timeout'), current_setting('datestyle')"
        assert connection.execute(wanted).fetchone() == ("7s", "ISO, YMD")
        assert connection.cursor().execute(wanted).fetchone() == ("0", "ISO, MDY")


def test_one_alone_holds_the_lock(opened, monkeypatch):
    """As long as its block, longer than who is idle is borne with; the next one gets it afterwards."""
    monkeypatch.setattr(connections, "_ALIVE_S", 0.05)
    with opened.connect(idle_in_transaction_session_timeout="1s") as one, opened.connect() as other:
        with lone(one, 77) as alone:
            time.sleep(1.5)
            with lone(other, 77) as second:
                assert (alone, second) == (True, False)
        with lone(other, 77) as alone:
            assert alone


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        (
            "-c search_path=a,b --work-mem=1MB -cdatestyle=ISO",
            {"search_path": "a,b", "work_mem": "1MB", "datestyle": "ISO"},
        ),
        (r"-c application_name=a\ b\\c", {"application_name": r"a b\c"}),
        ("-c search_path", None),
        ("-d 5", None),
    ],
)
def test_options_of_libpq(options, settings):
    """-c and -- with a name and a value; anything else is the server's alone."""
    assert settings_in(options) == settings
