"""How much disk a configuration will want: rows and bytes a day for each kind of row.

Rough by nature: markets differ by a factor of a hundred, and the same market by ten from day to day. The rates are
measured where a recording was to be had and an assumption elsewhere; `HOW` says so to the user.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from okxcli.core.model import TAPE
from okxcli.core.selection import Selection
from okxcli.core.states import STATES, Described
from okxcli.core.timeframes import Timeframe
from okxcli.runtime.configuration.config import Config

_DAY_S = 86_400

#: Fills a day by the distance of the trade ids, 2025-08-12 to 2025-09-03.
_FILLS_A_DAY = {"BTC-USDT": 583_000, "DOGE-USDT": 351_000, "ADA-USDT": 142_000, "BNB-USDT": 45_000}
_OTHER_FILLS_A_DAY = 200_000

#: Messages for each fill: `trades` merges the fills of an order (761 fills in 399 messages, 2024-01-25); `tickers`
#: follows the trades and the top of the book (25 beside 69 fills of BTC-USDT, 2022-05-13).
_MERGED_PER_FILL = 399 / 761
_TICKERS_PER_FILL = 25 / 69

#: A book of five levels changes nearly every time that the exchange looks (every 100 ms): 98 of 107 times, 2022-05-13.
_BOOKS_A_SECOND = 9

#: Bytes a row takes in Postgres 18 with its part of the indexes: measured on 200,000 rows of one symbol (167, 167, 449,
#: 231, 237), and a tenth more for the indexes of many symbols, which fill less evenly.
_ROW_BYTES = {"trades": 180, "merged_trades": 180, "books": 470, "tickers": 250, "candles": 260}
#: The same of 40,000 rows each of other states (227, 136, 160, 144, 136, 196).
_ROW_BYTES |= {"funding_rates": 250, "mark_prices": 150, "index_prices": 180, "open_interest": 160}
_ROW_BYTES |= {"price_limits": 150, "liquidations": 215}

#: What each level of a deeper book adds: measured on 486 books of 25 levels a side.
_LEVEL_BYTES = 24

HOW = (
    "an estimate: fills a day as measured in 2025 for BTC-USDT, DOGE-USDT, ADA-USDT and BNB-USDT, 200,000 for any other"
    " symbol; tickers and books from recordings; of other channels the most that they bring, several times what a quiet"
    " market does; a busy day is several times a quiet one; what patterns select is not in it"
)


@dataclass(frozen=True)
class Share:
    """What one kind of row takes: `kept_days` None is for ever, and then `kept_bytes` is None too."""

    kind: str
    rows_a_day: int
    bytes_a_day: int
    kept_days: int | None

    @property
    def kept_bytes(self) -> int | None:
        """How large this kind grows."""
        return None if self.kept_days is None else self.bytes_a_day * self.kept_days


def shares(config: Config) -> list[Share]:
    """Return what each kind of row that `config` collects takes: of trades, books, tickers, candles, others."""
    config = replace(config, symbols=tuple(Selection(config.symbols, config.types).names))
    fills = sum(_FILLS_A_DAY.get(symbol, _OTHER_FILLS_A_DAY) for symbol in config.symbols)
    every_ms = config.books_every_ms
    books = _DAY_S * 1000 // every_ms if every_ms else _DAY_S * _BOOKS_A_SECOND
    kept = {"books", "books50-l2-tbt", "books-l2-tbt"} & {*config.channels}
    states = {one.table: one.a_day * _held(one, config.symbols) for one in STATES if one.channel in config.channels}
    if "tickers" in states:  # they follow the trades
        states["tickers"] = round(fills * _TICKERS_PER_FILL)
    rows = {
        "trades": fills if TAPE in config.channels else 0,
        "merged_trades": round(fills * _MERGED_PER_FILL) if "trades" in config.channels else 0,
        "books": books * len(config.symbols) * (len({"books5", "bbo-tbt"} & {*config.channels}) + len(kept)),
        "tickers": states.pop("tickers", 0),
        "candles": len(config.symbols) * sum(_bars_a_day(name) for name in [*config.timeframes, *_theirs(config)]),
        **states,
    }
    levels = 2 * (config.books_depth or 400) - 10  # more than in a book of five
    deep = books * len(config.symbols) * levels * _LEVEL_BYTES * len(kept)
    return [
        Share(
            kind,
            count,
            count * _ROW_BYTES[kind] + (deep if kind == "books" else 0),
            config.keep_days[kind.removeprefix("merged_")],
        )
        for kind, count in rows.items()
        if count
    ]


def _theirs(config: Config) -> list[str]:
    """Return timeframes as long as the exchange's own bars that are collected."""
    names = [channel.removeprefix("candle").removesuffix("utc") for channel in config.channels if "candle" in channel]
    return [name if name.endswith("M") else name.lower() for name in names]


def _held(state: Described, symbols: Iterable[str]) -> int:
    """Return of how many symbols these states are."""
    return len({state.subject(symbol) for symbol in symbols} - {None})


def _bars_a_day(name: str) -> int:
    """Return how many bars of a timeframe end in a day; at least one, so that none is forgotten."""
    return max(1, _DAY_S * 1000 // Timeframe.parse(name).length)
