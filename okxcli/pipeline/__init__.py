"""Whole jobs made of the parts below: collect, backfill, verify, the import of bulk files. No rule of its own.

Owns the order in which parts are called, and how a job ends. Refuses rules: those are in the rooms below.
In: options of a command. Out: rows in Postgres, and what was done.
"""
