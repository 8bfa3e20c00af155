"""The local exchange: a server that a client cannot tell from OKX, and an oracle that shares no rule with the rest.

Owns a simulated market, and recordings played as one. Refuses whatever `core`, `exchanges` and `storage` know of
markets but types and decimals.
In: seed, symbols, rate, faults; or recordings. Out: a WebSocket and REST server on loopback.
"""
