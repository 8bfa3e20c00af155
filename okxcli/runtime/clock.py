"""The wall clock, and the times and durations that users write."""

import logging
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from okxcli.errors import Early, UsageError

_log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)", re.ASCII)


def now_ms() -> int:
    """Return the wall clock in milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def passed_ms() -> int:
    """Return milliseconds of a clock that never steps; its beginning means nothing."""
    return time.monotonic_ns() // 1_000_000


class SteadyClock:
    """Milliseconds since the epoch that never step, whatever happens to the wall clock.

    It is the wall clock as it was when this was made, and time that has passed since. `correct` moves it, for who
    knows better, and from then on it is `known` to be right: until then nothing tells one that is ahead from a right
    one. Safe to call from several threads.
    """

    def __init__(self, wall_ms: Callable[[], int] = now_ms, passed_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._passed_ns = passed_ns
        self._begin_ms = wall_ms() - passed_ns() // 1_000_000
        self.known = False

    def __call__(self) -> int:
        return self._begin_ms + self._passed_ns() // 1_000_000

    def correct(self, by_ms: int) -> None:
        """Move the clock by so much, back where it is negative."""
        self._begin_ms += by_ms
        self.known = True


class ClockDoubt:
    """Notices that it is our own clock that is wrong: so many trades of a symbol in a row come from its future."""

    #: In a row: their ids follow on each other. One wild time, or a few, say nothing about a clock.
    IN_A_ROW = 20

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, int]] = {}  # the last id of a symbol's, and how many there were
        self._told = False

    def note(self, refused: Iterable[Early]) -> None:
        """Take note of trades that were refused for their time; say it, once, when they are too many."""
        for one in refused:
            last, count = self._rows.get(one.symbol, (0, 0))
            count = count + 1 if one.first == last + 1 else 1
            self._rows[one.symbol] = one.last, count
            if count >= self.IN_A_ROW and not self._told:
                self._told = True
                _log.warning(
                    "%d trades of %s in a row come from the future: it must be this machine's clock that is behind, by"
                    " %.1f h at least. Set it by NTP. The trades are refused; what is in quarantine comes back with:"
                    " okx db quarantine --retry",
                    *(count, one.symbol, one.ahead_ms / 3_600_000),
                )


def parse_duration(text: str) -> float:
    """Return the seconds that `30s`, `10m`, `2h`, `1d`, `1h30m` or a bare number of seconds stand for.

    Raises:
        UsageError: not a duration, or none at all.
    """
    whole = text.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", whole, re.ASCII):
        whole += "s"
    parts = _DURATION.findall(whole)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != whole or not seconds > 0:
        raise UsageError(f"not a duration: {text!r}. Write 30s, 10m, 2h or 1d")
    return seconds


def parse_interval(text: str) -> int:
    """Return the milliseconds of an interval such as `100ms`, `1s`, `1m`; intervals are counted from 1970, UTC.

    Raises:
        UsageError: it is none of 10 ms to a day, to the millisecond.
    """
    length_ms = parse_duration(text) * 1000
    if not 10 <= length_ms <= 86_400_000 or length_ms != round(length_ms):
        raise UsageError(f"no interval: {text!r}. Write 100ms, 1s or 1m: from 10ms to 1d")
    return round(length_ms)


def parse_time(text: str, now: int) -> int:
    """Return the moment that `text` names, in milliseconds since the epoch.

    Takes ISO 8601 (`2026-05-18`, `2026-05-18T16:00Z`; without a zone it is UTC), epoch milliseconds, a duration
    before `now` (`2h`), `now`, and `today` or `yesterday` (midnight, UTC).

    Raises:
        UsageError: it is none of these.
    """
    word = text.strip()
    midnight = now - now % 86_400_000
    fixed = {"now": now, "today": midnight, "yesterday": midnight - 86_400_000}
    if word in fixed:
        return fixed[word]
    if re.fullmatch(r"[0-9]{12,14}", word, re.ASCII):
        return int(word)
    if _DURATION.match(word) and not re.match(r"[0-9]{4}-", word, re.ASCII):
        return now - round(parse_duration(word) * 1000)
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        raise UsageError(f"not a time: {text!r}. Write 2026-05-18, 2026-05-18T16:00Z, epoch ms, 2h or today") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def iso(ms: int) -> str:
    """Return `ms` as ISO 8601 in UTC, with milliseconds only where there are any."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")
