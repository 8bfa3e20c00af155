"""How often OKX may be asked: a budget for each REST endpoint, of this process or of all on this machine."""

import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from okxcli.runtime import budget

#: Requests, and in how many seconds, for one address. Source: the documentation of each endpoint.
_SLOW, _FAST = (20, 2.0), (40, 2.0)
RATES: dict[str, tuple[int, float]] = {
    "/api/v5/market/trades": (100, 2.0),
    **dict.fromkeys(("/api/v5/market/candles", "/api/v5/market/books"), _FAST),
    **dict.fromkeys(("/api/v5/market/history-trades", "/api/v5/market/history-candles"), _SLOW),
    **dict.fromkeys(("/api/v5/market/ticker", "/api/v5/market/tickers", "/api/v5/public/instruments"), _SLOW),
}
_DEFAULT_RATE = (10, 2.0)  # that of `public/time` too
# OKX's window and ours do not begin together, and requests bunch up on their way: measured, 33 of 60 requests in a
# burst were served where 40 should have been. A tenth is left free, and the window is taken a little longer.
_SHARE = 0.9
_STRETCH = 1.05


class Budget:
    """Turns at each endpoint of one host, shared by all `okx` processes of this user; without a URL, of this one alone.

    OKX counts by address, so they all draw on one account. Who takes a `share` below 1 (`backfill`: a half) leaves the
    rest to those who follow the present. The turns of a burst go out at once, those beyond the window wait. `clock`
    returns nanoseconds that never step back, and that all processes see alike.
    """

    def __init__(
        self, base_url: str | None = None, share: float = 1.0, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        parts = urlsplit(base_url or "")
        self._host = f"{parts.hostname}-{parts.port or (443 if parts.scheme == 'https' else 80)}" if base_url else None
        self._share = share
        self._clock = clock
        self._accounts: dict[str, budget.Budget] = {}
        self._lock = threading.Lock()

    def turn(self, path: str) -> float:
        """Take a turn at `path` and return how many seconds to wait for it."""
        return self._account(path).turn()

    def pause(self, path: str, seconds: float) -> None:
        """Give no turn at `path` for so long, to nobody: OKX has said that it is too much."""
        self._account(path).pause(seconds)

    def _account(self, path: str) -> budget.Budget:
        with self._lock:
            if path not in self._accounts:
                count, period_s = RATES.get(path, _DEFAULT_RATE)
                file = budget.file_for(f"{self._host}{path.removeprefix('/api/v5')}") if self._host else None
                turns, window_s = int(count * _SHARE), period_s * _STRETCH
                self._accounts[path] = budget.Budget(file, turns, window_s, self._share, self._clock)
            return self._accounts[path]
