"""Which Postgres, how it is reached, and the embedded one that is started where there is none.

Owns DSNs, connections that leave nothing behind in a session, errors in a user's words, the embedded server.
Refuses to know what is stored.
In: a DSN or a folder. Out: `Connection`, by `database.open_database`.
"""
