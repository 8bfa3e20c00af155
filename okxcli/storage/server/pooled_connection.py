"""A connection that leaves nothing behind in its session, so that a pooler may give each transaction another one.

Whatever is run here runs in a transaction, and every transaction begins by setting what is relied on, for itself
alone: the defaults of a server, of a role, or of another user of the same pooled session are not ours. Nothing is
prepared by name, and nothing is locked for longer than a transaction.
"""

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from okxcli.errors import DatabaseUnavailable, LoginRefused, OkxError

_log = logging.getLogger(__name__)

#: Time between two signs of life in a transaction that only holds a lock: poolers may end what is idle for a minute.
_ALIVE_S = 20.0

READ_COMMITTED: LiteralString = "BEGIN ISOLATION LEVEL READ COMMITTED"
#: Everything as of one moment, and nothing is changed.
SNAPSHOT: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# Time limits are our own, as pg_dump's are: those that a server has for its web pages would end a recount. None: what
# the role or the database has, whatever somebody else did to the session.
_SETTINGS: Mapping[str, str | None] = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "search_path": None,
}
_SINCE_17 = {"transaction_timeout": "0"}
# How values are read and written, whatever else is asked for.
_SPELLING = {"timezone": "UTC", "datestyle": "ISO, YMD", "array_nulls": "on"}
# Commits may be more durable than "on" by the server's own choice, but never less.
_DURABLE = sql.SQL(
    "set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
    " ELSE current_setting('synchronous_commit') END, true)"
)


class Connection(psycopg.Connection[TupleRow]):
    """In autocommit mode; a lone `execute` is a transaction of its own. `cursor` gives what psycopg's own does."""

    #: What every transaction begins by setting too, before our own; to be given before the first of them.
    given: Mapping[str, str | None] = {}

    @cached_property
    def opening(self) -> bytes:
        """The statement that sets, after BEGIN, what is relied on."""
        later = _SINCE_17 if self.info.server_version >= 170_000 else {}
        wanted = {**_SETTINGS, **later, **self.given, **_SPELLING}
        parts = [
            sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
            for name, value in wanted.items()
        ]
        return sql.SQL("; SELECT {}").format(sql.SQL(", ").join([_DURABLE, *parts])).as_bytes(self)

    @contextmanager
    def transaction(  # type: ignore[override]  # there is nothing to do with psycopg's own object here
        self, savepoint_name: str | None = None, force_rollback: bool = False, begin: LiteralString = READ_COMMITTED
    ) -> Iterator[None]:
        """Commit what is done in the block, or nothing of it when it raises or with `force_rollback`.

        Within another one it is a savepoint.

        Raises:
            OperationalError: the connection was lost before the commit, or the block went on after a failure.
        """
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            with super().transaction(savepoint_name, force_rollback):
                yield
            return
        self.cursor().execute(begin.encode() + self.opening)
        try:
            yield
        except BaseException:
            self.give_up()
            raise
        if force_rollback:
            self.give_up()
            return
        if self.closed:  # nobody is there to be sent the COMMIT
            raise psycopg.OperationalError("the connection was lost before the commit")
        if self.cursor().execute("COMMIT").statusmessage != "COMMIT":
            raise psycopg.OperationalError("the transaction had failed before its commit")

    def give_up(self) -> None:
        """End the transaction and what was done in it, as far as anybody is there to be told."""
        if not self.closed:
            with suppress(psycopg.Error):
                self.cursor().execute("ROLLBACK")

    def execute(self, *arguments: Any, **options: Any) -> psycopg.Cursor[TupleRow]:
        """Run a statement as psycopg does, in a transaction of its own unless one has begun."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            return super().execute(*arguments, **options)
        with self.transaction():
            return super().execute(*arguments, **options)


@contextmanager
def lone(connection: Connection, lock: int) -> Iterator[bool]:
    """Hold an advisory lock for the length of the block, if nobody else does: tell whether.

    By a transaction that does nothing else: through a pooler a lock of the session would be another's, and a lease in
    a table outlives who was killed and trusts a clock. It has no snapshot, so that nothing is kept from being vacuumed.
    A statement now and then keeps it from being ended as idle.
    """
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_ALIVE_S):
            try:
                connection.execute("SELECT")
            except psycopg.Error as error:
                _log.warning("the lock that keeps another run away is lost: %s", str(error).strip())
                return

    thread = threading.Thread(target=keep, name="okx lock", daemon=True)
    with connection.transaction(force_rollback=True):
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [lock]).fetchone()
        if row == (True,):
            thread.start()
        try:
            yield row == (True,)
        finally:
            ended.set()


def settings_in(options: str) -> dict[str, str | None] | None:
    """Return the settings that libpq's `options` asks for (`-c search_path=market`); None if it asks for more.

    As a parameter of the start-up most poolers refuse it, or pass over it in silence.
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options)]
    found: dict[str, str | None] = {}
    rest = iter(words)
    for word in rest:
        one = next(rest, "") if word == "-c" else word[2:] if word.startswith(("-c", "--")) else ""
        name, equals, value = one.partition("=")
        if not equals:
            return None
        found[name.replace("-", "_")] = value
    return found


