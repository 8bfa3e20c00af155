"""The configuration file and the files that come with the package.

Owns how the file is spelled, its checks in a user's words, and the disk that it will want.
Refuses keys that it does not know.
In: a path. Out: `Config`, checked; pages of the manual.
"""
