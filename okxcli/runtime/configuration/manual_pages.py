"""The manual that comes with the package: finding a page, and showing it where there is no `man`.

The pages are written with a few man(7) macros only (see scripts/man); `plain` knows exactly those.
"""

import difflib
import re
import textwrap
from pathlib import Path

from okxcli.errors import UsageError
from okxcli.runtime.configuration.shipped_files import shipped

_ESCAPES = {
    r"\-": "-",
    r"\(aq": "'",
    r"\(rs": "\\",
    r"\(bu": "*",
    r"\(ga": "`",
    r"\(ha": "^",
    r"\(ti": "~",
    r"\&": "",
}
_ESCAPE = re.compile(r"\\(?:f[BIRP]|[-&]|\(..)")
_INDENT = 7
_DEEPER = 4


def pages() -> dict[str, Path]:
    """Return every page by its name and section, such as `okx-stream.1`, in alphabetical order."""
    return {path.name: path for path in shipped("man", "okx*.[1-9]")}


def find_page(words: list[str]) -> Path:
    """Return the page for `words`: nothing (the overview), a command, a topic, or a section number and one of these.

    `okx db start` is on the page of its group. Without a section the lowest one that has the name wins, as in man(1).

    Raises:
        UsageError: there is no such page; the nearest name and all names are told.
    """
    known = pages()
    section = words[0] if words and re.fullmatch(r"[1-9]", words[0]) else ""
    names = words[1:] if section else words
    if names and names[0] == "okx":
        names = names[1:]
    wanted = "-".join(["okx", *names[:1]]).replace("okx-okx-", "okx-")
    stem, _, suffix = wanted.partition(".")
    for name, path in sorted(known.items(), key=lambda item: item[0][-1]):
        if name.rpartition(".")[0] in (stem, *names[:1]) and (section or suffix) in ("", name[-1]):
            return path
    topics = sorted({name.rpartition(".")[0].removeprefix("okx-") for name in known} - {"okx"})
    near = difflib.get_close_matches(stem.removeprefix("okx-"), topics, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(f"no manual page {' '.join(words)}. {hint}There are: {', '.join(topics)}")


def plain(source: str, width: int = 80) -> str:
    """Return a page as plain text of at most `width` columns; lines of examples are never broken."""
    return _Renderer(width).render(source)


def _inline(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[0], ""), text)


class _Renderer:
    """Turns the lines of one page into text; `tag` is a `.TP` label that waits for its paragraph."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._out: list[str] = []
        self._words: list[str] = []
        self._indent = _INDENT
        self._body = _INDENT
        self._tag: str | None = None
        self._tag_next = False
        self._verbatim = False
        self._below_heading = False

    def render(self, source: str) -> str:
        for line in source.splitlines():
            if self._verbatim and line != ".fi":
                self._out.append(" " * self._body + _inline(line) if line else "")
            elif line.startswith("."):
                macro, _, rest = line[1:].partition(" ")
                self._macro(macro, rest)
            else:
                self._text(_inline(line))
        self._flush()
        return re.sub(r"\n{3,}", "\n\n", "\n".join(self._out)).strip("\n") + "\n"

    def _macro(self, macro: str, rest: str) -> None:
        arguments = [_inline(quoted or bare) for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', rest)]
        if macro in ("B", "I"):
            self._text(" ".join(arguments))
        elif macro in ("BR", "IR", "BI", "RB", "RI", "IB"):
            self._text("".join(arguments))
        elif macro in ("SH", "SS"):
            self._flush()
            self._indent = self._body = _INDENT
            self._out += ["", " " * (0 if macro == "SH" else 3) + " ".join(arguments)]
            self._below_heading = True
        elif macro == "TP":
            self._paragraph(self._indent)
            self._tag_next = True
        elif macro == "IP":
            self._paragraph(self._indent + 2)
            self._tag = arguments[0] if arguments else None
        elif macro == "PP":
            self._paragraph(self._indent)
        elif macro in ("nf", "fi"):
            self._flush()
            self._verbatim = macro == "nf"
        elif macro in ("RS", "RE"):
            self._flush()
            self._indent += _DEEPER if macro == "RS" else -_DEEPER
            self._body = self._indent
        elif macro == "br":
            self._flush()
        elif macro == "TH":
            self._out.append(f"{arguments[0]}({arguments[1]})  {arguments[3]}  {arguments[2]}")

    def _text(self, text: str) -> None:
        self._below_heading = False
        if self._tag_next:
            self._tag_next = False
            self._tag = text
            self._body = self._indent + _INDENT
        else:
            self._words.append(text)

    def _paragraph(self, body: int) -> None:
        self._flush()
        if not self._below_heading:
            self._out.append("")
        self._below_heading = False
        self._body = body

    def _flush(self) -> None:
        """Write the paragraph that was gathered, with its tag before it or above it."""
        text, tag = " ".join(self._words), self._tag
        self._words, self._tag = [], None
        first = " " * self._body
        if tag is not None and len(tag) < self._body - self._indent:
            first = (" " * self._indent + tag).ljust(self._body)
        elif tag is not None:
            self._out.append(" " * self._indent + tag)
        if text or (tag is not None and first.strip()):
            self._out += textwrap.wrap(
                text,
                self._width,
                initial_indent=first,
                subsequent_indent=" " * self._body,
                break_long_words=False,
                break_on_hyphens=False,
            ) or [first.rstrip()]
