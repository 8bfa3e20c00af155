"""Postgres: migrations, writer, ledger, reader, and the embedded server."""
