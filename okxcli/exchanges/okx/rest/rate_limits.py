"""How often OKX may be asked: a budget for each REST endpoint, of this process or of all on this machine."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

from okxcli.runtime import budget

#: Requests, and in how many seconds, for one address. Source: the documentation of each endpoint.
RATES: dict[str, tuple[int, float]] = {
    "/api/v5/market/trades": (100, 2.0),
    "/api/v5/market/history-trades": (20, 2.0),
    "/api/v5/market/candles": (40, 2.0),
    "/api/v5/market/history-candles": (20, 2.0),
    "/api/v5/market/tickers": (20, 2.0),
    "/api/v5/market/ticker": (20, 2.0),
    "/api/v5/market/books": (40, 2.0),
    "/api/v5/public/instruments": (20, 2.0),
    "/api/v5/public/time": (10, 2.0),
    "/api/v5/system/status": (1, 5.0),
    "/api/v5/public/market-data-history": (2, 5.0),
}
_DEFAULT_RATE = (10, 2.0)
# OKX's window and ours do not begin together, and requests bunch up on their way: measured, 33 of 60 requests in a
# burst were served where 40 should have been. A tenth is left free, and the window is taken a little longer.
_SHARE = 0.9
_STRETCH = 1.05


class Window:
    """At most `count` turns in any `period_s`; the turns of a burst go out at once, those beyond it wait.

    `clock` returns seconds that never step back.
    """

    def __init__(self, count: int, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = max(1, int(count * _SHARE))
        self._period_s = period_s * _STRETCH
        self._clock = clock
        self._turns: deque[float] = deque(maxlen=self._count)
        self._lock = threading.Lock()

    def turn(self) -> float:
        """Take a turn and return how many seconds to wait for it."""
        with self._lock:
            now = self._clock()
            at = now
            if len(self._turns) == self._count:
                at = max(now, self._turns[0] + self._period_s)
            self._turns.append(at)
            return at - now

    def pause(self, seconds: float) -> None:
        """Give no turn for so long: OKX has said that it is too much."""
        with self._lock:
            until = self._clock() + seconds - self._period_s
            missing = self._count - len(self._turns)
            turns = [until] * missing + [max(turn, until) for turn in self._turns]
            self._turns = deque(turns, maxlen=self._count)


class Turns(Protocol):
    """Who gives turns, by the path of an endpoint."""

    def turn(self, path: str) -> float:
        """Take a turn at `path` and return how many seconds to wait for it."""

    def pause(self, path: str, seconds: float) -> None:
        """Give no turn at `path` for so long."""


class Budget:
    """A window for each endpoint, for this process alone."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}
        self._lock = threading.Lock()

    def turn(self, path: str) -> float:
        """Take a turn at `path` and return how many seconds to wait for it."""
        return self._window(path).turn()

    def pause(self, path: str, seconds: float) -> None:
        """Give no turn at `path` for so long."""
        self._window(path).pause(seconds)

    def _window(self, path: str) -> Window:
        with self._lock:
            if path not in self._windows:
                self._windows[path] = Window(*RATES.get(path, _DEFAULT_RATE))
            return self._windows[path]


class MachineBudget:
    """A window for each endpoint of one host, shared by all `okx` processes of this user.

    OKX counts by address, so they all draw on one account. Who takes a `share` below 1 (`backfill`: a half) leaves the
    rest to those who follow the present.
    """

    def __init__(self, base_url: str, share: float = 1.0) -> None:
        parts = urlsplit(base_url)
        self._host = f"{parts.hostname}-{parts.port or (443 if parts.scheme == 'https' else 80)}"
        self._share = share
        self._windows: dict[str, budget.Budget] = {}
        self._lock = threading.Lock()

    def turn(self, path: str) -> float:
        """Take a turn at `path` and return how many seconds to wait for it."""
        return self._window(path).turn()

    def pause(self, path: str, seconds: float) -> None:
        """Give no turn at `path` for so long, to nobody."""
        self._window(path).pause(seconds)

    def _window(self, path: str) -> budget.Budget:
        with self._lock:
            if path not in self._windows:
                count, period_s = RATES.get(path, _DEFAULT_RATE)
                name = f"{self._host}{path.removeprefix('/api/v5')}"
                per_window = max(1, int(count * _SHARE))
                self._windows[path] = budget.Budget(budget.file_for(name), per_window, period_s * _STRETCH, self._share)
            return self._windows[path]
