"""Markets by chance, and what becomes of them on their way to us: streams that lack fills, repeat or delay them.

A stream is a list of events (kind, first id, last id): a `fill`, a `sweep` (several fills in one line), or ids that are
called `absent`.
"""

import random

from harness.whole import Fill, Market

BEGIN_MS = 1_747_087_200_000  # 2025-05-12T22:00Z, on an hour

Event = tuple[str, int, int]


class _Drawer:
    """Draws the fills of one market."""

    def __init__(self, rng: random.Random) -> None:
        self.fills: list[Fill] = []
        self.sweeps: list[tuple[int, int]] = []
        self.absent: list[tuple[int, int]] = []
        self._rng = rng
        self._number = rng.choice([1, 1, 2, 500, 2**31 - 5, 10**12])

    def fill(self, ts: int) -> None:
        """Add the next fill."""
        rng = self._rng
        side = rng.choice(["buy", "sell"])
        self.fills.append(Fill(self._number, ts, rng.randrange(10**4, 10**7), rng.randrange(1, 10**10), side))
        self._number += 1

    def sweep(self, ts: int) -> None:
        """Add the fills of one order at one price."""
        self.fill(ts)
        first = self.fills[-1]
        for _ in range(self._rng.randrange(1, 4)):
            self.fill(ts)
            self.fills[-1] = self.fills[-1]._replace(price=first.price, side=first.side)
        self.sweeps.append((first.id, self._number - 1))

    def nobody(self) -> None:
        """Leave out some ids."""
        last = self._number + self._rng.choice([0, 0, 1, 3])
        self.absent.append((self._number, last))
        self._number = last + 1


def draw(symbol: str, rng: random.Random, unit: int, step: int, most: int = 300, quiet: int = 700) -> Market:
    """Draw a market of at most so many fills, with gaps of a few bars of `unit` ms and now and then `quiet` of them.

    Its times step back by at most `step` ms, and its first two fills show that.
    """
    made = _Drawer(rng)
    clock = BEGIN_MS + rng.randrange(60_000)
    if step:  # a fill just past an edge, and the next one as far back as any
        clock += unit - clock % unit + rng.randrange(min(step, unit))
        made.fill(clock)
        made.fill(clock - step)
    shown = [fill.id for fill in made.fills]
    nobody = rng.choice([0, 0, 0.02, 0.1])
    gaps = [0, 0, 0, 1, unit // 20, unit // 3, unit - 1, unit, unit * 5 // 2]
    rare = [unit * 5 // 2, unit * 14, unit * min(60, quiet), unit * quiet]
    seldom, even = rng.choice([0, 0.02, 0.1]), rng.choice([0, 0.1, 0.3])
    for _ in range(rng.randrange(5, most)):
        before = clock
        clock += rng.choice(rare) if rng.random() < seldom else rng.choice(gaps)
        if rng.random() < even:
            clock = max(before, clock - clock % unit)
        if rng.random() < nobody * (4 if clock // unit != before // unit else 1):
            made.nobody()
        back = rng.choice([0, 0, step // 3, step]) if step and rng.random() < 0.4 else 0
        if rng.random() < 0.03:
            made.sweep(clock - back)
        else:
            made.fill(clock - back)
    return Market(symbol, made.fills, made.absent, step, made.sweeps, shown)


def stream(
    market: Market, rng: random.Random, lies: bool = False, merged: bool = True, whole: float = 0.15
) -> list[Event]:
    """Return what one stream brings of a market; a share of `whole` bring all of it, in order.

    With `lies` ids are called absent whose fills then come all the same, `merged` lets sweeps come as one line. The
    fills that show how far times step back come first, for what was never shown nobody can know.
    """
    clean = rng.random() < whole
    placed = _placed(market, rng, clean, lies and not clean, merged)
    if not clean and rng.random() < 0.2:
        placed += _placed(market, rng, False, False, merged)
    return [event for _, event in sorted(placed, key=lambda one: one[0])]


def _placed(market: Market, rng: random.Random, clean: bool, lies: bool, merged: bool) -> list[tuple[float, Event]]:
    ids, count = market.ids, len(market.ids)
    low, high = (0, count) if clean or rng.random() < 0.4 else sorted(rng.sample(range(count + 1), 2))
    drop, late, twice = (0.0, 0.0, 0.0) if clean else (rng.choice([0, 0, 0.02, 0.2]) for _ in range(3))
    far = rng.choice([1.0, 5.0, 40.0])
    swept = {number for first, last in market.sweeps for number in range(first, last + 1)}
    one_by_one = rng.choice([0.0, 1.0, 1.0, 0.7]) if merged else 1.0
    gone = set(market.shown)
    if not clean and rng.random() < 0.3:
        at = rng.randrange(count)
        gone |= set(ids[at : at + rng.randrange(1, 30)])
    placed: list[tuple[float, Event]] = [(at - 9e9, ("fill", n, n)) for at, n in enumerate(market.shown)]

    def place(at: float, event: Event) -> None:
        if rng.random() < drop:
            return
        came = at + (rng.expovariate(1 / far) if rng.random() < late else 0)
        placed.append((came, event))
        if rng.random() < twice:
            placed.append((came + rng.expovariate(1 / 20), event))
        if lies and came > at + 0.5 and rng.random() < 0.5:
            placed.append((rng.uniform(at, came), ("absent", event[1], event[2])))

    for at in range(low, high):
        if ids[at] not in gone and (ids[at] not in swept or rng.random() < one_by_one):
            place(float(at), ("fill", ids[at], ids[at]))
    at_of = {number: at for at, number in enumerate(ids)}
    for first, last in market.sweeps:
        if rng.random() > one_by_one and low <= at_of[first] < high and not gone & set(range(first, last + 1)):
            place(float(at_of[first]), ("sweep", first, last))
    for first, last in market.absent:
        at = at_of[last + 1]
        if clean or (low - 2 < at < high + 2 and rng.random() < 0.8):
            came = at - 0.5 if clean else at + rng.choice([-3, -1.5, -0.5, -0.5, 0.5, 1.5, 9])
            placed.append((came, ("absent", first, last)))
    return placed


def told(events: list[Event]) -> tuple[set[int], list[tuple[int, int]]]:
    """Return the ids of the fills that a stream brings, and what it calls absent."""
    fills = {n for kind, first, last in events if kind != "absent" for n in range(first, last + 1)}
    return fills, [(first, last) for kind, first, last in events if kind == "absent"]


def line(market: Market, event: Event) -> str:
    """Return an event as the line that brings it."""
    kind, first, last = event
    return market.nobody(first, last) if kind == "absent" else market.trade(first, last)
