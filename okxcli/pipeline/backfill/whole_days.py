"""Whole days from bulk files instead of thousands of pages of REST: which, fetched, and into the database.

The exchange says where its files cut the days. A file that it does not have, or that cannot be had whole, is no
failure: its REST is asked for that day.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from okxcli.core.model import StandardizedTrade
from okxcli.errors import InvalidLine, OutputError, TryLater
from okxcli.exchanges.interface import Exchange
from okxcli.exchanges.registry import files_of
from okxcli.pipeline.backfill.fetch_plan import Days, Plan
from okxcli.pipeline.bulk_import import BulkLoader
from okxcli.runtime.clock import now_ms
from okxcli.runtime.proxy import Proxies
from okxcli.storage.database import Database
from okxcli.storage.schema.partitions import DAY_MS

_log = logging.getLogger(__name__)

#: A file costs as much time as so many pages of REST, at the pace that backfill keeps: some four seconds.
WORTH_PAGES = 20


@dataclass
class BulkFiles:
    """Bulk files of whole days, from `base_url` by way of `folder`, where they are kept.

    `timeframes` are the bars that are made of them, with `fill` flat ones too. `stopped` is asked now and then whether
    to end early.
    """

    database: Database
    base_url: str | None
    folder: Path
    timeframes: Sequence[str]
    _: KW_ONLY
    source: Exchange
    fill: bool = False
    describe: Callable[[str], list[bytes]] = lambda symbol: []
    stopped: Callable[[], bool] = lambda: False
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], int] = now_ms
    proxies: Proxies = field(default_factory=Proxies)

    def __post_init__(self) -> None:
        """Find out how the exchange's files are fetched."""
        self._files = files_of(self.source)
        self._loader = self._files.downloader(
            self.base_url, self.folder, sleep=self.sleep, stop=self.stopped, quiet=True, proxies=self.proxies
        )
        self._fetched: dict[Days, list[Path]] = {}

    def choose(self, spans: Iterable[tuple[int, int, int]]) -> list[Days]:
        """Return the days to take from files, oldest first, of spans of time (ms) that lack so many fills.

        Those that lie whole in a span, are published by now, and would cost more pages than a file is worth, or of
        which REST has nothing any more; the fills of a span are taken to be spread evenly over it.
        """
        now, offset = self.clock(), self._files.offset_ms
        found: list[Days] = []
        for count, since, until in spans:
            edge = (now - self.source.horizon_ms + offset) // DAY_MS
            first = -(-(since + offset) // DAY_MS)
            last = (min(until, now - self._files.published_ms) + offset) // DAY_MS
            # What REST has told the ids of is younger than that: the older days of a beginning are not counted in.
            a_day = count * DAY_MS / (until - max(since, edge * DAY_MS - offset)) if until > since else 0
            if a_day < WORTH_PAGES * self.source.page:
                last = min(last, edge)
            if first < last:
                held = min(count, round(count * (last - first) * DAY_MS / (until - since)))
                found.append(Days(first * DAY_MS - offset, last * DAY_MS - offset, held))
        return sorted(found)

    def fetch(self, plan: Plan) -> list[Path]:
        """Fetch the files of a plan's days, as far as they can be had, and say once what REST is asked for instead."""
        self._loader.missing.clear()
        reason = ""
        for days in plan.days:
            if self.stopped():
                break
            try:
                self._fetched[days] = self._loader.fetch(plan.symbol, days.since_ms, days.until_ms, self.clock())
            except (OutputError, TryLater) as error:
                reason = str(error)
        missing = self._loader.missing
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            reason = f"{missing[0]}{more} cannot be had from {self.base_url or self._files.url}"
        if reason and not self.stopped():
            _log.warning("%s: asking REST instead of bulk files: %s", plan.symbol, reason)
        return [path for days in plan.days for path in self._fetched.get(days, ())]

    def load(self, plan: Plan, counts: Counter[str]) -> None:
        """Store what the files of a plan's days hold, and the bars of it; what they lack is still to be asked for."""
        symbol = plan.symbol
        paths = self.fetch(plan)
        for days in plan.days:
            some = [path for path in paths if path in self._fetched.get(days, ())]
            if not some or self.stopped():
                continue
            loader = BulkLoader(
                self.database,
                [symbol],
                self.timeframes,
                days.since_ms,
                days.until_ms,
                self.fill,
                self.describe,
                source=self.source,
            )
            counts["candles"] += loader.load(some, self.stopped).candles
            counts.update(loader.by_symbol[symbol])

    def fills(self, plan: Plan, since_ms: int, until_ms: int) -> Iterator[StandardizedTrade]:
        """Yield the fills of a plan's days within a span from the files that were fetched, by rising id."""
        normalizer = self.source.normalizer()
        for days in plan.days:
            paths = self._fetched.get(days, [])
            if not paths or days.since_ms < since_ms or days.until_ms > until_ms:
                continue
            archive = self._files.archive(paths, [plan.symbol], since_ms=days.since_ms, until_ms=days.until_ms)
            for lines in archive.lines():
                for raw in lines:
                    try:
                        found = normalizer.feed(raw)
                    except InvalidLine as reason:
                        _log.warning("%s: a row of a bulk file: %s", plan.symbol, reason)
                        continue
                    yield from (one for one in found if isinstance(one, StandardizedTrade) and one.origin == "file")
