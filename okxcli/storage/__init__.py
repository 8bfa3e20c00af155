"""Postgres: `database` is the door. Rooms from below: server, schema, rows, ledger, write, candles, upkeep and read.

Owns whatever is kept. Knows lines (`core/model`) and no exchange: what carries `exchange` and `symbol` is stored alike.
Refuses to lose, to double and to alter a line without a word.
In: lines. Out: lines, and what the ledger proves.
"""
