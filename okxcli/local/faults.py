"""What can go wrong on purpose, as state that the server looks at, and as a schedule that users write.

A spec is `NAME[=VALUE][:SYMBOL][@WHEN]`: `cut@10s` once after ten seconds, `drop=5:BTC-USDT@every:30s` again and
again, `delay=200ms` from the start. Times are those of the wall clock.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from okxcli.errors import UsageError

ANY = "*"

#: Name: (what its value is, what it does). The values: none, a count, a duration, or a channel.
FAULTS: dict[str, tuple[str, str]] = {
    "cut": ("none", "close every connection without a close frame"),
    "notice": ("duration", "announce a service upgrade (64008) on public connections, close all after this long"),
    "mute": ("channel", "a channel is acked and pushes nothing any more (* for all)"),
    "unmute": ("none", "end every mute"),
    "drop": ("count", "leave so many fills out of the pushes; REST has them"),
    "lose": ("count", "lose so many fills for good: their ids exist nowhere"),
    "duplicate": ("count", "push so many fills twice"),
    "book-gap": ("count", "leave so many updates of books out of the pushes"),
    "book-reset": ("none", "let the numbers of books begin anew, lower"),
    "book-cross": ("duration", "let bids stand above asks for this long"),
    "no-snapshot": ("duration", "begin subscriptions of books without a snapshot for this long"),
    "delist": ("none", "take a symbol off the lists: it is expired, and silent"),
    "list": ("none", "list a symbol again"),
    "delay": ("duration", "push everything so much later"),
    "refuse": ("duration", "refuse new connections for this long"),
    "freeze": ("none", "leave every connection half open: no byte comes or goes, and no end"),
    "no-ack": ("duration", "ignore every request for this long"),
    "no-pong": ("duration", "leave every ping without an answer for this long"),
    "busy": ("duration", "answer REST with 429 for this long"),
    "html": ("duration", "answer REST with an HTML page and 503 for this long"),
    "stale-rest": ("duration", "answer REST now and then from a cache so far behind"),
    "slow-rest": ("duration", "let every REST answer take so long"),
}

_SPEC = re.compile(
    r"(?P<name>[a-z-]+)(?:=(?P<value>[^:@]+))?(?::(?P<symbol>[A-Za-z0-9_*-]+))?(?:@(?P<when>.+))?", re.ASCII
)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", re.ASCII)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Planned(NamedTuple):
    """A fault that happens `after_s` seconds after the start, and every `every_s` seconds again if that is set."""

    name: str
    number: int
    seconds: float
    channel: str
    symbol: str
    after_s: float
    every_s: float | None


def parse_fault(spec: str) -> Planned:
    """Return the fault that `spec` describes.

    Raises:
        UsageError: it describes none; the text says what is wrong.
    """
    found = _SPEC.fullmatch(spec)
    if found is None or found["name"] not in FAULTS:
        raise UsageError(f"not a fault: {spec!r}. Write NAME[=VALUE][:SYMBOL][@WHEN]; names: {', '.join(FAULTS)}")
    name, value, when = found["name"], found["value"], found["when"]
    kind = FAULTS[name][0]
    if kind == "none" and value is not None:
        raise UsageError(f"fault {spec!r}: {name} takes no value")
    count, seconds, channel = 1, 5.0, ANY
    if value is not None:
        if kind == "count":
            if not (value.isascii() and value.isdigit() and 0 < int(value) < 10**9):
                raise UsageError(f"fault {spec!r}: {name} takes a count, not {value!r}")
            count = int(value)
        elif kind == "duration":
            seconds = _seconds(value, spec)
        else:
            channel = value
    after_s, every_s = 0.0, None
    if when is not None:
        every = when.startswith("every:")
        after_s = _seconds(when.removeprefix("every:"), spec)
        every_s = after_s if every else None
        if every and after_s <= 0:
            raise UsageError(f"fault {spec!r}: every: takes a time above zero")
    return Planned(name, count, seconds, channel, found["symbol"] or ANY, after_s, every_s)


def _seconds(text: str, spec: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"fault {spec!r}: not a duration: {text!r}. Write 500ms, 30s or 2m")
    return float(found[1]) * _UNIT_S[found[2]]


@dataclass
class Faults:
    """The faults that are on. Moments are seconds of the monotonic clock; counts are by symbol."""

    muted: set[tuple[str, str]] = field(default_factory=set)
    drop: Counter[str] = field(default_factory=Counter)
    lose: Counter[str] = field(default_factory=Counter)
    duplicate: Counter[str] = field(default_factory=Counter)
    book_gap: Counter[str] = field(default_factory=Counter)
    book_reset: Counter[str] = field(default_factory=Counter)
    book_cross: dict[str, float] = field(default_factory=dict)
    no_snapshot_until: float = 0.0
    delay_s: float = 0.0
    refuse_until: float = 0.0
    no_pong_until: float = 0.0
    no_ack_until: float = 0.0
    busy_until: float = 0.0
    html_until: float = 0.0
    stale_rest_s: float = 0.0
    slow_rest_s: float = 0.0

    def is_muted(self, channel: str, symbol: str) -> bool:
        """Tell whether pushes of `channel` and `symbol` are swallowed."""
        if not self.muted:
            return False
        return not self.muted.isdisjoint(((channel, symbol), (channel, ANY), (ANY, symbol), (ANY, ANY)))

    def clear(self) -> None:
        """Switch everything off."""
        for name, value in vars(Faults()).items():
            setattr(self, name, value)

    def apply(self, planned: Planned, symbols: list[str], now_s: float) -> None:
        """Switch on a planned fault that is state; `cut`, `freeze`, `notice` and `list` are acts, and the server's."""
        name = planned.name.replace("-", "_")
        chosen = symbols if planned.symbol == ANY else [planned.symbol]
        if name in ("drop", "lose", "duplicate", "book_gap", "book_reset"):
            for symbol in chosen:
                getattr(self, name)[symbol] += planned.number
        elif name == "book_cross":
            self.book_cross |= dict.fromkeys(chosen, now_s + planned.seconds)
        elif name == "mute":
            self.muted.add((planned.channel, planned.symbol))
        elif name == "unmute":
            self.muted.clear()
        elif name in ("delay", "stale_rest", "slow_rest"):
            setattr(self, f"{name}_s", planned.seconds)
        elif name in ("refuse", "no_snapshot", "no_pong", "no_ack", "busy", "html"):
            setattr(self, f"{name}_until", now_s + planned.seconds)


def use_up(counts: Counter[str], symbol: str) -> bool:
    """Take one of the planned `counts` of `symbol`; False when none is left."""
    if counts.get(symbol, 0) <= 0:  # faster than for a Counter's own 0, and asked for every fill
        return False
    counts[symbol] -= 1
    return True
