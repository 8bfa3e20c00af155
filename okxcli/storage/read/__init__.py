"""What is stored, back as lines and as a table of how fresh it is.

Owns the order of what is read, and snapshots. Refuses to change anything.
In: symbols, timeframes, spans. Out: lines, rows of a user's own SQL, rows of `okx status`.
"""
