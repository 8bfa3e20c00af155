"""Write the man pages: one a command (a group with all its subcommands on one), okx(1), and one for each topic.

Of a command, name, synopsis, description, options, environment and exit status come from the app itself; the examples,
and what no program can know, from man/examples/NAME.md, which are required. A topic is written by hand, as
man/topics/NAME.SECTION.md. The date of a page is that of the newest version in CHANGELOG.md, so that the same source
gives the same bytes.
"""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Typer wraps nothing to the terminal here, but asks for its width.
os.environ["COLUMNS"] = "200"

import typer.main

from okxcli import __version__
from okxcli.cli import build_app
from okxcli.errors import ExitCode

ROOT = Path(__file__).resolve().parents[1]
MAN = ROOT / "man"
TOPICS = ("okx-lines(5)", "okx-config(5)", "okx-candles(7)")

#: Variables that no option stands for, on the page of the whole.
ENVIRONMENT = {
    "OKX_API_KEY, OKX_SECRET_KEY, OKX_PASSPHRASE": (
        "The key that `okx stream --private` logs in with, where --credentials names no file. One that may only read "
        "is enough."
    ),
    "OKX_PURE": "1 leaves out the kernels in C that read everyday lines: the same bytes, three to ten times slower.",
    "XDG_CONFIG_HOME": "Where okx/okx.json is looked for; ~/.config when it is not set.",
    "XDG_DATA_HOME": "Where the embedded database lies, in okx/; ~/.local/share when it is not set.",
    "XDG_STATE_HOME": "Where lines wait, in okx/spool/, while Postgres is away; ~/.local/state when it is not set.",
    "XDG_CACHE_HOME": "Where bulk files are kept, in okx/files/; ~/.cache when it is not set.",
    "SSL_CERT_FILE": "A file of certificates to trust, instead of the system's. The check cannot be switched off.",
    "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY": (
        "The proxy for wss and https, for ws and http, and for both where they have none, where neither --proxy "
        "nor the configuration names one. In lower case too, which comes first. Postgres is always reached straight."
    ),
    "NO_PROXY": (
        "What is reached without a proxy, with commas between: okx.com (and all below it), host:port, 10.0.0.7, "
        "10.0.0.0/8, or * for everything. Addresses of this machine always are."
    ),
    "PGSERVICE, PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGPASSFILE": (
        "As for every program that speaks to Postgres, where neither --dsn, OKX_DSN nor the configuration names one."
    ),
}

_ROFF = {"\\": r"\(rs", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}