def explain(error: psycopg.Error, where: str) -> OkxError:
    """Return the error of ours that says in one line what Postgres, or the way to it, says in several."""
    text = str(error).strip()
    found = re.search(r'(?:server )?at "([^"]*)"(?: \([^)]*\))?, port (\d+) failed: (.*)', text)
    if found:
        where, reason = f"{found[1]}:{found[2]}", found[3]
    elif found := re.search(r'on socket "([^"]*)" failed: (.*)', text):
        where, reason = found[1], found[2]
    else:
        reason = text.splitlines()[0] if text else type(error).__name__
        reason = reason.removeprefix("connection failed: ")
    reason = re.sub(r"^(?:FATAL|ERROR):\s*|\[Errno -?\d+\] ", "", reason).strip()
    reason = reason[:1].lower() + reason[1:] if reason[1:2].islower() else reason
    if re.search(r"authentication failed|no password supplied|pg_hba|role .* does not exist", reason):
        remedy = "" if "role" in reason else ". Put the password into ~/.pgpass or PGPASSWORD"
        return LoginRefused(f"Postgres at {where} refuses the login: {reason}{remedy}")
    if "statement pooling mode" in reason:
        remedy = "use its transaction or session mode, or name the server itself"
        return DatabaseUnavailable(f"the pooler at {where} is in statement mode, which knows no transaction: {remedy}")
    if "query_wait_timeout" in reason:
        remedy = "each process needs one for a moment, okx backfill one more all the time"
        return DatabaseUnavailable(f"the pooler at {where} has no connection free: make its pool larger; {remedy}")
    if "unsupported startup parameter" in reason:
        remedy = "leave it out, say it by ALTER ROLE ... SET, or name the server itself"
        return DatabaseUnavailable(f"the pooler at {where} refuses: {reason}. {remedy[0].upper()}{remedy[1:]}")
    if re.search(r"database .* does not exist", reason):
        return DatabaseUnavailable(f"Postgres at {where}: {reason}. Make it first: createdb")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        remedy = "GRANT SELECT on the tables is enough to read; who writes makes partitions, and must be a member of"
        return DatabaseUnavailable(f"Postgres at {where} refuses: {reason}. {remedy} the role that owns them")
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        remedy = "Name the primary, or ALTER ROLE ... SET default_transaction_read_only = off"
        return DatabaseUnavailable(f"Postgres at {where} refuses: {reason}. {remedy}")
    if isinstance(error, psycopg.OperationalError):
        return DatabaseUnavailable(f"cannot reach Postgres at {where}: {reason}")
    return DatabaseUnavailable(f"Postgres at {where} refuses: {reason}")
