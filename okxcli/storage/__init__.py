"""Postgres: the embedded server, migrations, the tables, writing with the ledger, reading back.

Knows lines (`core/model.py`) and no exchange: whatever carries `exchange` and `symbol` is stored alike.
"""
