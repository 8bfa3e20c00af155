"""Where the `okx` command begins: until the command line is loaded, Ctrl-C ends it without a word."""

import signal
import sys


def main() -> None:
    """Load the command line and run it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # ignored by who started us, it stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from okxcli import cli

    try:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)
        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)
