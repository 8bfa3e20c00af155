"""A row for each channel of a symbol, and what makes one stale."""

from contextlib import closing

import msgspec
import pytest
from storage_samples import DAY, T0, book, candle, every_state, store, ticker, trade

from okxcli.commands.status import Wanted, _row
from okxcli.core.states import STATES
from okxcli.storage.database import open_database
from okxcli.storage.read.freshness import freshness

LIMIT = 120_000


@pytest.fixture
def states(database):
    """Store lines and return the state of each channel at a moment, with a configuration if one is given."""

    def states(lines, now, named=(), configured=(), channels=("trades-all",), timeframes=("1m",), limit=LIMIT):
        store(database, lines)
        with open_database(database, create=False) as opened, closing(opened.connect()) as connection:
            found = freshness(connection, now, configured, timeframes)
        wanted = Wanted("okx", tuple(named), tuple(configured), tuple(channels), tuple(timeframes))
        rows = [_row(one, now, limit) for one in wanted.completed(found)]
        return {(row["exchange"], row["symbol"], row["channel"]): row["state"] for row in rows}

    return states


def test_a_fresh_row_of_another_exchange_hides_nothing(states):
    """Each exchange has rows of its own."""
    other = msgspec.structs.replace(trade(1, timestamp=T0), exchange="other")
    assert states([trade(1, timestamp=T0 - DAY), other], T0 + 1_000) == {
        ("okx", "BTC-USDT", "trades-all"): "stale",
        ("other", "BTC-USDT", "trades-all"): "fresh",
    }


def test_a_fresh_ticker_does_not_hide_dead_trades(states):
    """Nor do books, and these are stale however long ago they stopped."""
    lines = [trade(1, timestamp=T0 - 7_200_000), ticker(T0 - 2_000), book(T0 - 9 * DAY, origin="bbo-tbt"), book(T0 - 1)]
    assert states(lines, T0) == {
        ("okx", "BTC-USDT", "trades-all"): "stale",
        ("okx", "BTC-USDT", "bbo-tbt"): "stale",
        ("okx", "BTC-USDT", "books5"): "fresh",
        ("okx", "BTC-USDT", "tickers"): "fresh",
    }


def test_a_market_that_trades_seldom(states):
    """Is stale after 20 of its usual pauses, and after a day whatever these are; its ticker has no such excuse."""
    lines = [trade(i, timestamp=T0 + i * 600_000) for i in range(20)]
    lines.append(ticker(T0 + 19 * 600_000))
    end = T0 + 19 * 600_000
    tape, last = ("okx", "BTC-USDT", "trades-all"), ("okx", "BTC-USDT", "tickers")
    assert states(lines, end + 10 * 600_000) == {tape: "fresh", last: "stale"}
    assert states([], end + 21 * 600_000)[tape] == "stale"


def test_each_configured_timeframe_counts(states):
    """One that stopped is not hidden by another that goes on, nor one that never began; given up ones count not."""
    lines = [trade(i, timestamp=T0 - DAY + i * 5_000) for i in range(DAY // 5_000)]
    minute = candle(0).start
    dead = [candle(-600, timeframe="1m"), msgspec.structs.replace(candle(-5), timeframe="5m", timestamp=minute)]
    bars = ("okx", "BTC-USDT", "candles")
    assert states([*lines, *dead], T0, configured=["BTC-USDT"], timeframes=["5m"])[bars] == "fresh"
    assert states([], T0, configured=["BTC-USDT"], timeframes=["1m", "5m"])[bars] == "stale"
    assert states([], T0, configured=["BTC-USDT"], timeframes=["5m", "15m"])[bars] == "stale"
    assert states([], T0)[bars] == "fresh"


def test_what_should_be_there_and_is_not(states):
    """Each channel of a configured symbol has a row, and so has a symbol that is named."""
    channels = ("trades-all", "tickers")
    found = states([ticker(T0)], T0, configured=["BTC-USDT", "ETH-USDT"], channels=channels)
    assert found == {
        ("okx", "BTC-USDT", "tickers"): "fresh",
        ("okx", "BTC-USDT", "trades-all"): "never stored",
        ("okx", "ETH-USDT", "trades-all"): "never stored",
        ("okx", "ETH-USDT", "tickers"): "never stored",
    }
    assert states([], T0, named=["X-Y"]) == {("okx", "X-Y", "-"): "never stored"}


def test_a_row_from_the_future(states):
    """Is ahead, not fresh: one of the clocks is wrong."""
    assert set(states([trade(1, timestamp=T0 + 3_000_000)], T0).values()) == {"ahead"}


def test_states_that_come_when_they_come(states):
    """Price limits and liquidations are never stale nor missed; funding is; of an index another symbol tells."""
    channels = [one.channel for one in STATES]
    swap = "BTC-USDT-SWAP"
    found = states(every_state(T0 - 3_600_000), T0, configured=[swap, "ETH-USDT-SWAP", "ETH-USDT"], channels=channels)
    fresh, stale = (
        ("price-limit", "liquidation-orders"),
        ("funding-rate", "mark-price", "index-tickers", "open-interest"),
    )
    for channel in (*fresh, *stale):
        assert found.pop(("okx", swap, channel)) == ("fresh" if channel in fresh else "stale")
    missed = {(symbol, channel) for (_, symbol, channel), state in found.items() if state == "never stored"}
    assert missed == {
        *((symbol, "tickers") for symbol in (swap, "ETH-USDT-SWAP", "ETH-USDT")), ("ETH-USDT", "index-tickers"),
        *((symbol, "mark-price") for symbol in ("ETH-USDT-SWAP", "ETH-USDT")),
        *(("ETH-USDT-SWAP", channel) for channel in ("funding-rate", "open-interest")),
    }  # fmt: skip
