"""How far a long job is, on standard error, for people at a terminal; nothing for anybody else."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """A bar called `label` while the `with` block lasts, if standard error is a terminal and `show` is not False.

    With standard output on the same terminal there is no bar: the lines would tear it to pieces.
    """

    def __init__(self, label: str, show: bool = True) -> None:
        self._label = label
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._show = show and sys.stderr.isatty() and not sys.stdout.isatty()

    def __enter__(self) -> Self:
        if self._show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=None)
        return self

    def __call__(self, done: int, total: int | None) -> None:
        """Tell how much of what there is to do is done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
