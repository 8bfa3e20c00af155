"""Candles that are stored, held against whole markets: several collectors, restarts, mending, and fills from REST."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from harness.complete_lines import Count
from harness.damage import Event, draw, line, stream
from harness.whole import LENGTHS, PRICE_PLACES, SIZE_PLACES, Known, Market, text
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.candles.rollup import CandleRollup
from okxcli.core.codec import decode
from okxcli.core.timeframes import parse_list
from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.exchanges.registry import exchange
from okxcli.pipeline.backfill import Backfill, Tools
from okxcli.storage.candles.live_mending import LiveMender
from okxcli.storage.candles.open_bars import reopen
from okxcli.storage.database import open_database
from okxcli.storage.write.writer import Writer

#: Bars are short, so that a market of a thousand fills has hundreds.
FRAMES = ("1s,5s", "1s,5s,1m", "2s,3s,6s", "1s", "5s,15s,1m")
#: How often complete bars are looked at: when the collectors have brought all they had, when `backfill` has made what
#: it can of that, with REST away, and when REST has given it the rest.
STEPS = ("collected", "mended", "fetched")
_COLLECTORS = 3
_COMPLETE = """
SELECT symbol, timeframe, (extract(epoch FROM start) * 1000)::bigint, (extract(epoch FROM timestamp) * 1000)::bigint,
    open::text, high::text, low::text, close::text, volume::text, base_volume::text, quote_volume::text,
    buy_volume::text, trade_count, first_trade_id, last_trade_id
