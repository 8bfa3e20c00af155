"""Which database, how to reach it, and what went wrong in words: `open_database` is the door to everything here."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from okxcli.errors import ConfigError, DatabaseUnavailable, NoData, UsageError
from okxcli.runtime.files import home
from okxcli.storage.schema import versions
from okxcli.storage.server.binaries import OLDEST
from okxcli.storage.server.embedded import EmbeddedServer, default_base
from okxcli.storage.server.known_databases import Seen
from okxcli.storage.server.pooled_connection import Connection, explain, settings_in

_log = logging.getLogger(__name__)

__all__ = ["Connection", "Database", "Target", "explain", "open_database", "resolve", "variables", "without_secrets"]

#: The variables of libpq that name a server; one of them set means that the user has one.
_PG_VARIABLES = ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGDATABASE")
_SECRETS = ("password", "sslpassword")

# A server that went away without a word is noticed within 40 s: probes after 10 s of silence, five of them, 5 s apart;
# what we sent and nobody acknowledged counts as lost after 35 s.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "5",
    "tcp_user_timeout": "35000",
    "client_encoding": "utf8",
}
#: A writer that has used the database before waits so long for it at its start, before it goes on without it.
_PATIENCE_S = 4.0
_START_S = 8.0
_AGAIN_S = 0.5
#: A command ends within 10 s of its signal; a server that takes longer to stop does so without us.
_STOP_S = 3.0
_EMBEDDED = "embedded: no --dsn, OKX_DSN, config or PGHOST"


@dataclass(frozen=True)
class Target:
    """A database and why it is this one; `base` is the folder of the embedded server, None for any other."""

    dsn: str = field(repr=False)
    why: str
    base: Path | None = None


def resolve(dsn: str | None, config_dsn: str | None, env: Mapping[str, str] = os.environ) -> Target:
    """Return which database is meant: `--dsn`, OKX_DSN, the configuration, libpq's variables, the embedded one.

    `dsn` is the option's value, which the option parser may have taken from OKX_DSN.

    Raises:
        UsageError: `--dsn` holds a password, or is no connection string.
        ConfigError: OKX_DSN or the configuration's is no connection string.
    """
    if dsn:
        given = dsn != env.get("OKX_DSN")
        if _parsed(dsn, "--dsn" if given else "OKX_DSN").keys() & set(_SECRETS) and given:
            raise UsageError(
                "--dsn holds a password, which `ps` shows to everybody: leave it out and put it into ~/.pgpass or "
                "PGPASSWORD, or give the DSN as OKX_DSN"
            )
        return Target(dsn, "--dsn" if given else "OKX_DSN")
    if config_dsn:
        _parsed(config_dsn, "the configuration's dsn")
        return Target(config_dsn, "from the configuration")
    if variable := next(filter(env.get, _PG_VARIABLES), None):
        return Target("", variable)
    base = default_base(env)
    return Target(EmbeddedServer(base).dsn, _EMBEDDED, base)


def _parsed(dsn: str, name: str) -> dict[str, str]:
    """Return the parts of a DSN. libpq's own complaint is not passed on: it may quote a password."""
    try:
        return {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    except psycopg.ProgrammingError:
        kind = UsageError if name == "--dsn" else ConfigError
        raise kind(
            f"{name} is no connection string: write postgresql://user@host:5432/database or host=... dbname=..."
        ) from None


@dataclass(eq=False)
class Database(AbstractContextManager["Database"]):
    """A database that was found and opened; `connect` gives connections to it. A context manager, ended by `close`.

    With `create` (for writers) its tables are brought to this release, and it is guarded that the data is of `origin`.
    """

    target: Target
    application: str = "okx"
    create: bool = False
    origin: str | None = None

    def __post_init__(self) -> None:
        self.ready = True  # found, and its tables fit; with `open_database(later=True)` perhaps only after `revive`
        self._server: EmbeddedServer | None = None
        self._starting = threading.Lock()
        self._closed = False

    @property
    def where(self) -> str:
        """The place in words, without any secret: `db:5432/okx`, or the embedded server's folder."""
        if self.target.base is None:
            return _place(self.target.dsn)
        place, here = str(self.target.base), f"{home()}/"
        return f"~/{place.removeprefix(here)}" if place.startswith(here) else place

    @property
    def dsn(self) -> str:
        """How to connect; may hold a password, so it is for programs and not for eyes."""
        return self._server.dsn if self._server is not None else self.target.dsn

    def start(self, patience_s: float | None = None) -> None:
        """Use the embedded server, if it is the one.

        With a patience, one that takes longer (it may have to recover) goes on starting in a thread of its own.

        Raises:
            DatabaseUnavailable: it does not start, or not in that time.
        """
        if self.target.base is None:
            return
        if patience_s is None:
            self._start()
            return
        failures: list[Exception] = []

        def run() -> None:
            try:
                self._start()
            except Exception as error:  # for the one who waits; if nobody does any more, the next try tells
                failures.append(error)

        thread = threading.Thread(target=run, name="okx start database", daemon=True)
        thread.start()
        thread.join(patience_s)
        if failures:
            raise failures[0]
        if thread.is_alive():
            raise DatabaseUnavailable(f"Postgres in {self.where} is not up after {patience_s:.0f} s")

    def _start(self) -> None:
        assert self.target.base is not None
        with self._starting:
            if self._server is None and not self._closed:
                server = EmbeddedServer(self.target.base)
                server.start()
                self._server = server
                if self._closed:  # meanwhile
                    self.close()

    def revive(self) -> None:
        """Start the embedded server (again) if it is the one and does not run, and look after the tables (again).

        It may be another one than before: a standby that took over, a backup that was restored, an empty one.

        Raises:
            DatabaseUnavailable: it does not start, or cannot be reached.
            ConfigError, LoginRefused: as `open_database`.
        """
        if self._server is not None:
            self._server.revive()
        self.start()
        with self.session() as connection:
            self.prepare(connection)
        if not self.ready:
            _log.info("database %s (%s)", self.where, self.target.why)
        self.ready = True

    def prepare(self, connection: Connection) -> None:
        """Bring the tables to this release, or see that they are; raises NoData and ConfigError as `open_database`."""
        if not self.create:
            found = versions.check_version(connection, self.where)
            if found == 0:
                raise self.no_data()
            if found < versions.newest():
                raise ConfigError(f"the tables at {self.where} are of an older okx: run okx db migrate")
            return
        for step in versions.migrate(connection, self.where):
            _log.debug("migrated the tables: %04d %s", step.number, step.name)
        if self.origin is not None:
            versions.guard_origin(connection, self.origin, self.where)

    def no_data(self) -> NoData:
        return NoData(
            f"no data at {self.where} ({self.target.why}). Name the database with --dsn or --config, or fill it with"
            " okx store"
        )

    def connect(self, timeout_s: int | None = None, **settings: str) -> Connection:
        """Return a new connection, in whose transactions these settings of Postgres hold too.

        Waits for an answer as long as the DSN says, else 10 s, or `timeout_s` if that is less.

        Raises:
            DatabaseUnavailable: no answer, no such database, or a Postgres that is too old.
            LoginRefused: it does not let us in.
        """
        dsn = self.dsn
        given = _parsed(dsn, "the DSN")
        defaults = {key: value for key, value in _DEFAULTS.items() if key not in given}
        if timeout_s is not None and "connect_timeout" in defaults:
            defaults["connect_timeout"] = str(timeout_s)
        options = settings_in(given.get("options", os.environ.get("PGOPTIONS", "")))
        try:
            try:
                connection = self._dial(dsn, defaults)
            except psycopg.OperationalError as error:
                # A pooler may refuse libpq's `options`, which can be spared where we know what they say.
                if options is None or "unsupported startup parameter" not in str(error):
                    raise
                connection = self._dial(dsn, {**defaults, "options": ""})
        except psycopg.Error as error:
            raise explain(error, self.where) from None
        if connection.info.server_version < OLDEST * 10_000:
            old = connection.info.server_version // 10_000
            connection.close()
            raise DatabaseUnavailable(f"Postgres {old} at {self.where} is too old: okx needs {OLDEST} or newer")
        connection.given = {**(options or {}), **settings}
        return connection

    def _dial(self, dsn: str, defaults: Mapping[str, str]) -> Connection:
        whole = make_conninfo(dsn, **defaults)
        return Connection.connect(whole, autocommit=True, prepare_threshold=None, application_name=self.application)

    @contextmanager
    def session(self, timeout_s: int | None = None, **settings: str) -> Iterator[Connection]:
        """Give a connection for a `with` block, all through which Postgres' errors become what `connect` raises."""
        with self.connect(timeout_s, **settings) as connection:
            try:
                yield connection
            except psycopg.Error as error:
                raise explain(error, self.where) from None

    def close(self) -> None:
        """Let go of the embedded server, if it is the one; the last one out stops it, and waits some seconds for it."""
        self._closed = True
        server, self._server = self._server, None
        if server is not None:
            server.close(_STOP_S)

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(
    dsn: str | None = None,
    *,
    config_dsn: str | None = None,
    create: bool,
    origin: str | None = None,
    application: str = "okx",
    env: Mapping[str, str] = os.environ,
    later: bool = False,
) -> Database:
    """Find, start and check the database, and return it, ready.

    With `create` (for writers) an embedded one is made if there is none, the tables are brought to this release, the
    origin of the data is guarded, and the choice is logged. Without it (for readers) nothing is made or changed. With
    `later` one that is away and was in use here before is returned as it is, not `ready`; `revive` does the rest.

    Raises:
        DatabaseUnavailable: it cannot be reached or started.
        NoData: there is none (readers).
        LoginRefused: it does not let us in.
        ConfigError: its tables do not fit this release, or it holds data from another exchange.
        UsageError: a password in `--dsn`.
    """
    database = Database(resolve(dsn, config_dsn, env), application, create, origin)
    base = database.target.base
    if base is not None and not create and not EmbeddedServer(base).exists:
        raise database.no_data()
    seen = Seen(database.where, env)
    with ExitStack() as undo:
        undo.callback(database.close)
        try:
            _open(database, seen, _PATIENCE_S if later else 0.0)
        except DatabaseUnavailable as error:
            if not later or not seen.before(origin):
                raise
            _log.warning("%s: going on without it", error)
            database.ready = False
        except psycopg.Error as error:
            raise explain(error, database.where) from None
        undo.pop_all()
    return database


def _open(database: Database, seen: Seen, patience_s: float) -> None:
    """Start and prepare it; one that does not answer, but was in use here before, gets a moment: it may be starting."""
    until = time.monotonic() + patience_s
    origin = database.origin
    while True:
        try:
            database.start(_START_S if patience_s and seen.before(origin) else None)
            with database.session(int(patience_s) or None) as connection:
                database.prepare(connection)
        except DatabaseUnavailable as error:
            if time.monotonic() > until or not seen.before(origin):
                raise
            _log.debug("trying again: %s", error)
            time.sleep(_AGAIN_S)
            continue
        if database.create:
            if origin is not None:
                seen.note(origin)
            _log.info("database %s (%s)", database.where, database.target.why)
        return


def variables(dsn: str) -> dict[str, str]:
    """Return a DSN as libpq's environment variables, for programs whose arguments everybody can see."""
    names = {option.keyword.decode(): (option.envvar or b"").decode() for option in Conninfo.get_defaults()}
    return {names[key]: value for key, value in _parsed(dsn, "the DSN").items() if names.get(key)}


def without_secrets(dsn: str) -> str:
    """Return a DSN in keyword form without passwords; of an empty one, what libpq's variables make of it."""
    given = _parsed(dsn, "the DSN")
    if not given:
        options = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
        wanted = ("host", "hostaddr", "port", "user", "dbname")
        given = {key: value.decode() for key in wanted if (value := options.get(key)) is not None}
    return make_conninfo("", **{key: value for key, value in given.items() if key not in _SECRETS})


def _place(dsn: str) -> str:
    """Return host:port/database of a DSN, filled up from libpq's variables; no user, no secret."""
    given = _parsed(dsn, "the DSN")
    service = given.get("service") or os.environ.get("PGSERVICE")
    host = given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST") or os.environ.get("PGHOSTADDR")
    if host is None and service:
        return f"service {service}"
    port = given.get("port") or os.environ.get("PGPORT") or "5432"
    name = given.get("dbname") or os.environ.get("PGDATABASE") or ""
    at = host if host and host.startswith("/") else f"{host or 'localhost'}:{port}"
    return f"{at}/{name}" if name and not at.startswith("/") else f"{at} ({name})" if name else at
