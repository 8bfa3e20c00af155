"""The set-up of the scripts, on machines that lack something. What works is shown by every run of scripts/test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: A Python that cannot make environments, as Debian's without python3-venv.
WITHOUT_VENV = """#!/bin/sh
case "$1 $2" in "-m venv" | "-m virtualenv") exit 1 ;; esac
case "$*" in *sys.executable*) echo "$0"; exit ;; esac
exec {python} "$@"
"""


@pytest.fixture
def bare(tmp_path):
    """Return a function that runs scripts/test with only the named tools on PATH: no uv, no virtualenv, no Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "cat", "cksum", "rm", "mkdir"):
        (tools / name).symlink_to(shutil.which(name))

    def run(**variables):
        environment = {"PATH": str(tools), "HOME": str(tmp_path), "OKX_VENV": str(tmp_path / "venv"), **variables}
        return subprocess.run(
            [ROOT / "scripts" / "test", "--version"], env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_without_any_python_the_remedy_is_told(bare):
    """One line, exit 69."""
    found = bare()
    assert found.returncode == 69 and found.stdout == ""
    assert found.stderr.startswith("okx: needs Python 3.11 or newer; name one: PYTHON=")


def test_without_a_way_to_make_an_environment_the_remedy_is_told(bare, tmp_path):
    """The message names the package to install; nothing half made is left behind."""
    python = tmp_path / "python3"
    python.write_text(WITHOUT_VENV.format(python=sys.executable))
    python.chmod(0o755)
    found = bare(PYTHON=str(python))
    assert found.returncode == 69
    assert "apt-get install python3-venv" in found.stderr.splitlines()[-1]
    assert not (tmp_path / "venv").exists()


def test_where_nothing_can_be_written_the_remedy_is_told(bare, tmp_path):
    """A folder that is not there, or not ours, asks for another one."""
    found = bare(PYTHON=sys.executable, OKX_VENV=str(tmp_path / "none" / "venv"))
    assert found.returncode == 69
    assert found.stderr.startswith("okx: cannot write beside") and "OKX_VENV=" in found.stderr
