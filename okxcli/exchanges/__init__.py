"""The exchanges that are collected from: a folder each, and nothing of theirs outside of it.

Owns what differs from exchange to exchange. Refuses rules of candles, of the tape and of storage.
In: the exchange's network and its files. Out: raw lines, and the types of `core/model`.
"""
