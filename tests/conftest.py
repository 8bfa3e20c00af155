"""Fixtures of the whole suite: a real Postgres, and a fresh database on it for a test."""

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about okx.
settings.register_profile("okx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("okx")

_NUMBERS = count(1)

# A shell's `&` and nohup leave signals ignored, and so would every process that a test starts and interrupts. A handler
# is undone where a program begins; we ourselves stay deaf.
for _signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests: have each begin with its part of the long ones.

    Those are in the files that stand in no folder, of whole programs. Each process is given as many tests as any other,
    in this order, and in the end takes some from another: of the short ones then, so that all end at the same time.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers < 2:
        return
    folder = config.rootpath / "tests"
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    long = [some for path, some in files.items() if path.parent == folder]
    rest = [item for path, some in files.items() if path.parent != folder for item in some]
    dealt: list[pytest.Item] = []
    for number in range(workers):
        part = [item for some in long[number::workers] for item in some]
        room = (number + 1) * len(items) // workers - len(dealt)
        dealt += [*part, *rest[: max(room - len(part), 0)]]
        del rest[: max(room - len(part), 0)]
    items[:] = [*dealt, *rest]


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Take back what a command that runs in this process does to the log: the next test reads it with `caplog`."""
    logger = logging.getLogger("okxcli")
    before, level = list(logger.handlers), logger.level
    yield
    logger.propagate = True
    logger.setLevel(level)
    for handler in [one for one in logger.handlers if one not in before]:
        logger.removeHandler(handler)


@pytest.fixture(scope="session")
def embedded_dsn() -> Iterator[str]:
    """The DSN of a Postgres that lives for the session: the embedded one, or `OKX_TEST_DSN`.

    That one's user must be allowed to create databases; they are named okx_test_*.
    """
    given = os.environ.get("OKX_TEST_DSN")
    if given:
        yield given
        return
    from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer, throwaway_base

    base = throwaway_base()
    try:
        with EmbeddedServer(base, THROWAWAY) as server:
            yield server.dsn
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def database(embedded_dsn: str) -> Iterator[str]:
    """The DSN of an empty database that is dropped after the test; `okx` makes its tables on first use."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    name = f"okx_test_{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        quickly = "STRATEGY file_copy" if connection.info.server_version >= 150_000 else ""  # 20 ms for 150
        connection.execute(f"CREATE DATABASE {name} {quickly}")
        try:
            yield make_conninfo(embedded_dsn, dbname=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
