"""An exchange with a past, for the tests of backfill."""

import pytest
from past_market import START_MS

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options


@pytest.fixture
def still():
    """An exchange whose clock stands still after ten minutes of trading."""
    options = Options(limits=0)
    with LocalExchange(["BTC-USDT"], rate=12, history_s=600, start_ms=START_MS, seed=5, options=options) as exchange:
        exchange.stop_market()
        yield exchange
