"""Finding and opening the database: precedence, secrets, errors in words, migrations, the origin guard."""

import threading

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from okxcli.errors import ConfigError, DatabaseUnavailable, LoginRefused, UsageError
from okxcli.storage.database import Database, Target, open_database, resolve, variables, without_secrets
from okxcli.storage.schema import versions

HOME = {"XDG_DATA_HOME": "/nowhere"}


@pytest.mark.parametrize(
    ("dsn", "config", "env", "why"),
    [
        ("host=a", "host=b", {"OKX_DSN": "host=c", "PGHOST": "d"}, "--dsn"),
        ("host=c", "host=b", {"OKX_DSN": "host=c", "PGHOST": "d"}, "OKX_DSN"),
        (None, "host=b", {"PGHOST": "d"}, "from the configuration"),
        (None, None, {"PGHOST": "d", "PGDATABASE": "e"}, "PGHOST"),
        (None, None, {"PGDATABASE": "e"}, "PGDATABASE"),
        (None, None, {"PGSERVICE": "s", "PGHOST": "d"}, "PGSERVICE"),
        (None, None, {"PGUSER": "me"}, "embedded: no --dsn, OKX_DSN, config or PGHOST"),
    ],
)
def test_precedence(dsn, config, env, why):
    """The option, its variable, the configuration, libpq's variables, the embedded server."""
    target = resolve(dsn, config, HOME | env)
    assert target.why == why
    assert (target.base is None) == (not why.startswith("embedded"))


@pytest.mark.parametrize(
    "dsn", ["postgresql://me:hush@db/okx", "host=db password=hush", "postgresql://db?password=hush"]
)
def test_password_in_the_option_is_refused_with_the_remedy(dsn):
    """Everybody could see it in `ps`; in OKX_DSN and in the configuration it may stand. It is never printed."""
    with pytest.raises(UsageError, match=r"ps.*\.pgpass") as told:
        resolve(dsn, None, HOME)
    assert "hush" not in str(told.value)
    assert "hush" not in repr(resolve(dsn, None, HOME | {"OKX_DSN": dsn}))
    assert resolve(None, dsn, HOME).dsn == dsn
    assert "hush" not in Database(resolve(None, dsn, HOME)).where
    assert "hush" not in without_secrets(dsn)
    assert variables(dsn)["PGPASSWORD"] == "hush"


def test_nonsense_is_no_dsn_and_is_not_repeated():
    """What was meant as a DSN may hold a password wherever the mistake is."""
    with pytest.raises(UsageError, match="no connection string") as told:
        resolve("host=a hush", None, HOME)
    assert "hush" not in str(told.value)
    with pytest.raises(ConfigError, match="configuration"):
        resolve(None, "hush", HOME)


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("host=127.0.0.1 port=1", "cannot reach Postgres at 127.0.0.1:1: connection refused"),
        ("postgresql://me:hush@localhost:1/x", "cannot reach Postgres at .*:1: connection refused"),
        ("host=/nowhere dbname=x", "cannot reach Postgres at /nowhere/.s.PGSQL.5432: no such file"),
        ("host=no.such.host.invalid", r"cannot reach Postgres at no\.such\.host\.invalid:5432: "),
    ],
)
def test_unreachable_server_is_told_in_one_line(dsn, words):
    """Where, and why; one line, no secret."""
    with pytest.raises(DatabaseUnavailable, match=words) as told:
        open_database(None, config_dsn=dsn, create=True, env=HOME)
    assert "\n" not in str(told.value) and "hush" not in str(told.value)


def test_refused_login_and_missing_database_are_told_apart(embedded_dsn):
    """Each with its own remedy and exit code."""
    with pytest.raises(LoginRefused, match='role "nobody_here" does not exist'):
        open_database(make_conninfo(embedded_dsn, user="nobody_here"), create=True, env=HOME)
    with pytest.raises(DatabaseUnavailable, match=r'"not_here" does not exist.*createdb'):
        open_database(make_conninfo(embedded_dsn, dbname="not_here"), create=True, env=HOME)


