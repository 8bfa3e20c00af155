"""Databases that are not as ours are: other settings, another encoding, a role that may not do everything."""

import json
import os
import subprocess
import sys

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

T0 = 1741500000000  # the night in which New York's clocks went forward


def trade(number):
    return {
        "type": "trade", "exchange": "okx", "symbol": "BTC-USDT", "trade_id": number, "count": 1, "side": "buy",
        "price": "102537.9", "size": "0.00013669", "timestamp": T0 + number * 30_000, "received": None, "source": None,
        "origin": "trades-all",
    }  # fmt: skip


def book(number):
    return {
        "type": "book", "exchange": "okx", "symbol": "BTC-USDT", "timestamp": T0 + number, "received": T0 + number + 5,
        "seq_id": number if number % 2 else None, "bids": [["5", "0.1"], ["4", "1"]], "asks": [], "origin": "books5",
    }  # fmt: skip


@pytest.fixture
def okx(tmp_path):
    """Run `okx` on a database; return (exit status, lines of output, stderr without the closing counts)."""

    def okx(dsn, *arguments, lines=(), **variables):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "PYTHON"))}
        done = subprocess.run(
            [sys.executable, "-m", "okxcli", *map(str, arguments)], timeout=100, check=False, text=True,
            input="".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines),
            env=env | {"HOME": str(tmp_path), "OKX_DSN": dsn} | variables, capture_output=True,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        said = [line for line in done.stderr.splitlines() if not line.startswith("okx store: {")]
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], "\n".join(said)

    return okx


@pytest.fixture
def other(embedded_dsn):
    """Make a database with options of CREATE DATABASE, which goes after the test; return its DSN."""
    made = []

    def other(options=""):
        made.append(f"okx_test_{os.getpid()}_other_{len(made)}")
        with psycopg.connect(embedded_dsn, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {made[-1]} {options}")
        return make_conninfo(embedded_dsn, dbname=made[-1])

    yield other
    with psycopg.connect(embedded_dsn, autocommit=True) as admin:
        for name in made:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def execute(dsn, *statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


ODD = {
    "timezone": "America/New_York", "datestyle": "German, DMY", "intervalstyle": "sql_standard", "work_mem": "64kB",
    "statement_timeout": "1s", "lock_timeout": "1s", "idle_in_transaction_session_timeout": "1s", "array_nulls": "off",
    "default_transaction_isolation": "serializable", "synchronous_commit": "off", "bytea_output": "escape",
    "standard_conforming_strings": "off", "extra_float_digits": "-15", "row_security": "off",
    "transform_null_equals": "on", "search_path": "market",
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "SQL_ASCII"])
def test_odd_settings_change_nothing(okx, other, encoding):
    """Whatever a database has as its defaults: the lines come back as they were, and nothing counts as another time."""
    dsn = other(f"ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    execute(dsn, "CREATE SCHEMA market", *(f"ALTER DATABASE {name} SET {key} = '{one}'" for key, one in ODD.items()))
    trades, books = [trade(number) for number in range(1, 401)], [book(number) for number in range(1, 301)]
    bars = okx(dsn, "candles", "--tf", "1m,1h", "-q", lines=trades)[1]
    lines = [*trades, *books, *bars, {**trade(401), "symbol": "X-USDT"}]
    assert okx(dsn, "store", lines=lines)[0] == 0
    status, _, said = okx(dsn, "store", lines=[*lines, {**trade(5), "price": "1"}])
    assert status == 65 and "id reused" in said
    assert okx(dsn, "read", "trades", "BTC-USDT")[1] == trades
    assert sorted(okx(dsn, "read", "books", "BTC-USDT")[1], key=lambda line: line["timestamp"]) == books
    assert okx(dsn, "read", "candles", "BTC-USDT", "--tf", "1m")[1] == [b for b in bars if b["timeframe"] == "1m"]
    until = T0 + 400 * 30_000
    assert [row["kind"] for row in okx(dsn, "gaps", "BTC-USDT", "--recount", "--until", until)[1]] == ["covered"]
    assert okx(dsn, "db", "run", "SELECT date_trunc('day', min(timestamp)) FROM trades")[1] == [
        {"date_trunc": T0 // 86_400_000 * 86_400_000}
    ]
    assert okx(dsn, "status", "--max-age", "99999d")[0] == 0


def test_another_encoding_than_utf8(okx, other):
    """A bad line with a character that the database cannot hold is kept spelt out, and costs its neighbours nothing."""
    dsn = other("ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    status, _, said = okx(dsn, "store", lines=[trade(1), '{"€": "😀"\n', trade(2)])
    assert (status, "spool" in said) == (65, False)
    assert len(okx(dsn, "read", "trades", "BTC-USDT")[1]) == 2
    assert okx(dsn, "db", "run", "SELECT line FROM quarantine")[1] == [{"line": '{"\\u20ac": "\\ud83d\\ude00"'}]


@pytest.fixture
def roles(embedded_dsn, database):
    """An administrator who owns the database, a writer and a reader who may only log in; their DSNs."""
    names = {role: f"okx_test_{os.getpid()}_{role}" for role in ("admin", "writer", "reader")}
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    execute(embedded_dsn, *(f"CREATE ROLE {role} LOGIN" for role in names.values()))
    execute(embedded_dsn, f"ALTER DATABASE {name} OWNER TO {names['admin']}")
    yield {role: make_conninfo(database, user=user) for role, user in names.items()} | {"names": names}
    execute(database, f"REASSIGN OWNED BY {', '.join(names.values())} TO CURRENT_USER")
    execute(database, f"DROP OWNED BY {', '.join(names.values())}")
    execute(embedded_dsn, f"DROP ROLE {', '.join(names.values())}")


def test_roles_that_do_not_own_the_tables(okx, roles, database):
    """A reader needs SELECT. A writer without the right to make partitions loses nothing, and one line says what to
    grant; then everything is stored, in partitions of the owner's.
    """
    admin, writer, reader, names = (roles[key] for key in ("admin", "writer", "reader", "names"))
    status, _, said = okx(writer, "store", lines=[trade(1)])
    assert (status, said.count("\n")) == (69, 0) and "a member of the role that owns them" in said
    subprocess.run([sys.executable, "-m", "okxcli", "db", "migrate", "--dsn", admin], check=True, capture_output=True)
    assert okx(reader, "status")[0] == 69
    execute(
        database,
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {names['writer']}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {names['reader']}",
    )
    status, _, said = okx(writer, "store", lines=[trade(1)])
    assert status == 75 and "a member of the role that owns them: spooling to" in said
    execute(database, f"GRANT {names['admin']} TO {names['writer']}")
    assert okx(writer, "store", lines=[trade(2)])[0] == 0
    assert [line["trade_id"] for line in okx(reader, "read", "trades", "BTC-USDT")[1]] == [1, 2]
    with psycopg.connect(database) as connection:
        owners = connection.execute("SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relname ~ '_2025'")
        assert owners.fetchall() == [(names["admin"],)]
    assert okx(admin, "store", lines=[trade(3)])[0] == 0


def test_a_database_that_is_read_only(okx, database):
    """Readers read; a writer is told in one line what to do."""
    assert okx(database, "store", lines=[trade(1)])[0] == 0
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    status, _, said = okx(database, "backfill", "BTC-USDT", OKX_REST_URL="http://127.0.0.1:1")
    assert (status, said.count("\n")) == (69, 0) and "default_transaction_read_only = off" in said
    assert len(okx(database, "read", "trades", "BTC-USDT")[1]) == 1
