"""The simulated exchange as an object, for tests and for `okx simulate`.

with LocalExchange(["BTC-USDT"], rate=50, seed=7) as exchange:
    run_client(exchange.ws_url, exchange.rest_url)
    truth = exchange.fills("BTC-USDT")
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from okxcli.core.decimals import canonical
from okxcli.errors import OutputError, UsageError
from okxcli.local.faults import use_up
from okxcli.local.network.engine import Feed, Options
from okxcli.local.network.pushes import Channels
from okxcli.local.server import LocalServer, served
from okxcli.local.venue.account import KEY, Account
from okxcli.local.venue.fills import KEEP, Fill
from okxcli.local.venue.instruments import row_of
from okxcli.local.venue.market import Timeline, profiles
from okxcli.local.venue.venue import Listing, MarketClock, Venue

#: More fills than this are not made up before the start: it would take a minute.
MAX_HISTORY = 5_000_000


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
            if use_up(self.channels.faults.lose, symbol):
                listing.tape.absent.append(fill.trade_id)
                continue
            listing.add(fill)
            kept.append(fill)
            if self.file is not None:
                self.file.write(symbol, fill, False)
            if use_up(self.channels.faults.drop, symbol):
                silent.add(fill.trade_id)
        self.channels.fills(listing, kept, silent)

    def close(self) -> None:
        """End the file of fills."""
        if self.file is not None:
            self.file.close()


class LocalExchange(LocalServer):
    """A simulated market of `symbols`: `rate` fills per second over all of them, from a seed.

    The market's clock begins at `start_ms` (default: now, on entry) and runs `speed` times as fast as the wall clock;
    `history_s` seconds of trading precede it. In a share `quiet` of a symbol's minutes nobody trades. The fills and
    their times are a function of `symbols`, `rate`, `seed`, `start_ms`, `history_s` and `quiet` alone. With `rate=0`
    nothing happens but what `trade` does. At most `keep` fills of a symbol are remembered; `fills_file` gets them all.
    With `account` some fills are those of an account, to which `account.KEY` is the key.

    Raises:
        UsageError: a symbol, a fault or a number that cannot be; on entry, a port or file that cannot be had.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        rate: float = 10.0,
        seed: int = 1,
        start_ms: int | None = None,
        speed: float = 1.0,
        history_s: float = 600.0,
        quiet: float = 0.0,
        keep: int = KEEP,
        fills_file: Path | None = None,
        faults: Iterable[str] = (),
        first_push: bool = True,
        books_snapshot: bool = True,
        account: bool = False,
        options: Options | None = None,
    ) -> None:
        self._rows = [row_of(symbol) for symbol in dict.fromkeys(symbols)]
        if not self._rows:
            raise UsageError("no symbol to simulate")
        if rate < 0 or speed <= 0 or history_s < 0 or not 0 <= quiet < 1:
            raise UsageError("rate and history must not be negative, speed is above 0, quiet minutes from 0 to below 1")
        if rate * history_s > MAX_HISTORY:
            raise UsageError(f"{rate * history_s:.0f} fills of history are too many: at most {MAX_HISTORY}")
        self._start_ms = start_ms
        self._shape = (rate, seed, history_s, quiet)
        self._fills_file = fills_file
        self._clock = MarketClock(start_ms or 0, speed)
        self._clock.stop()  # it runs once the past is made
        self._speed = speed
        owner = Account() if account else None
        channels = Channels(Venue(self._rows, self._clock, keep), first_push, books_snapshot, owner)
        options = options or Options(seed=seed)
        if account:
            key, secret, phrase = KEY.values()
            options = replace(options, keys={key: (secret, phrase), **options.keys}, vip=True)
            self.environment = dict(KEY)
        super().__init__(channels, options, faults)
        self._orders = 1 << 40  # numbers of hand-made taker orders, apart from the generator's

    def _feed(self) -> Feed:
        rate, seed, history_s, quiet = self._shape
        start_ms = _wall_ms() if self._start_ms is None else self._start_ms
        origin = start_ms - int(history_s * 1000)
        known = profiles(self._rows, rate, origin)
        self._first_ids = {profile.symbol: profile.first_id for profile in known}
        file = FillsFile(self._fills_file) if self._fills_file is not None else None
        self._market = MarketFeed(self._engine.channels, Timeline(known, seed, origin, quiet), file)
        self._market.begin(start_ms)
        if self._start_ms is None and self._speed == 1:
            self._clock.run(_wall_ms(), 1.0)  # to the wall clock, although making the past took a moment
        else:
            self._clock.run(start_ms, self._speed)
        return self._market

    @served
    def stop_market(self) -> None:
        """Freeze the market's clock: no fill comes any more but by hand, and everything stays as it is."""
        with self._clock.moment():
            self._market.step(time.monotonic())
            self._clock.stop()

    @served
    def run_market(self) -> None:
        """Let the market's clock run on from where it stands."""
        self._clock.run(self._clock.now_ms(), self._speed)

    @served
    def set_time(self, ms: int) -> None:
        """Freeze the market's clock at `ms`: bars that are over by then get their final push."""
        self._clock.set(ms)

    def trade(
        self, symbol: str, price: str, size: str, side: str = "buy", ts: int | None = None, source: int = 0
    ) -> int:
        """Trade by hand: one taker order that fills once; return its id. `ts` defaults to the market's time."""
        return self.order(symbol, side, [(price, size)], ts, source)

    @served
    def order(
        self, symbol: str, side: str, parts: Sequence[tuple[str, str]], ts: int | None = None, source: int = 0
    ) -> int:
        """Trade by hand: one taker order that fills at each (price, size) of `parts`; return the last id."""
        self._orders += 1
        at = self.now_ms() if ts is None else ts
        last = self._engine.venue.listings[symbol].tape.last_id
        first = last + 1 if last else self._first_ids[symbol]
        fills = [
            Fill(first + place, canonical(price), canonical(size), side, at, source, self._orders)
            for place, (price, size) in enumerate(parts)
        ]
        self._market.release(symbol, fills)
        return fills[-1].trade_id

    @served
    def skip_ids(self, symbol: str, count: int) -> None:
        """Give out `count` ids to nobody, as `lose` does, without waiting for fills. For a market traded by hand."""
        tape = self._engine.venue.listings[symbol].tape
        tape.absent.extend(range(tape.last_id + 1, tape.last_id + 1 + count))

    @served
    def list_symbol(self, symbol: str, state: str = "live") -> None:
        """List another symbol, and tell the `instruments` channel; it is traded by hand."""
        row = {**row_of(symbol), "state": state}
        self._engine.venue.listings[symbol] = Listing(row)
        self._first_ids[symbol] = 1
        self._engine.channels.instruments([row])

    def row(self, symbol: str) -> dict[str, Any]:
        """Return the instrument row of `symbol`."""
        return dict(self._engine.venue.listings[symbol].row)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
