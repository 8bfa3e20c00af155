"""COPY, straight into a table or by way of a temporary one where rows may be there already."""

from collections.abc import Iterable

from psycopg import sql

from okxcli.storage.database import Connection


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def copy(connection: Connection, table: str, columns: Iterable[str], rows: Iterable[str]) -> None:
    """Copy rows in COPY's text format into a table.

    `rows` comes in pieces of any number of rows: Postgres works on one while the caller makes the next.
    """
    command = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), _names(columns))
    with connection.cursor() as cursor, cursor.copy(command) as stream:
        for piece in rows:
            stream.write(piece)


def copy_new(connection: Connection, table: str, columns: Iterable[str], rows: Iterable[str]) -> int:
    """Copy rows into a table, those left out that are there already; return how many were new."""
    staged = stage(connection, table, columns, rows)
    names = _names(columns)
    return connection.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING").format(
            sql.Identifier(table), names, names, staged
        )
    ).rowcount


def copy_over(
    connection: Connection, table: str, columns: Iterable[str], key: Iterable[str], rows: Iterable[str]
) -> None:
    """Copy rows into a table, each in the place of the one with the same key; a key may come once."""
    staged = stage(connection, table, columns, rows)
    names, keys = _names(columns), list(key)
    changed = sql.SQL(", ").join(
        sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in [*columns, "written"] if name not in keys
    )
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) DO UPDATE SET {}").format(
            sql.Identifier(table), names, names, staged, _names(keys), changed
        )
    )


def stage(connection: Connection, table: str, columns: Iterable[str], rows: Iterable[str]) -> sql.Identifier:
    """Copy rows into a temporary table that is empty again after the transaction, and return its name."""
    staged = sql.Identifier(f"incoming_{table}")
    names = _names(columns)
    if connection.execute("SELECT to_regclass(%s)", [f"pg_temp.incoming_{table}"]).fetchone() == (None,):
        connection.execute(
            sql.SQL("CREATE TEMP TABLE {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA").format(
                staged, names, sql.Identifier(table)
            )
        )
    copy(connection, f"incoming_{table}", columns, rows)
    return staged
