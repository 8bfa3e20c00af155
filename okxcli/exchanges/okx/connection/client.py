"""`OKXWebSocketClient`: keeps subscriptions of one endpoint alive over one connection after the other.

Driven by a `Receiver`, it drives a `Session` with a `Wire`: dials, hands on what arrives, reconnects with back-off,
replaces a connection that OKX is about to close. What is said on the wire and what it means is decided elsewhere.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from okxcli.errors import ExchangeUnavailable, OkxError
from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.actions import Action, Log, LoginFailed, Ready, Reconnect, Refuse, Replace, Send
from okxcli.exchanges.okx.connection.dialling import PROCESS_DIALS, SLOW_BACKOFF_S, Backoff, Dialler, DialLimiter
from okxcli.exchanges.okx.connection.live_session import ConnectionState, Link, PutOff
from okxcli.exchanges.okx.connection.login import PASSING, Login, refused
from okxcli.exchanges.okx.connection.nonblocking_socket import DialError, WireError
from okxcli.exchanges.okx.connection.receiver import Receiver
from okxcli.exchanges.okx.connection.session import Session
from okxcli.exchanges.okx.connection.subscribed import Seen
from okxcli.runtime.clock import passed_ms
from okxcli.runtime.proxy import Proxies

_log = logging.getLogger(__name__)

_BATCH = 512
#: How long a connection about to end is read on beside its successor: what was pushed before the successor's
#: subscriptions stood may still be under way on the old one.
_OVERLAP_MS = 1_000
_STOP_S = 3.0


class OKXWebSocketClient:
    """Streams `subscriptions` from `url` until `stop`, whatever happens to the connection.

    `receiver` reads its sockets and hands on their pushes, in its thread. `refused(refusal)` hears what OKX refuses for
    good, `retired(refusal)` what it refuses although it stood before: that is tried again in the end every hour, and by
    `retry`. `ended()` is called when `failure` was set: never connected within `connect_timeout_s` (None: it tries for
    ever), or a bug, or a `login` that OKX refuses.
    """

    def __init__(
        self,
        url: str,
        subscriptions: Iterable[Subscription],
        receiver: Receiver,
        refused: Callable[[Refuse], None],
        ended: Callable[[], None],
        connect_timeout_s: float | None = 30.0,
        dials: DialLimiter = PROCESS_DIALS,
        retired: Callable[[Refuse], None] = lambda refusal: None,
        proxies: Proxies | None = None,
        login: Login | None = None,
    ) -> None:
        self.url = url
        self.failure: OkxError | Exception | None = None
        self.settled = threading.Event()
        self.due_ms: int | None = 0
        self._wanted = {s[:2]: s for s in subscriptions}
        self._stood: set[tuple[str, str]] = set()
        self._again = PutOff()
        self._receiver = receiver
        self._refused = refused
        self._retired = retired
        self._login = login
        self._ended = ended
        self._connect_timeout_s = connect_timeout_s
        self._give_up_ms: int | None = None
        self._dialler = Dialler(url, dials, receiver.wake, proxies or Proxies())
        self._backoff = Backoff()
        self._links: list[Link] = []
        self._next_dial_ms = 0
        self._ever_ready = False
        self._stopping = threading.Event()
        self._started = False
        self._over = threading.Event()
        self._jobs: list[Callable[[int], None]] = []
        self._lock = threading.Lock()
        self._connects = 0
        self._pushes = 0
        self._last_push_ms: int | None = None
        self._trouble = ""

    # From any thread

    def start(self) -> None:
        """Begin to connect."""
        self._started = True
        if self._connect_timeout_s is not None:
            self._give_up_ms = passed_ms() + round(self._connect_timeout_s * 1000)
        self._receiver.drive(self)

    def stop(self) -> None:
        """Ask the client to close its connection and end; returns at once."""
        self._stopping.set()
        self._receiver.wake()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; tell whether it has come."""
        return not self._started or self._over.wait(timeout_s)

    def subscribe(self, subscriptions: Iterable[Subscription]) -> None:
        """Want more, without a reconnect."""
        self._job(partial(self._add, tuple(subscriptions)))

    def unsubscribe(self, subscriptions: Iterable[Subscription]) -> None:
        """Want less, without a reconnect."""
        self._job(partial(self._remove, tuple(subscriptions)))

    def renew(self, subscriptions: Iterable[Subscription]) -> None:
        """End subscriptions that stand and make them anew, on the same connection."""
        self._job(partial(self._renew, tuple(subscriptions)))

    def replace(self, reason: str) -> None:
        """Open another connection, and close this one when that is ready."""
        self._job(partial(self._replace, reason))

    def retire(self, subscriptions: Iterable[Subscription]) -> None:
        """Do without subscriptions for now: they are tried again as those are that OKX refuses."""
        self._job(partial(self._put_off, tuple(subscriptions)))

    def retry(self) -> None:
        """Try at once what is put off."""
        self._job(self._again.hurry)

    @property
    def alive(self) -> bool:
        """Whether it has not ended, nor is about to."""
        return not self._stopping.is_set()

    @property
    def wanted(self) -> list[Subscription]:
        """What is subscribed, or will be again; from any thread."""
        return [*list(self._wanted.values()), *self._again.subscriptions()]

    def seen(self) -> dict[Subscription, Seen]:
        """Return what the standing subscriptions have brought; nothing while what has come is not read."""
        link = next((one for one in reversed(list(self._links)) if not one.leaving), None)
        if link is None or self._receiver.full():
            return {}
        found = link.session.seen()
        return {s: replace(one, since_ms=max(one.since_ms, link.behind_ms)) for s, one in found.items()}

    @property
    def overlapping(self) -> bool:
        """Whether two connections are up: what is missing on one may still come on the other."""
        return len(self._links) > 1

    def state(self) -> ConnectionState:
        """Tell how the connection does."""
        link, last = next(reversed(list(self._links)), None), self._last_push_ms
        return ConnectionState(
            url=self.url,
            up=link is not None and link.session.ready,
            subscriptions=len(self._wanted),
            standing=len(link.session.acked) if link is not None else 0,
            connects=self._connects,
            pushes=self._pushes,
            silent_ms=None if last is None else passed_ms() - last,
            trouble=self._trouble,
        )

    def _job(self, job: Callable[[int], None]) -> None:
        with self._lock:
            self._jobs.append(job)
        self._receiver.wake()

    # In the receiver's thread

    def read(self, link: Link, now: int, pushes: list[bytes]) -> bool:
        """Add what a socket has brought to `pushes`; tell whether there is `work`."""
        if link not in self._links:
            return False
        session, count = link.session, len(pushes)
        todo: list[Action] = []
        try:
            todo = session.frames(link.wire.frames(_BATCH), now, pushes)
            if link.wire.close_code is not None:
                todo += session.closed(link.wire.close_code, link.wire.close_reason, now)
        except WireError as error:
            todo += session.closed(None, str(error), now)
        if count := len(pushes) - count:
            link.pushes += count
            self._pushes += count
            self._last_push_ms = now
        self._obey(link, todo, now)
        return bool(todo) or link.wire.pending

    def work(self, now: int, behind: bool) -> bool:
        """Do what is due; False: that was the end. `behind`: more may have come than was read.

        Raises:
            ExchangeUnavailable: never connected, and the time for that is over.
        """
        self._do_jobs(now)
        if self._stopping.is_set():
            self._end()
            return False
        self._take_dialled(now)
        for link in list(self._links):
            unread = behind or link.wire.pending
            if unread:
                link.behind_ms = now
            self._obey(link, link.session.tick(now, reading=not unread), now)
            if link in self._links and link.until_ms is not None and now >= link.until_ms and not unread:
                self._drop(link)
        self._dial_if_due(now)
        if self._stopping.is_set():
            self._end()
            return False
        if not self._ever_ready and self._wanted and self._give_up_ms is not None and now >= self._give_up_ms:
            raise ExchangeUnavailable(
                f"cannot stream from OKX at {self.url}: {self._trouble or self._dialler.silence}. "
                "Check the network, --ws-url and --proxy, or raise --connect-timeout"
            )
        self.due_ms = self._due()
        return True

    def fail(self, error: Exception) -> None:
        """End by an error: our own, or a bug."""
        if not isinstance(error, OkxError):
            _log.error("a bug of okx in the connection to %s", self.url, exc_info=error)
        self.failure = error
        self._end()

    def _end(self) -> None:
        for link in list(self._links):
            self._drop(link)
        self._dialler.abandon()
        self._stopping.set()
        self.settled.set()
        self._over.set()
        self._ended()

    def _due(self) -> int | None:
        """Return when something is due; None: not before a socket or another thread wants it."""
        dues = [due for link in self._links if (due := link.session.due()) is not None]
        dues += self._again.dues()
        if not self._receiver.full():
            dues += [link.until_ms for link in self._links if link.until_ms is not None]
        if not self._ever_ready and self._give_up_ms is not None:
            dues.append(self._give_up_ms)
        if self._dialler.busy:
            dues.append(self._dialler.due_ms)
        elif self._needs_dial():
            dues.append(self._next_dial_ms)
        return min(dues, default=None)

    def _drop(self, link: Link) -> None:
        """Close a connection."""
        self._links.remove(link)
        self._receiver.unwatch(link)
        link.wire.close()

    def _do_jobs(self, now: int) -> None:
        with self._lock:
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job(now)
        if due := self._again.take(now):
            self._add(due, now)

    def _add(self, subscriptions: Iterable[Subscription], now: int) -> None:
        more = list(subscriptions)
        self._wanted.update((s[:2], s) for s in more)
        for link in list(self._links):
            self._obey(link, link.session.add(more, now), now)

    def _remove(self, subscriptions: Iterable[Subscription], now: int) -> None:
        less = list(subscriptions)
        for subscription in less:
            self._wanted.pop(subscription[:2], None)
        self._again.drop(less)
        for link in list(self._links):
            self._obey(link, link.session.remove(less, now), now)

    def _renew(self, subscriptions: Iterable[Subscription], now: int) -> None:
        for link in list(self._links):
            if not link.leaving:
                self._obey(link, link.session.renew(subscriptions, now), now)

    def _replace(self, reason: str, now: int) -> None:
        for link in list(self._links):
            if not link.leaving and link.session.ready:
                self._obey(link, [Replace(reason)], now)

    def _put_off(self, subscriptions: Iterable[Subscription], now: int) -> None:
        known = [s for s in subscriptions if s[:2] in self._wanted]
        self._remove(known, now)
        self._again.add(known, now)

    # Dialling

    def _needs_dial(self) -> bool:
        return bool(self._wanted) and all(link.leaving for link in self._links)

    def _dial_if_due(self, now: int) -> None:
        if not self._dialler.busy and self._needs_dial() and now >= self._next_dial_ms:
            self._dialler.dial(now)

    def _take_dialled(self, now: int) -> None:
        found = self._dialler.take(now)
        if found is None:
            return
        if isinstance(found, DialError):
            self._failed_to_connect(str(found), now)
            return
        self._connects += 1
        link = Link(found, Session(list(self._wanted.values()), self._login))
        self._links.append(link)
        self._receiver.watch(link, self)
        _log.debug("connected to %s, subscribing", self.url)
        self._obey(link, link.session.opened(now), now)

    def _failed_to_connect(self, reason: str, now: int) -> None:
        if reason != self._trouble:
            _log.warning("cannot connect to %s: %s; trying again", self.url, reason)
        self._trouble = reason
        self._next_dial_ms = now + round(self._backoff.failed() * 1000)

    # Links

    def _obey(self, link: Link, actions: Iterable[Action], now: int) -> None:
        for action in actions:
            match action:
                case Send(text):
                    try:
                        link.wire.send(text)
                    except WireError as error:
                        self._obey(link, link.session.closed(None, str(error), now), now)
                case Log(level, text):
                    _log.log(level, "%s: %s", self.url, text)
                case Ready():
                    self._became_ready(link, now)
                case Refuse():
                    self._was_refused(action, now)
                case Replace(reason):
                    if not link.leaving:
                        _log.info("%s: %s Connecting anew beside it", self.url, reason)
                    link.leaving = True
                    self._next_dial_ms = now
                case LoginFailed(code, message):
                    if code not in PASSING and not self._ever_ready:
                        raise refused(code, message)
                    self._lost(link, f"OKX refuses the login ({code}: {message})", True, now)
                case Reconnect(reason, slow):
                    self._lost(link, reason, slow, now)

    def _became_ready(self, link: Link, now: int) -> None:
        _log.info("connected to %s%s, %d subscriptions", self.url, " again" * self._ever_ready, len(link.session.acked))
        self._ever_ready = True
        self._trouble = ""
        self._stood.update(s[:2] for s in link.session.acked)
        self.settled.set()
        self._ended()  # nobody else may wake the one who waits for that
        for other in self._links:
            if other.leaving and other is not link:
                other.until_ms = now + _OVERLAP_MS

    def _was_refused(self, refusal: Refuse, now: int) -> None:
        key = refusal.subscription[:2]
        self._wanted.pop(key, None)
        if key in self._stood:
            self._again.add([refusal.subscription], now)
            self._retired(refusal)
            return
        self._refused(refusal)
        if not self._wanted and not self._again:
            self._stopping.set()

    def _lost(self, link: Link, reason: str, slow: bool, now: int) -> None:
        if link not in self._links:
            return
        self._drop(link)
        if link.pushes:
            self._backoff.succeeded()
        wait_s = SLOW_BACKOFF_S if slow else self._backoff.failed()
        if self._needs_dial():
            self._next_dial_ms = now + round(wait_s * 1000)
        if reason != self._trouble:
            level = logging.ERROR if slow else logging.WARNING
            then = "connecting again" if self._wanted else "nothing is subscribed there now"
            _log.log(level, "%s: %s; %s", self.url, reason, then)
        self._trouble = reason


def stop_all(clients: Iterable[OKXWebSocketClient]) -> None:
    """Close the connections of clients, and wait for their end for some seconds; tell of those that do not end."""
    every = list(clients)
    for client in every:
        client.stop()
    slow = [client.url for client in every if not client.join(_STOP_S)]
    if slow:
        _log.warning("connections that do not end: %s", ", ".join(slow))
