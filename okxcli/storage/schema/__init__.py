"""The tables: numbered migrations, partitions made before data needs them, retention that drops them whole.

Owns the version of a database and the site that it was filled from. Refuses to drop by a clock alone.
In: a connection. Out: tables that are there.
"""
