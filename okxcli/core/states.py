"""What each type of `model.State` is, told once: its channel and table, and what its fields may hold.

Checks, lines, rows, `okx read`, `okx status`, retention and the configuration follow these descriptions, so that
another type is a model, a description, a table, and how an exchange spells it. All of them have the fields `exchange`,
`symbol`, `timestamp` and `received`; what else is a whole number is a time.
"""

from decimal import Decimal
from types import NoneType
from typing import Final, NamedTuple, get_args

import msgspec

from okxcli.core.model import Funding, Index, Liquidation, Mark, OpenInterest, PriceLimit, State, Ticker

_DAY_S = 86_400

#: Fields that every one of them has, in this order.
HEAD: Final = ("exchange", "symbol", "timestamp", "received")


class Described(NamedTuple):
    """A type of state.

    `channel` is its name in a configuration and for `okx stream`, `table` that of its rows, and with hyphens its name
    for `okx read`; `step` is what a partition of it holds, `key` what tells two of one symbol and moment apart.
    `signed` are numbers that may be negative, `above_zero` those that must be positive, `words` what a text may say
    (any label where it is not here). `rising`: of these times and numbers none is below the one before it.
    `a_day`: rows of a symbol, at most, as far as the channel's pace tells. `keeps`: one is sent at least every few
    minutes, so that silence is a fault. `contracts`: spot markets have none. `pairs`: it is of the pair of currencies
    of an instrument. `past`: the exchange keeps a past of it.
    """

    kind: type[State]
    channel: str
    table: str
    a_day: int
    keep_days: int | None = 30
    step: str = "day"
    key: tuple[str, ...] = ()
    keeps: bool = True
    contracts: bool = False
    pairs: bool = False
    past: bool = False
    signed: frozenset[str] = frozenset()
    above_zero: frozenset[str] = frozenset()
    words: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 -- never changed
    rising: tuple[tuple[str, ...], ...] = ()

    @property
    def tag(self) -> str:
        """The `type` of its lines."""
        return str(self.kind.__struct_config__.tag)

    def subject(self, symbol: str) -> str | None:
        """Return of which symbol an instrument's are, which for an index is the pair; None: it has none."""
        parts = symbol.split("-")
        if self.contracts and len(parts) < 3:
            return None
        return "-".join(parts[:2]) if self.pairs else symbol

    @property
    def word(self) -> str:
        """Its name for `okx read`."""
        return self.table.replace("_", "-")


_RATES = frozenset(("rate", "next_rate", "min_rate", "max_rate", "settled_rate", "premium", "interest_rate"))

#: In the order in which people see them. A pace is that of the exchange's documentation where there is no other word.
STATES: Final = (
    Described(Ticker, "tickers", "tickers", a_day=10 * _DAY_S),
    Described(
        Funding, "funding-rate", "funding_rates", a_day=_DAY_S // 30, keep_days=None, step="month", key=("origin",),
        contracts=True, past=True, signed=_RATES,
        rising=(("funding_time", "next_funding_time"), ("min_rate", "max_rate")),
    ),
    Described(Mark, "mark-price", "mark_prices", a_day=5 * _DAY_S),
    Described(
        Index, "index-tickers", "index_prices", a_day=10 * _DAY_S, pairs=True, above_zero=frozenset(("price",)),
        rising=(("low_24h", "high_24h"),),
    ),
    Described(OpenInterest, "open-interest", "open_interest", a_day=_DAY_S // 3, contracts=True),
    Described(PriceLimit, "price-limit", "price_limits", a_day=5 * _DAY_S, keeps=False),
    Described(
        Liquidation, "liquidation-orders", "liquidations", a_day=1_000, keep_days=None, step="month", keeps=False,
        contracts=True,
        key=("side", "position", "bankruptcy_price", "size"),
        above_zero=frozenset(("size", "bankruptcy_price")), signed=frozenset(("loss",)),
        words={"side": ("buy", "sell"), "position": ("long", "short", "net")},
    ),
)  # fmt: skip
BY_KIND: Final[dict[type, Described]] = {one.kind: one for one in STATES}
BY_CHANNEL: Final = {one.channel: one for one in STATES}


def numbers(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the fields of a type that are decimals, in their order."""
    return _of(kind, Decimal)


def times(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the fields of a state that are times, but for `timestamp` and `received`."""
    return tuple(name for name in _of(kind, int) if name not in HEAD)


def texts(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the fields of a state that are words, but for `exchange` and `symbol`."""
    return tuple(name for name in _of(kind, str) if name not in HEAD)


def flags(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the fields of a type that are true or false."""
    return _of(kind, bool)


def may_lack(kind: type[msgspec.Struct], name: str) -> bool:
    """Whether a field may be None."""
    return NoneType in get_args(kind.__annotations__[name])


def _of(kind: type[msgspec.Struct], wanted: type) -> tuple[str, ...]:
    hints = kind.__annotations__
    return tuple(name for name in kind.__struct_fields__ if hints[name] is wanted or wanted in get_args(hints[name]))
