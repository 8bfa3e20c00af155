"""Who gets what: messages, subscriptions, and the way from one to the other. A message is encoded once for all."""

import time
from collections import deque
from typing import Protocol

from websockets.frames import Frame, Opcode

from okxcli.local.faults import Faults
from okxcli.local.network.conversation import Key


class Message:
    """A text message: its payload, and the frame that every uncompressed connection sends."""

    __slots__ = ("_frame", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        """The unmasked, uncompressed frame, made once."""
        if self._frame is None:
            self._frame = Frame(Opcode.TEXT, self.payload).serialize(mask=False)
        return self._frame


class Subscriber(Protocol):
    """A connection, as channels see it."""

    def push(self, message: Message) -> None:
        """Send a message, now or with the next flush."""


class Hub:
    """The subscriptions by channel and subject, and the way out for messages."""

    def __init__(self, faults: Faults) -> None:
        self.subscribers: dict[Key, dict[Subscriber, None]] = {}
        self.faults = faults
        self.changes = 0  # grows with every subscription
        self._late: deque[tuple[float, Key, Message]] = deque()

    def add(self, key: Key, subscriber: Subscriber) -> bool:
        """Subscribe; return True when nobody was subscribed to `key` before."""
        first = key not in self.subscribers
        self.changes += 1
        self.subscribers.setdefault(key, {})[subscriber] = None
        return first

    def remove(self, key: Key, subscriber: Subscriber) -> None:
        """Unsubscribe; the last one out takes the channel with it."""
        held = self.subscribers.get(key, {})
        held.pop(subscriber, None)
        if not held:
            self.subscribers.pop(key, None)

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
            for subscriber in self.subscribers.get(key, ()):
                subscriber.push(message)
