"""The exchanges that there are, by the name that lines, rows and the configuration give them."""

from functools import cache
from importlib import import_module

from okxcli.errors import ConfigError
from okxcli.exchanges.interface import Exchange

#: Name: the module whose `EXCHANGE` it is. The first one is meant where none is named.
_MODULES = {"okx": "okxcli.exchanges.okx.okx_exchange"}

DEFAULT = next(iter(_MODULES))


@cache
def exchange(name: str = DEFAULT) -> Exchange:
    """Return an exchange.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _MODULES:
        raise ConfigError(f"no exchange is called {name!r}. There is {', '.join(_MODULES)}")
    found: Exchange = import_module(_MODULES[name]).EXCHANGE
    return found
