"""The local exchange on the network: its port, its connections, its answers, its limits.

Owns the WebSocket conversation, REST answers and the loop that publishes. Refuses to know who asks.
In: bytes of clients. Out: pushes and answers as OKX's.
"""
