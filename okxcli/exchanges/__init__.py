"""The exchanges that are collected from: a folder each, what each must provide (`interface`), and which there are.

Owns what differs from exchange to exchange. Refuses rules of candles, of the tape and of storage. Nobody imports from a
folder in here: the `registry` gives an exchange by its name.
In: the exchange's network and its files. Out: raw lines, and the types of `core/model`.
"""
