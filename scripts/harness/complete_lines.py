"""Candles of lines, held against whole markets: those of trades, and larger ones of candles (`--from`)."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness.damage import Event, draw, line, stream, told
from harness.whole import LENGTHS, Known, Market
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.candles.rollup import CandleRollup
from okxcli.core.codec import decode, encode
from okxcli.core.model import OHLCVCandle

Line = dict[str, object]
#: Timeframes that are made at once; a market has the pace of the first.
FRAMES = ("1s,5s", "1s,5s,1m", "5s,1m,5m", "2s,3s,6s", "1m,5m", "1s", "5s,15s,1m")
#: Those that are made of the first of them.
LARGER = ("1s,5s", "5s,15s,1m", "2s,6s", "1m,5m,15m", "5m,15m,1h", "5m,1h", "1m,5m", "15s,1m")


@dataclass
class Count:
    """What came of the markets of one kind.

    `owed` bars could be called complete by who held what came, `unsaid` are those of them that were not; both of whole
    streams only. `findings` tell the first few wrong bars.
    """

    kind: str
    markets: int = 0
    lines: int = 0
    complete: int = 0
    flat: int = 0
    wrong: int = 0
    owed: int = 0
    unsaid: int = 0
    findings: list[str] = field(default_factory=list)

    def tell(self, what: str) -> None:
        """Count something wrong."""
        self.wrong += 1
        if len(self.findings) < 200:
            self.findings.append(f"{self.kind}: {what}")


class Judge:
    """Holds closed candles against the whole market as they come, and the last of each bar at the end."""

    def __init__(self, market: Market, count: Count, seed: object, fair: bool = True) -> None:
        self.denied: set[int] = set()  # ids that were called nobody's, and have a fill
        self.excused: set[int] = set()  # such ones whose fill came too late
        self.last: dict[tuple[object, object], Line] = {}
        self.wrong: list[str] = []
        self._market = market
        self._count = count
        self._seed = seed
        self._fair = fair

    def take(self, candle: Line) -> None:
        """Judge a candle line."""
        if not candle["closed"]:
            return
        key = candle["timeframe"], candle["start"]
        before = self.last.get(key)
        if before is not None and int(str(candle["revision"])) <= int(str(before["revision"])):
            self._tell(candle, f"revision {candle['revision']} after {before['revision']}")
        self.last[key] = candle
        if candle["complete"]:
            if candle["trade_count"]:
                self._count.complete += 1
            else:
                self._count.flat += 1
            problem = self._market.judge(candle, self.denied) if self._fair else ""
            if problem:
                self._tell(candle, problem)

    def end(self) -> None:
        """Judge what each bar was in the end."""
        for candle in self.last.values():
            if candle["complete"]:
                problem = self._market.judge(candle, self.denied)
                if problem and not self._market.excuse(candle, self.denied, self.excused):
                    self._tell(candle, f"in the end {problem}")

    def _tell(self, candle: Line, problem: str) -> None:
        what = f"market {self._seed}: {candle['timeframe']} {candle['start']} rev {candle['revision']}: {problem}"
        self.wrong.append(what)
        self._count.tell(what)


# ---- candles of trades


@dataclass(frozen=True)
class Recipe:
    """A market and how candles are made of it, all drawn from a seed.

    A market that does not show how far its times step back is not `fair`: there a bar may lack what nobody could know
    of, but in the end not what came.
    """

    market: Market
    frames: str
    lateness_ms: int
    fill: bool
    partial: bool = False
    live: bool = False
    fair: bool = True


def recipe(seed: str, choices: Sequence[str] = FRAMES) -> tuple[Recipe, random.Random]:
    """Return what a seed stands for, and the chance with which to go on."""
    rng = random.Random(seed)
    frames = rng.choice(choices)
    unit = LENGTHS[frames.split(",", maxsplit=1)[0]]
    step = rng.choice([0, 0, unit // 3, unit, unit * 2 + unit // 2])
    market = draw("A-B", rng, unit, step, quiet=rng.choice([30, 30, 30, 700]))
    lateness = rng.choice([0, unit, 10_000, 10 * unit, 600_000])
    fair = not step or rng.random() < 0.85
    return Recipe(market, frames, lateness, rng.random() < 0.3, rng.random() < 0.1, rng.random() < 0.2, fair), rng


def from_trades(
    seed: str, count: Count, make: Callable[..., RealTimeCandleProcessor] = RealTimeCandleProcessor
) -> tuple[Recipe, list[Event]]:
    """Bring one damaged market to the maker of candles."""
    what, rng = recipe(f"trades/{seed}")
    if not what.fair:
        what.market.shown = []
    events = stream(what.market, rng, lies=True)
    play_trades(what, events, count, seed, make, rng)
    return what, events


def play_trades(
    what: Recipe,
    events: list[Event],
    count: Count,
    seed: object,
    make: Callable[..., RealTimeCandleProcessor] = RealTimeCandleProcessor,
    rng: random.Random | None = None,
) -> Judge:
    """Give events to the maker of candles and judge what it writes, line by line."""
    market = what.market
    judge = Judge(market, count, seed, what.fair)
    options = {"lateness_ms": what.lateness_ms, "fill": what.fill, "partial": what.partial, "live": what.live}
    maker = make(what.frames, lambda bar: judge.take(json.loads(encode(bar))), **options)
    seen: set[int] = set()
    clock, punctual = 0, True
    for event in events:
        kind, first, last = event
        ids = set(range(first, last + 1))
        if kind == "absent":
            judge.denied |= (ids & market.fills.keys()) - seen
        else:
            ts = market.fills[first].ts
            if ts < clock - what.lateness_ms and ids - seen:
                judge.excused |= ids & judge.denied if what.fair else ids
                punctual = False
            clock = max(clock, ts)
            judge.denied -= ids
            seen |= ids
        maker.feed(decode(line(market, event).encode()))
        if what.live and rng is not None and rng.random() < 0.05:
            maker.advance(clock + rng.choice([0, 500, 2_000, 30_000]))
    maker.finish()
    if not what.fair:  # nobody can know of what did not come
        judge.denied |= market.fills.keys() - seen
    judge.end()
    count.markets += 1
    count.lines += len(events)
    if punctual and what.fair and not judge.denied and not any(kind == "sweep" for kind, _, _ in events):
        _owed(what, told(events), judge, count, clock, what.frames.split(","))
    return judge


def _owed(
    what: Recipe,
    brought: tuple[set[int], list[tuple[int, int]]],
    judge: Judge,
    count: Count,
    clock: int,
    names: Sequence[str],
) -> None:
    """Count the bars that what came proves, and those of them that were not called complete."""
    known = Known(what.market, *brought)
    for name in names:
        length = LENGTHS[name]
        for start, _, proved in known.bars(length):
            if proved and start + length <= clock:
                count.owed += 1
                count.unsaid += not judge.last.get((name, start), {}).get("complete")


# ---- larger candles of candles


def parts(market: Market, held: Known, name: str, revision: int = 0) -> list[str]:
    """Return the bars of somebody who held `held`, and erred nowhere, as lines."""
    return [
        market.candle(name, start, inside, complete, revision) for start, inside, complete in held.bars(LENGTHS[name])
    ]


def damaged(lines: list[str], rng: random.Random, whole: int) -> list[str]:
    """Return candle lines as they come: begun anywhere, some missing, above all at the end of a larger bar (`whole` ms
    long), repeated, swapped.
    """
    if not lines:
        return []
    low, high = (0, len(lines)) if rng.random() < 0.4 else sorted(rng.sample(range(len(lines) + 1), 2))
    drop, last, twice, swap = (rng.choice([0, 0, 0.03, 0.15]) for _ in range(4))
    placed: list[tuple[float, str]] = []
    starts = [json.loads(one)["start"] // whole for one in lines]
    for at in range(low, high):
        ends = at + 1 == len(lines) or starts[at + 1] != starts[at]
        if rng.random() < (max(last, drop) if ends else drop):
            continue
        came = at + (rng.expovariate(1 / rng.choice([1, 10])) if rng.random() < swap else 0)
        placed.append((came, lines[at]))
        if rng.random() < twice:
            placed.append((came + rng.expovariate(1 / 20), lines[at]))
    return [one for _, one in sorted(placed, key=lambda pair: pair[0])]


def from_candles(seed: str, count: Count, make: Callable[..., CandleRollup] = CandleRollup) -> tuple[Recipe, list[str]]:
    """Bring damaged candles of one market to the maker of larger ones."""
    what, rng = recipe(f"from/{seed}", LARGER)
    if rng.random() < 0.1:  # all that there is, in order
        lines = parts(what.market, Known(what.market, what.market.ids, what.market.absent), what.frames.split(",")[0])
        judge = play_candles(what, lines, count, seed, make)
        if not what.market.step and not what.market.absent:
            brought = set(what.market.ids), what.market.absent
            _owed(
                what, brought, judge, count, max(json.loads(one)["start"] for one in lines), what.frames.split(",")[1:]
            )
        return what, lines
    lines = candle_lines(what, rng)
    play_candles(what, lines, count, seed, make)
    return what, lines


def candle_lines(what: Recipe, rng: random.Random) -> list[str]:
    """Return the candles of one stream or two, of makers that never err or of ours, damaged."""
    market, names = what.market, what.frames.split(",")
    source, whole = names[0], LENGTHS[names[-1]]
    first = {market.fills[n].ts // LENGTHS[source] for n in market.shown}
    streams = []
    for _ in range(rng.choice([1, 1, 2])):
        events = stream(market, rng, whole=0.5)
        lines = _made(what, events, rng)
        opening = [one for one in lines if json.loads(one)["start"] // LENGTHS[source] in first]
        streams.append([*opening, *_with_absent(market, damaged(lines, rng, whole), told(events)[1], rng)])
    if len(streams) == 1:
        return streams[0]
    one, other = streams
    kind = rng.random()
    if kind < 0.3:
        return one + other
    if kind < 0.6:
        return sorted(one + other, key=lambda text: int(json.loads(text).get("start", 0)))
    placed = [(at / max(len(some), 1), text) for some in streams for at, text in enumerate(some)]
    return [text for _, text in sorted(placed, key=lambda pair: pair[0])]


def _with_absent(market: Market, lines: list[str], nobody: list[tuple[int, int]], rng: random.Random) -> list[str]:
    """Return candle lines with the ids among them that are nobody's, for two of three streams."""
    lines = list(lines)
    for first, last in nobody if rng.random() < 0.7 else ():
        lines.insert(rng.randrange(len(lines) + 1), market.nobody(first, last))
    return lines


