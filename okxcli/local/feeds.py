"""Where the fills of the local exchange come from: the simulated market, or a test that trades by hand."""

import contextlib
import json
from pathlib import Path
from typing import Protocol

from okxcli.errors import OutputError
from okxcli.local.faults import Faults, use_up
from okxcli.local.network.pushes import Channels
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.market import Timeline
from okxcli.local.venue.venue import Venue


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
        self._lines: list[str] = []
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
        self._lines.append(json.dumps(line, separators=(",", ":")) + "\n")
        if len(self._lines) >= 500:
            self.flush()

    def flush(self) -> None:
        """Make what was written visible to others."""
        data, self._lines = "".join(self._lines).encode(), []
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


class MarketFeed:
    """Releases the fills of a timeline as the market's clock passes them, and those that are traded by hand."""

    def __init__(
        self, venue: Venue, channels: Channels, faults: Faults, timeline: Timeline, fills_file: FillsFile | None
    ) -> None:
        self._venue = venue
        self._channels = channels
        self._faults = faults
        self._timeline = timeline
        self._file = fills_file
        self._flushed_s = 0.0

    def begin(self, start_ms: int) -> None:
        """Fill the past: everything before `start_ms`, of which nothing is pushed."""
        for symbol, fill in self._timeline.take(start_ms - 1):
            self._venue.listings[symbol].add(fill)
            if self._file is not None:
                self._file.write(symbol, fill, True)

    def step(self, now_s: float) -> float | None:
        """Release every fill that is due."""
        clock = self._venue.clock
        if not clock.stopped:
            new: dict[str, list[Fill]] = {}
            for symbol, fill in self._timeline.take(clock.now_ms()):
                new.setdefault(symbol, []).append(fill)
            for symbol, fills in new.items():
                self.release(symbol, fills)
        if self._file is not None and now_s - self._flushed_s >= 0.25:
            self._file.flush()
            self._flushed_s = now_s
        due = self._timeline.due()
        return None if due is None or clock.stopped else now_s + clock.seconds_until(due)

    def release(self, symbol: str, fills: list[Fill]) -> None:
        """Put new fills of one instrument on the tape and push them; what faults take away is lost or left unsaid."""
        listing = self._venue.listings[symbol]
        kept: list[Fill] = []
        silent: set[int] = set()
        for fill in fills:
            if use_up(self._faults.lose, symbol):
                listing.tape.absent.append(fill.trade_id)
                continue
            listing.add(fill)
            kept.append(fill)
            if self._file is not None:
                self._file.write(symbol, fill, False)
            if use_up(self._faults.drop, symbol):
                silent.add(fill.trade_id)
        self._channels.fills(listing, kept, silent)

    def close(self) -> None:
        """End the file of fills."""
        if self._file is not None:
            self._file.close()