def test_reader_makes_nothing(database, tmp_path):
    """Without data a reader says so and how to name the database; it makes neither folder nor tables."""
    env = {"XDG_DATA_HOME": str(tmp_path)}
    with pytest.raises(DatabaseUnavailable, match=r"no data at .*okx \(embedded: .*--config"):
        open_database(create=False, env=env)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DatabaseUnavailable, match=r"no data at .*\(--dsn\)"):
        open_database(database, create=False)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regclass('meta')").fetchone() == (None,)


def test_connections_are_in_utc_and_durable(database):
    """Whatever the server's defaults are."""
    with psycopg.connect(database, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Shanghai'")
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with open_database(database, create=True) as opened, opened.connect() as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_migrations_are_numbered_without_gaps():
    """The number of the last is the version of the schema."""
    assert [step.number for step in versions.migrations()] == list(range(1, versions.newest() + 1))


def test_processes_that_migrate_at_once_do_it_once(database):
    """One makes the tables, the others wait and find them."""
    done, failed = [], []

    def work():
        try:
            with Database(Target(database, "--dsn")) as opened, opened.connect() as connection:
                done.append(versions.migrate(connection, "here"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(step.number for steps in done for step in steps) == list(range(1, versions.newest() + 1))


def test_tables_of_a_newer_release_are_left_alone(database):
    """Neither a writer nor a reader touches what it does not know."""
    open_database(database, create=True).close()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE meta SET value = '9999' WHERE key = 'schema_version'")
    for create in (True, False):
        with pytest.raises(ConfigError, match=r"version 9999.*upgrade okx"):
            open_database(database, create=create)


def test_a_new_database_is_seen_with_no_tables_or_with_all(database):
    """A reader that starts in the same pipe as the writer never meets the tables of an older release."""
    seen, over = set(), threading.Event()

    def look():
        with psycopg.connect(database, autocommit=True) as connection:
            while not over.is_set():
                seen.add(versions.version(connection))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            assert len(versions.migrate(connection, "here")) == versions.newest()
    finally:
        over.set()
        reader.join()
    assert seen <= {0, versions.newest()}


def test_tables_of_an_older_release_are_not_migrated_by_a_reader(database, monkeypatch):
    """A reader says what to run instead."""
    open_database(database, create=True).close()
    monkeypatch.setattr(versions, "newest", lambda: len(versions.migrations()) + 1)
    with pytest.raises(ConfigError, match="okx db migrate"):
        open_database(database, create=False)


def test_data_of_two_exchanges_does_not_mix(database):
    """As soon as something is stored the writer's origin stays; another is refused, readers do not care."""
    open_database(database, create=True, origin="okx.com").close()
    with open_database(database, create=True, origin="local") as opened, opened.connect() as connection:
        connection.execute("INSERT INTO symbols (exchange, symbol) VALUES ('okx', 'BTC-USDT')")
    open_database(database, create=True, origin="local").close()
    with pytest.raises(ConfigError, match=r"holds data from local, and this is from okx\.com"):
        open_database(database, create=True, origin="okx.com")
    with open_database(database, create=False) as opened, opened.connect() as connection:
        assert versions.origin(connection) == "local"


def test_server_that_goes_away_during_a_session_is_told_in_words(database):
    """Errors of Postgres within `session` are ours."""
    with (
        open_database(database, create=True) as opened,
        pytest.raises(DatabaseUnavailable),
        opened.session() as connection,
    ):
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_embedded_database_is_made_for_a_writer(tmp_path):
    """With nothing named, a writer makes the embedded one, and a reader then finds it."""
    env = {"XDG_DATA_HOME": str(tmp_path)}
    with open_database(create=True, origin="local", env=env) as opened:
        assert opened.where.endswith("okx")
        assert opened.target.base == tmp_path / "okx"
    with open_database(create=False, env=env) as opened, opened.connect() as connection:
        assert versions.origin(connection) == "local"
