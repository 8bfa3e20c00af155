"""Random interleavings of sockets and REST: whatever comes when, each id is written once, proved absent, or told."""

import json
import logging
import random
import re
from collections import deque
from functools import partial

import pytest

from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.okx.feed.gap_tracker import GapTracker
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.rest.history import TradeHistory

SYMBOL = "A-B"
_TOLD = re.compile(r"fills ([0-9, to]+) are missing")


def push(number):
    row = {"instId": SYMBOL, "tradeId": str(number), "px": "1", "sz": "1", "side": "buy", "ts": str(number)}
    return json.dumps(
        {"arg": {"channel": "trades-all", "instId": SYMBOL}, "data": [row]}, separators=(",", ":")
    ).encode()


class Nodes:
    """REST as OKX has it: nodes with caches of their own, of which some are behind, short, empty, or fail."""

    def __init__(self, dice, there, horizon, trouble):
        self.dice, self.there, self.horizon, self.trouble = dice, there, horizon, trouble
        self.head = 0

    def _rows(self):
        """Return the newest fill that some node has, and whether its page is cut short."""
        node = self.dice.choice(("behind", "short", "empty", "fails")) if self.dice.random() < self.trouble else ""
        if node == "fails":
            raise ExchangeUnavailable("busy")
        return self.head - (self.dice.randint(1, 30) if node == "behind" else 0), node

    def history_trades(self, symbol, after=None, by_time=False, limit=100):
        top, node = self._rows()
        found = [n for n in self.there if self.horizon <= n <= top and (after is None or n < after)][-limit:]
        found = [] if node == "empty" else found[self.dice.randint(0, len(found)) :] if node == "short" else found
        return [json.loads(push(n))["data"][0] for n in reversed(found)]

    def trade_pages(self, symbol, after, down_to=1):
        return RestClient.trade_pages(self, symbol, after, down_to)

    def trades(self, symbol, limit=500):
        return self.history_trades(symbol, None, limit=limit)


class Memory:
    """An overflow of so many lines."""

    def __init__(self, room):
        self.lines, self.room = deque(), room

    def put(self, line):
        if len(self.lines) < self.room:
            self.lines.append(line)
            return True
        return False

    def take(self, size):
        return [self.lines.popleft() for _ in range(min(len(self.lines), max(1, size >> 18)))]


