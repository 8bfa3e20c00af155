"""How far a long job is, on standard error, for people at a terminal; nothing for anybody else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Takes how much of what there is to do is done, and how much there is.
Progress = Callable[[int, int | None], None]


@contextmanager
def bar(label: str, show: bool = True) -> Iterator[Progress]:
    """Show a bar called `label` while the `with` block lasts, if standard error is a terminal and `show` is not False.

    With standard output on the same terminal there is no bar: the lines would tear it to pieces.
    """
    if not show or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda done, total: None
        return
    from rich import progress
    from rich.console import Console

    columns = progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn()
    with progress.Progress(
        progress.TextColumn("{task.description}"),
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as shown:
        task = shown.add_task(label, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
