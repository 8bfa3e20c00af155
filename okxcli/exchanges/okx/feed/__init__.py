"""The live feed of many symbols: over many connections, with its holes repaired and its silence noticed.

Owns what is done about a missing id (asked for, repaired, proved absent), and about a channel that is mute.
Refuses to lose or to double a fill, and to block whoever reads.
In: symbols and channels. Out: one stream of raw lines, by `live_feed`.
"""
