"""The channels of OKX: which endpoint serves each, what one subscription to it is, how its pushes begin."""

from typing import NamedTuple

from okxcli.core.model import TAPE
from okxcli.errors import UsageError

PUBLIC = "/ws/v5/public"
BUSINESS = "/ws/v5/business"
PRIVATE = "/ws/v5/private"

#: Fills in an answer of REST at most.
TRADES_PAGE = 100

#: How every push begins that OKX has been seen to send; other orders of keys are understood too, more slowly.
PUSH_HEAD = b'{"arg":{"channel":"'

_words = str.split
_BARS = _words(
    "1s 1m 3m 5m 15m 30m 1H 2H 4H 6H 12H 1D 2D 3D 5D 1W 1M 3M 6Hutc 12Hutc 1Dutc 2Dutc 3Dutc 5Dutc 1Wutc 1Mutc 3Mutc"
)
_BAR_CHANNELS = ("candle", "mark-price-candle", "index-candle")
_PUBLIC_CHANNELS = _words(
    "trades tickers books books5 bbo-tbt books-l2-tbt books50-l2-tbt mark-price index-tickers funding-rate "
    "open-interest price-limit instruments liquidation-orders status"
)

#: Channel: the path of the endpoint that serves it.
CHANNELS: dict[str, str] = {
    TAPE: BUSINESS,
    **dict.fromkeys(_PUBLIC_CHANNELS, PUBLIC),
    **{head + bar: BUSINESS for head in _BAR_CHANNELS for bar in _BARS},
}
#: Channels of whole books: a snapshot, and then updates that follow on each other.
BOOK_CHANNELS = ("books", "books50-l2-tbt", "books-l2-tbt")
#: Public ones that want a login, and an account that trades much.
LOGIN_CHANNELS = frozenset(BOOK_CHANNELS[1:])
#: Channels of an account, which want a login: the endpoint that serves each, and by what it is subscribed.
ACCOUNT_CHANNELS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(_words("orders positions liquidation-warning"), (PRIVATE, "instType")),
    **dict.fromkeys(_words("account fills balance_and_position account-greeks"), (PRIVATE, "")),
    **dict.fromkeys(_words("orders-algo algo-advance"), (BUSINESS, "instType")),
}
#: Those of them that every account may have.
ACCOUNT_DEFAULT = ("orders", "account", "positions")
#: Channels that are subscribed by another argument than the instrument; "" is none at all.
_ARGUMENT = {"instruments": "instType", "liquidation-orders": "instType", "status": ""}


class Subscription(NamedTuple):
    """One argument of a subscription: a channel, and which instrument (or instrument type) of it."""

    channel: str
    value: str = ""
    key: str = "instId"

    @property
    def argument(self) -> dict[str, str]:
        """The JSON object that OKX wants."""
        return {"channel": self.channel, self.key: self.value} if self.key and self.value else {"channel": self.channel}

    def __str__(self) -> str:
        return f"{self.channel} {self.value}".rstrip()


def path_of(channel: str) -> str:
    """Return the path of the endpoint that serves `channel`.

    Raises:
        UsageError: OKX has no such channel; the nearest name is told.
    """
    path = CHANNELS.get(channel)
    if channel in ACCOUNT_CHANNELS:
        raise UsageError(f"{channel} is a channel of your account. Try: okx stream --private -c {channel}")
    if path is None:
        import difflib

        near = [name for name in CHANNELS if name.lower() == channel.lower()]  # candle1h is candle1H
        near = near or difflib.get_close_matches(channel, CHANNELS, 1)
        hint = f" Did you mean {near[0]}?" if near else " There are trades-all, trades, books5, tickers, candle1m ..."
        raise UsageError(f"OKX has no channel {channel}.{hint}")
    return path


def argument_of(channel: str) -> str:
    """Return by what `channel` is subscribed: `instId`, `instType`, or "" for nothing."""
    return _ARGUMENT.get(channel, "instId")
