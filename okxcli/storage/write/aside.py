"""One piece of work in a thread of its own, while whoever wants it done goes on with something else."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Made = TypeVar("_Made")


class Aside(Generic[_Made]):
    """Work that begins at once. `result` waits for its end, and gives what it returned or raises what it raised."""

    def __init__(self, work: Callable[[], _Made]) -> None:
        self._work = work
        self._made: list[_Made] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="okx commit", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._made.append(self._work())
        except BaseException as error:  # it is raised where the result is wanted
            self._error = error

    @property
    def done(self) -> bool:
        """Whether `result` would not wait."""
        return not self._thread.is_alive()

    def result(self) -> _Made:
        """Wait for the end."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._made[0]