FROM market_data WHERE origin = 'trades' AND closed AND complete
"""
_NAMES = ("symbol", "timeframe", "start", "timestamp", "open", "high", "low", "close", "volume", "base_volume",
          "quote_volume", "buy_volume", "trade_count", "first_trade_id", "last_trade_id")  # fmt: skip


class Nodes:
    """REST as `rest.endpoints.RestClient` gives it, answered from whole markets. Some answers are old."""

    def __init__(self, markets: Iterable[Market], rng: random.Random) -> None:
        self.away = False
        self._rng = rng
        self._rows = {market.symbol: [_row(market, n) for n in reversed(market.ids)] for market in markets}

    def _shown(self, symbol: str) -> list[dict[str, str]]:
        """Return the fills that the node that answers knows of, newest first."""
        if self.away:
            raise ExchangeUnavailable("no answer from OKX: it is away")
        rows = self._rows[symbol]
        return rows if self._rng.random() > 0.05 else rows[self._rng.randrange(min(len(rows), 5)) :]

    def trades(self, symbol: str, limit: int = 500) -> list[dict[str, str]]:
        """Return the newest fills, newest first."""
        return self._shown(symbol)[:limit]

    def history_trades(
        self, symbol: str, after: int, *, by_time: bool = False, limit: int = 100
    ) -> list[dict[str, str]]:
        """Return the fills below an id, newest first; by time, those below the newest one before that moment too."""
        rows = self._shown(symbol)
        key = "ts" if by_time else "tradeId"
        at = next((at for at, row in enumerate(rows) if int(row[key]) < after), len(rows))
        return rows[at : at + limit]

    def trade_pages(self, symbol: str, after: int, down_to: int = 1) -> Iterator[list[dict[str, str]]]:
        """Yield the pages below an id."""
        while after > down_to and (page := self.history_trades(symbol, after)):
            yield page
            after = int(page[-1]["tradeId"])


def _row(market: Market, number: int) -> dict[str, str]:
    fill = market.fills[number]
    row = {"instId": market.symbol, "side": fill.side, "sz": text(fill.size, SIZE_PLACES)}
    return row | {"px": text(fill.price, PRICE_PLACES), "source": "0", "tradeId": str(number), "ts": str(fill.ts)}


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def __call__(self) -> int:
        """Return the time in ms."""
        return self._now_ms

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ms += int(seconds * 1000)


@dataclass
class Symbol:
    """A market, and what has been brought of it so far: ids stored, ids in sweeps, ids that were called nobody's.

    `streams` are what is still to come, one of each collector. A market that does not show how far its times step back
    is not `fair`: there a bar may lack what nobody could know of, but not what is stored.
    """

    market: Market
    fair: bool
    streams: list[list[Event]] = field(default_factory=list)
    brought: set[int] = field(default_factory=set)
    swept: set[int] = field(default_factory=set)
    denied: set[int] = field(default_factory=set)

    def note(self, event: Event) -> None:
        """Remember what an event brings."""
        ids = range(event[1], event[2] + 1)
        if event[0] == "absent":
            self.denied.update(ids)
        else:  # a sweep is part of candles, and not of the tape
            (self.swept if event[0] == "sweep" else self.brought).update(ids)

    def next(self, number: int, share: float, lost: int) -> list[Event]:
        """Return what a collector brings until it stops, a share of what is left; `lost` more pass meanwhile."""
        events = self.streams[number] if number < len(self.streams) else []
        at = len(events) if share == 1 else int(len(events) * share)
        if at < len(self.market.shown):
            return []
        self.streams[number : number + 1] = [events[at + lost :]]
        return events[:at]


class Round:
    """Many markets in one database, through the same timeframes; `tape` says whether fills are stored.

    `told` gets what happens, a text each. `most` is how many fills a market has.
    """

    def __init__(
        self,
        seed: str,
        dsn: str,
        tape: bool,
        symbols: int,
        most: Iterable[int] = (40, 300, 2_000),
        told: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.rng = rng = random.Random(seed)
        self._seed = seed
        self.tape = tape
        self._tell = told
        self.frames = rng.choice(FRAMES)
        self._fill = rng.random() < 0.4
        self._merged = rng.random() < 0.15
        self._lateness = rng.choice([0, 2_000, 10_000, 60_000])
        self._rows_lost = False
        self.symbols: dict[str, Symbol] = {}
        for number in range(symbols):
            one = self._symbol(f"M{number}-S", rng.choice(list(most)))
            self.symbols[one.market.symbol] = one
        newest = max(fill.ts for one in self.symbols.values() for fill in one.market.fills.values())
        self.clock = Clock(newest + 3_600_000)
        self._nodes = Nodes((one.market for one in self.symbols.values()), rng)
        self._database = open_database(dsn, create=True)
        self.connection = self._database.connect()
        told(f"frames {self.frames} fill {self._fill} lateness {self._lateness} merged {self._merged}")

    def _symbol(self, name: str, most: int) -> Symbol:
        rng = self.rng
        unit = LENGTHS[self.frames.split(",", maxsplit=1)[0]]
        step = rng.choice([0, 0, unit // 3, unit, unit * 2 + unit // 2])
        if not self.tape and self._lateness < 2 * step:
            step = 0  # a fill that is too late for its bar leaves no trace in candles, nor does the step that it shows
        market = draw(name, rng, unit, step, most, quiet=30)
        fair = not step or rng.random() < 0.8
        if not fair:
            market.shown = []
        streams = [stream(market, rng, self.tape, self._merged) for _ in range(rng.choice([1, 2, _COLLECTORS]))]
        return Symbol(market, fair, streams)

    def close(self) -> None:
        """Close the database."""
        self.connection.close()
        self._database.close()

    def play(self) -> dict[str, Count]:
        """Bring everything, mend it, fetch the rest, and look after each step; return what was seen, by step."""
        rng = self.rng
        for last in [False] * rng.randrange(3) + [True]:
            self._collect(last)
            if not last and rng.random() < 0.2:
                self._backfill(away=rng.random() < 0.5)
        found = {"collected": self.look("collected")}
        self._wear()
        self._backfill(away=True)
        found["mended"] = self.look("mended")
        self._backfill(away=False)
        found["fetched"] = self.look("fetched")
        return found

    def _wear(self) -> None:
        """Lose some bars, and rows of fills behind the ledger's back; another process may have dropped them."""
        if self.rng.random() < 0.3:
            lose = "DELETE FROM market_data WHERE mod(trade_count + last_trade_id, 6) = 0"
            for name, one in self.symbols.items():  # candles alone: nothing else shows how far times step back
                shown = 0 if self.tape else max(one.market.shown, default=0)
                self.connection.execute(f"{lose} AND symbol = %s AND first_trade_id > %s", [name, shown])
            self._tell("bars are lost")
        if self.tape and self.rng.random() < 0.2:
            self.connection.execute("DELETE FROM raw_trades WHERE mod(trade_id, 23) = 0")
            self._rows_lost = True
            self._tell("rows are lost")

    # ---- collectors

    def _collect(self, last: bool) -> None:
        """Run the collectors side by side, each from its start to a stop or a kill; the last time to their end."""
        rng = self.rng
        running = [self._collector() for _ in range(_COLLECTORS)]
        queues = []
        for number, one in enumerate(running):
            share, lost = 1.0 if last else rng.random(), rng.randrange(4)
            for symbol in self.symbols.values():
                events = symbol.next(number, share, lost)
                if events:
                    one.begin(symbol)
                    queues.append((one, symbol, iter(events)))
                    self._tell(f"collector {number}, {'going on' if one.goes_on else 'anew'}: {events}")
        while queues:
            chosen = rng.choice(queues)
            for _ in range(rng.randrange(1, 40)):
                event = next(chosen[2], None)
                if event is None:
                    queues.remove(chosen)
                    break
                chosen[0].take(chosen[1], event)
            if rng.random() < 0.01:
                chosen[0].commit()
        for one in running:
            one.end(killed=rng.random() < 0.3)

    def _collector(self) -> "_Collector":
        """Return a collector that knows nothing, or one that goes on with what is stored.

        Some make one timeframe alone, some make larger bars of smaller ones.
        """
        rng = self.rng
        names = self.frames.split(",")
        steps = max(one.market.step for one in self.symbols.values())
        piped = rng.random() < 0.2 and 2 * steps <= self._lateness  # the parts show the steps
        larger = [name for name in names[1:] if LENGTHS[name] % LENGTHS[names[0]] == 0] if piped else []
        alone = piped or rng.random() < 0.15
        goes_on = self.tape and not self._merged and not alone and rng.random() < 0.6
        maker = RealTimeCandleProcessor(
            names[0] if alone else names, lateness_ms=self._lateness, fill=self._fill, live=rng.random() < 0.3
        )
        writer = Writer(self._database.connect, clock=self.clock)
        mender = LiveMender(self._database.session, parse_list(self.frames), self.clock, self._fill)
        maker.on_candle(writer.add)
        if larger:
            maker.on_candle(CandleRollup(names[0], larger, writer.add, fill=self._fill).feed)
        if self.tape:
            maker.on_candle(mender.note)
        return _Collector(self, goes_on, maker, writer, mender)

    # ---- mending

    def _backfill(self, away: bool) -> None:
        """Run `okx backfill`, with REST there or away."""
        self._nodes.away = away
        history = TradeHistory(self._nodes, sleep=self.clock.sleep, clock=self.clock)  # type: ignore[arg-type]
        tools = Tools(
            self._database.connect, history, exchange(), fill=self._fill, sleep=self.clock.sleep, clock=self.clock
        )
        with closing(Backfill(tools, self.frames.split(",") if self.tape else ())) as work:
            for row in self._rows(work, away):
                self._tell(f"backfill {row}")

    def _rows(self, work: Backfill, away: bool) -> Iterator[dict[str, object]]:
        with suppress(ExchangeUnavailable) if away else closing(work):
            yield from work.run(self.symbols)

    # ---- looking

    def look(self, step: str) -> Count:
        """Judge every complete bar that is stored."""
        count = Count(step, markets=len(self.symbols))
        said: set[tuple[object, ...]] = set()
        for name, number in self.connection.execute("SELECT symbol, trade_id FROM raw_trades").fetchall():
            self.symbols[name].brought.add(number)
        for row in self.connection.execute(_COMPLETE).fetchall():
            candle = dict(zip(_NAMES, row, strict=True))
            one = self.symbols[str(candle["symbol"])]
            said.add(row[:3])
            count.complete += bool(candle["trade_count"])
            count.flat += not candle["trade_count"]
            problem = self._problem(one, candle, step)
            if problem:
                what = f"{step}: round {self._seed}: {' '.join(map(str, row[:3]))}"
                count.tell(f"{what}, step {one.market.step}{'' if one.fair else ' never shown'}: {problem}")
        if step == "fetched" and self.tape and not self._rows_lost:
            for one in self.symbols.values():
                self._owed(one, said, count)
        return count

    def _problem(self, one: Symbol, candle: dict[str, object], step: str) -> str:
        """Return what is wrong with a bar at a step.

        Nobody is to blame for an id that was called absent as long as no fill of it has come, nor a collector for what
        he called complete before, nor who makes that bar again and finds rows lost; and where how far times step back
        was never shown, not for what nobody has brought. Who has seen a sweep may know more than the tape.
        """
        market, lied = one.market, one.denied - one.brought
        before = step == "collected" or (step == "mended" and self._rows_lost)
        perhaps = (lied & one.swept) | (one.denied & one.brought if before else set())
        if not one.fair:
            if not self.tape or step == "collected":
                return ""
            lied, perhaps = market.fills.keys() - one.brought - one.swept, one.swept - one.brought
        problem = market.judge(candle, lied - one.swept)
        return "" if problem and market.excuse(candle, lied - one.swept, perhaps) else problem

    def _owed(self, one: Symbol, said: set[tuple[object, ...]], count: Count) -> None:
        """Count the bars that everything from the first to the last stored fill proves, and those not called so."""
        name = one.market.symbol
        query = "SELECT min(trade_id), max(trade_id) FROM raw_trades WHERE symbol = %s"
        first, last = self.connection.execute(query, [name]).fetchone() or (None, None)
        if first is None:
            return
        fills = [number for number in one.market.ids if first <= number <= last]
        known = Known(one.market, fills, one.market.absent)
        newest = max(one.market.fills[number].ts for number in fills)
        for frame in self.frames.split(","):
            for start, _, proved in known.bars(LENGTHS[frame]):
                if proved and start + LENGTHS[frame] <= newest:
                    count.owed += 1
                    count.unsaid += (name, frame, start) not in said


