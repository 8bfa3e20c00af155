"""The local exchange that plays recordings instead of a simulated market."""

import logging
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from okxcli.errors import UsageError
from okxcli.local.feeds import Feed
from okxcli.local.network.conversation import Key
from okxcli.local.network.engine import Options
from okxcli.local.network.pushes import Channels
from okxcli.local.recording import Contents, ReplayFeed, survey
from okxcli.local.server import LocalServer
from okxcli.local.venue.fills import KEEP
from okxcli.local.venue.instruments import Row, known_rows, made_up
from okxcli.local.venue.venue import Listing, MarketClock, Venue

_log = logging.getLogger(__name__)

#: The clock is that of receipt: a bar is over for good when no trade in it can still be on its way.
LATEST_MS = 10_000
#: A step of price or size beyond this is none.
_WIDEST = Decimal(10**15)


class LocalReplay(LocalServer):
    """Serves what `okx stream` wrote, at `speed` times its own pace (0: as fast as clients take it).

    Playing begins half a second after the last subscription of the first clients. The channels that were recorded can
    be subscribed, and candles of symbols whose trades were. The market's clock is the recording's.

    Raises:
        UsageError: a file cannot be read or holds no push; a fault or a speed that cannot be.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        speed: float = 1.0,
        loop: bool = False,
        keep: int = KEEP,
        faults: Iterable[str] = (),
        options: Options | None = None,
    ) -> None:
        if speed < 0:
            raise UsageError("speed must not be negative")
        self.contents = survey(paths)
        clock = MarketClock(self.contents.start_ms)
        clock.set(self.contents.start_ms)
        channels = Channels(Venue(_rows(self.contents), clock, keep), first_push=False)
        channels.makes = self._derived
        channels.confirm_lag_ms = LATEST_MS
        super().__init__(channels, options or Options(), faults)
        self._engine.offers = self._offers
        self._replay = ReplayFeed(paths, self.contents, channels, speed, loop)

    def _feed(self) -> Feed:
        return self._replay

    def _derived(self, key: Key) -> bool:
        channel, symbol = key
        traded = {("trades", symbol), ("trades-all", symbol)} & self.contents.keys
        return channel.startswith("candle") and key not in self.contents.keys and bool(traded)

    def _offers(self, channel: str, symbol: str) -> bool:
        return (channel, symbol) in self.contents.keys or self._derived((channel, symbol))

    @property
    def over(self) -> bool:
        """Whether everything was played; never with `loop`."""
        return self._replay.over

    @property
    def played(self) -> int:
        """How many messages were played so far."""
        return self._replay.played


def _rows(contents: Contents) -> list[Row]:
    """Return a row for every symbol: as recorded, else as known, else made up."""
    symbols = sorted({subject for channel, subject in contents.keys if subject and channel != "instruments"})
    template = known_rows()["BTC-USDT"]
    rows = []
    for symbol in symbols:
        row = {**template, **contents.rows[symbol]} if symbol in contents.rows else None
        if row is not None and not _sound(row):
            _log.warning("%s: its recorded instrument is damaged: another is made up", symbol)
            row = None
        rows.append(row or dict(known_rows().get(symbol) or made_up(symbol)))
    return rows


def _sound(row: Row) -> bool:
    """Whether an instrument can be listed by what its row says."""
    try:
        Listing(row)
        numbers = [Decimal(row[key]) for key in ("tickSz", "lotSz", "minSz")]
        return isinstance(row["instType"], str) and all(0 < number < _WIDEST for number in numbers)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return False
