"""OKX's rate limits: requests in a window of time, for each client address and end point."""

from collections import deque

#: The opening of a connection; no end point has this name.
HANDSHAKE = "a handshake"

#: REST path below /api/v5/: (requests, seconds), as OKX documents them.
_LIMITS: dict[str, tuple[int, float]] = {
    HANDSHAKE: (3, 1.0),
    "market/trades": (100, 2.0),
    "market/history-trades": (20, 2.0),
    "market/candles": (40, 2.0),
    "market/history-candles": (20, 2.0),
    "market/tickers": (20, 2.0),
    "market/ticker": (20, 2.0),
    "market/books": (40, 2.0),
    "public/instruments": (20, 2.0),
    "public/time": (10, 2.0),
    "system/status": (1, 5.0),
}


class Window:
    """At most `count` events in any `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds
        self._times: deque[float] = deque()

    def take(self, now_s: float) -> bool:
        """Count an event at `now_s`; return False, and do not count it, where it is one too many."""
        while self._times and self._times[0] <= now_s - self._seconds:
            self._times.popleft()
        if len(self._times) >= self._count:
            return False
        self._times.append(now_s)
        return True


class Limits:
    """The windows of every client; `scale` widens all of them (0: no limits)."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._windows: dict[tuple[str, str], Window] = {}

    def take(self, client: str, what: str, now_s: float) -> bool:
        """Count what `client` asks for at `now_s`, an end point or a `HANDSHAKE`; False: too often."""
        if not self._scale:
            return True
        if len(self._windows) > 10_000:
            self._windows.clear()
        key = (client, what)
        if key not in self._windows:
            count, seconds = _LIMITS.get(what, (20, 2.0))
            self._windows[key] = Window(max(1, int(count * self._scale)), seconds)
        return self._windows[key].take(now_s)
