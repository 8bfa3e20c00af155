"""Files that come with the package beside its modules: the manual and the example configuration.

In a wheel they lie inside the package; in a checkout (an editable install) beside it, under the same names.
"""

from pathlib import Path

from okxcli.errors import OkxError

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """Return where the shipped file or folder `name` lies, such as `config/okx.json`.

    Raises:
        OkxError: this installation has lost it.
    """
    for base in (_PACKAGE, _PACKAGE.parent):
        if (base / name).exists():
            return base / name
    raise OkxError(f"{name} is missing from this installation of okx. Install it again")
