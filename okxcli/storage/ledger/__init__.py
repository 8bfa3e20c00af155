"""The ledger of ids: which fills are here, which the exchange has not, which are missing, and what that proves.

Owns coverage by day, ids that are not settled, checksums, audits, and the steps back of time.
Refuses to call an id covered that has no row, or absent without proof.
In: fills and absent ids as they are stored. Out: ranges, and `Proof`.
"""
