"""The house itself: what imports what, what is locked, and what must not stand in the tree."""

import ast
import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted((ROOT / "okxcli").rglob("*.py"))
LOCKED = ("requirements.lock", "requirements-dev.lock")


def tracked():
    """Return every text file of the project: what git knows, or all of a source tree without it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def texts():
    """Yield (path, text) of every file that is text."""
    for path in tracked():
        try:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def the_locker():
    """Return scripts/lock as a module."""
    loader = importlib.machinery.SourceFileLoader("lock", str(ROOT / "scripts" / "lock"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("lock", loader))
    loader.exec_module(module)
    return module


def test_imports_point_down_only():
    """The contracts of pyproject.toml hold: the layers, the oracle that shares no rule, the pure core."""
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", LOCKED)
def test_the_lock_files_are_current(name):
    """A lock file is made from the dependencies as they are; if this fails, run scripts/lock."""
    locker = the_locker()
    assert locker.MARK + locker.digest(locker.LOCKS[name]) in (ROOT / name).read_text().splitlines()[:2]


@pytest.mark.parametrize("name", LOCKED)
def test_the_lock_files_pin_and_hash_every_package(name):
    """Each package has one version and at least one hash, and no place is named to fetch it from."""
    text = (ROOT / name).read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    entries = re.split(r"(?m)^(?=[a-z])", re.sub(r"(?m)^#.*\n", "", text))[1:]
    assert len(entries) > 15
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_what_is_tested_is_what_is_run():
    """Both lock files agree on the version of every package that they share."""
    run, dev = (dict(re.findall(r"(?m)^([a-z0-9.-]+)==(\S+)", (ROOT / name).read_text())) for name in LOCKED)
    assert run.items() <= dev.items()


def test_every_dependency_has_both_bounds():
    """The release that may break us is shut out, and the oldest one that will do is named."""
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    wanted += [one for group in PROJECT["project"]["optional-dependencies"].values() for one in group]
    wanted += [one for group in PROJECT["dependency-groups"].values() for one in group]
    assert [one for one in wanted if not re.fullmatch(r"[a-z0-9\[\]-]+>=[0-9.]+,<[0-9.]+", one)] == []


def test_the_wheel_takes_every_page():
    """Each man page, and the example configuration, is in the list of what is installed below share/."""
    shared = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    pages = {
        f"man/{page.name}": f"share/man/man{page.suffix[1]}/{page.name}" for page in (ROOT / "man").glob("*.[1-9]")
    }
    assert len(pages) > 10
    examples = {f"config/{path.name}": f"share/okx/{path.name}" for path in (ROOT / "config").glob("*.json")}
    assert shared == {**examples, **pages}


def test_the_wheel_holds_what_it_needs(tmp_path):
    """A built wheel has every module, the migrations, the data files and the pages, and nothing of the tests."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "okxcli").rglob("*") if path.is_file()}
    assert {name for name in package if "__pycache__" not in name} <= names
    assert {
        "okxcli/py.typed",
        "okxcli/local/venue/instruments.json",
        "okxcli/storage/schema/migrations/0001_tables.sql",
    } <= names
    share = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {"share/okx/okx.json", "share/man/man1/okx-stream.1", "share/man/man7/okx-candles.7"} <= share
    assert not any(name.startswith("tests") or name.endswith(".md") for name in names)


