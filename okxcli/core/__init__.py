"""Market data rules as pure functions: what a line may say, which ids are known, what that proves.

Owns the types of lines, their one decoder and encoder, decimals, timeframes, and the rule for `complete` (`tape`).
Refuses sockets, files, clock and environment: time is an argument. Knows no exchange.
In: bytes of lines, and types. Out: types, and bytes of lines.
"""
