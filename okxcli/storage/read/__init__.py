"""What is stored, told: as lines, as ranges of ids, as a table of how fresh and how whole it is.

Owns `okx read`, `okx gaps` and `okx status`. Refuses to change anything.
In: symbols, timeframes, spans. Out: lines, ranges, rows.
"""