def test_every_module_says_what_it_owns():
    """Each module of the package begins with a docstring."""
    assert [str(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_every_public_function_and_class_says_what_it_does():
    """Whatever another module may call has a docstring."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES
        for node in ast.iter_child_nodes(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


def code_of(function):
    """Return the line numbers of a function below its signature and docstring."""
    statements = function.body[bool(ast.get_docstring(function)) :]
    return range(statements[0].lineno, function.end_lineno + 1) if statements else ()


def test_nothing_grows_too_large():
    """A module has at most 400 lines, a function at most 60 below its signature and docstring."""
    found = [f"{path.relative_to(ROOT)}" for path in MODULES if path.read_text().count("\n") > 400]
    found += [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(code_of(node)) > 60
    ]
    assert found == []


def test_rooms_are_small_and_names_are_told_apart():
    """A package has at most a dozen modules, and no two modules have one name; but for the commands, one file each."""
    rooms = {path.parent for path in MODULES}
    sizes = {str(room.relative_to(ROOT)): len([*room.glob("[!_]*.py")]) for room in rooms}
    assert {room: size for room, size in sizes.items() if size > 12} == {"okxcli/commands": sizes["okxcli/commands"]}
    names = Counter(path.stem for path in MODULES if path.stem != "__init__" and path.parent.name != "commands")
    assert [name for name, count in names.items() if count > 1] == []


def test_tests_lie_beside_what_they_test():
    """The tests of a module are in the room of its name."""
    rooms = {path.stem: path.parent.relative_to(ROOT / "okxcli") for path in MODULES if path.parent.name != "commands"}
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name not in ("tests", "commands")]
    own = {path.relative_to(ROOT / "tests"): rooms[path.stem[5:]] for path in tests if path.stem[5:] in rooms}
    assert len(own) > 40
    assert {path: room for path, room in own.items() if path.parent != room} == {}


def imported(path):
    """Return the modules of the package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("okxcli"):
            place = ROOT.joinpath(*node.module.split("."))
            yield from (place / f"{alias.name}.py" for alias in node.names)
            yield from (place.with_suffix(".py"), place / "__init__.py")


def test_no_module_imports_itself_by_way_of_others():
    """Not for a type either, nor inside of a function; but for what the package promises, and loads when it is used."""
    left = {path: {one for one in imported(path) if one in MODULES} for path in MODULES}
    del left[ROOT / "okxcli" / "__init__.py"]
    while free := {
        one for one in left if not left[one] & left.keys() or not any(one in needs for needs in left.values())
    }:
        left = {path: needs for path, needs in left.items() if path not in free}
    assert sorted(str(path.relative_to(ROOT)) for path in left) == []


#: Who may speak of OKX outside of its folder: the local exchange and its commands, and what describes the whole.
_ABOUT_OKX = ("exchanges/okx/", "local/", "commands/simulate.py", "commands/replay.py", "commands/serving.py", "cli.py")
_OF_OKX = re.compile(
    r"\bOKX\b(?!_)|okx\.com|okex|/api/v5|/ws/v5|\b(instId|instType|tradeId|ctVal|ctMult|ordId|50011|60012|64008)\b"
)


def test_an_exchange_is_a_folder():
    """No word of OKX, no address, path, key or code of its protocol stands outside of `exchanges/okx` and `local`.

    Names of channels may: they are words of our own lines, as okx-lines(5) has them.
    """
    assert sum(len(_OF_OKX.findall(path.read_text())) for path in (ROOT / "okxcli/exchanges/okx").rglob("*.py")) > 100
    found = []
    for path in MODULES:
        name = str(path.relative_to(ROOT / "okxcli"))
        if not name.startswith(_ABOUT_OKX) and name != "__init__.py":
            found += [f"{name}: {line}" for line in path.read_text().splitlines() if _OF_OKX.search(line)]
    assert found == []


def test_money_is_never_a_float():
    """No room that handles prices turns anything into a float, and none lets a JSON decoder do it."""
    rooms = [path for path in MODULES if path.parts[len(ROOT.parts) + 1] in ("core", "storage")]
    assert len(rooms) > 8
    assert [str(path) for path in rooms if re.search(r"\bfloat\(|json\.loads\(", path.read_text())] == []


def test_the_tree_names_no_registry_and_no_machine():
    """No package index, no path of the machine that a file was written on."""
    hosts = "|".join(
        map(re.escape, ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "deb." + "debian.org"))
    )
    paths = r"(?<![\w.$}-])/(?:ro" + r"ot|wo" + r"rk|ho" + r"me/\w+|opt/pypi\w*)/\w"
    pattern = re.compile(f"{hosts}|{paths}")
    found = [f"{path}: {match[0]}" for path, text in texts() for match in pattern.finditer(text)]
    assert found == []


def test_nothing_packed_is_in_the_tree():
    """No wheel, library or picture that a build or a download has left; recordings are, with their provenance."""
    data = ROOT / "tests" / "data"
    packed = [path for path in tracked() if b"\0" in path.read_bytes() and data not in path.parents]
    assert packed == []


def test_no_work_is_left_over_in_the_tree():
    """No marker of unfinished work stands in the code."""
    marker = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert [str(path) for path, text in texts() if path.suffix in (".py", ".sh", ".sql") and marker.search(text)] == []


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")
@pytest.mark.parametrize("name", ["scripts/env.sh", "scripts/test", "scripts/demo", "scripts/man", ".ci/run"])
def test_the_scripts_are_sound(name):
    """Each shell script parses, and those that are run are executable."""
    path = ROOT / name
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    checked = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert path.suffix == ".sh" or path.stat().st_mode & 0o111 == 0o111
