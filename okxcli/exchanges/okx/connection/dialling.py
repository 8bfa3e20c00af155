"""When to dial: one connection a second for the process, three for the machine, more patiently while it fails."""

import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, wait_random_exponential

from okxcli.exchanges.okx.connection.nonblocking_socket import DialError, Wire
from okxcli.runtime import budget
from okxcli.runtime.proxy import Proxies

#: OKX takes three connections a second from one address; one leaves room for the user's other programs.
DIAL_INTERVAL_S = 1.0
#: What all processes of a user may take together of OKX's three a second; its window and ours do not begin together.
_MACHINE_DIALS = 3
_MACHINE_WINDOW_S = 1.1
MAX_BACKOFF_S = 30.0
#: After a close that says our request was wrong.
SLOW_BACKOFF_S = 30.0
_DIAL_TIMEOUT_S = 10.0
#: A dial that has not ended after this is given up, whatever it waits for.
_DIAL_LIMIT_MS = 30_000


class DialLimiter:
    """Spaces out dials: each caller gets its turn, one `interval_s` after the other."""

    def __init__(self, interval_s: float = DIAL_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._next_s = 0.0
        self._lock = threading.Lock()

    def turn(self, url: str = "") -> float:
        """Take a turn at `url` and return how many seconds to wait for it."""
        del url
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next_s)
            self._next_s = at + self._interval_s
            return at - now


class MachineDials(DialLimiter):
    """Spaces out the dials of this process, and keeps those of all `okx` processes of this user below OKX's limit."""

    def __init__(self, interval_s: float = DIAL_INTERVAL_S) -> None:
        super().__init__(interval_s)
        self._accounts: dict[str, budget.Budget] = {}
        self._accounts_lock = threading.Lock()

    def turn(self, url: str = "") -> float:
        """Take a turn at `url` and return how many seconds to wait for it."""
        parts = urlsplit(url)
        name = f"{parts.hostname}-{parts.port or parts.scheme}-dials"
        with self._accounts_lock:
            if name not in self._accounts:
                path = budget.file_for(name)
                self._accounts[name] = budget.Budget(path, _MACHINE_DIALS, _MACHINE_WINDOW_S)
            account = self._accounts[name]
        return max(super().turn(), account.turn())


#: Shared by all connections of this process.
PROCESS_DIALS = MachineDials()


class Backoff:
    """How long to wait before the next dial: 0 to 0.5 s at first, doubled with each failure up to 30 s, at random."""

    def __init__(self, first_s: float = 0.5, max_s: float = MAX_BACKOFF_S) -> None:
        self.failures = 0
        self._wait = wait_random_exponential(multiplier=first_s, max=max_s)

    def failed(self) -> float:
        """Count a failure and return the seconds to wait."""
        self.failures += 1
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = self.failures
        return self._wait(state)

    def succeeded(self) -> None:
        """Start over: the first good message has come."""
        self.failures = 0


class Dialler:
    """Dials `url` in a thread of its own, one attempt at a time, so that nobody waits for a name server or handshake.

    Calls `wake` when an attempt has ended; `take` gives what came of it. `proxies` is asked for the way each time.
    """

    def __init__(self, url: str, limiter: DialLimiter, wake: Callable[[], None], proxies: Proxies) -> None:
        self.busy = False
        self.due_ms = 0
        self._url = url
        self._limiter = limiter
        self._wake = wake
        self._proxies = proxies
        proxies.of(url)  # what names it wrongly is told now
        self._number = 0
        self._result: Wire | DialError | None = None
        self._lock = threading.Lock()
        self._abandoned = threading.Event()

    def dial(self, now: int) -> None:
        """Begin an attempt; it is given up at `due_ms`."""
        turn_s = self._limiter.turn(self._url)
        self.busy = True
        self.due_ms = now + round(turn_s * 1000) + _DIAL_LIMIT_MS
        self._number += 1
        arguments = (self._number, turn_s)
        threading.Thread(target=self._dial, args=arguments, name=f"okx dial {self._url}", daemon=True).start()

    def take(self, now: int) -> Wire | DialError | None:
        """Return what came of the attempt; None while it goes on, or when there is none."""
        with self._lock:
            found, self._result = self._result, None
            if found is None and self.busy and now >= self.due_ms:
                self._number += 1
                found = DialError(f"no answer within {_DIAL_LIMIT_MS // 1000} s")
            if found is not None:
                self.busy = False
        return found

    @property
    def silence(self) -> str:
        """Who it is that says nothing: while an attempt goes on whoever is dialled, else the connection that is up."""
        proxy = self._proxies.of(self._url)
        through = "" if proxy is None else f", through the proxy {proxy}"
        return f"no answer yet{through}" if self.busy else f"it answers no subscription{through}"

    def abandon(self) -> None:
        """Give up, for good."""
        self._abandoned.set()
        with self._lock:
            self._number += 1
            found, self._result = self._result, None
        if isinstance(found, Wire):
            found.close()

    def _dial(self, number: int, turn_s: float) -> None:
        if self._abandoned.wait(turn_s):
            return
        found: Wire | DialError
        try:
            found = Wire.dial(self._url, _DIAL_TIMEOUT_S, self._proxies.of(self._url))
        except DialError as error:
            found = error
        with self._lock:
            wanted = number == self._number
            if wanted:
                self._result = found
        if wanted:
            self._wake()
        elif isinstance(found, Wire):
            found.close()
