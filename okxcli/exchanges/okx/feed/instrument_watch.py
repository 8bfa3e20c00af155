"""What becomes of the instruments that are streamed: by the channel that tells, and by REST where that cannot.

The channel pushes changes, not how things are. Whatever changed before its subscription stood, at the start or while
its connection was away, is found by a look at REST's lists once it stands; and of a symbol of which nothing comes any
more it is asked whether OKX still lists it.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping

from okxcli.errors import NoSuchInstrument, OkxError
from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.subscribed import Seen
from okxcli.exchanges.okx.feed.listings import CHANNEL
from okxcli.exchanges.okx.feed.mute_channels import of_instrument
from okxcli.exchanges.okx.rest.endpoints import RestClient, Row
from okxcli.exchanges.okx.rest.instrument_list import LISTED_KINDS, instrument_line, likely_kind
from okxcli.runtime.clock import passed_ms

_log = logging.getLogger(__name__)

#: Time between two tries to have a list.
_AGAIN_MS = 10_000
#: What a bad answer looks like to who reads it.
_BAD = (KeyError, TypeError, ValueError, IndexError)


class Listings:
    """Knows what instruments are. `put` adds lines, `retire` ends a symbol, `retry` has what was put off tried at once.

    `gone_ms`: all channels of a symbol are silent for so long before it is asked for, and `listed_ms` later again.
    """

    def __init__(
        self,
        rest: RestClient,
        put: Callable[[list[bytes]], None],
        retire: Callable[[str, str], None],
        retry: Callable[[], None],
        gone_ms: int,
        listed_ms: int,
    ) -> None:
        self._rest, self._put, self._retire, self._retry = rest, put, retire, retry
        self._gone_ms, self._listed_ms = gone_ms, listed_ms
        self._rows: dict[str, Row] = {}
        self._told: deque[tuple[int, Row]] = deque()
        self._told_ms: dict[str, int] = {}  # by symbol, when it was pushed last
        self._asked_ms: dict[str, int] = {}  # by symbol
        self._missing: dict[str, int] = {}
        self._stood_ms: dict[Subscription, int] = {}  # of the channel, when its list was looked at for it
        self._list_due_ms = 0

    def know(self, rows: Mapping[str, Row]) -> None:
        """Take note of what instruments are by now."""
        self._rows.update(rows)

    def told(self, row: Row) -> None:
        """Take note of a push, which is on its way as a line; from any thread. `take_told` acts on it."""
        self._told.append((passed_ms(), row))

    def take_told(self) -> None:
        """Do what the pushes since the last time ask for."""
        while self._told:
            at, row = self._told.popleft()
            self._told_ms[str(row["instId"])] = at
            self._changed(str(row["instId"]), row)

    def kind_of(self, symbol: str) -> str:
        """Return OKX's kind of a symbol, by what is known of it or else by its name."""
        return str(self._rows.get(symbol, {}).get("instType") or likely_kind(symbol))

    def missed(self, symbol: str) -> None:
        """OKX says that it has no such instrument; said twice, it is looked for at once."""
        self._missing[symbol] = self._missing.get(symbol, 0) + 1

    def found(self, symbol: str) -> None:
        """OKX has it."""
        self._missing.pop(symbol, None)

    def look(self, seen: Mapping[Subscription, Seen], now: int) -> None:
        """Look at the lists of channels that stand anew, and at a symbol that is silent, one at a time."""
        for subscription, one in seen.items():
            if subscription.channel == CHANNEL and self._stood_ms.get(subscription) != one.acked_ms:
                self._look_at_list(subscription, one.acked_ms, seen, now)
        newest: dict[str, int] = {}
        for subscription, one in seen.items():
            if of_instrument(subscription.channel):
                newest[subscription.value] = max(newest.get(subscription.value, 0), one.since_ms)
        for symbol, since_ms in newest.items():
            last_ms = self._asked_ms.get(symbol)
            urgent = self._missing.get(symbol, 0) > 1
            if now - since_ms < self._gone_ms or not (last_ms is None or now - last_ms >= self._listed_ms or urgent):
                continue
            self._asked_ms[symbol] = now
            self._missing.pop(symbol, None)
            self._look_at_instrument(symbol)
            return

    def _look_at_list(self, channel: Subscription, acked_ms: int, seen: Mapping[Subscription, Seen], now: int) -> None:
        """Tell what is not as it was known of the symbols of a kind; options have no list without a family."""
        if now < self._list_due_ms:
            return
        symbols = {subscription.value for subscription in seen if of_instrument(subscription.channel)}
        wanted = {symbol for symbol in symbols if self.kind_of(symbol) == channel.value}
        try:
            rows = self._rest.instruments(channel.value) if channel.value in LISTED_KINDS and wanted else []
            listed = {str(row["instId"]): row for row in rows}
        except (OkxError, *_BAD) as error:
            _log.debug("no look at the list of %s: %s", channel.value, error)
            self._list_due_ms = now + _AGAIN_MS
            return
        self._stood_ms[channel] = acked_ms
        self.take_told()
        # What the channel itself has pushed since it stands is newer than any list: REST answers from caches.
        pushed = {symbol for symbol, at in self._told_ms.items() if at >= acked_ms}
        for symbol in sorted((wanted & listed.keys()) - pushed):
            row, known = listed[symbol], self._rows.get(symbol)
            self._changed(symbol, row)
            if row != known:
                self._put([instrument_line(row)])

    def _look_at_instrument(self, symbol: str) -> None:
        known = self._rows.get(symbol, {})
        family = known.get("instFamily") if self.kind_of(symbol) == "OPTION" else None
        try:
            rows = self._rest.instruments(self.kind_of(symbol), family, symbol)
        except NoSuchInstrument:
            rows = []
        except (OkxError, *_BAD) as error:
            _log.debug("no look at the instrument %s: %s", symbol, error)
            return
        row = next((row for row in rows if row.get("instId") == symbol), None)
        if self._changed(symbol, row) and row is not None:
            self._put([instrument_line(row)])

    def _changed(self, symbol: str, row: Row | None) -> bool:
        """Take note of what an instrument is by now, None for nothing; return whether its state is another one."""
        known = self._rows.get(symbol, {})
        state = str(row.get("state", "")) if row is not None else "expired"
        before = str(known.get("state", "live"))
        self._rows[symbol] = (row or known) | {"state": state}
        if row is not None and state != before:
            _log.warning("%s is %s at OKX now, no longer %s", symbol, state, before)
        if state == "expired":
            self._retire(symbol, "OKX does not list it any more")
        elif before == "expired":
            self._retry()
        return state != before
