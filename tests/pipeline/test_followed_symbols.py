"""Patterns while an exchange lists symbols and takes them off: by lists and pushes, by hand and by running commands."""

import json
import signal
import subprocess
import sys
import time
from decimal import Decimal

import pytest
from storage_samples import rows

from okxcli.core.model import Instrument
from okxcli.core.selection import Selection
from okxcli.errors import ExchangeUnavailable, UsageError
from okxcli.exchanges.registry import exchange
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.pipeline.followed_symbols import FollowedSymbols

OKX = [sys.executable, "-m", "okxcli"]


def listed(symbol, state="live", tick="0.1"):
    kind = {1: "spot", 2: "swap"}[min(symbol.count("-"), 2)]
    return Instrument("okx", symbol, kind, state, tick_size=Decimal(tick))


class Market:
    """Answers with the lists that it is given, and counts how often."""

    def __init__(self, *symbols):
        self.rows, self.asked = [listed(symbol) for symbol in symbols], 0

    def listed(self, kinds, family):
        self.asked += 1
        if self.rows is None:
            raise ExchangeUnavailable("away")
        return [one for one in self.rows if one.kind in kinds]

    def close(self):
        pass


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def push(*some):
    """Return a push of the channel of instruments: (symbol, state)."""
    data = [{"instId": symbol, "instType": "SPOT", "state": state, "tickSz": tick} for symbol, state, tick in some]
    return json.dumps(
        {"arg": {"channel": "instruments", "instType": "SPOT"}, "data": data}, separators=(",", ":")
    ).encode()


@pytest.fixture
def follow():
    """Return what follows patterns, with its market and its clock."""

    def follow(*wanted, types=(), symbols=("BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP", "BTC-EUR")):
        market, clock = Market(*symbols), Clock()
        return FollowedSymbols(exchange(), market, Selection(wanted, types), clock=clock), market, clock

    return follow


def lists(followed):
    """Have the lists read, as the thread does."""
    from okxcli.pipeline import followed_symbols

    followed._lists = followed_symbols.listed(followed.market, followed.selection)
    return followed.news()


def test_names_alone_ask_nobody(follow):
    """Without a pattern nothing is read, and nothing is news."""
    followed, market, _ = follow("BTC-USDT", "X-Y")
    assert followed.begin() == ["BTC-USDT", "X-Y"]
    followed.see([push(("Z-USDT", "live", "1"))])
    assert followed.news() is None and market.asked == 0 and not followed.wants("Z-USDT")


def test_lists_have_an_age(follow):
    """They are read once within it, whatever is selected of them, and anew for other types."""
    followed, market, clock = follow("*-USDT")
    assert followed.begin() == ["BTC-USDT", "ETH-USDT"] and market.asked == 1
    assert followed.begin(Selection(("BTC-*",))) == ["BTC-EUR", "BTC-USDT", "BTC-USDT-SWAP"] and market.asked == 1
    assert followed.begin(Selection(("BTC-*",), ("swap",))) == ["BTC-USDT-SWAP"] and market.asked == 2
    clock.now += 601
    followed.begin(Selection(("BTC-*",), ("swap",)))
    assert market.asked == 3


def test_nothing_like_it(follow):
    """A pattern that selects nothing is told, with what was looked at."""
    with pytest.raises(UsageError, match=r"no swap that OKX lists is like DOGE-\*"):
        follow("DOGE-*", types=("swap",))[0].begin()
    with pytest.raises(UsageError, match="options come by family"):
        follow("*", types=("option",))[0].begin()
    followed, market, _ = follow("*")
    market.rows = None
    with pytest.raises(ExchangeUnavailable):
        followed.begin()


def test_a_listing_a_delisting_and_a_rename_by_push(follow):
    """Announced is not listed; a pause is no end; an expired one goes; a new name comes as the old one goes."""
    followed, _, _ = follow("*-USDT")
    followed.begin()
    followed.see([b"not json", push(("NEW-USDT", "preopen", "")), push(("OTHER-EUR", "live", "1"))])
    assert followed.news() is None
    followed.see([push(("NEW-USDT", "live", ""))])
    assert followed.news() is None  # without a step of its price it cannot be traded
    followed.see([push(("NEW-USDT", "live", "0.1"))])
    assert followed.news() == ["BTC-USDT", "ETH-USDT", "NEW-USDT"]
    assert followed.news() is None
    followed.see([push(("ETH-USDT", "suspend", "0.1"))])
    assert followed.news() is None
    followed.see([push(("ETH-USDT", "expired", "0.1"), ("ETHER-USDT", "live", "0.1"))])
    assert followed.news() == ["BTC-USDT", "ETHER-USDT", "NEW-USDT"]


def test_lists_that_are_behind(follow):
    """A cache that lacks what was pushed takes nothing back; what two lists in a row lack is gone; it may come back."""
    followed, market, clock = follow("*-USDT")
    followed.begin()
    followed.see([push(("NEW-USDT", "live", "0.1"), ("ETH-USDT", "expired", "0.1"))])
    assert followed.news() == ["BTC-USDT", "NEW-USDT"]
    for _ in range(3):
        assert lists(followed) is None  # ETH is on them, NEW is not
        clock.now += 10
    clock.now += 200
    market.rows = [listed("NEW-USDT"), listed("BTC-USDT")]
    assert lists(followed) is None
    market.rows = [listed("NEW-USDT")]
    assert lists(followed) is None  # once may be the cache's fault
    assert lists(followed) == ["NEW-USDT"]
    market.rows = [listed("NEW-USDT"), listed("BTC-USDT")]
    assert lists(followed) == ["BTC-USDT", "NEW-USDT"]


