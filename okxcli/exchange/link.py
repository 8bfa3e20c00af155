"""One socket with its session, and what others may know of it."""

from dataclasses import dataclass

from okxcli.exchange.session import Session
from okxcli.exchange.wire import Wire


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


class Link:
    """One socket and its session."""

    def __init__(self, wire: Wire, session: Session) -> None:
        self.wire = wire
        self.session = session
        self.leaving = False
        self.until_ms: int | None = None  # leaving, and its successor is ready
        self.pushes = 0
        self.behind_ms = 0  # when there was last more to read than had been read
