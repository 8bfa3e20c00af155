"""The simulated market: fills as a pure function of seed, symbols, rate and the time at which it begins.

Every instrument has its own generator of random numbers, so that neither the other instruments nor the moment at which
somebody looks change what happens in it. Prices move in whole ticks and sizes in whole lots: random numbers choose
integers, money is never a float. Taker orders come one by one, in bursts and in the same millisecond; some minutes
are busy, some have no trade at all.
"""

import heapq
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import repeat
from random import Random
from typing import NamedTuple

from okxcli.core.decimals import EXACT, plain
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.instruments import Row

#: Ids begin here and advance with the clock, so that a later simulation does not give out ids of an earlier one.
ID_EPOCH_MS = 1_735_689_600_000  # 2025-01-01
MINUTE = 60_000

#: Symbol: (a price as seen in 2025, an id as seen in 2025, its share of all fills). Derivatives pass 2^31.
_KNOWN: dict[str, tuple[str, int, int]] = {
    "BTC-USDT": ("102537.9", 734_864_333, 30),
    "ETH-USDT": ("2498.51", 521_384_120, 24),
    "SOL-USDT": ("171.43", 388_120_774, 14),
    "DOGE-USDT": ("0.22617", 371_102_234, 8),
    "TON-USDT": ("3.214", 41_730_552, 3),
    "ETH-USDC": ("2498.13", 18_204_911, 3),
    "BTC-USDC": ("102510.2", 24_993_180, 3),
    "UNI-USDT": ("6.582", 66_318_045, 3),
    "PEPE-USDT": ("0.00000853", 290_447_816, 8),
    "XRP-USDT": ("2.3518", 287_013_442, 6),
    "BTC-USDT-SWAP": ("102544.6", 2_805_987_683, 36),
    "ETH-USDT-SWAP": ("2498.89", 2_391_044_120, 30),
    "SOL-USDT-SWAP": ("171.48", 1_502_218_909, 16),
    "DOGE-USDT-SWAP": ("0.22622", 903_117_406, 10),
    "PEPE-USDT-SWAP": ("0.000008534", 611_790_325, 8),
    "BTC-USD-SWAP": ("102561.3", 291_300_232, 6),
    "ETH-USD-SWAP": ("2499.12", 240_116_087, 5),
}
_BASE_PRICES = {"BTC": "102537.9", "ETH": "2498.51", "BNB": "651.3", "LTC": "98.72", "SHIB": "0.00001424"}
_BASE_PRICES |= {"ADA": "0.7811", "LINK": "15.942", "AVAX": "23.418", "TRX": "0.26413", "DOT": "4.871"}

# The shape of the market. Chosen to look like an hour of the real tape: about half of the fills share their
# millisecond with the one before, most orders fill at one price, one in thirty starts a burst.
_MOODS = (0.6, 0.8, 0.9, 0.9, 1.0, 1.0, 1.1, 1.7)  # their mean is 1
_FILLS = (1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 8)
_BURST_SHARE = 0.033
_BURST_ORDERS = (5, 25)
_RETAIL_SHARE = 0.03  # of spot orders, part of which meets the special liquidity that OKX flags as source 1


class Profile(NamedTuple):
    """What the generator knows of an instrument; price in ticks, sizes in lots, `rate` in fills per second."""

    symbol: str
    tick: Decimal
    lot: Decimal
    price: int
    least: int
    typical: int
    first_id: int
    rate: float
    spot: bool


def profiles(rows: Sequence[Row], rate: float, origin_ms: int) -> list[Profile]:
    """Return the profiles of the instruments `rows`, among which `rate` fills per second are shared out."""
    shares = [_KNOWN.get(row["instId"], ("", 0, 4))[2] for row in rows]
    return [_profile(row, rate * share / sum(shares), origin_ms) for row, share in zip(rows, shares, strict=True)]


def _profile(row: Row, rate: float, origin_ms: int) -> Profile:
    symbol = row["instId"]
    base = symbol.split("-")[0]
    price_text, first_id, _ = _KNOWN.get(symbol, (_BASE_PRICES.get(base, "1.2345"), 0, 0))
    if symbol == "ETH-BTC":
        price_text = "0.02437"
    tick, lot = Decimal(row["tickSz"]), Decimal(row["lotSz"])
    price = max(1, int(Decimal(price_text) / tick))
    first_id = first_id or 10_000_000 + Random(symbol).randrange(400_000_000)
    first_id += max(0, origin_ms - ID_EPOCH_MS) // 1000 * (int(rate * 1.5) + 1)
    if row["instType"] == "SPOT":  # a typical fill is worth some 150 of the quote currency
        lots = Decimal(150) / (Decimal(price_text) * lot) if not symbol.endswith("-BTC") else Decimal("0.1") / lot
    else:
        lots = Decimal(2) / lot
    least = max(1, int(Decimal(row["minSz"]) / lot))
    spot = row["instType"] == "SPOT"
    return Profile(symbol, tick, lot, price, least, max(least, int(lots)), first_id, rate, spot)


