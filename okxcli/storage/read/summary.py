"""What a database is and holds, for `okx db status`."""

from psycopg import sql

from okxcli.storage.read.freshness import database_size, number
from okxcli.storage.schema import versions
from okxcli.storage.schema.partitions import STEP
from okxcli.storage.server.pooled_connection import Connection

_SMALL = ("instruments", "trade_ledger", "quarantine", "symbols")


def summary(connection: Connection, where: str, why: str) -> list[dict[str, object]]:
    """Return a row for the database and one for every table: rows, bytes, partitions.

    Rows of partitioned tables are Postgres' estimates, which it renews as it vacuums; None before the first time.
    """
    release = connection.info.server_version
    found: list[dict[str, object]] = [
        {
            "name": where,
            "what": f"Postgres {release // 10_000}.{release % 10_000}, tables of version"
            f" {versions.version(connection)}, data from {versions.origin(connection) or 'nowhere yet'}, {why}",
            "rows": None,
            "bytes": database_size(connection),
            "partitions": None,
        }
    ]
    for table in (*STEP, *_SMALL):
        found.append({"name": table, "what": "table", **_table(connection, table)})
    return found


def _table(connection: Connection, table: str) -> dict[str, object]:
    row = connection.execute(
        "SELECT sum(greatest(c.reltuples, 0))::bigint, sum(pg_total_relation_size(c.oid))::bigint, count(*),"
        " bool_and(c.reltuples < 0) FROM pg_partition_tree(to_regclass(%s)) t JOIN pg_class c ON c.oid = t.relid"
        " WHERE t.isleaf",
        [table],
    ).fetchone()
    rows, size, leaves, unknown = row if row is not None else (None, None, 0, True)
    if table in STEP:
        return {"rows": None if unknown else rows or 0, "bytes": size or 0, "partitions": leaves}
    exact = number(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
    size = number(connection, "SELECT pg_total_relation_size(to_regclass(%s))", table)
    return {"rows": exact, "bytes": size, "partitions": None}
