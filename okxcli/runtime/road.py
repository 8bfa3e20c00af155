"""Which road everyday lines take: kernels in C where they were built, else Python's alone. Both give the same bytes.

A kernel knows the forms that come every day and leaves every other line to Python, where each rule has its one place.
OKX_PURE=1 leaves the kernels out.
"""

import importlib
import os
from types import ModuleType

#: What a kernel must say of itself (`core/scan.h`): one that was built from older sources is left alone.
KERNEL = 5
#: Every kernel, below the package.
KERNELS = (
    "core.candles._runs",
    "exchanges.okx.bulk_files._rows",
    "exchanges.okx.normalize._pushes",
    "storage.rows._fill_rows",
)


def kernel(name: str) -> ModuleType | None:
    """Return a kernel, by its module's name below the package; None where it is not to be used or was not built."""
    if _pure():
        return None
    try:
        found = importlib.import_module(f"okxcli.{name}")
    except ImportError:
        return None
    return found if getattr(found, "KERNEL", None) == KERNEL else None


def road() -> tuple[str, str]:
    """Return which road everyday lines take, and why it is not the other one."""
    if all(kernel(name) is not None for name in KERNELS):
        return "C kernels", ""
    if _pure():
        return "Python alone", "as OKX_PURE says"
    return "Python alone", "no C kernels were built: that takes a C compiler and Python's headers, and another install"


def _pure() -> bool:
    return os.environ.get("OKX_PURE", "") not in ("", "0")