def fills_of(profile: Profile, seed: int, origin_ms: int, quiet: float) -> Iterator[Fill]:
    """Yield the fills of one instrument for ever, oldest first, beginning at `origin_ms`.

    `quiet` is the share of minutes without any trade, 0 to below 1; the others are the busier for it.
    """
    if profile.rate <= 0:
        return
    rng = Random(f"{seed}/{profile.symbol}")
    burst = sum(_BURST_ORDERS) / 2
    per_arrival = sum(_FILLS) / len(_FILLS) * (1 + _BURST_SHARE * burst)
    arrivals_per_ms = profile.rate / per_arrival / 1000 / (1 - quiet)
    book = _Mover(profile, rng)
    minute = origin_ms - origin_ms % MINUTE
    while True:
        mood = 0.0 if rng.random() < quiet else rng.choice(_MOODS) * arrivals_per_ms
        at = max(minute, origin_ms) + (rng.expovariate(mood) if mood else MINUTE)
        while at < minute + MINUTE:
            ts = int(at)
            yield from book.order(ts)
            if rng.random() < _BURST_SHARE:
                for _ in range(rng.randint(*_BURST_ORDERS)):
                    ts = min(ts + rng.choice((0, 0, 0, 1, 2, 7)), minute + MINUTE - 1)
                    yield from book.order(ts)
                at = max(at, ts)
            at += rng.expovariate(mood)
        minute += MINUTE


class _Mover:
    """Price, ids and order numbers of one instrument, moving with each taker order."""

    def __init__(self, profile: Profile, rng: Random) -> None:
        self._profile = profile
        self._rng = rng
        self._price = profile.price
        self._next_id = profile.first_id
        self._order = 0
        self._buy = True
        # A step of four millionths of the price: some percent in a day of a busy instrument.
        self._step = max(0.35, profile.price * 4e-6)

    def order(self, ts: int) -> list[Fill]:
        """Return the fills of the next taker order, which happens at `ts` (ms)."""
        rng, profile = self._rng, self._profile
        if rng.random() < 0.4:
            self._buy = not self._buy
        direction = 1 if self._buy else -1
        move = round(rng.gauss(0, self._step))
        # Far from where it began the price drifts home, so that a simulation of days stays plausible.
        if abs(self._price + move - profile.price) > profile.price // 10:
            move = -abs(move) if self._price > profile.price else abs(move)
        self._price = max(1, self._price + move)
        side = "buy" if self._buy else "sell"
        retail = profile.spot and rng.random() < _RETAIL_SHARE
        self._order += 1
        fills: list[Fill] = []
        for _ in range(rng.choice(_FILLS)):
            if fills and rng.random() < 0.35:
                self._price = max(1, self._price + direction * rng.choice((1, 1, 1, 2, 5)))
            price = plain(EXACT.multiply(profile.tick, Decimal(self._price)))
            size = plain(EXACT.multiply(profile.lot, Decimal(self._lots())))
            source = 1 if retail and rng.random() < 0.5 else 0
            fills.append(Fill(self._next_id, price, size, side, ts, source, self._order))
            self._next_id += 1
        return fills

    def _lots(self) -> int:
        profile, rng = self._profile, self._rng
        lots = int(profile.typical * rng.paretovariate(1.1) * rng.random())
        if rng.random() < 0.2 and lots > 1_000:  # people like round numbers
            lots -= lots % 10 ** (len(str(lots)) - 1)
        return max(profile.least, min(lots, profile.typical * 2_000))


class Timeline:
    """The fills of several instruments merged by time, handed out as the market's clock passes them."""

    def __init__(self, profiles: Sequence[Profile], seed: int, origin_ms: int, quiet: float = 0.05) -> None:
        streams = [zip(repeat(one.symbol), fills_of(one, seed, origin_ms, quiet), strict=False) for one in profiles]
        self._fills = heapq.merge(*streams, key=lambda one: one[1].ts)
        self._next = next(self._fills, None)

    def due(self) -> int | None:
        """Return the time (ms) of the next fill; None when there will be none."""
        return self._next and self._next[1].ts

    def take(self, now: int) -> Iterator[tuple[str, Fill]]:
        """Yield every fill (with its symbol) up to the time `now` (ms) that was not handed out yet, oldest first.

        Fills of one instrument keep their order, and the fills of one millisecond are never split between two calls.
        """
        while self._next and self._next[1].ts <= now:
            yield self._next
            self._next = next(self._fills, None)