def _made(what: Recipe, events: list[Event], rng: random.Random) -> list[str]:
    """Return the bars of the smallest timeframe that a stream of fills comes to."""
    market, name = what.market, what.frames.split(",", maxsplit=1)[0]
    fills, nobody = told(events)
    if rng.random() < 0.6:
        lines = parts(market, Known(market, fills, nobody), name)
        if rng.random() < 0.3:  # the same with less, from before a repair
            fewer = {number for number in fills if number in market.shown or rng.random() < 0.8}
            old = parts(market, Known(market, fewer, nobody), name)
            new = parts(market, Known(market, fills, nobody), name, revision=1)
            placed = [(json.loads(text)["start"] + rng.choice([0, 5_000, 60_000]), text) for text in old + new]
            lines = [text for _, text in sorted(placed, key=lambda pair: pair[0])]
        return lines
    made: list[OHLCVCandle] = []
    # A fill that is too late for its bar leaves no trace in candles, and so does the step back that it shows.
    lateness = max(what.lateness_ms, 2 * market.step)
    maker = RealTimeCandleProcessor(name, made.append, lateness_ms=lateness, fill=what.fill)
    for event in events:
        maker.feed(decode(line(market, event).encode()))
    maker.finish()
    lines = [encode(bar).decode() for bar in made]
    if any(market.judge(bar) for bar in map(json.loads, lines) if bar["complete"]):
        return []  # that is for `trades` to find
    return lines


def play_candles(
    what: Recipe, lines: Iterable[str], count: Count, seed: object, make: Callable[..., CandleRollup] = CandleRollup
) -> Judge:
    """Give candle lines to the maker of larger ones and judge what it writes."""
    names = what.frames.split(",")
    judge = Judge(what.market, count, seed)
    maker = make(names[0], names[1:], lambda bar: judge.take(json.loads(encode(bar))), fill=what.fill)
    for text in lines:
        maker.feed(decode(text.encode()))
        count.lines += 1
    maker.finish()
    judge.end()
    count.markets += 1
    return judge
