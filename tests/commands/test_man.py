"""`okx man`: finding a page, and showing it as plain text."""

import os
import pty
import subprocess
import sys

import pytest

from okxcli.cli import run
from okxcli.errors import UsageError
from okxcli.runtime.configuration.manual_pages import find_page, pages, plain


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ([], "okx.1"),
        (["candles"], "okx-candles.1"),
        (["okx", "candles"], "okx-candles.1"),
        (["okx-candles"], "okx-candles.1"),
        (["7", "candles"], "okx-candles.7"),
        (["candles.7"], "okx-candles.7"),
        (["lines"], "okx-lines.5"),
        (["config"], "okx-config.1"),
        (["5", "config"], "okx-config.5"),
        (["db", "start"], "okx-db.1"),
    ],
)
def test_a_page_is_found_by_command_topic_and_section(words, page):
    """Without a section the lowest wins; a subcommand is on the page of its group."""
    assert find_page(words).name == page


def test_an_unknown_topic_names_the_nearest(capsys):
    """A misspelt topic gives one line with the nearest name and exit 2."""
    with pytest.raises(UsageError, match="Did you mean candles"):
        find_page(["candels"])
    assert run(["man", "9", "lines"]) == 2
    assert "no manual page 9 lines" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(pages()))
def test_every_page_is_plain_text_without_leftovers(name):
    """The fallback knows each macro and escape that the pages use, and breaks no example line."""
    source = pages()[name].read_text()
    text = plain(source)
    lines = text.splitlines()
    assert lines[0].startswith(name[:-2].upper() + "(" + name[-1] + ")")
    assert "NAME" in lines and "SEE ALSO" in lines
    assert "\\" not in text.replace(r"\n", "")
    assert not any(line.startswith(".") for line in lines)
    too_long = [line for line in lines if len(line) > 80]
    verbatim = source.replace("\\-", "-").replace("\\(aq", "'")
    assert all(line.strip() in verbatim for line in too_long)


def test_a_summary_leaves_acronyms_as_they_are():
    """Only the first letter of a word is lowered."""
    assert ".SH NAME\nokx \\- OKX market data" in pages()["okx.1"].read_text()
    assert ".SH NAME\nokx\\-store \\- store lines" in pages()["okx-store.1"].read_text()


def test_plain_renders_lists_terms_and_examples():
    """Terms hang when they are short, items get a star, examples keep their blanks, text is filled to 80 columns."""
    page = (
        '.TH "X" "1" "2026-01-01" "okx 1" "m"\n.SH A\n' + "word " * 30 + "\n.PP\nnext\n.TP\n\\fB\\-a\\fR\nshort\n"
        ".TP\n\\fB\\-\\-a\\-long\\-one\\fR\nbelow\n.IP \\(bu 2\nitem\n.PP\nRun:\n.PP\n.RS 4\n.nf\n  a\n\nb\n.fi\n.RE\n"
        ".SH SEE ALSO\n.BR okx\\-a (1),\n.BR okx\\-b (5)\n"
    )
    lines = plain(page).splitlines()
    assert lines[0] == "X(1)  okx 1  2026-01-01"
    assert max(map(len, lines)) <= 80
    assert lines[2:5] == ["A", "       " + "word " * 13 + "word", "       " + "word " * 13 + "word"]
    assert lines[6:] == [
        "",
        "       next",
        "",
        "       -a     short",
        "",
        "       --a-long-one",
        "              below",
        "",
        "       * item",
        "",
        "       Run:",
        "",
        "             a",
        "",
        "           b",
        "",
        "SEE ALSO",
        "       okx-a(1), okx-b(5)",
    ]


def test_a_pipe_gets_plain_text_and_may_be_left(tmp_path):
    """In a pipe no pager is started, and a reader that leaves ends the command as SIGPIPE would."""
    shown = subprocess.run([sys.executable, "-m", "okxcli", "man"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("OKX(1)")
    left = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m okxcli man | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert left.stdout == "141\n" and left.stderr == ""


def test_a_terminal_gets_man_itself(tmp_path):
    """On a terminal man(1) is given the file of the page."""
    viewer = tmp_path / "man"
    viewer.write_text("#!/bin/sh\necho viewing $1\n")
    viewer.chmod(0o755)
    main, terminal = pty.openpty()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-m", "okxcli", "man", "lines"], stdout=terminal, env=environment, check=True)
    os.close(terminal)
    assert os.read(main, 4096).decode().strip() == f"viewing {find_page(['lines'])}"
    os.close(main)