def test_an_empty_list_ends_nothing(follow):
    """A selection never runs empty: what is streamed goes on until there is something else."""
    followed, market, _ = follow("*-USDT")
    followed.begin()
    market.rows = []
    assert [lists(followed) for _ in range(3)] == [None] * 3


@pytest.fixture
def market():
    """A market traded by hand."""
    symbols = ["BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP"]
    with LocalExchange(symbols, rate=0, history_s=0, options=Options(limits=0)) as found:
        for symbol in symbols:
            found.trade(symbol, "100", "1")
        yield found


def trade_until(market, symbol, done, seconds=30):
    """Trade a symbol by hand until something has come of it."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, symbol
        market.trade(symbol, "101", "1")
        time.sleep(0.1)


def test_the_thread_reads_anew(follow, monkeypatch):
    """What was listed before anybody could tell is found by a list soon after the start, then whenever that is old."""
    followed, market, _ = follow("*-USDT")
    followed.age_s, followed.clock = 0.05, time.monotonic
    followed.begin()
    market.rows.append(listed("NEW-USDT"))
    end, found = time.monotonic() + 10, None
    with followed:
        while found is None and time.monotonic() < end:
            time.sleep(0.05)
            found = followed.news()
    assert found == ["BTC-USDT", "ETH-USDT", "NEW-USDT"]


def test_a_stream_follows_what_is_listed(market, tmp_path):
    """A listing, a delisting and a rename in mid-run: streamed, stopped and followed, without a restart."""
    out = tmp_path / "out.jsonl"
    command = [*OKX, "stream", "*-USDT", "--ws-url", market.ws_url, "--rest-url", market.rest_url]
    with out.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True) as process:
        try:

            def ids(symbol):
                lines = [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]
                data = [one for one in lines if one.get("arg", {}).get("channel") == "trades-all"]
                return [int(row["tradeId"]) for one in data for row in one["data"] if row["instId"] == symbol]

            for symbol in ("BTC-USDT", "ETH-USDT"):
                trade_until(market, symbol, lambda symbol=symbol: len(ids(symbol)) > 2)
            assert market.wait_subscribed("instruments", "SPOT")
            market.list_symbol("NEW-USDT", "preopen")
            market.set_state("NEW-USDT", "live")
            trade_until(market, "NEW-USDT", lambda: len(ids("NEW-USDT")) > 2)
            market.list_symbol("ETHER-USDT")  # the new name
            market.set_state("ETH-USDT", "expired")
            trade_until(market, "ETHER-USDT", lambda: len(ids("ETHER-USDT")) > 2)
            trade_until(market, "BTC-USDT", lambda: len(ids("BTC-USDT")) > 5)
        finally:
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=30)[1]
    assert process.returncode == -signal.SIGINT, told
    for symbol in ("BTC-USDT", "NEW-USDT", "ETHER-USDT"):
        found = ids(symbol)
        assert found == list(range(found[0], found[0] + len(found))), symbol
    assert ids("BTC-USDT-SWAP") == []
    assert "listed now: +NEW-USDT" in told and "+ETHER-USDT" in told and "-ETH-USDT" in told


def test_a_collector_follows_what_is_listed(market, tmp_path, database, monkeypatch):
    """The same of rows; `okx backfill`, `okx status` and `okx gaps` know what the pattern means by then."""
    for name in ("OKX_CONFIG", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OKX_DSN", database)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OKX_WS_URL", market.ws_url)
    monkeypatch.setenv("OKX_REST_URL", market.rest_url)
    config = tmp_path / "okx.json"
    config.write_text(json.dumps({"symbols": ["BTC-USDT-SWAP", "*-USDT"], "types": ["spot"], "timeframes": ["1s"]}))

    def stored(symbol):
        return rows(database, "SELECT count(*) FROM raw_trades WHERE symbol = %s", symbol)[0][0]

    command = [*OKX, "collect", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert market.wait_subscribed("trades-all", "ETH-USDT")
            for symbol in ("BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP"):
                trade_until(market, symbol, lambda symbol=symbol: stored(symbol) > 1)
            assert market.wait_subscribed("instruments", "SPOT")
            market.list_symbol("NEW-USDT")
            trade_until(market, "NEW-USDT", lambda: stored("NEW-USDT") > 1)
            market.list_symbol("NEW-USDT-SWAP")  # another type
            market.set_state("ETH-USDT", "expired")
            trade_until(market, "BTC-USDT", lambda: stored("BTC-USDT") > 5)
        finally:
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGINT, told
    assert "listed now: +NEW-USDT" in told and "listed now: -ETH-USDT" in told and "read again" not in told
    assert stored("NEW-USDT-SWAP") == 0
    states = {(row[0], row[1]) for row in rows(database, "SELECT symbol, state FROM instruments")}
    assert states >= {("NEW-USDT", "live"), ("ETH-USDT", "expired"), ("BTC-USDT-SWAP", "live")}
    done = subprocess.run(
        [*OKX, "status", "--config", str(config), "--lines"], capture_output=True, text=True, check=False
    )
    symbols = {json.loads(line)["symbol"] for line in done.stdout.splitlines()}
    assert symbols == {"BTC-USDT", "ETH-USDT", "NEW-USDT", "BTC-USDT-SWAP"}, done.stderr
    assert "never stored" not in done.stdout
    done = subprocess.run([*OKX, "backfill", "--config", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "*" not in done.stderr, done.stderr
