"""Short answers on standard output: a table for people on a terminal, JSON lines for everything else."""

import json
import sys
from collections.abc import Mapping, Sequence


def write_rows(rows: Sequence[Mapping[str, object]], table: bool | None = None) -> None:
    """Write `rows`, which share their keys, to standard output; nothing for no rows.

    `table` forces a table (True) or JSON lines (False); None asks whether standard output is a terminal.
    """
    as_table = sys.stdout.isatty() if table is None else table
    text = render(rows) if as_table else [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
    if text:
        write_text("\n".join(text) + "\n")


def write_text(text: str) -> None:
    """Write `text` to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def render(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the lines of a table with a heading; numbers to the right, what is None as `-`."""
    if not rows:
        return []
    keys = list(rows[0])
    cells = [[_cell(row[key]) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[i]) for line in cells)) for i, key in enumerate(keys)]
    right = [all(isinstance(row[key], int | None) and not isinstance(row[key], bool) for row in rows) for key in keys]

    def line(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return [line(keys), *(line(texts) for texts in cells)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
