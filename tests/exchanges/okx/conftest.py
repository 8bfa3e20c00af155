"""A busy simulated exchange for the tests of the feed."""

from collections.abc import Iterator

import pytest
from feeding import BTC, ETH, SWAP

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options


@pytest.fixture
def exchange() -> Iterator[LocalExchange]:
    """Three symbols that trade all the time, some 300 fills a second, with a minute behind them; no rate limits."""
    symbols = [BTC, ETH, SWAP]
    with LocalExchange(symbols, rate=300, seed=15, history_s=60, options=Options(limits=0)) as exchange:
        yield exchange
