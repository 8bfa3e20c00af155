"""What is written for users holds: pages in step, examples that parse, a README whose commands run."""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main

from okxcli.cli import build_app
from okxcli.core import model
from okxcli.core.states import STATES
from okxcli.errors import ExitCode
from okxcli.runtime.configuration import config_keys

ROOT = Path(__file__).parents[1]
MAN = ROOT / "man"
README = (ROOT / "README.md").read_text(encoding="utf-8")
APP = typer.main.get_command(build_app())

#: Switches that have no opposite: there is nothing to undo.
ONE_WAY = {"--quiet", "--verbose", "--help", "--version", "--debug"}


def generator():
    """Return scripts/man_pages.py as a module."""
    spec = importlib.util.spec_from_file_location("man_pages", ROOT / "scripts" / "man_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = generator().generate()


def leaves(command=APP, path=("okx",)):
    """Yield (path, command) of everything that can be run."""
    children = getattr(command, "commands", None)
    if not children:
        yield path, command
    for name, child in (children or {}).items():
        yield from leaves(child, (*path, name))


LEAVES = list(leaves())
IDS = [" ".join(path) for path, _ in LEAVES]


def test_the_pages_are_in_step_with_the_command_line():
    """Every generated page is the one that is there, and there is none beside them; if not, run scripts/man."""
    assert {path.name for path in MAN.glob("*.[1-9]")} == set(PAGES)
    assert [name for name, text in PAGES.items() if (MAN / name).read_text() != text] == []


def test_the_pages_do_not_depend_on_where_they_are_made():
    """Another terminal width, time zone, locale or home gives the same bytes."""
    odd = {"COLUMNS": "40", "TZ": "Asia/Tokyo", "LC_ALL": "C", "HOME": "/nowhere", "PATH": os.environ["PATH"]}
    found = subprocess.run(
        [sys.executable, ROOT / "scripts" / "man_pages.py", "--check"],
        env=odd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, ""), found.stdout


@pytest.mark.parametrize("name", sorted(PAGES))
def test_mandoc_has_nothing_to_say(name):
    """The pages are clean under mandoc's own checks."""
    linter = shutil.which("mandoc")
    if linter is None:
        pytest.skip("mandoc is not installed")
    found = subprocess.run([linter, "-Tlint", "-W", "warning", MAN / name], capture_output=True, text=True, check=False)
    assert found.stdout == ""


@pytest.mark.parametrize("name", [name for name in sorted(PAGES) if name.endswith(".1")])
def test_every_page_has_its_sections_examples_before_options(name):
    """A reader finds what to type before the list of options, and every exit code on every page."""
    text = (MAN / name).read_text()
    titles = re.findall(r"(?m)^\.SH (.+)$", text)
    assert titles[:4] == ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES"]
    assert titles[4] in ("ARGUMENTS", "OPTIONS", "COMMANDS")
    assert titles[-2:] == ["EXIT STATUS", "SEE ALSO"]
    assert all(rf"\fB{int(code)}\fR" in text for code in ExitCode)
    example = text.partition(".SH EXAMPLES")[2].partition(".SH")[0]
    assert example.count(".nf") >= 2


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=IDS)
def test_every_command_is_explained(path, command):
    """The help is a sentence, then a paragraph; every option and argument has a text, every switch its opposite."""
    first, *rest = command.help.split("\n\n")
    assert first.endswith(".") and len(first) < 120 and "\n" not in first
    assert rest, "no paragraph on what goes in and out"
    context = command.context_class(command, info_name=path[-1])
    for parameter in command.get_params(context):
        if getattr(parameter, "hidden", False):
            continue
        record = parameter.get_help_record(context)
        assert record is not None and record[1].strip(), parameter.name
        names = {*parameter.opts, *parameter.secondary_opts}
        if getattr(parameter, "is_flag", False) and not names & ONE_WAY:
            assert parameter.secondary_opts, parameter.opts


