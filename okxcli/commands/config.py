"""`okx config`: write, check and show the configuration."""

import json
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from okxcli import options
from okxcli.errors import OutputError, UsageError

if TYPE_CHECKING:
    from okxcli.runtime.configuration.config import Config
    from okxcli.runtime.configuration.disk_estimate import Share

_HELP = """Write, check and show the configuration.

It is one JSON object in a file; okx-config(5) explains its keys. The place: --config, OKX_CONFIG,
$XDG_CONFIG_HOME/okx/okx.json (~/.config by default), /etc/okx/okx.json; never the working directory.
"""

config = options.Group(_HELP)

#: Keys of the file that a variable of the environment overrides.
_VARIABLES = {"storage.dsn": "OKX_DSN", "exchange.ws_url": "OKX_WS_URL", "exchange.rest_url": "OKX_REST_URL"}

#: The files of examples that are not called like them.
_EXAMPLES = {"nine-symbols": "okx.json"}


@config.subcommand
def init(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to. Default: $XDG_CONFIG_HOME/okx/okx.json.")
    ] = None,
    example: Annotated[
        Literal["nine-symbols", "one-symbol", "usdt-pairs", "swaps", "redundant"],
        typer.Option(
            "--example",
            help="What to begin with: nine spot markets; one; all spot markets in USDT, trades alone; three swaps with "
            "funding, prices and liquidations; the nine for two collectors into one Postgres elsewhere.",
        ),
    ] = "nine-symbols",
    symbols: Annotated[
        str | None, typer.Option("--symbols", metavar="LIST", help="These instead: BTC-USDT,ETH-USDT or '*-USDC'.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option("--channels", metavar="LIST", help="These channels instead: trades-all,books5.")
    ] = None,
    timeframes: Annotated[
        str | None, typer.Option("--timeframes", metavar="LIST", help="These timeframes instead: 1m,1h.")
    ] = None,
    force: Annotated[bool, options.switch("force", "Replace a file that is there.")] = False,
) -> None:
    """Write a configuration to start from.

    The file collects trades, books and tickers of nine spot markets and makes six timeframes of candles, unless you
    say otherwise. Only you may read it. Its place is told on standard error.
    """
    from okxcli.runtime.configuration.config_file import user_file
    from okxcli.runtime.configuration.shipped_files import shipped
    from okxcli.runtime.files import private_folder, write_file

    target = path or user_file(os.environ)
    text = shipped("config", _EXAMPLES.get(example, f"{example}.json"))[0].read_text(encoding="utf-8")
    text = _changed(text, {"symbols": symbols, "channels": channels, "timeframes": timeframes})
    if target.exists() and not force:
        raise UsageError(f"{target} is there already. Replace it with --force, or name another file")
    try:
        private_folder(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from None
    write_file(target, text, 0o600)
    print(f"okx config: wrote {target}. Edit it, then: okx config check {target}", file=sys.stderr)


@config.subcommand
def check(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The file to check. Default: the one that would be used.")
    ] = None,
    connect: Annotated[
        bool, options.switch("connect", "Then try the exchange and the database, and tell what they say.")
    ] = False,
) -> None:
    """Check the configuration and estimate the disk it will want.

    All mistakes are told at once, one a line on standard error (exit 78). A right file gives one row for each kind of
    data on standard output (rows and bytes a day, days kept, bytes in the end; a table on a terminal), and the free
    space on standard error. Reads nothing but the file: no network, no database, unless --connect asks for them (exit
    69 when one cannot be reached).
    """
    from dataclasses import asdict

    from okxcli.exchanges.registry import configured
    from okxcli.runtime.configuration import config_file as configuration
    from okxcli.runtime.configuration.disk_estimate import HOW, shares
    from okxcli.runtime.log import setup
    from okxcli.runtime.tables import write_rows

    setup("config")
    loaded = configuration.load(path, required=True)
    configured(loaded)
    found = shares(loaded)
    write_rows([{**asdict(share), "kept_bytes": share.kept_bytes} for share in found])
    print(f"okx config: {loaded.path} is right. {HOW[0].upper()}{HOW[1:]}", file=sys.stderr)
    print(f"okx config: {_room(loaded, found)}", file=sys.stderr)
    if connect:
        _connect(loaded)


