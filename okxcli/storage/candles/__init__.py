"""Stored bars that are to be better: which are, and made again from rows or from smaller bars.

Owns what is outdated, rebuilding, flat bars of proved quiets, and the chain where candles alone are stored.
Refuses to call a bar complete that `core/tape` does not.
In: the ledger's proof, and rows. Out: better bars in `market_data`.
"""
