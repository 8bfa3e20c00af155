"""Market data rules as pure functions: no sockets, files, clock or environment; time is an argument."""