def _lowered(text: str) -> str:
    """Return a sentence as it stands in the middle of one; an acronym stays what it is."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def escape(text: str) -> str:
    """Return `text` so that roff prints it as it is."""
    if not text.isascii():
        raise SystemExit(f"man pages are ASCII: {text!r}")
    done = "".join(_ROFF.get(letter, letter) for letter in text)
    return re.sub(r"(?m)^\.", r"\\&.", done)


def prose(text: str) -> str:
    """Return escaped running text on one line, with `code` in bold."""
    flat = re.sub(r"\s+", " ", text.strip())
    return "".join(
        rf"\fB{escape(part)}\fR" if index % 2 else escape(part)
        for index, part in enumerate(re.split(r"`([^`]*)`", flat))
    )


def body(text: str) -> list[str]:
    """Return the roff lines of paragraphs.

    `* ` begins an item, a second line that begins with `: ` explains the first, `## ` is a heading, and a line with
    four blanks before it stays as it is.
    """
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        rows = paragraph.splitlines()
        if rows[0].startswith("## "):
            lines += [f".SS {escape(rows[0][3:])}"]
        elif all(row.startswith("    ") for row in rows):
            lines += [".PP", ".RS 4", ".nf", *(escape(row[4:]) for row in rows), ".fi", ".RE"]
        elif len(rows) > 1 and rows[1].startswith(": "):
            lines += definitions([(rows[0], " ".join(rows[1:])[2:])])
        elif rows[0].startswith("* "):
            for item in re.split(r"(?m)^\* ", paragraph)[1:]:
                lines += [r".IP \(bu 2", prose(item)]
        else:
            lines += [".PP", prose(paragraph)]
    # No paragraph macro below a heading: there is one in it.
    return [line for i, line in enumerate(lines) if line != ".PP" or (i and not lines[i - 1].startswith(".SS"))]


def definitions(rows: list[tuple[str, str]]) -> list[str]:
    """Return a list of terms, each with its explanation."""
    lines = []
    for term, text in rows:
        lines += [".TP", rf"\fB{escape(term)}\fR", prose(text) or r"\&"]
    return lines


def section(title: str, lines: list[str], level: str = "SH") -> list[str]:
    """Return a section, or nothing when it has no lines."""
    return [f".{level} {escape(title)}", *lines] if lines else []


def examples(name: str) -> tuple[list[str], list[str]]:
    """Return the EXAMPLES section of a page and the sections that are to follow its options.

    The file is prose and indented command lines; a line `# TITLE` begins a section of its own.
    """
    path = MAN / "examples" / f"{name}.md"
    if not path.exists():
        raise SystemExit(f"{path.relative_to(ROOT)} is missing: every page has examples")
    first, *others = re.split(r"(?m)^# (.+)\n", path.read_text(encoding="utf-8"))
    more = [line for title, text in zip(others[::2], others[1::2], strict=True) for line in section(title, body(text))]
    return section("EXAMPLES", body(first)), more


def context_of(command: Any, path: list[str]) -> Any:
    """Return a context in which `command` can tell its usage and options."""
    return command.context_class(command, info_name=" ".join(path), help_option_names=["-h", "--help"])


def synopsis(command: Any, path: list[str]) -> str:
    """Return the line that shows how to call a command."""
    pieces = " ".join(command.collect_usage_pieces(context_of(command, path)))
    return rf"\fB{escape(' '.join(path))}\fR {escape(pieces)}"


def parameters(command: Any, path: list[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the arguments and the options of a command, each as (spelling, explanation)."""
    context = context_of(command, path)
    found: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            found[parameter.param_type_name].append(record)
    return found["argument"], found["option"]


