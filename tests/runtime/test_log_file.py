"""The log: brief on standard error, full in a file, from the level that is asked for."""

import logging

import pytest

from okxcli.errors import OutputError
from okxcli.runtime import log


@pytest.mark.parametrize(("level", "kept"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_file_holds_what_its_level_asks_for(tmp_path, capsys, level, kept):
    """Standard error is brief whatever the file takes; the file names time, level and logger."""
    path = tmp_path / "okx.log"
    log.setup("collect", log_file=path, file_level=level)
    try:
        for name in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("okxcli.test"), name)("a %s line", name)
    finally:
        log.setup("test")
    lines = path.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["DEBUG", "INFO", "WARNING", "ERROR"][4 - kept :]
    assert lines[-1].endswith("ERROR okxcli.test: a error line") and lines[-1][10] == "T"
    assert capsys.readouterr().err.splitlines() == [
        "okx collect: a info line",
        "okx collect: warning: a warning line",
        "okx collect: error: a error line",
    ]


def test_what_others_wrote_forges_nothing(tmp_path):
    """Escape sequences and line ends in a message, or in what a traceback quotes, arrive as text on their line."""
    path = tmp_path / "okx.log"
    log.setup("collect", log_file=path)
    forged = "\x1b[2J\rx\n2026-01-01T00:00:00.000Z INFO okxcli: all is well\x9b\u2028y"
    logger = logging.getLogger("okxcli.test")
    try:
        logger.warning("rejected: %s", forged)
        raise ValueError(forged)
    except ValueError:
        logger.exception("a bug")
    finally:
        log.setup("test")
    text = path.read_bytes().decode()
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert [line.split()[1] for line in text.splitlines() if line[0] != " "] == ["WARNING", "ERROR"]
    assert r"\x1b[2J\rx\n2026-01-01" in text and "Traceback" in text


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    """One line with the path and the reason."""
    with pytest.raises(OutputError, match="cannot write the log file"):
        log.setup("collect", log_file=tmp_path / "none" / "okx.log")
