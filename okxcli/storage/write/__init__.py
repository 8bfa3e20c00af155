"""Lines into tables: batches, one transaction each, durable when `flush` returns; spooled while Postgres is away.

Owns batches, the tape, and the spool. Refuses to lose a line: it is stored, spooled, or quarantined with a reason.
In: lines, by `writer` and `durable_writer`. Out: rows, and counts of what became of each line.
"""
