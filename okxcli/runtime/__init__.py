"""What every command stands on: JSON lines on stdin and stdout, signals, files, logs, clock.

Owns how a command reads, writes, is interrupted and says what went wrong. Refuses to know markets and databases.
In: standard input, files, the environment. Out: standard output, the log, an exit code.
"""
