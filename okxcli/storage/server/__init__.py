"""The Postgres that is reached: connections, and the embedded server that is started where there is none.

Owns connections that leave nothing behind in a session, what Postgres said in a user's words, the embedded server, and
which databases were in use here. Refuses to know what is stored.
In: a DSN or a folder. Out: `Connection`.
"""
