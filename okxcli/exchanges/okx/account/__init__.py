"""An account at OKX, as its private channels tell of it: orders, balances, positions, fills. Nothing here trades.

Owns what is subscribed of an account. Refuses to keep a key anywhere but in memory, and to subscribe before the login.
In: a key and names of channels. Out: the pushes as they came, by `account_feed`.
"""
