"""Where the `okx` command begins: while anything of it is being loaded, Ctrl-C ends it without a word.

Not in the middle of a load: a library in C may take an exception there badly (orjson ends by a segmentation fault, or
swallows it). Until the command line is there nothing has to be put away, so that the process just ends; a command that
loads something later is interrupted when that is done.
"""

import gc
import os
import signal
import sys
import threading
from types import FrameType

#: Time after which it is tried again whether a load is over.
_AGAIN_S = 0.02


def main() -> None:
    """Load the command line and run it."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # ignored by who started us, it stays so
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What is loaded does not become garbage: to look for some in it every 700 objects takes a tenth of the start.
    gc.set_threshold(10_000, 10, 10)
    from okxcli import cli

    try:
        if heard:
            signal.signal(signal.SIGINT, _interrupt)
        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not into a load: after it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signum))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
