"""Where the fills of the local exchange come from: the simulated market, or a test that trades by hand."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from okxcli.errors import OutputError
from okxcli.local.faults import use_up
from okxcli.local.network.pushes import Channels
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.market import Timeline


class Feed(Protocol):
    """A source of fills or messages that the engine drives."""

    def step(self, now_s: float) -> float | None:
        """Publish what is due at `now_s`; return when to be called again, None: not before something happens."""

    def close(self) -> None:
        """Write out what is held back."""


class FillsFile:
    """Every fill as a JSON line, in the order of its release; `history` marks those from before the start.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._whole = 0
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from None

    def write(self, symbol: str, fill: Fill, history: bool) -> None:
        """Add a fill."""
        line = {
            "instId": symbol,
            "tradeId": str(fill.trade_id),
            "px": fill.price,
            "sz": fill.size,
            "side": fill.side,
            "source": str(fill.source),
            "ts": str(fill.ts),
            "history": history,
        }
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if len(self._lines) >= 500:
            self.flush()

    def flush(self) -> None:
        """Make what was written visible to others."""
        data, self._lines = b"".join(self._lines), []
        whole = self._whole + len(data)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line must not stay
                self._file.truncate(self._whole)
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from None
        self._whole = whole

    def close(self) -> None:
        """End the file."""
        try:
            self.flush()
        finally:
            self._file.close()


@dataclass
class MarketFeed:
    """Releases the fills of a timeline as the market's clock passes them, and those that are traded by hand."""

    channels: Channels
    timeline: Timeline
    file: FillsFile | None
    _flushed_s: float = 0.0

    def begin(self, start_ms: int) -> None:
        """Fill the past: everything before `start_ms`, of which nothing is pushed."""
        for symbol, fill in self.timeline.take(start_ms - 1):
            self.channels.venue.listings[symbol].add(fill)
            if self.file is not None:
                self.file.write(symbol, fill, True)

    def step(self, now_s: float) -> float | None:
        """Release every fill that is due."""
        clock = self.channels.venue.clock
        if not clock.stopped:
            new: dict[str, list[Fill]] = {}
            for symbol, fill in self.timeline.take(clock.now_ms()):
                new.setdefault(symbol, []).append(fill)
            for symbol, fills in new.items():
                self.release(symbol, fills)
        if self.file is not None and now_s - self._flushed_s >= 0.25:
            self.file.flush()
            self._flushed_s = now_s
        due = self.timeline.due()
        return None if due is None or clock.stopped else now_s + clock.seconds_until(due)

    def release(self, symbol: str, fills: list[Fill]) -> None:
        """Put new fills of one instrument on the tape and push them; what faults take away is lost or left unsaid."""
        listing = self.channels.venue.listings[symbol]
        kept: list[Fill] = []
        silent: set[int] = set()
        for fill in fills:
            if use_up(self.channels.hub.faults.lose, symbol):
                listing.tape.absent.append(fill.trade_id)
                continue
            listing.add(fill)
            kept.append(fill)
            if self.file is not None:
                self.file.write(symbol, fill, False)
            if use_up(self.channels.hub.faults.drop, symbol):
                silent.add(fill.trade_id)
        self.channels.fills(listing, kept, silent)

    def close(self) -> None:
        """End the file of fills."""
        if self.file is not None:
            self.file.close()