@config.subcommand
def show(path: options.Config = None) -> None:
    """Show every setting in effect and where it comes from.

    Writes one line for each key (a table on a terminal): its name, its value, and whether that is the default, from
    the file, or from a variable of the environment. A password is masked, and what logs in at a proxy left out.
    """
    from okxcli.runtime import proxy
    from okxcli.runtime.configuration import config_file as configuration
    from okxcli.runtime.configuration import config_keys
    from okxcli.runtime.configuration.config_values import masked
    from okxcli.runtime.tables import write_rows

    loaded = configuration.load(path)
    document = config_keys.Document()
    if loaded.path is not None:
        document = config_keys.parse(configuration.read(loaded.path))[0] or document
    rows = []
    for key, value, given in config_keys.settings(document):
        source = str(loaded.path) if given else "default"
        variable = _VARIABLES.get(key, "")
        effective = os.environ.get(variable) or value
        if key == "storage.dsn" and effective:
            effective = masked(effective)
        if key == "exchange.proxy" and effective:
            effective = str(proxy.parse(effective) or effective)
        rows.append({"key": key, "value": effective, "from": variable if os.environ.get(variable) else source})
    write_rows(rows)


@config.subcommand
def schema(
    of: Annotated[
        str,
        typer.Argument(
            metavar="[WHAT]", help="config, or a type of line: trade, candle, book, ticker, instrument, absent."
        ),
    ] = "config",
) -> None:
    """Print the JSON Schema of the configuration file, or of a type of line.

    For editors that complete and check as you type: save it and name it under the key "$schema" of your file. The
    schemas of lines say what okx writes, for programs that read it.
    """
    from okxcli.core.line_schema import LINE_TYPES, line_schema
    from okxcli.runtime.configuration.config_keys import json_schema
    from okxcli.runtime.tables import write_text

    if of != "config" and of not in LINE_TYPES:
        raise UsageError(f"no schema of {of!r}. There are: config, {', '.join(LINE_TYPES)}")
    write_text(json.dumps(json_schema() if of == "config" else line_schema(of), indent=2) + "\n")


def _connect(loaded: "Config") -> None:
    """Try what a configuration names, and tell what it says."""
    from okxcli.commands.ways import way
    from okxcli.pipeline.first_contact import first_contact
    from okxcli.runtime.signals import Lifecycle

    here = way(loaded, os.environ.get("OKX_WS_URL"), os.environ.get("OKX_REST_URL"))
    wished = here.stream_options(loaded.connect_timeout_s, stamp=False)
    with Lifecycle("source") as life, closing(here.market(patience_s=10.0)) as market:
        words = first_contact(
            loaded,
            here.exchange,
            market,
            lambda symbols: here.exchange.feed(symbols, loaded.channels, repair=False, **wished),
            os.environ.get("OKX_DSN"),
            life,
        )
        for word in words:
            print(f"okx config: {word}", file=sys.stderr, flush=True)


def _changed(text: str, wishes: dict[str, str | None]) -> str:
    """Return a configuration with lists replaced by those that are wished for.

    Raises:
        ConfigError: it would have mistakes.
    """
    from okxcli.errors import ConfigError
    from okxcli.runtime.configuration.config_keys import parse

    given = {key: [one.strip() for one in names.split(",")] for key, names in wishes.items() if names is not None}
    if not given:
        return text
    made = json.loads(text)
    if "symbols" in given:
        made.pop("types", None)
    made = given | {key: value for key, value in made.items() if key not in given}
    text = json.dumps(made, indent=2) + "\n"
    if mistakes := parse(text)[1]:
        raise ConfigError("\n".join(mistakes))
    return text


def _room(config: "Config", found: "list[Share]") -> str:
    """Return a sentence that sets the estimate beside the free space."""
    from okxcli.storage.database import resolve

    daily = sum(share.bytes_a_day for share in found)
    for_ever = sum(share.bytes_a_day for share in found if share.kept_days is None)
    bounded = sum(share.kept_bytes or 0 for share in found)
    rest = f", the rest grows to {_gigabytes(bounded)}" if bounded else ""
    text = f"about {_gigabytes(daily)} a day; {_gigabytes(for_ever)} of it stay{rest}"
    folder = resolve(os.environ.get("OKX_DSN"), config.dsn).base
    if folder is None:
        return f"{text}. The database is not okx's own, so its free space is not known here"
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    text += f". Free for {folder}: {_gigabytes(free)}"
    if free < bounded:
        return f"{text}, which is too little"
    return f"{text}, enough for {(free - bounded) // for_ever:,} days" if for_ever else f"{text}, which is enough"


def _gigabytes(count: int) -> str:
    tenths = (count + 50_000_000) // 100_000_000
    return f"{tenths // 10:,}.{tenths % 10} GB" if count >= 50_000_000 else f"{count // 1_000_000} MB"
