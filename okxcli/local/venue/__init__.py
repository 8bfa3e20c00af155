"""What the local exchange lists and trades: instruments, fills, and all that follows from fills alone.

Owns bars, books, tickers and the simulated market as pure functions of fills and time.
Refuses rules of the rest of the package: it is their oracle.
In: seed, symbols, rate. Out: rows in OKX's form.
"""
