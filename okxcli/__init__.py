"""OKX market data as composable commands: a tape that can prove it is complete, candles that never leak the future.

`import okxcli as okx` gives Python what the commands do: okxcli(3), and `okxcli.api`, whose `__all__` is what is
promised. Nothing of it is loaded before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from okxcli.api import *  # noqa: F403 - the same names, for type checkers


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        api = import_module("okxcli.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(["__version__", *import_module("okxcli.api").__all__])
