"""The tables: numbered migrations, and partitions that are made before data needs them.

Owns the version of a database and the site that it was filled from. Refuses to change a migration that was released.
In: a connection. Out: tables that are there.
"""