def variables(command: Any, path: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (variable, option) for every option of a command and its subcommands that has one."""
    for parameter in command.get_params(context_of(command, path)):
        names = getattr(parameter, "envvar", None) or []
        for name in [names] if isinstance(names, str) else names:
            yield name, max(parameter.opts, key=len)
    for child, sub in getattr(command, "commands", {}).items():
        yield from variables(sub, [*path, child])


def first_sentence(command: Any) -> str:
    """Return the first line of a command's help without its full stop, for NAME and for lists."""
    line = re.sub(r"\s+", " ", inspect.cleandoc(command.help).split("\n\n")[0])
    return line.rstrip(".")


def options_of(command: Any, path: list[str]) -> list[str]:
    """Return the ARGUMENTS and OPTIONS sections of a command, or COMMANDS with each of them for a group."""
    children = getattr(command, "commands", None)
    if children is None:
        arguments, options = parameters(command, path)
        return section("ARGUMENTS", definitions(arguments)) + section("OPTIONS", definitions(options))
    lines = [".SH COMMANDS"]
    for name, child in children.items():
        arguments, options = parameters(child, [*path, name])
        options = [row for row in options if row[0] != "-h, --help"]
        lines += section(
            " ".join([*path, name]), [synopsis(child, [*path, name]), ".PP", *body(inspect.cleandoc(child.help))], "SS"
        )
        lines += definitions([*arguments, *options])
    return lines


def head(name: str, summary: str, number: str = "1") -> list[str]:
    """Return the title line and the NAME section."""
    title = f'.TH "{escape(name.upper())}" "{number}" "{date()}" "okx {__version__}" "okx manual"'
    origin = '.\\" Written by scripts/man. Change the command itself, man/examples or man/topics instead.'
    return [origin, title, ".SH NAME", rf"{escape(name)} \- {prose(_lowered(summary))}"]


def tail(environment: dict[str, str], more: list[str], also: list[str]) -> list[str]:
    """Return the sections that every page ends with."""
    codes = [(str(int(code)), code.meaning) for code in ExitCode]
    return [
        *section("ENVIRONMENT", definitions(list(environment.items()))),
        *more,
        *section("EXIT STATUS", definitions(codes)),
        *see_also([f"{page}(1)" for page in also] + list(TOPICS)),
    ]


def see_also(names: list[str]) -> list[str]:
    """Return the last section: the other pages, such as `okx-lines(5)`."""
    links = [rf".BR {escape(name[:-3])} ({name[-2]}){',' if name != names[-1] else ''}" for name in names]
    return section("SEE ALSO", links)


def date() -> str:
    """Return the date of the newest version in the change log."""
    found = re.search(r"(?m)^## \S+ \((\d{4}-\d{2}-\d{2})\)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("CHANGELOG.md: no heading such as ## 0.1.0 (2026-01-31)")
    return found[1]


def command_page(name: str, command: Any) -> str:
    """Return the page of one command or group."""
    path = ["okx", name]
    page = f"okx-{name}"
    about = inspect.cleandoc(command.help).split("\n\n", 1)
    shown, more = examples(page)
    environment = {variable: f"Stands for `{option}`." for variable, option in variables(command, path)}
    children = getattr(command, "commands", {})
    usage = [synopsis(child, [*path, sub]) for sub, child in children.items()] or [synopsis(command, path)]
    lines = head(page, first_sentence(command))
    lines += section("SYNOPSIS", [part for line in usage for part in (".br", line)][1:])
    lines += section("DESCRIPTION", body(about[1] if len(about) > 1 else about[0]))
    lines += shown + options_of(command, path)
    lines += tail(environment, more, ["okx"])
    return "\n".join(lines) + "\n"


def topic_page(path: Path) -> tuple[str, str]:
    """Return the name and the text of a page written by hand: its summary, then sections that begin with `# `."""
    name, number = path.stem.rsplit(".", 1)
    summary, *sections = re.split(r"(?m)^# (.+)\n", path.read_text(encoding="utf-8"))
    lines = head(name, summary.strip(), number)
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        lines += section(title, body(text))
    lines += see_also(["okx(1)", *(other for other in TOPICS if other != f"{name}({number})")])
    return path.stem, "\n".join(lines) + "\n"


def overview(root: Any) -> str:
    """Return okx(1): what the commands are and how they fit together."""
    about = inspect.cleandoc(root.help).split("\n\n", 1)
    shown, more = examples("okx")
    commands = [(f"okx {name}", first_sentence(command) + ".") for name, command in root.commands.items()]
    stands_for: dict[str, str] = {}
    for name, command in root.commands.items():
        stands_for |= dict(variables(command, ["okx", name]))
    environment = {name: f"Stands for `{option}`." for name, option in sorted(stands_for.items())} | ENVIRONMENT
    lines = head("okx", about[0].rstrip("."))
    lines += section("SYNOPSIS", [rf"\fBokx\fR {escape('[--debug] COMMAND [ARGS]...')}"])
    lines += section("DESCRIPTION", body(about[1])) + shown
    lines += section("COMMANDS", definitions(commands))
    lines += section("OPTIONS", definitions(parameters(root, ["okx"])[1]))
    lines += tail(environment, more, [f"okx-{name}" for name in root.commands])
    return "\n".join(lines) + "\n"


def generate() -> dict[str, str]:
    """Return every generated page by its file name."""
    root: Any = typer.main.get_command(build_app())
    pages = {f"okx-{name}.1": command_page(name, command) for name, command in root.commands.items()}
    topics = dict(topic_page(path) for path in sorted((MAN / "topics").glob("*.md")))
    return {"okx.1": overview(root), **pages, **topics}


def main() -> int:
    """Write the pages, or with --check compare them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of step")
    check = parser.parse_args().check
    pages = generate()
    stale = [name for name, text in pages.items() if not (MAN / name).exists() or (MAN / name).read_text() != text]
    gone = [path.name for path in MAN.glob("*.[1-9]") if path.name not in pages]
    for name in stale + gone:
        if not check and name in pages:
            (MAN / name).write_text(pages[name])
        elif not check:
            (MAN / name).unlink()
        print(f"man/{name} {'is out of step: run scripts/man' if check else 'written' if name in pages else 'removed'}")
    if check and not stale + gone:
        print(f"{len(pages)} pages are in step")
    return 1 if check and stale + gone else 0


if __name__ == "__main__":
    sys.exit(main())
