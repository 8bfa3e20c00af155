"""What OKX refuses, in a user's words: names that are none, and symbols that it has no longer."""

import logging
import threading
from collections.abc import Iterable, Mapping

from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.actions import Refuse
from okxcli.exchanges.okx.connection.subscribed import Seen
from okxcli.exchanges.okx.rest.instrument_list import Catalogue

_log = logging.getLogger(__name__)

#: Codes that mean: no such channel, or no such instrument on it.
_UNKNOWN = ("60018", "64001", "64002", "60008")


def explained(refusals: Iterable[Refuse], catalogue: Catalogue) -> str:
    """Return what OKX refuses and what was probably meant."""
    texts: list[str] = []
    unknown: dict[tuple[str, str], list[str]] = {}
    for refusal in refusals:
        subscription = refusal.subscription
        if refusal.code in _UNKNOWN:
            unknown.setdefault((subscription.value, refusal.code), []).append(subscription.channel)
        else:
            texts.append(f"OKX refuses {subscription} ({refusal.code}): {refusal.message}.")
    for (symbol, code), channels in unknown.items():
        near = catalogue.nearest(symbol) if symbol not in catalogue else None
        hint = f" Did you mean {near}?" if near else ""
        texts.append(f"OKX has no {symbol} on {', '.join(channels)} ({code}).{hint}")
    if any(symbol not in catalogue for symbol, _ in unknown):
        texts.append("All names: okx instruments --symbols")
    return " ".join(texts)


class Retired:
    """Symbols that stood and that OKX does not have any more. Told once each, and once when they are back."""

    def __init__(self) -> None:
        self._since_ms: dict[Subscription, int] = {}
        self._lock = threading.Lock()

    def add(self, subscriptions: Iterable[Subscription], reason: str, now: int) -> None:
        """Take note of subscriptions that are given up for now; `now` is `passed_ms`."""
        with self._lock:
            known = {subscription.value for subscription in self._since_ms}
            for subscription in subscriptions:
                self._since_ms[subscription] = now
                if subscription.value not in known:
                    known.add(subscription.value)
                    _log.warning(
                        "%s is retired: %s. The others go on; it is tried again, in the end every hour",
                        subscription.value,
                        reason,
                    )

    def look(self, seen: Mapping[Subscription, Seen]) -> None:
        """Tell which of them stand again."""
        with self._lock:
            back = [s for s, since_ms in self._since_ms.items() if s in seen and seen[s].since_ms > since_ms]
            for symbol in dict.fromkeys(subscription.value for subscription in back):
                _log.info("%s is back", symbol)
                self._since_ms = {s: since for s, since in self._since_ms.items() if s.value != symbol}

    def forget(self, subscriptions: Iterable[Subscription]) -> None:
        """Drop those that nobody wants any more."""
        with self._lock:
            for subscription in subscriptions:
                self._since_ms.pop(subscription, None)
