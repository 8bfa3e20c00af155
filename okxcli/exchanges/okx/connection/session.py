"""The life of one WebSocket connection to OKX as a state machine: what arrives, or the time, in; actions out.

A session wants subscriptions. It asks for them in batches, verifies each answer, keeps the connection alive and says
when it is dead. It owns no socket, clock or thread: `now` is milliseconds of any clock that never steps back, and a
driver (`client`) does what the actions say. One session is one socket; the next socket gets a new one.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from okxcli.exchanges.okx.channels import PUSH_HEAD, Subscription
from okxcli.exchanges.okx.connection.actions import Action, Log, LoginFailed, Ready, Reconnect, Refuse, Replace, Send
from okxcli.exchanges.okx.connection.protocol import (
    PING,
    TOO_FREQUENT,
    UPGRADE_NOTICE,
    WRONG_REQUEST_CLOSES,
    Ack,
    ConnCount,
    Event,
    Garbage,
    LoginOk,
    LoginRefused,
    Notice,
    Pong,
    Push,
    Refused,
    Unack,
    Unknown,
    batches,
    classify,
    subscribe,
    unsubscribe,
)
from okxcli.exchanges.okx.connection.subscribed import Seen, Wanted

#: OKX closes a connection after 30 s without data or frame of ours (4004).
PING_AFTER_MS = 20_000
#: Ping and this together find a half-open connection within 40 s.
PONG_TIMEOUT_MS = 15_000
ACK_TIMEOUT_MS = 10_000
#: OKX takes 480 requests an hour and connection; older documents said 240, and staying below costs nothing.
REQUESTS_PER_HOUR = 240
_HOUR_MS = 3_600_000
#: Pause after 60014, doubled each time.
_HOLD_MS = 15_000
_MAX_HOLD_MS = 600_000
_RETRY_MS = 5_000


#: States in which an answer is awaited.
_ASKED = ("sent", "leaving")

_NOTHING: Sequence[Action] = ()


@dataclass(slots=True)
class Session:
    """One connection that wants `subscriptions`, after a `login` where that is given: a frame, made when it is sent.

    `opened` once, then `frames`, `tick` and `closed` as it happens.
    """

    subscriptions: Iterable[Subscription]
    login: Callable[[], str] | None = field(default=None, repr=False)
    _login_due_ms: int | None = None  # asked for and not answered
    _wanted: dict[tuple[str, str], Wanted] = field(default_factory=dict)
    _routes: dict[bytes, Wanted] = field(default_factory=dict)
    _requests: deque[int] = field(default_factory=deque)
    _unwanted: list[Subscription] = field(default_factory=list)
    _ending: dict[str, list[Subscription]] = field(default_factory=dict)  # by request: asked for and not answered
    _number: int = 0
    _open: bool = False
    _ready: bool = False
    _over: bool = False
    _sent_ms: int = 0
    _pinged_ms: int | None = None
    _hold_until_ms: int = 0
    _hold_ms: int = _HOLD_MS
    _garbage: int = 0

    def __post_init__(self) -> None:
        for subscription in self.subscriptions:
            self._wanted[subscription[:2]] = Wanted(subscription)

    @property
    def ready(self) -> bool:
        """Whether every subscription is answered and at least one stands."""
        return self._ready

    @property
    def acked(self) -> list[Subscription]:
        """The subscriptions that stand."""
        return [w.subscription for w in list(self._wanted.values()) if w.state == "acked"]

    def seen(self) -> dict[Subscription, Seen]:
        """Return what the subscriptions that stand have brought; may be called from any thread."""
        standing = [w for w in list(self._wanted.values()) if w.state == "acked"]
        newest = {w.subscription: max(w.acked_ms, w.last_push_ms or 0) for w in standing}
        return {w.subscription: Seen(w.pushes, w.frame, newest[w.subscription], w.acked_ms) for w in standing}

    # What happens

    def opened(self, now: int) -> list[Action]:
        """Note that the socket is open; log in, or subscribe."""
        self._open = True
        self._sent_ms = now
        if self.login is None:
            return self._ask(now)
        self._request(now)
        self._login_due_ms = now + ACK_TIMEOUT_MS
        return [Send(self.login())]

    def frames(self, frames: Iterable[bytes], now: int, pushes: list[bytes]) -> list[Action]:
        """Take text frames in their order; add those that are data to `pushes`, routed by their first bytes alone."""
        actions: list[Action] = []
        routes = self._routes
        for frame in frames:
            route = routes.get(frame[: frame.find(b"}")]) if frame.startswith(PUSH_HEAD) else None
            if route is None:
                event = classify(frame)
                if not isinstance(event, Push):
                    actions += self._control(event, now)
                    continue
                route = self._wanted.get((event.channel, event.value))
                if route is not None and frame.startswith(PUSH_HEAD):
                    routes[frame[: frame.find(b"}")]] = route
            pushes.append(frame)
            if route is not None:
                route.pushes += 1
                route.last_push_ms = now
                route.frame = frame
        return actions

    def closed(self, code: int | None, reason: str, now: int) -> list[Action]:
        """Note that the socket is gone; `code` is None where no close frame came."""
        del now
        if self._over:
            return []
        self._over = True
        why = f"closed by OKX ({code}{': ' + reason if reason else ''})" if code else f"connection lost ({reason})"
        return [Reconnect(why, slow=code in WRONG_REQUEST_CLOSES)]

    def tick(self, now: int, reading: bool = True) -> list[Action]:
        """Do what the time asks for. With `reading` False nothing can arrive, so nothing is held to be missing."""
        if not self._open or self._over:
            return []
        if not reading:
            self._wait_again(now)
        if self._login_due_ms is not None and now >= self._login_due_ms:
            return self._dead(f"no answer to the login for {ACK_TIMEOUT_MS // 1000} s")
        late = next((w for w in self._wanted.values() if w.state in _ASKED and now >= w.due_ms), None)
        if late is not None:
            return self._dead(f"no answer to the subscription of {late.subscription} for {ACK_TIMEOUT_MS // 1000} s")
        if self._pinged_ms is not None and now - self._pinged_ms >= PONG_TIMEOUT_MS:
            return self._dead(f"no pong for {PONG_TIMEOUT_MS // 1000} s")
        actions = self._ask(now)
        if self._pinged_ms is None and now - self._sent_ms >= PING_AFTER_MS:
            self._pinged_ms = self._sent_ms = now
            actions.append(Send(PING))
        return actions

    def due(self) -> int | None:
        """Return when `tick` is wanted next; None: not before something arrives."""
        if not self._open or self._over:
            return None
        ping = self._sent_ms + PING_AFTER_MS if self._pinged_ms is None else self._pinged_ms + PONG_TIMEOUT_MS
        if self._login_due_ms is not None:
            return min(ping, self._login_due_ms)
        times = [ping]
        for wanted in self._wanted.values():
            if wanted.state in _ASKED:
                times.append(wanted.due_ms)
            elif wanted.state == "new":
                times.append(max(wanted.due_ms, self._may_ask_ms()))
        if self._unwanted:
            times.append(self._may_ask_ms())
        return min(times)

    # What others want

    def add(self, subscriptions: Iterable[Subscription], now: int) -> list[Action]:
        """Want more, or once more what was refused."""
        for subscription in subscriptions:
            known = self._wanted.get(subscription[:2])
            if known is None or known.state == "refused":
                self._wanted[subscription[:2]] = Wanted(subscription)
        return self._ask(now) if self._open and not self._over else []

    def remove(self, subscriptions: Iterable[Subscription], now: int) -> list[Action]:
        """Want less; pushes that are under way may still come."""
        gone = [w for s in subscriptions if (w := self._wanted.pop(s[:2], None)) is not None]
        self._routes = {head: w for head, w in self._routes.items() if w not in gone}
        self._unwanted += [w.subscription for w in gone if w.state in ("sent", "acked")]
        for wanted in gone:
            if wanted.state == "leaving":
                self._ending.setdefault(wanted.request, []).append(wanted.subscription)
        return self._ask(now) + self._settled() if self._open and not self._over else []

    def renew(self, subscriptions: Iterable[Subscription], now: int) -> list[Action]:
        """End subscriptions that stand and make them anew, one after the other: asking twice would change nothing.

        Nothing happens where the hourly budget of requests has no room for both.
        """
        standing = [w for s in subscriptions if (w := self._wanted.get(s[:2])) is not None and w.state == "acked"]
        actions: list[Action] = []
        for batch in batches(w.subscription for w in standing):
            if not self._open or self._over or now < self._may_ask_ms(2):
                break
            request = self._request(now)
            for subscription in batch:
                wanted = self._wanted[subscription[:2]]
                wanted.state, wanted.due_ms, wanted.request = "leaving", now + ACK_TIMEOUT_MS, request
            actions.append(Send(unsubscribe(batch, request)))
        return actions

    # Within

    def _control(self, event: Event, now: int) -> Sequence[Action]:
        match event:
            case Pong():
                self._pinged_ms = None
                return _NOTHING
            case Ack(subscription):
                return self._answered(subscription, now)
            case Refused():
                return self._refused(event, now)
            case Notice(code, message) if code == UPGRADE_NOTICE:
                return [Replace(message or "service upgrade")]
            case Notice(code, message):
                return [Log(logging.INFO, f"notice {code}: {message}")]
            case ConnCount(channel, count, over):
                text = f"{count} connections hold {channel}{', this one no longer' if over else ''}"
                return [Log(logging.WARNING if over else logging.DEBUG, text)]
            case LoginOk() if self._login_due_ms is not None:
                self._login_due_ms = None
                return self._ask(now)
            case LoginRefused(code, message) if self._login_due_ms is not None:
                self._over = True
                return [LoginFailed(code, message)]
            case LoginRefused(code, message):
                return [Log(logging.ERROR, f"login refused ({code}): {message}")]
            case Garbage(reason):
                self._garbage += 1
                return [Log(logging.WARNING, f"not a message of OKX: {reason}")] if self._garbage <= 3 else _NOTHING
            case Unack(subscription):
                return [Log(logging.DEBUG, f"unsubscribed from {subscription}"), *self._left([subscription], now)]
            case Unknown(kind):
                return [Log(logging.DEBUG, f"unknown message: {kind}")]
        return _NOTHING

    def _left(self, subscriptions: Iterable[Subscription], now: int) -> list[Action]:
        """Make those anew that have ended and are wanted."""
        for subscription in subscriptions:
            first = next((request for request, asked in self._ending.items() if subscription in asked), None)
            if first is not None:  # requests are answered in their order
                self._ending[first].remove(subscription)
                if not self._ending[first]:
                    del self._ending[first]
            wanted = self._wanted.get(subscription[:2])
            if wanted is not None and wanted.state in ("leaving", "acked"):
                wanted.state, wanted.due_ms = "new", now
        return self._ask(now)

    def _answered(self, subscription: Subscription, now: int) -> list[Action]:
        wanted = self._wanted.get(subscription[:2])
        if wanted is None or wanted.state in ("acked", "leaving"):
            return []
        wanted.state, wanted.acked_ms = "acked", now
        self._hold_ms = _HOLD_MS
        return self._settled()

    def _settled(self) -> list[Action]:
        states = {w.state for w in self._wanted.values()}
        if self._ready or "acked" not in states or states & {"new", "sent"}:
            return []
        self._ready = True
        return [Ready()]

    def _refused(self, event: Refused, now: int) -> list[Action]:
        if event.code == TOO_FREQUENT:
            return self._slow_down(event.request, now)
        meant = self._meant(event)
        leaving = [w.subscription for w in meant if w.state == "leaving"]
        if leaving:  # what cannot be ended is over
            return self._left(leaving, now)
        if not meant:
            return [Log(logging.WARNING, f"refused ({event.code}): {event.message}")]
        if not event.permanent:
            for wanted in meant:
                wanted.state, wanted.due_ms = "new", now + _RETRY_MS
            text = f"{', '.join(str(w.subscription) for w in meant)} refused for now ({event.code}): {event.message}"
            return [Log(logging.WARNING, text)]
        actions: list[Action] = []
        for wanted in meant:
            wanted.state = "refused"
            actions.append(Refuse(wanted.subscription, event.code, event.message))
        return actions + self._settled()

    def _meant(self, event: Refused) -> list[Wanted]:
        """Return the subscriptions that an error is about: by name, else by request, else the only one open."""
        if event.channel is not None:
            wanted = self._wanted.get((event.channel, event.value or ""))
            return [wanted] if wanted is not None and wanted.state != "refused" else []
        waiting = [w for w in self._wanted.values() if w.state in _ASKED]
        if event.request:
            return [w for w in waiting if w.request == event.request]
        return waiting if len(waiting) == 1 else []

    def _slow_down(self, request: str, now: int) -> list[Action]:
        """Ask again later for what was refused: that of `request`, or of all if OKX does not say which."""
        for wanted in self._wanted.values():
            if wanted.state == "sent":
                wanted.state = "new"
            elif wanted.state == "leaving" and request in (wanted.request, ""):
                wanted.state = "acked"
        refused = [self._ending.pop(name) for name in list(self._ending) if request in (name, "")]
        self._unwanted[:0] = [subscription for asked in refused for subscription in asked]
        self._hold_until_ms = now + self._hold_ms
        text = f"too many requests (60014): the next in {self._hold_ms // 1000} s"
        self._hold_ms = min(2 * self._hold_ms, _MAX_HOLD_MS)
        return [Log(logging.WARNING, text)]

    def _may_ask_ms(self, count: int = 1) -> int:
        """Return when `count` more requests are allowed."""
        over = len(self._requests) + count - REQUESTS_PER_HOUR
        if over <= 0:
            return self._hold_until_ms
        return max(self._hold_until_ms, self._requests[over - 1] + _HOUR_MS)

    def _ask(self, now: int) -> list[Action]:
        """Ask for what is wanted, or not wanted any more, and not asked for yet, as far as the limits allow."""
        actions: list[Action] = []
        if self._login_due_ms is not None:
            return actions
        for batch in list(batches(self._unwanted)):
            if now < self._may_ask_ms():
                return actions
            del self._unwanted[: len(batch)]
            wanted_again = [s for s in batch if s[:2] in self._wanted]
            ended = [s for s in batch if s not in wanted_again]
            if ended:
                request = self._request(now)
                self._ending[request] = ended
                actions.append(Send(unsubscribe(ended, request)))
        new = [w for w in self._wanted.values() if w.state == "new" and now >= w.due_ms]
        by_name = {w.subscription: w for w in new}
        for batch in batches(by_name):
            if now < self._may_ask_ms():
                break
            request = self._request(now)
            for subscription in batch:
                wanted = by_name[subscription]
                wanted.state, wanted.due_ms, wanted.request = "sent", now + ACK_TIMEOUT_MS, request
            actions.append(Send(subscribe(batch, request)))
        return actions

    def _request(self, now: int) -> str:
        """Count one request and return its id."""
        self._requests.append(now)
        while self._requests[0] <= now - _HOUR_MS:
            self._requests.popleft()
        self._sent_ms = now
        self._number += 1
        return f"okx{self._number}"

    def _wait_again(self, now: int) -> None:
        if self._pinged_ms is not None:
            self._pinged_ms = now
        if self._login_due_ms is not None:
            self._login_due_ms = now + ACK_TIMEOUT_MS
        for wanted in self._wanted.values():
            if wanted.state in _ASKED:
                wanted.due_ms = now + ACK_TIMEOUT_MS

    def _dead(self, reason: str) -> list[Action]:
        self._over = True
        return [Reconnect(reason)]
