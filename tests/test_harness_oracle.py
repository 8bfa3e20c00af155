"""The judge of `scripts/chaos tape`: right data passes, and one planted mistake of any kind does not."""

import os
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

import psycopg
import pytest
from harness.oracle import Symbol, judge
from psycopg.conninfo import make_conninfo

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.model import Absent, Instrument, StandardizedTrade
from okxcli.local.exchange import LocalExchange
from okxcli.local.venue.fills import Fill
from okxcli.storage.database import open_database
from okxcli.storage.write.writer import Writer

START = 1_767_571_200_000  # 2026-01-05T00:00Z
NAME = "PEPE-USDT"
SWAP = "BTC-USD-SWAP"
INVERSE = Instrument("okx", SWAP, "swap", "live", contract_type="inverse", contract_value=Decimal(100))


class Truth(NamedTuple):
    """What the exchange has of a symbol."""

    fills: list[Fill]
    absent: list[int]


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A file of fills of two minutes, and the fills; 20 ids in the middle are nobody's."""
    file = tmp_path_factory.mktemp("market") / "fills.jsonl"
    with LocalExchange([NAME, SWAP], rate=12, start_ms=START, history_s=120, fills_file=file) as exchange:
        exchange.stop_market()
        exchange.skip_ids(NAME, 20)
        for second in (1, 2, 40):
            exchange.trade(NAME, "0.0000085", "12345", ts=START + second * 1000)
            exchange.trade(SWAP, "102561.3", "7", ts=START + second * 1000)
        truth = {name: Truth(exchange.fills(name), exchange.absent(name)) for name in (NAME, SWAP)}
    return file, truth


@pytest.fixture(scope="module")
def pattern(market, embedded_dsn):
    """The name of a database in which everything is in its place: rows, ledger with the absent ids, candles."""
    lines = []
    maker = RealTimeCandleProcessor("1s,5s,15s", lines.append)
    maker.instrument(INVERSE)
    for name, truth in market[1].items():
        for f in truth.fills:
            if truth.absent and f.trade_id == truth.absent[-1] + 1:
                lost = Absent("okx", name, truth.absent[0], truth.absent[-1])
                maker.absent(lost)
                lines.append(lost)
            trade = StandardizedTrade("okx", name, f.trade_id, f.side, Decimal(f.price), Decimal(f.size), f.ts)
            maker.trade(trade)
            lines.append(trade)
    name = f"okx_test_pattern_{os.getpid()}"
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        dsn = make_conninfo(embedded_dsn, dbname=name)
        with open_database(dsn, create=True) as opened, closing(Writer(opened.connect)) as writer:
            for line in lines:
                writer.add(line)
            writer.flush()
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def stored(pattern, embedded_dsn):
    """A copy of that database, for a test alone."""
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {pattern}_copy TEMPLATE {pattern}")
        yield make_conninfo(embedded_dsn, dbname=f"{pattern}_copy")
        connection.execute(f"DROP DATABASE {pattern}_copy WITH (FORCE)")


def verdict(market, dsn):
    """Judge what is stored."""
    file, truth = market
    spot, swap = (Symbol(name, truth[name].fills[0].trade_id, truth[name].absent) for name in (NAME, SWAP))
    return judge(file, dsn, [spot, replace(swap, worth=Decimal(100), inverse=True)])


def test_what_is_right_passes(market, stored):
    """Rows, ledger and candles that equal the exchange's fills are no problem."""
    found = verdict(market, stored)
    assert found.problems == []
    assert found.fills == found.stored == sum(len(truth.fills) for truth in market[1].values())
    assert found.absent == 20
    assert found.bars > 80
    assert found.edges >= 5


