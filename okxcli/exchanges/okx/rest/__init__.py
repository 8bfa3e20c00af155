"""OKX's REST: one client with limits, time-outs and retries, and the past as pages of raw lines.

Owns the endpoints, how often each may be asked, and how a hostile answer is bounded.
Refuses to take an empty answer for a proof.
In: symbols, ids, times. Out: rows and raw lines, oldest first, and OKX's own candles.
"""
