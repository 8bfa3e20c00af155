"""Builds the kernels in C, a shared library beside each: hatchling's hook for wheels and editable installs.

Where they cannot be built (no compiler, no headers of Python, no 128-bit integers) the build says so and goes on: okx
works without them, more slowly. By hand: `python scripts/kernels.py FOLDER [FLAG...]` builds them below FOLDER with
flags for the compiler added, and fails where that fails.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
#: The sources; each becomes `_NAME.abi3.so` in its folder, which any CPython from 3.11 on loads.
SOURCES = tuple(
    Path("okxcli", name)
    for name in (
        "core/candles/runs.c",
        "exchanges/okx/bulk_files/rows.c",
        "exchanges/okx/normalize/pushes.c",
        "storage/rows/fill_rows.c",
    )
)


class CannotBuild(Exception):
    """The compiler is not there, or does not take it."""


def built(source: Path) -> Path:
    """Return what is built from a source, beside it."""
    return source.with_name(f"_{source.stem}.abi3.so")


def build(folder: Path, *flags: str) -> list[Path]:
    """Compile every kernel to its place below `folder`; return where they are.

    Raises:
        CannotBuild: with the reason.
    """
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    include = f"-I{sysconfig.get_path('include')}"
    found = []
    for source in SOURCES:
        target = folder / built(source)
        part = target.with_name(f"{target.name}.{os.getpid()}")
        command = [*compiler, "-O3", *shared, "-fPIC", *flags, include, str(ROOT / source), "-o", str(part)]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode:
                raise CannotBuild(f"{' '.join(command)}\n{done.stderr.strip()}")
            part.replace(target)  # at once: an okx that runs keeps the one that it has
        except OSError as error:
            raise CannotBuild(f"{compiler[0]}: {error.strerror}") from None
        finally:
            part.unlink(missing_ok=True)
        found.append(target)
    return found


class CustomBuildHook(BuildHookInterface[Any]):
    """Builds the kernels into the tree before it is packed, or leaves them out."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the kernels to the wheel, and say in its name what they need."""
        try:
            build(ROOT, *shlex.split(os.environ.get("CFLAGS", "")))
        except CannotBuild as reason:
            for source in SOURCES:
                (ROOT / built(source)).unlink(missing_ok=True)  # an old one is worse than none
            self.app.display_warning(
                f"okx is built without its C kernels, and works without them, more slowly: {reason}"
            )
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["artifacts"] += [str(built(source)) for source in SOURCES]


if __name__ == "__main__":
    for path in build(Path(sys.argv[1]), *sys.argv[2:]):
        print(path)
