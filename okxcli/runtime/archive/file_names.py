"""Names of files by time: a path with `%Y`, `%m`, `%d`, `%H`, `%M` of UTC, and `%%` for a percent sign."""

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from okxcli.errors import UsageError
from okxcli.runtime.files import PART

#: A part of a time, and how it is spelled; from the longest to the shortest.
_PARTS = {"Y": "[0-9]{4}", "m": "[0-9]{2}", "d": "[0-9]{2}", "H": "[0-9]{2}", "M": "[0-9]{2}"}
_WILD = {name: "[0-9]" * (4 if name == "Y" else 2) for name in _PARTS}
_PERCENT = re.compile(r"%(.?)", re.DOTALL)
#: What `Recovery` calls a file while it makes a whole one of it.
TORN = ".torn"


class FileNames:
    """The names that a template gives; each is that of a span of time, and of the files of that span.

    A second file of one span (after a new start) is called `13_02.jsonl.zst` where the first is `13.jsonl.zst`: in the
    order of names they follow on each other.

    Raises:
        UsageError: from the constructor, when the template is none.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        given = [name for name in _PERCENT.findall(template) if name != "%"]
        strange = [name for name in given if name not in _PARTS]
        if strange:
            raise UsageError(f"{template}: %{strange[0]} is no part of a name; there are %Y %m %d %H %M, and %%")
        if not given:
            raise UsageError(f"{template}: no time in it; write raw/%Y-%m-%d/%H.jsonl.zst, for instance")
        every = list(_PARTS)
        self._finest = max(given, key=every.index)
        missing = [name for name in every[: every.index(self._finest)] if name not in given]
        if missing:
            raise UsageError(f"{template}: the names would come again; %{self._finest} needs %{' %'.join(missing)} too")
        path = str(Path(template))
        last = max(found.end() for found in _PERCENT.finditer(path) if found[1] != "%")
        dot = path.find(".", max(last, path.rfind("/") + 1))
        self._before, self._after = (path, "") if dot < 0 else (path[:dot], path[dot:])

    @staticmethod
    def asked_for(path: str) -> bool:
        """Whether a path is a template, and not the name of a file."""
        return any(name.isalpha() for name in _PERCENT.findall(path))

    def paths(self, ms: int) -> Iterator[Path]:
        """Yield the path of each file that the span of a moment may have, in their order."""
        at = datetime.fromtimestamp(ms // 1000, UTC)
        spelled = {name: f"{at.year:04}" if name == "Y" else at.strftime(f"%{name}") for name in _PARTS}
        before, after = (_filled(part, str, spelled) for part in (self._before, self._after))
        yield Path(before + after)
        for number in count(2):
            yield Path(f"{before}_{number:02}{after}")

    def free(self, path: Path) -> Path:
        """Return a path that a file of this name may have: itself, or that of the next one of its span."""
        name = self._match("").fullmatch(str(path))
        if name is None or not path.exists():
            return path
        others = (Path(f"{name[1]}_{number:02}{name[3]}") for number in count(2))
        return next(one for one in others if not one.exists())

    def end_ms(self, ms: int) -> int:
        """Return the first moment (ms) after the span of another one."""
        at = datetime.fromtimestamp(ms // 1000, UTC).replace(second=0)
        match self._finest:
            case "M":
                end = at + timedelta(minutes=1)
            case "H":
                end = at.replace(minute=0) + timedelta(hours=1)
            case "d":
                end = at.replace(minute=0, hour=0) + timedelta(days=1)
            case "m":
                end = (at.replace(minute=0, hour=0, day=1) + timedelta(days=31)).replace(day=1)
            case _:
                end = at.replace(minute=0, hour=0, day=1, month=1, year=at.year + 1)
        return round(end.timestamp() * 1000)

    def whole(self) -> list[Path]:
        """Return the files that are whole, the oldest first."""
        return self._existing("")

    def left_over(self) -> list[Path]:
        """Return the files that are not whole: those of runs that go on, or were killed; what is torn comes first."""
        return self._existing(TORN) + self._existing(PART)

    def root(self) -> Path:
        """Return the lowest folder that is there already and that all files are in."""
        folder = Path(self._before.split("%", 1)[0] + "x").parent
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return folder

    def _match(self, end: str) -> re.Pattern[str]:
        """Return what matches all paths: what stands before the number, the number, what stands behind it."""
        before, after = (_filled(part, re.escape, _PARTS) for part in (self._before, self._after))
        return re.compile(f"({before})(_[0-9]{{2,}})?({after}){re.escape(end)}")

    def _existing(self, end: str) -> list[Path]:
        """Return the files of all spans whose names have this end as well, in the order of their spans."""
        before, after = (_filled(part, glob.escape, _WILD) for part in (self._before, self._after))
        found = []
        match = self._match(end)
        for path in glob.glob(f"{before}*{after}{end}"):  # noqa: PTH207 - Path.glob takes no absolute pattern
            name = match.fullmatch(path)
            if name is not None:
                found.append((name[1], int((name[2] or "_1")[1:]), path))
        return [Path(path) for *_, path in sorted(found)]


def _filled(template: str, literal: Callable[[str], str], parts: Mapping[str, str]) -> str:
    """Return a part of a template with its times as `parts` has them, and all else put through `literal`."""
    pieces, at = [], 0
    for found in _PERCENT.finditer(template):
        pieces.append(literal(template[at : found.start()]))
        pieces.append("%" if found[1] == "%" else parts[found[1]])
        at = found.end()
    return "".join(pieces) + literal(template[at:])
