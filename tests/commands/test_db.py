"""`okx db` as a process: the embedded server's life, its address, SQL, psql."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from okxcli.storage.schema import versions

OKX = [sys.executable, "-m", "okxcli", "db"]


@pytest.fixture
def environment(tmp_path):
    """The environment of a user with an empty home and no database named."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    return clean | {"HOME": str(tmp_path)}


@pytest.fixture
def db(environment):
    """Run `okx db`."""

    def db(*arguments, data="", **more):
        return subprocess.run(
            [*OKX, *arguments],
            input=data,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment | more,
        )

    return db


@pytest.fixture
def filled(db, database):
    """The same, on a database with tables."""

    def run(*arguments, **more):
        return db(*arguments, OKX_DSN=database, **more)

    assert run("migrate").returncode == 0
    return run


def test_embedded_server_is_started_kept_and_stopped(db, environment):
    """start makes it and prints its URL, which others use without okx; stop ends it; both may be repeated."""
    base = Path(environment["HOME"]) / ".local/share/okx"
    assert db("path").stdout == f"{base}\n"
    assert db("url").returncode == 1 and db("stop").returncode == 1
    assert not base.exists()
    started = db("start", OKX_DSN="host=elsewhere")
    try:
        assert started.returncode == 0, started.stderr
        url = started.stdout.strip()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM raw_trades").fetchone() == (0,)
        assert db("start").stdout == started.stdout == db("url").stdout
    finally:
        stopped = db("stop")
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")
    assert not (base / "data/postmaster.pid").exists()
    assert "okx db start" in db("url").stderr
    assert db("stop").returncode == 0


def test_url_and_path_of_another_database(db):
    """No password is printed; a folder is there for the embedded one only."""
    done = db("url", OKX_DSN="postgresql://me:hush@db:5433/tape")
    assert sorted(done.stdout.split()) == ["dbname=tape", "host=db", "port=5433", "user=me"]
    assert db("url", PGHOST="db", PGDATABASE="tape", PGUSER="me", PGPASSWORD="hush").stdout.split() == [
        "host=db", "port=5432", "user=me", "dbname=tape",
    ]  # fmt: skip
    done = db("path", OKX_DSN="host=db")
    assert done.returncode == 1 and "not the embedded one (OKX_DSN)" in done.stderr


def test_migrate_tells_what_it_did(db, database):
    """Each step once, then nothing."""
    assert db("migrate", OKX_DSN=database).stdout.splitlines()[0] == "0001 tables"
    again = db("migrate", OKX_DSN=database)
    assert (again.returncode, again.stdout) == (0, "")


def test_rows_are_printed_in_the_spelling_of_lines(filled, tmp_path):
    """Numeric as canonical string, times in milliseconds, null and JSON as they are; statements, files, stdin."""
    script = tmp_path / "two.sql"
    script.write_text("CREATE TABLE own (a int); INSERT INTO own VALUES (1), (2); SELECT a FROM own ORDER BY a;")
    done = filled(
        "run",
        "SELECT 1.50 AS n, timestamptz '2025-05-12 22:00:00.123Z' AS t, null AS x, ARRAY[1e-8] AS a,"
        " '{\"k\": 1}'::jsonb AS j",
        str(script),
        "INSERT INTO own VALUES (3)",
        "-",
        data="SELECT count(*) FROM own",
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"n": "1.5", "t": 1747087200123, "x": None, "a": ["0.00000001"], "j": {"k": 1}},
        {"a": 1},
        {"a": 2},
        {"count": 3},
    ]
    assert filled("run", "--table", "SELECT 1 AS a, 'x' AS b").stdout == "a  b\n1  x\n"


def test_many_rows_are_streamed(filled):
    """A result larger than memory would like comes out whole, and may be cut off by its reader."""
    done = filled("run", "SELECT generate_series(1, 50000) AS i")
    assert [json.loads(line)["i"] for line in done.stdout.splitlines()] == list(range(1, 50001))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT * FROM nowhere", '"nowhere" does not exist'),
        ("SELEC 1", "syntax error"),
        ("absent.sql", "absent.sql"),
        ("", "an empty statement"),
        ("; /* nothing */ ; -- at all", "an empty statement"),
    ],
)
def test_mistakes_in_sql_are_one_line(filled, statement, words):
    """Postgres' own word, and exit 2."""
    done = filled("run", statement)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_shell_is_psql(filled):
    """psql opens on the same database; its arguments and its exit status are passed on."""
    done = filled("shell", "--", "-Atc", "SELECT value FROM meta WHERE key = 'schema_version'")
    assert done.stdout == f"{versions.newest()}\n"
    assert filled("shell", "--", "-c", "SELECT 1/0").returncode == 1


def test_status_names_database_and_tables(filled, database):
    """Where, which Postgres, why this one; rows of every table."""
    found = [json.loads(line) for line in filled("status").stdout.splitlines()]
    assert "Postgres" in found[0]["what"] and "OKX_DSN" in found[0]["what"]
    assert {row["name"] for row in found[1:]} >= {"raw_trades", "market_data", "trade_ledger", "quarantine"}


def test_commands_without_data_make_nothing(db, environment):
    """status, run and shell are readers: exit 69 and how to go on."""
    for arguments in (["status"], ["run", "SELECT 1"], ["shell"]):
        done = db(*arguments)
        assert done.returncode == 69
        assert "no data at ~/.local/share/okx" in done.stderr
    assert list(Path(environment["HOME"]).iterdir()) == []
