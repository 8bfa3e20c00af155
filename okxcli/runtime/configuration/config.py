"""What a configuration says, however it is spelled: the values that the rest of the package uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from okxcli.core.model import TAPE
from okxcli.core.states import STATES

if TYPE_CHECKING:
    from okxcli.runtime.archive.disk_guard import WhenLow


class ArchiveKeys(NamedTuple):
    """Where raw messages are kept (a template of names), how many bytes of the disk stay free, what is done then."""

    template: str
    min_free: int
    when_low: "WhenLow"


@dataclass(frozen=True)
class Config:
    """What a configuration says; without a file, the defaults.

    Times are milliseconds except where the name says otherwise. `dsn`, `ws_url`, `rest_url`, `proxy` and `log_file` are
    None when the file does not name them. `books_every_ms` 0 stores every book; `books_depth`: so many
    levels of a side of those that are kept from updates, None: all. `keep_days` has the days that `books`,
    `trades`, `candles` and each table of states are kept; None is for ever. `exchange` is its name in the registry,
    `path` the file it was read from. `symbols` may hold patterns, which `types` narrow (`core.selection`); once it is
    known what they mean, that is in `symbols`, and what the file says in `wanted`.
    """

    symbols: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    channels: tuple[str, ...] = (TAPE,)
    timeframes: tuple[str, ...] = ("1m", "5m", "15m", "1h", "4h", "1d")
    lateness_ms: int = 10_000
    grace_ms: int = 2_000
    fill: bool = False
    dsn: str | None = field(default=None, repr=False)
    books_every_ms: int = 1_000
    books_depth: int | None = 25
    keep_days: Mapping[str, int | None] = field(
        default_factory=lambda: (
            {"books": 7, "trades": None, "candles": None} | {one.table: one.keep_days for one in STATES}
        )
    )
    exchange: str = "okx"
    ws_url: str | None = None
    rest_url: str | None = None
    proxy: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 30.0
    log_file: Path | None = None
    log_level: str = "info"
    archive: ArchiveKeys | None = None
    path: Path | None = None
    wanted: tuple[str, ...] = ()
