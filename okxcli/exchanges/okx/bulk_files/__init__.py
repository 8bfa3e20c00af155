"""OKX's bulk files: fetched whole or not at all, recognised by their layout, read in bounded memory.

Owns their names, layouts and defects. Refuses rows that cannot be, with file and line.
In: folders and the file server. Out: raw lines with an `origin`, or rows for Postgres by way of DuckDB.
"""
