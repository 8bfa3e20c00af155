"""Raw lines kept in files that are named by the time of receipt, for months.

Owns the names (`%Y-%m-%d/%H`), when a file ends and the next begins, what a run leaves that was killed, and what is
done when the disk gets full. Refuses nothing of a line: it is kept as it came. In come lines of a feed, out go files.
"""
