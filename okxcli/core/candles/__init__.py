"""Candles: from trades, and larger ones from smaller ones; right-aligned, deterministic, never from the future.

Owns when a bar begins, grows, is written, revised and let go, and which of two versions of it is the better one.
Refuses the wall clock as a judge of what is over, and rounding.
In: trades, absent ids and instruments, or candles, by `processor` and `rollup`. Out: `OHLCVCandle`.
"""
