"""Lines as rows, and rows as lines: how a line fills columns, how rows go in, and how they come back in order.

Owns the spelling of rows, COPY, the table of candles, and what becomes of a line that cannot be stored.
Refuses to decide what is stored; of two versions of a bar alone the better one stays.
In: lines. Out: rows; and by `reader` lines again, a few at a time, from one snapshot.
"""
