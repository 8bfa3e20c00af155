"""Files that come with the package beside its modules: the manual and the example configuration.

In a checkout (an editable install) they lie beside the package; a wheel puts them below `share/` of the environment,
where man(1) looks too, and its record of installed files tells where that is.
"""

from importlib import metadata
from pathlib import Path

from okxcli.errors import OkxError

_CHECKOUT = Path(__file__).resolve().parents[3]


def shipped(folder: str, pattern: str) -> list[Path]:
    """Return the files of `folder` (as in a checkout) whose names match `pattern`, in the order of their names.

    Raises:
        OkxError: this installation has lost them.
    """
    if (_CHECKOUT / "pyproject.toml").is_file():
        found = list((_CHECKOUT / folder).glob(pattern))
    else:
        recorded = [path for path in metadata.files("okxcli") or [] if "share" in path.parts and path.match(pattern)]
        found = [Path(str(path.locate())).resolve() for path in recorded]
    if not found:
        raise OkxError(f"{folder}/{pattern} is missing from this installation of okx. Install it again")
    return sorted(found, key=lambda path: path.name)
