"""One file a command: help, options, wiring."""