def section_of(page, title):
    """Return the roff of one section of a page."""
    return re.split(r"(?m)^\.SH ", (MAN / page).read_text().partition(f".SH {title}\n")[2])[0]


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("TRADE", model.StandardizedTrade),
        ("CANDLE", model.OHLCVCandle),
        ("BOOK", model.BookSnapshot),
        ("BOOK UPDATE", model.BookUpdate),
        ("TICKER", model.Ticker),
        ("INSTRUMENT", model.Instrument),
        ("ABSENT", model.Absent),
        *((one.tag.upper(), one.kind) for one in STATES if one.kind is not model.Ticker),
    ],
)
def test_every_key_of_a_line_is_documented(title, kind):
    """okx-lines(5) names exactly the keys that a line of the type has."""
    terms = re.findall(r"(?m)^\.TP\n\\fB(.+)\\fR$", section_of("okx-lines.5", title))
    assert sorted(key for term in terms for key in term.split(", ")) == sorted(kind.__struct_fields__)


def test_every_key_of_the_configuration_is_documented():
    """okx-config(5) names exactly the keys that the schema has."""
    terms = re.findall(r"(?m)^\.TP\n\\fB(.+)\\fR$", section_of("okx-config.5", "KEYS"))
    known = [key for key, _, _ in config_keys.settings(config_keys.Document())]
    assert sorted(key for term in terms for key in term.split(", ")) == sorted([*known, "$schema"])


def examples_in(path):
    """Return the indented lines of a hand-written page that are shell commands."""
    return [line.strip() for line in path.read_text().splitlines() if re.match(r"    [a-z]+ ", line)]


def calls_in(line):
    """Yield the argument lists of every okx in a line of shell: in pipes, $(...), sh -c and after `--`."""
    for inner in re.findall(r"\$\(([^)]*)\)", line):
        yield from calls_in(inner)
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    stage = []
    for token in [*reader, "|"]:
        if set(token) <= set("|;&()"):
            yield from _calls(stage)
            stage = []
        else:
            stage.append(token)


def _calls(words):
    while words and words[0] in ("do", "then", "if", "while", "!", "time", "exec"):
        words = words[1:]
    if words[:2] in (["sh", "-c"], ["bash", "-c"]):
        yield from calls_in(words[2])
    elif words[:1] == ["okx"]:
        own = words[: words.index("--")] if "--" in words else words
        cut = next((i for i, word in enumerate(own) if set(word) <= set("<>")), len(own))
        yield own[1:cut]
        if "--" in words:
            yield from _calls(words[words.index("--") + 1 :])


def check_call(arguments):
    """Parse a call as the command line would; nothing is run."""
    command, path = APP, ["okx"]
    while getattr(command, "commands", None):
        assert arguments and arguments[0] in command.commands, f"{' '.join(path)}: no command {arguments[:1]}"
        command, arguments, path = command.commands[arguments[0]], arguments[1:], [*path, arguments[0]]
    command.make_context(" ".join(path), list(arguments))


@pytest.mark.parametrize("path", sorted(MAN.glob("*/*[!3].md")), ids=lambda path: path.name)
def test_every_example_of_the_manual_parses(path):
    """Each okx in an example is a command that exists, with options that it has. Python is run: tests/api."""
    lines = examples_in(path)
    calls = [call for line in lines for call in calls_in(line)]
    assert len(calls) >= (1 if path.parent.name == "topics" else 2)
    for call in calls:
        check_call(call)


def test_the_parser_of_examples_notices_a_wrong_one():
    """An option that does not exist, in a pipe or inside sh -c, fails."""
    found = list(calls_in("okx simulate X -- sh -c 'okx stream X | okx candles --timeframe 1m' > out"))
    assert found == [["simulate", "X"], ["stream", "X"], ["candles", "--timeframe", "1m"]]
    check_call(["stream", "X"])
    with pytest.raises(Exception, match="timeframe"):
        check_call(["candles", "--timeframe", "1m"])
    with pytest.raises(AssertionError, match="no command"):
        check_call(["steam", "X"])


def test_the_examples_of_the_configuration_are_right():
    """Each JSON object shown in okx-config(5) is a configuration without a mistake."""
    text = (MAN / "topics" / "okx-config.5.md").read_text()
    shown = re.findall(r"(?m)^    \{\n(?:    .*\n)+", text)
    assert len(shown) == 3
    for document in shown:
        assert config_keys.parse(document)[1] == []


def test_the_readme_lists_every_command():
    """The table of commands has each of them, and nothing that is not one."""
    rows = re.findall(r"(?m)^\| `([a-z]+)`", README)
    assert sorted(rows) == sorted(APP.commands)


