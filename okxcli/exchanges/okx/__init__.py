"""Everything that knows OKX. Rooms from below: normalize, connection and rest, bulk_files and feed, account,
`okx_exchange`.

Owns OKX's names, limits, addresses and habits: its channels, its sites, the way there (`tunnel`), its clock.
Refuses to know candles of ours or a database.
In: OKX's WebSocket, REST and files. Out: raw lines by `feed`, `account`, `rest` and `bulk_files`; types by
`normalize`.
"""
