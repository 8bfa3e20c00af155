"""Who gets what: messages, subscriptions, and the way from one to the other."""

import time
from collections import deque

from okxcli.local.faults import Faults
from okxcli.local.network.conversation import Key
from okxcli.local.network.websocket_connection import Connection, Message


class Hub:
    """The subscriptions by channel and subject, and the way out for messages."""

    def __init__(self) -> None:
        self.subscribers: dict[Key, dict[Connection, None]] = {}
        self.faults = Faults()
        self.changes = 0  # grows with every subscription
        self._late: deque[tuple[float, Key, Message]] = deque()

    def add(self, key: Key, connection: Connection) -> bool:
        """Subscribe; return True when nobody was subscribed to `key` before."""
        first = key not in self.subscribers
        self.changes += 1
        self.subscribers.setdefault(key, {})[connection] = None
        return first

    def remove(self, key: Key, connection: Connection) -> None:
        """Unsubscribe; the last one out takes the channel with it."""
        held = self.subscribers.get(key, {})
        held.pop(connection, None)
        if not held:
            self.subscribers.pop(key, None)

    def backlog(self) -> int:
        """Return how many bytes the slowest subscriber has not taken yet."""
        return max((one.backlog for held in self.subscribers.values() for one in held), default=0)

    def publish(self, key: Key, message: Message) -> None:
        """Send `message` to every subscriber of `key`: at once, late where a delay is on, never where it is muted."""
        if self.faults.delay_s or self._late:
            self._late.append((time.monotonic() + self.faults.delay_s, key, message))
        else:
            self._send(key, message)

    def release(self, now_s: float) -> float | None:
        """Send what was delayed until `now_s`, in its order; return when the next is due."""
        while self._late and self._late[0][0] <= now_s:
            _, key, message = self._late.popleft()
            self._send(key, message)
        return self._late[0][0] if self._late else None

    def _send(self, key: Key, message: Message) -> None:
        if not self.faults.is_muted(*key):
            for connection in self.subscribers.get(key, ()):
                connection.push(message)
