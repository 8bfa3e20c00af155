"""One socket with its session, what others may know of it, and the subscriptions that are put off."""

from collections.abc import Iterable
from dataclasses import dataclass

from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.nonblocking_socket import Wire
from okxcli.exchanges.okx.connection.session import Session

#: What stood before and is refused now (a delisting, or maintenance) is tried again after this, doubled each time.
RETRY_MS = 60_000
MAX_RETRY_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """How one connection does; times are milliseconds ago, None for never."""

    url: str
    up: bool
    subscriptions: int
    standing: int
    connects: int
    pushes: int
    silent_ms: int | None
    trouble: str


@dataclass(eq=False, slots=True)
class Link:
    """One socket and its session."""

    wire: Wire
    session: Session
    leaving: bool = False
    until_ms: int | None = None  # leaving, and its successor is ready
    pushes: int = 0
    behind_ms: int = 0  # when there was last more to read than had been read


class PutOff:
    """Subscriptions that are tried again later, each time more patiently. Times are milliseconds, `passed_ms`."""

    def __init__(self) -> None:
        self._due: list[tuple[int, Subscription]] = []
        self._tries: dict[Subscription, tuple[int, int]] = {}  # how often, and when last

    def __bool__(self) -> bool:
        return bool(self._due)

    def subscriptions(self) -> list[Subscription]:
        """Return all of them; from any thread."""
        return [subscription for _, subscription in list(self._due)]

    def dues(self) -> list[int]:
        """Return when each is to be tried."""
        return [due for due, _ in self._due]

    def add(self, subscriptions: Iterable[Subscription], now: int) -> None:
        """Put off once more."""
        for subscription in subscriptions:
            tries, last = self._tries.get(subscription, (0, 0))
            tries = 0 if now - last > 2 * MAX_RETRY_MS else tries
            self._tries[subscription] = tries + 1, now
            self._due.append((now + min(RETRY_MS << min(tries, 10), MAX_RETRY_MS), subscription))

    def drop(self, subscriptions: Iterable[Subscription]) -> None:
        """Forget these: nobody wants them any more."""
        gone = set(subscriptions)
        self._due = [(due, s) for due, s in self._due if s not in gone]

    def hurry(self, now: int) -> None:
        """Have all tried at once, as if for the first time."""
        self._due = [(now, s) for _, s in self._due]
        self._tries.clear()

    def take(self, now: int) -> list[Subscription]:
        """Return what is due, and forget it."""
        due = [s for at, s in self._due if at <= now]
        self._due = [(at, s) for at, s in self._due if at > now]
        return due
