"""Which subscriptions go over which connections."""

import re
from collections.abc import Iterable, Sequence

from okxcli.core.states import BY_CHANNEL
from okxcli.errors import UsageError
from okxcli.exchanges.okx.channels import Subscription, argument_of, path_of
from okxcli.exchanges.okx.rest.instrument_list import likely_kind

#: Subscriptions of one connection; OKX publishes no limit and closes with 4008 or 4009 beyond it.
PER_CONNECTION = 50
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


def subscriptions(symbols: Iterable[str], channels: Iterable[str]) -> dict[str, list[Subscription]]:
    """Return all subscriptions of `channels` and `symbols` by endpoint path; those of one symbol stand together.

    Raises:
        UsageError: an unknown channel, what cannot be a symbol, or channels that no symbol has.
    """
    by_path: dict[str, dict[Subscription, None]] = {}
    wanted = list(dict.fromkeys(channels))
    names = list(dict.fromkeys(symbols))
    if not wanted or not names:
        raise UsageError(f"no {'symbol' if wanted else 'channel'} given: there is nothing to stream")
    for symbol in names:
        if _SYMBOL.fullmatch(symbol) is None:
            raise UsageError(f"not a symbol: {symbol[:40]!r}. OKX names them like BTC-USDT or BTC-USDT-SWAP")
        for channel in wanted:
            path = path_of(channel)
            state = BY_CHANNEL.get(channel)
            subject = symbol if state is None else state.subject(symbol)
            if subject is None:  # other symbols may well have it
                continue
            key = argument_of(channel)
            value = {"instId": subject, "instType": likely_kind(symbol), "": ""}[key]
            by_path.setdefault(path, {})[Subscription(channel, value, key)] = None
    if not by_path:
        raise UsageError(f"there is no {', '.join(wanted)} of {', '.join(names[:5])}: only contracts have that")
    return {path: list(found) for path, found in by_path.items()}


def spread(wanted: Sequence[Subscription]) -> list[list[Subscription]]:
    """Cut into the fewest connections, evenly filled."""
    count = -(-len(wanted) // PER_CONNECTION)
    size = -(-len(wanted) // max(count, 1))
    return [list(wanted[i : i + size]) for i in range(0, len(wanted), size or 1)]


def plan(symbols: Iterable[str], channels: Iterable[str]) -> dict[str, list[list[Subscription]]]:
    """Return the subscriptions of each connection, by endpoint path.

    Raises:
        UsageError: an unknown channel, or what cannot be a symbol.
    """
    return {path: spread(wanted) for path, wanted in subscriptions(symbols, channels).items()}