class Run:
    """One symbol from its first push to the end of the stream, in an order that the dice choose."""

    def __init__(self, seed):
        dice = self.dice = random.Random(seed)
        self.count = dice.randint(5, 400)
        absent = {n for n in range(2, self.count) if dice.random() < dice.choice((0, 0, 0.05))}
        self.absent = absent
        self.there = [n for n in range(1, self.count + 1) if n not in absent]
        start = dice.randint(1, self.count)
        horizon = dice.choice((0, 0, 0, dice.randint(1, start)))
        self.rest = Nodes(dice, self.there, horizon, dice.choice((0, 0.2, 0.5, 0.9)))
        self.history = TradeHistory(self.rest, sleep=lambda s: None, clock=lambda: 10 * self.count)
        kind = dice.choice(("present", "present", "since", "resume"))
        self.since = dice.randint(1, start) if kind == "since" else None
        resume = {SYMBOL: dice.randint(0, start)} if kind == "resume" else {}
        self.begin = resume.get(SYMBOL)
        bounds = {"max_lines": dice.choice((5, 20, 20_000)), "evidence_ms": dice.choice((2_000, 60_000))}
        overflow = partial(Memory, dice.choice((0, 10, 1_000)))
        self.holes = GapTracker([SYMBOL], overflow=overflow, since=kind == "since", resume=resume, **bounds)
        self.pushed = self._pushed(start)
        self.rest.head = start
        self.out = []
        self.jobs = deque()  # [fetch, pages]: answers under way
        self.now = 0

    def _pushed(self, start):
        """Return what the socket brings, in its order: outages, drops, fills that come twice, late, or old at first."""
        dice, found, away = self.dice, [], 0
        for n in [n for n in self.there if n >= start]:
            away = away - 1 if away else dice.randint(1, 60) if dice.random() < 0.02 else 0
            if not away and dice.random() > 0.05:
                found += [n] * dice.choice((1, 1, 1, 1, 2))
        for _ in range(dice.choice((0, 0, 1, 8))):
            if len(found) > 1:
                at = dice.randrange(len(found) - 1)
                found.insert(dice.randint(max(0, at - 8), at), found.pop(at + 1))
        if dice.random() < 0.3 and self.there[0] < start:
            found.insert(0, dice.choice([n for n in self.there if n < start]))
        return deque(found)

    def _ask(self):
        for fetch in self.holes.fetches(self.now):
            if self.jobs and self.dice.random() < 0.1:
                self.jobs.appendleft([fetch, None])
            else:
                self.jobs.append([fetch, None])

    def _answer(self):
        """Take one page of some answer, as the threads of `Repair` do."""
        at = self.dice.randrange(len(self.jobs))
        fetch, pages = self.jobs[at]
        if not self.holes.wanted(fetch):
            del self.jobs[at]
            return
        try:
            if pages is None:
                if fetch.first is None:
                    pages = self.history.trades(SYMBOL, self.since)
                else:
                    last = self.history.newest(SYMBOL)[0] if fetch.last is None else fetch.last
                    pages = self.history.range(SYMBOL, fetch.first, last, fetch.known)
                self.jobs[at][1] = pages
            page = next(pages, None)
        except ExchangeUnavailable as error:
            del self.jobs[at]
            self.out += self.holes.failed(fetch, self.now, str(error), self.dice.random() < 0.05)
            return
        if page is not None:
            self.out += self.holes.page(fetch, page, self.now)
        else:
            del self.jobs[at]
            self.out += self.holes.ended(fetch, self.now)

    def step(self):
        choice = self.dice.random()
        if choice < 0.5 and self.pushed:
            some = [self.pushed.popleft() for _ in range(min(len(self.pushed), self.dice.randint(1, 12)))]
            self.rest.head = max(self.rest.head, *some)
            self.out += self.holes.feed([push(n) for n in some], self.now, overlap=self.dice.random() < 0.1)
        elif choice < 0.9 and self.jobs:
            self._answer()
        else:
            self.now += self.dice.choice((10, 100, 1_000, 12_000))
        self.out += self.holes.tick(self.now)
        self._ask()

    def to_the_end(self):
        while self.pushed:
            self.step()
        for _ in range(self.dice.choice((0, 30, 300))):
            self.step()
        while lines := self.holes.release():
            self.out += lines
        return self


def told(text):
    """Return the ids that warnings tell as missing."""
    found = set()
    for part in ",".join(_TOLD.findall(text)).split(","):
        low, _, high = part.strip().partition(" to ")
        found |= set(range(int(low), int(high or low) + 1)) if low else set()
    return found


def kinds(lines):
    """Return the ids that are written, in their order, and those that are told to be absent."""
    found = [json.loads(line) for line in lines]
    written = [int(row["tradeId"]) for one in found for row in one.get("data", ())]
    absent = {n for one in found if "event" in one for n in range(int(one["first"]), int(one["last"]) + 1)}
    return written, absent


@pytest.mark.parametrize("part", range(15))
def test_every_id_is_written_once_absent_or_told(part, caplog):
    """Of 1,500 interleavings, in each: between the first and the last id that came out, none is lost unsaid."""
    caplog.set_level(logging.WARNING, "okxcli")
    bad = []
    for seed in range(part * 100, part * 100 + 100):
        caplog.clear()
        run = Run(seed).to_the_end()
        written, absent = kinds(run.out)
        missing = told(caplog.text)
        first = min(written, default=1) if run.begin is None else run.begin + 1
        lost = set(range(first, max(written, default=0) + 1)) - set(written) - absent - missing
        if lost or len(written) != len(set(written)) or not absent <= run.absent or not set(written) <= set(run.there):
            bad.append((seed, sorted(lost), sorted(absent - run.absent), len(written) - len(set(written))))
    assert not bad