# Each is one mistake in one row; the third column is what the judge says of it.
_BARS = f"symbol = '{NAME}' AND timeframe = '1s' AND complete AND trade_count > 1"
_BAR = f"WHERE {_BARS} AND start = (SELECT max(start) FROM market_data WHERE {_BARS})"
_SWAP_BARS = f"symbol = '{SWAP}' AND timeframe = '15s' AND trade_count > 30"
_SWAP_BAR = f"WHERE {_SWAP_BARS} AND start = (SELECT min(start) FROM market_data WHERE {_SWAP_BARS})"
_ID = f"(SELECT max(trade_id) - 40 FROM raw_trades WHERE symbol = '{NAME}')"
_MULTI = f"int8multirange(int8range({_ID}, {_ID}, '[]'))"
MISTAKES = {
    "a fill is lost": (f"DELETE FROM raw_trades WHERE trade_id = {_ID}", "1 fills are not stored"),
    "a fill is nobody's": (
        "INSERT INTO raw_trades SELECT exchange, symbol, trade_id - 1, count, side, price, size, timestamp, received, "
        f"source, origin FROM raw_trades WHERE symbol = '{NAME}' ORDER BY trade_id DESC OFFSET 2 LIMIT 1",
        "1 rows are no fills",
    ),
    "a fill is there twice": (
        "INSERT INTO raw_trades SELECT exchange, symbol, trade_id, count, side, price, size, "
        f"timestamp + interval '1 ms', received, source, origin FROM raw_trades WHERE trade_id = {_ID}",
        "stored twice",
    ),
    "a digit of a fill": (f"UPDATE raw_trades SET size = size + 0.00000001 WHERE trade_id = {_ID}", "other values"),
    "the ledger has too little": (f"UPDATE trade_ledger SET covered = covered - {_MULTI}", "lacks 1 "),
    "the ledger has too much, on each of two days": (
        "UPDATE trade_ledger SET covered = covered + int8multirange(int8range(last_id + 5, last_id + 6))",
        "covers 2 ids too many",
    ),
    "a fill is called absent": (f"UPDATE trade_ledger SET absent = absent + {_MULTI}", "called absent"),
    "a digit of a bar": (f"UPDATE market_data SET quote_volume = quote_volume + 0.0000000000001 {_BAR}", "the bar at"),
    "the last place of a quotient": (
        f"UPDATE market_data SET base_volume = base_volume + 0.000000000000000001 {_SWAP_BAR}",
        "the bar at",
    ),
    "a sum of quotients that is rounded once": (
        "UPDATE market_data SET base_volume = (SELECT round(sum(round(size * 100 / price, 30)), 18) FROM raw_trades "
        f"WHERE symbol = '{SWAP}' AND trade_id BETWEEN first_trade_id AND last_trade_id) {_SWAP_BAR}",
        "the bar at",
    ),
    "contracts for money": (f"UPDATE market_data SET quote_volume = volume {_SWAP_BAR}", "the bar at"),
    "open and close of a bar": (f"UPDATE market_data SET first_trade_id = first_trade_id + 1 {_BAR}", "the bar at"),
    "a bar is lost": (f"DELETE FROM market_data {_BAR}", "1 bars are not stored"),
    "a bar is nobody's": (
        "INSERT INTO market_data SELECT exchange, symbol, '5s', start + interval '1 s', timestamp + interval '1 s', "
        "open, high, low, close, volume, base_volume, quote_volume, buy_volume, trade_count, first_trade_id, "
        f"last_trade_id, closed, false, 0, origin FROM market_data WHERE timeframe = '5s' AND symbol = '{NAME}' "
        "ORDER BY start LIMIT 1",
        "hold no fill",
    ),
    "a whole bar is not called so": (f"UPDATE market_data SET complete = false {_BAR}", "complete and not called so"),
    "the first bar is called complete": ("UPDATE market_data SET complete = true", "called complete and are not"),
    "a line is in quarantine": (
        "INSERT INTO quarantine (type, exchange, symbol, reason, line) VALUES ('trade', 'okx', 'A', 'id reused', '{}')",
        "in quarantine",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_is_noticed(market, stored, name):
    """The judge names each planted mistake."""
    change, words = MISTAKES[name]
    with psycopg.connect(stored, autocommit=True) as connection:
        assert connection.execute(change).rowcount >= 1
    assert any(words in problem for problem in verdict(market, stored).problems), verdict(market, stored).problems