class _Collector:
    """Makes candles of what comes and stores both; where no fills are stored, a pipe that stores the candles."""

    def __init__(
        self, place: Round, goes_on: bool, maker: RealTimeCandleProcessor, writer: Writer, mender: LiveMender
    ) -> None:
        self.goes_on = goes_on
        self._place = place
        self._maker = maker
        self._writer = writer
        self._mender = mender

    def begin(self, symbol: Symbol) -> None:
        """Take up a symbol with what is stored of it; who knows nothing is shown once more how far times step back."""
        if self.goes_on:
            reopen(self._place.connection, "okx", symbol.market.symbol, self._maker, self._maker.feed)
        else:
            for number in symbol.market.shown:
                self.take(symbol, ("fill", number, number))

    def take(self, symbol: Symbol, event: Event) -> None:
        """Take what comes: a bar before the fill that closed it."""
        found = decode(line(symbol.market, event).encode())
        self._maker.feed(found)
        if self._place.tape:
            symbol.note(event)
            self._writer.add(found)
        if self._place.rng.random() < 0.002:
            self._maker.advance(self._place.clock())

    def commit(self) -> None:
        """Store what came, and make whole what can be made so."""
        self._writer.flush()
        if self._place.tape:
            self._place.clock.sleep(6)
            self._mender.tick()

    def end(self, killed: bool) -> None:
        """Stop; who is killed writes nothing of what late fills changed."""
        if not killed:
            self._maker.finish()
        self.commit()
        self._writer.close()
