"""OKX's rows to the types of `core/model`, each refused with its reason when it cannot be.

Owns the forms of OKX's rows and one converter for each. Refuses what cannot be, and guesses nothing.
In: raw lines, as `okx stream` writes them, by `normalizer`. Out: trades, books, tickers, candles, instruments.
"""
