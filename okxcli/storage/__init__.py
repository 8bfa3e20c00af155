"""Postgres: the server, the tables, writing with the ledger, candles made again, reading back.

Owns whatever is kept. Knows lines (`core/model`) and no exchange: what carries `exchange` and `symbol` is stored alike.
Refuses to lose, to double and to alter a line without a word.
In: lines. Out: lines, and what the ledger proves.
"""
