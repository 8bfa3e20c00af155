"""`okx man`: the manual."""

import os
import shutil
import sys
from typing import Annotated

import typer


def man(
    topic: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION] [TOPIC]", help="A command, or lines, config, candles.")
    ] = None,
) -> None:
    """Show the manual of okx, of one of its commands, or of a topic.

    Without a topic the overview. `okx man candles` is the command, `okx man 7 candles` the rules by which candles are
    made, `okx man lines` the line formats, `okx man 5 config` the keys of the configuration. On a terminal man(1)
    shows the page; where there is none, or in a pipe, it comes as plain text.
    """
    from okxcli.runtime.configuration.manual_pages import find_page, plain
    from okxcli.runtime.tables import write_text

    page = find_page(topic or [])
    viewer = shutil.which("man")
    if viewer and sys.stdout.isatty():
        # A name with a slash in it is a file to every man(1).
        os.execv(viewer, [viewer, str(page)])
    write_text(plain(page.read_text(encoding="utf-8")))
