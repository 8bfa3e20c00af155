"""How far the tape of a database is: what the ledger says of its ends and of what is missing between them."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import psycopg

_QUERY = """
SELECT symbol, max(last_id), max(last_id) - min(first_id) + 1
    - sum((SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(covered + absent) AS r)),
    sum((SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(absent) AS r))
FROM trade_ledger WHERE first_id IS NOT NULL GROUP BY symbol
"""


class Tape(NamedTuple):
    """The newest id of a symbol, how many ids below it are neither here nor absent, and how many are absent."""

    newest: int
    holes: int
    absent: int


def tapes(dsn: str) -> dict[str, Tape]:
    """Return the tape of every symbol that has one; none while there are no tables yet."""
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return {name: Tape(*map(int, numbers)) for name, *numbers in connection.execute(_QUERY)}
    except psycopg.errors.UndefinedTable:
        return {}


def wait_begun(dsn: str, symbols: list[str], timeout_s: float) -> None:
    """Wait until the tape of every symbol has begun: where it begins must not depend on what is broken next.

    Raises:
        RuntimeError: it takes longer than `timeout_s`.
    """
    end = time.monotonic() + timeout_s
    while not set(symbols) <= tapes(dsn).keys():
        if time.monotonic() > end:
            raise RuntimeError("collect stores nothing")
        time.sleep(0.05)


def settle(dsn: str, final: Mapping[str, int], lost: int, patience_s: float, holes_matter: bool = True) -> None:
    """Wait until the last fills (`final`, by symbol) are stored and no hole is left, as long as there is progress.

    `lost` ids are nowhere to be had: when only so many are left, three seconds without progress are enough.
    """
    seen, changed = None, time.monotonic()
    while time.monotonic() < changed + patience_s:
        state = tapes(dsn)
        there = all(name in state and state[name].newest >= newest for name, newest in final.items())
        holes = sum(tape.holes for tape in state.values())
        if there and not (holes and holes_matter):
            return
        if there and holes <= lost:
            patience_s = 3.0
        if state != seen:
            seen, changed = state, time.monotonic()
        time.sleep(0.05)