def test_the_readme_is_about_a_hundred_lines():
    """Long enough to begin with, short enough to be read."""
    assert 70 <= README.count("\n") <= 130


#: What stands in for a tool of the recipes where it is not installed: it takes nothing but JSON lines.
STAND_IN = """#!{python}
import json, sys
for line in open(sys.argv[-1]):
    print(json.loads(line)["timestamp"])
"""
#: The engine of DuckDB's shell, from the library that the tests have anyway.
DUCKDB = """#!{python}
import duckdb, sys
print(duckdb.sql(sys.argv[2]).fetchall())
"""

BLOCKS = re.findall(r"(?ms)^```sh\n(.*?)^```$", README)


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """Give an empty home with a simulated exchange that runs 30 times as fast as the clock: its environment."""
    home = tmp_path_factory.mktemp("user")
    tools = home / "bin"
    tools.mkdir()
    for name in ("jq", "mlr", "duckdb"):
        if name == "duckdb" or shutil.which(name) is None:
            (tools / name).write_text((DUCKDB if name == "duckdb" else STAND_IN).format(python=sys.executable))
            (tools / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not re.match("OKX_|PG|XDG_", name)}
    environment |= {"HOME": str(home), "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    symbols = "BTC-USDT ETH-USDT SOL-USDT DOGE-USDT TON-USDT ETH-USDC BTC-USDC UNI-USDT PEPE-USDT"
    with subprocess.Popen(
        ["okx", "simulate", *symbols.split(), "--speed", "30", "--start", "20m"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as exchange:
        try:
            for _ in range(2):
                name, _, address = exchange.stdout.readline().strip().removeprefix("export ").partition("=")
                environment[name] = address
            yield home, environment
        finally:
            exchange.terminate()


#: What a command says once it is at work.
AT_WORK = {"okx stream": "connected to", "okx collect": "connected to", "okx store": "database "}


def typed(block, user, folder):
    """Run a block as if typed; press Ctrl-C when it is at work, and some bars later. Return status, output, errors."""
    home, environment = user
    with (folder / "output").open("w+") as output, (folder / "errors").open("w+") as errors:
        shell = subprocess.Popen(
            ["bash", "-e", "-c", block], cwd=home, env=environment, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            endless = " -n " not in block
            wanted = {word for command, word in AT_WORK.items() if command in block and endless}
            end = time.monotonic() + 60
            while shell.poll() is None and time.monotonic() < end and heard(folder / "errors", wanted) != wanted:
                time.sleep(0.1)
            try:
                shell.wait(7 if wanted else 60)  # in which the exchange trades for three minutes
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGINT)
                shell.wait(60)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
    return shell.returncode, (folder / "output").read_text(), (folder / "errors").read_text()


def heard(file, words):
    """Return those of the words that stand in a file."""
    text = file.read_text()
    return {word for word in words if word in text}


def test_every_command_of_the_readme_runs(user, tmp_path):
    """The blocks of the README, typed one after the other in an empty home, do what it says."""
    shown = {}
    for block in BLOCKS:
        status, output, errors = typed(block, user, tmp_path)
        assert status in ((0, 1) if "okx status" in block else (0, -2, 130)), (block, status, errors)
        assert "a bug of okx" not in errors and "Traceback" not in errors, (block, errors)
        shown[block] = output
    offline = next(output for block, output in shown.items() if "simulate" in block)
    assert offline.count('"type":"candle"') >= 3
    data = next(output for block, output in shown.items() if "okx db path" in block)
    assert str(user[0] / ".local/share/okx") in data
    assert data.count('"type":"candle"') >= 3
    recipes = next(output for block, output in shown.items() if "jq" in block)
    assert "Decimal(" in recipes


def test_the_output_shown_in_the_readme_is_real():
    """Each line of output in the README is a line that okx could have written, byte for byte."""
    from okxcli.core.codec import decode, encode
    from okxcli.core.origin import site_line

    first, *lines = [line.encode() for line in README.splitlines() if line.startswith('{"type"')]
    assert (first, len(lines)) == (site_line("local"), 2)
    assert [encode(decode(line)) for line in lines] == lines
