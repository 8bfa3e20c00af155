"""Each option that several commands share, spelled and explained once.

A name here is an annotated type: `def store(dsn: Dsn = None)`. Precedence: the flag, its `OKX_*` variable, the
configuration, the default.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

Symbols = Annotated[
    list[str], typer.Argument(metavar="SYMBOL...", help="Instruments, as the exchange names them: BTC-USDT.")
]
Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE]...", help="Files to read, .gz and .zst by name; - or none: standard input."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write here, .gz and .zst by name; else to stdout. Until it is whole the file is FILE.part.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No closing line of counts on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more: every change of state with its cause.")]
Strict = Annotated[bool, typer.Option("--strict/--no-strict", help="Stop at the first bad line (exit 65).")]
Rejects = Annotated[
    Path | None, typer.Option("--rejects", metavar="FILE", help="Keep bad lines here, as JSON lines with their reason.")
]
Stats = Annotated[
    Path | None, typer.Option("--stats", metavar="FILE", help="Write the counts at the end as one JSON object.")
]
Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        envvar="OKX_DSN",
        show_envvar=True,
        metavar="DSN",
        help="Postgres, as URL or keywords; no password in it: use ~/.pgpass or PGPASSWORD. "
        "Default: the configuration, PGSERVICE, PGHOST or PGDATABASE, else the embedded server.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="OKX_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="Configuration. Default: $XDG_CONFIG_HOME/okx/okx.json, else /etc/okx/okx.json.",
    ),
]
WsUrl = Annotated[
    str | None,
    typer.Option(
        "--ws-url",
        envvar="OKX_WS_URL",
        show_envvar=True,
        metavar="URL",
        help="WebSocket base, without the path. Default: the configuration, else the exchange's own.",
    ),
]
RestUrl = Annotated[
    str | None,
    typer.Option(
        "--rest-url",
        envvar="OKX_REST_URL",
        show_envvar=True,
        metavar="URL",
        help="REST base, without the path. Default: the configuration, else the exchange's own.",
    ),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="URL",
        help="Reach the exchange through this proxy, http://, socks5:// (names resolved here) or socks5h://; none: "
        "straight. Default: the configuration, else HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, and NO_PROXY.",
    ),
]
Count = Annotated[int | None, typer.Option("--count", "-n", min=1, metavar="N", help="End after N data messages.")]
Duration = Annotated[
    str | None, typer.Option("--duration", metavar="TIME", help="End after this long: 30s, 10m, 2h, 1d.")
]
ConnectTimeout = Annotated[
    float, typer.Option("--connect-timeout", min=0.1, metavar="SECONDS", help="Give up (exit 69) if never connected.")
]
FilesUrl = Annotated[
    str | None,
    typer.Option(
        "--files-url",
        envvar="OKX_FILES_URL",
        show_envvar=True,
        metavar="URL",
        help="Where the bulk files are. Default: the exchange's own place.",
    ),
]
RowsAs = Annotated[
    Literal["fills", "aggregates"] | None,
    typer.Option(
        "--as",
        help="What the rows of trade files are. Default: merged trades (aggregates) where the name says so, or where "
        "more ids are missing between the rows than files of fills lack.",
    ),
]
