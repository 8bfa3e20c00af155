"""One WebSocket connection after the other: dialled, subscribed, kept alive, closed in good time.

Owns OKX's WebSocket language (`protocol`), the life of a connection (`session`, pure) and the socket under it.
Refuses to know what a message is worth, and to wait for a reader.
In: subscriptions. Out: messages as they came, by `receiver`, and what became of each subscription, by `client`.
"""
