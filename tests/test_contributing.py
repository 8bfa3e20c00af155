"""The map for whoever works on okx: every answer of CONTRIBUTING.md is a thing in the code, and every room is there."""

import re
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ANSWERS = re.findall(r"^\| .*\? \| `([\w.]+)` \|$", TEXT, re.M)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_where_it_says(answer):
    """A module, and in it a function, a class, or a method; with a docstring."""
    parts = answer.split(".")
    at = max(n for n in range(1, len(parts)) if ROOT.joinpath("okxcli", *parts[:n]).with_suffix(".py").is_file())
    module = import_module(".".join(["okxcli", *parts[:at]]))
    found = reduce(getattr, parts[at:], module)
    assert found.__doc__


def test_there_are_answers_and_every_path_is_there():
    """No question is passed over by its form, and no file or folder is named that is none."""
    rows = TEXT.split("## Where is the rule?")[1].split("## To add")[0].count("\n| ") - 2
    assert len(ANSWERS) == len(set(ANSWERS)) == rows >= 25
    named = set(re.findall(r"`([\w./-]+/[\w./-]*)`", TEXT))
    places = (ROOT, ROOT / "okxcli", ROOT / "okxcli" / "exchanges" / "okx")
    assert [name for name in named if "NAME" not in name and not any((place / name).exists() for place in places)] == []


def test_every_room_is_on_the_map():
    """The table of rooms has each package that lies in okxcli, and the rooms inside of it."""
    rooms = TEXT.split("## The rooms")[1].split("\n\nOne trade")[0]
    packages = [path.parent.relative_to(ROOT / "okxcli") for path in (ROOT / "okxcli").rglob("*/__init__.py")]
    assert [str(path) for path in packages if f"`{path.name}`" not in rooms and f"`{path}`" not in rooms] == []
