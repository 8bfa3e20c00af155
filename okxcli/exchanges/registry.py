"""The exchanges that there are, by the name that lines, rows and the configuration give them."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from okxcli.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from okxcli.exchanges.file_interface import FileSource
    from okxcli.exchanges.interface import Exchange
    from okxcli.runtime.configuration.config import Config

#: Name: the module whose `EXCHANGE` it is. The first one is meant where none is named.
_MODULES = {"okx": "okxcli.exchanges.okx.okx_exchange"}

DEFAULT = next(iter(_MODULES))


@cache
def exchange(name: str = DEFAULT) -> "Exchange":
    """Return an exchange.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _MODULES:
        raise ConfigError(f"no exchange is called {name[:40]!r}. There is {', '.join(_MODULES)}")
    found: Exchange = import_module(_MODULES[name]).EXCHANGE
    return found


def configured(config: "Config") -> "Exchange":
    """Return the exchange that a configuration names.

    Raises:
        ConfigError: there is none of that name; where the name stands is told.
    """
    try:
        return exchange(config.exchange)
    except ConfigError as error:
        raise ConfigError(f"{config.path}: exchange.name: {error}") from None


def exchange_of(line: bytes) -> "Exchange | None":
    """Return the exchange whose raw line this is; None: of none, or nobody can tell."""
    return next((one for one in map(exchange, _MODULES) if one.is_raw(line)), None)


def exchange_of_file(path: "Path") -> "Exchange | None":
    """Return the exchange as whose bulk files this one is called; None: as those of none."""
    every = map(exchange, _MODULES)
    return next((one for one in every if one.files is not None and one.files.is_one(path)), None)


def files_of(source: "Exchange") -> "FileSource":
    """Return the bulk files of an exchange.

    Raises:
        UsageError: it has none.
    """
    if source.files is None:
        raise UsageError(f"{source.title} has no bulk files: leave --files and --download out")
    return source.files
