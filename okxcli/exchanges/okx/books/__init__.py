"""The books of a feed: their chains are watched, broken ones are mended by another subscription or by REST.

Owns when that is asked for, and that it is no storm. Refuses to look at levels: that is for who keeps the book.
In: the lines of a feed. Out: the same, with snapshots that were fetched in their place.
"""
