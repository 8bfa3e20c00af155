"""Everything that knows OKX: its protocol, its rows, its REST, its bulk files, and the feed that loses nothing.

Owns OKX's names, limits, addresses and habits. Refuses to know candles of ours or a database.
In: OKX's WebSocket, REST and files. Out: raw lines by `feed`, `rest` and `bulk_files`; types by `normalize`.
"""
