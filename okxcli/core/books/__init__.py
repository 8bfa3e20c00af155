"""Order books kept from updates: the chain of their numbers, what they say at a moment, and what follows from that.

Owns when a book is good, and when it is not known. Refuses the wall clock, and repair: that is the feed's.
In: `BookUpdate`, by `book_maker`. Out: the book, whenever it is to be written.
"""
