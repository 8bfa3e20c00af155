"""The tables: numbered migrations, the version a database is at, and the exchange it was filled from."""

from contextlib import nullcontext
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from okxcli.errors import ConfigError
from okxcli.storage.server.pooled_connection import Connection

# One number of ours for each thing that is locked in a database, since Postgres knows advisory locks by number alone.
MIGRATION_LOCK = 0x6F6B78_01
PARTITION_LOCK = 0x6F6B78_02
INSTRUMENT_LOCK = 0x6F6B78_03
BACKFILL_LOCK = 0x6F6B78_04

_CLOCK = "clock of "
_META = "CREATE TABLE IF NOT EXISTS meta (key text PRIMARY KEY, value text NOT NULL)"
_SET = "INSERT INTO meta VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class Migration(NamedTuple):
    """One step: its number and name, from the file's name, and its SQL."""

    number: int
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    """Return every migration of this release, lowest number first."""
    found = []
    for file in files("okxcli.storage.schema").joinpath("migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return tuple(sorted(found))


def newest() -> int:
    """Return the schema version of this release."""
    return migrations()[-1].number


def version(connection: Connection) -> int:
    """Return the schema version of the database; 0 if it has no tables of ours."""
    if connection.execute("SELECT to_regclass('meta')").fetchone() == (None,):
        return 0
    return int(_value(connection, "schema_version") or 0)


def origin(connection: Connection) -> str | None:
    """Return the exchange that the database was filled from; None if nothing was written yet."""
    return _value(connection, "origin")


def _value(connection: Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE key = %s", [key]).fetchone()
    return str(row[0]) if row else None


def check_version(connection: Connection, where: str) -> int:
    """Return the database's schema version.

    Raises:
        ConfigError: a newer okx made the tables.
    """
    found = version(connection)
    if found > newest():
        raise ConfigError(f"the tables at {where} are of version {found}, and this okx knows {newest()}: upgrade okx")
    return found


def migrate(connection: Connection, where: str) -> list[Migration]:
    """Bring the tables to this release, one transaction a step, and return the steps that were needed.

    Safe to run from several processes at once: one migrates, the others wait and find it done. A database without
    tables gets all of them in one transaction, so that who reads meanwhile sees none or all.

    Raises:
        ConfigError: a newer okx made the tables.
    """
    found = check_version(connection, where)
    if found == newest():
        return []
    done = []
    with connection.transaction() if found == 0 else nullcontext():
        for migration in migrations():
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
                connection.execute(_META)
                if version(connection) < migration.number:
                    connection.execute(migration.sql.encode())
                    connection.execute(_SET, ["schema_version", str(migration.number)])
                    done.append(migration)
    return done


def guard_origin(connection: Connection, wanted: str, where: str) -> None:
    """Remember where the data comes from (a site of the exchange, `local`...), and refuse data from elsewhere.

    Where nothing is stored yet the one who asked last is right.

    Raises:
        ConfigError: the database holds data from another exchange.
    """
    connection.execute(_SET + " WHERE NOT EXISTS (SELECT FROM symbols)", ["origin", wanted])
    found = origin(connection)
    if found != wanted:
        raise ConfigError(
            f"the database at {where} holds data from {found}, and this is from {wanted}: "
            "the two must not mix. Name another database with --dsn, or another folder with XDG_DATA_HOME"
        )


class ClockNote(NamedTuple):
    """By how much the clock of a collector's machine was behind the exchange's (negative: ahead), and when; in ms."""

    host: str
    offset_ms: int
    at_ms: int


def note_clock(connection: Connection, note: ClockNote) -> None:
    """Keep what a collector knows of its clock, in the stead of what it knew before."""
    connection.execute(_SET, [_CLOCK + note.host, f"{note.offset_ms} {note.at_ms}"])


def clocks(connection: Connection) -> list[ClockNote]:
    """Return what collectors know of their clocks, by host."""
    rows = connection.execute("SELECT key, value FROM meta WHERE starts_with(key, %s) ORDER BY key", [_CLOCK])
    return [ClockNote(key.removeprefix(_CLOCK), *map(int, value.split())) for key, value in rows]
