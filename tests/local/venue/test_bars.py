"""The exchange's candles, against DuckDB and against what is known of OKX's bars."""

from datetime import UTC, datetime
from decimal import Decimal

import duckdb
import pytest

from okxcli.local.venue.bars import DAY, PERIODS, Bars, bar_end, bar_start
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.instruments import contract_of, row_of
from okxcli.local.venue.market import Timeline, profiles

START = 1_747_087_140_000  # 2025-05-12T21:59:00Z
LENGTHS = {"1s": 1, "1m": 60, "3m": 180, "5m": 300, "1H": 3600, "6Hutc": 21600, "1Dutc": 86400}


def ms(text):
    """Return a time of UTC in milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("bar", "inside", "start", "end"),
    [
        ("1m", "2025-10-27T12:34:56", "2025-10-27T12:34:00", "2025-10-27T12:35:00"),
        ("4H", "2025-10-27T12:34:56", "2025-10-27T12:00:00", "2025-10-27T16:00:00"),
        ("6H", "2025-10-27T12:34:56", "2025-10-27T10:00:00", "2025-10-27T16:00:00"),
        ("6Hutc", "2025-10-27T12:34:56", "2025-10-27T12:00:00", "2025-10-27T18:00:00"),
        ("1D", "2025-10-27T12:00:00", "2025-10-26T16:00:00", "2025-10-27T16:00:00"),
        ("1D", "2025-10-27T16:00:00", "2025-10-27T16:00:00", "2025-10-28T16:00:00"),
        ("1Dutc", "2025-10-27T16:00:00", "2025-10-27T00:00:00", "2025-10-28T00:00:00"),
        ("1W", "2025-10-26T15:59:59", "2025-10-19T16:00:00", "2025-10-26T16:00:00"),
        ("1Wutc", "2025-10-26T23:59:59", "2025-10-20T00:00:00", "2025-10-27T00:00:00"),
        ("1M", "2025-10-31T17:00:00", "2025-10-31T16:00:00", "2025-11-30T16:00:00"),
        ("1Mutc", "2024-02-29T17:00:00", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("3Mutc", "2025-12-31T17:00:00", "2025-10-01T00:00:00", "2026-01-01T00:00:00"),
    ],
)
def test_bars_begin_where_okx_lets_them_begin(bar, inside, start, end):
    """Bars without `utc` whose length does not divide by UTC+8 begin at midnight in Hong Kong; weeks on Monday."""
    assert bar_start(bar, ms(inside)) == ms(start)
    assert bar_end(bar, ms(start)) == ms(end)


def test_every_bar_follows_the_one_before():
    """The end of a bar is the start of the next, for every name, over three years."""
    for name in PERIODS:
        step = max(bar_end(name, 0), DAY) if name != "1s" else DAY
        for at in range(ms("2023-12-01"), ms("2026-12-01"), step):
            start = bar_start(name, at)
            end = bar_end(name, start)
            assert start <= at < end
            assert bar_start(name, end) == end
            assert bar_start(name, end - 1) == start


@pytest.mark.parametrize("symbol", ["BTC-USDT", "PEPE-USDT", "BTC-USDT-SWAP"])
def test_candles_equal_those_of_sql(symbol, tmp_path):
    """OHLC and the three volumes equal, to the last digit, what DuckDB makes of the fills, in every kind of bar."""
    row = row_of(symbol)
    worth = "1" if row["instType"] == "SPOT" else row["ctVal"]
    line = Timeline(profiles([row], 10, START), 3, START, 0.2)
    fills = [fill for _, fill in line.take(START + 3_600_000)]
    bars = Bars(contract_of(row))
    for fill in fills:
        bars.add(fill)
    file = tmp_path / "fills.csv"
    file.write_text("".join(f"{fill.trade_id},{fill.price},{fill.size},{fill.ts}\n" for fill in fills))
    columns = "{'id': 'BIGINT', 'px': 'DECIMAL(18,10)', 'sz': 'DECIMAL(20,8)', 'ts': 'BIGINT'}"
    for bar, seconds in LENGTHS.items():
        length = seconds * 1000
        expected = duckdb.sql(
            f"""SELECT ts // {length} * {length}, arg_min(px, id), max(px), min(px), arg_max(px, id), sum(sz),
                       sum(px * sz) * {worth}
                FROM read_csv('{file}', header=false, columns={columns}) GROUP BY 1 ORDER BY 1"""
        ).fetchall()
        found = [row for row in bars.rows(bar, fills[-1].ts) if row[5] != "0"][::-1]
        assert [int(row[0]) for row in found] == [row[0] for row in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert [Decimal(text) for text in ours[1:6]] == list(theirs[1:6])
            assert Decimal(ours[7]) == theirs[6]
            base = Decimal(ours[5]) * Decimal(worth)
            assert Decimal(ours[6]) == (Decimal(ours[7]) if row["instType"] == "SPOT" else base)
        assert all(text == format(Decimal(text), "f") for row in found for text in row)


def test_quiet_periods_are_flat_bars():
    """A minute without fills has a bar at the last close with zero volumes; before the first fill there is none."""
    bars = Bars(contract_of(row_of("BTC-USDT")))
    bars.add(Fill(1, "10", "2", "buy", START + 61_000, 0, 1))
    bars.add(Fill(2, "11", "1", "sell", START + 62_000, 0, 2))
    assert list(bars.rows("1m", START + 200_000)) == [
        [str(START + 180_000), "11", "11", "11", "11", "0", "0", "0", "0"],
        [str(START + 120_000), "11", "11", "11", "11", "0", "0", "0", "1"],
        [str(START + 60_000), "10", "11", "10", "11", "3", "31", "31", "1"],
    ]
    assert bars.row("1m", START, START + 200_000) is None


def test_open_and_close_go_by_id():
    """A fill whose time steps back lands in its own minute; open and close follow the ids, not the order of arrival."""
    bars = Bars(contract_of(row_of("BTC-USDT")))
    for number, price, shift in ((5, "10", 0), (6, "12", 60_000), (7, "11", 59_000), (4, "9", 10_000)):
        bars.add(Fill(number, price, "1", "buy", START + shift, 0, number))
    assert bars.row("1m", START, START + 200_000)[1:6] == ["9", "11", "9", "11", "3"]
    assert bars.row("1m", START + 60_000, START + 200_000)[1:6] == ["12", "12", "12", "12", "1"]
