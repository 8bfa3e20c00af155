"""What is done to a database beside storing: ids forgotten, quarantine tried again, what is too old dropped.

Owns what a user takes out by name, retention, and the chores of a collector.
Refuses to drop by a clock alone, and to take anything out without a record.
In: ids, days to keep. Out: fewer rows, and what was done.
"""
