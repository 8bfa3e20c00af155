"""Candles against the exchange's own, and holes against what is known of the recordings."""

import csv
import gzip
import json
from decimal import Decimal

import pytest
import recordings
from recordings import SHARED, needs_shared

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.candles.rollup import CandleRollup
from okxcli.core.model import StandardizedTrade
from okxcli.errors import InvalidLine
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

LENGTHS = {"5m": 5, "15m": 15, "30m": 30, "1H": 60, "4H": 240}


def okx_bars(symbol, bar):
    """Return OKX's own confirmed candles (start: o, h, l, c, vol, volCcy) and the starts that it revised later."""
    path = SHARED / "candles" / f"okx-klines.{symbol}.{bar}.csv.gz"
    bars, revised = {}, set()
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["confirm"] == "1":
                start = int(row["ts"])
                figures = tuple(Decimal(row[n]) for n in ("open", "high", "low", "close", "vol", "volCcy"))
                if start in bars and bars[start] != figures:
                    revised.add(start)
                bars[start] = figures
    return bars, revised


@needs_shared
@pytest.mark.parametrize("symbol", ["btc-usdt-swap", "doge-usdt-swap"])
def test_larger_bars_are_okxs_own(symbol):
    """1m pushes rolled up give OKX's 5m, 15m, 30m, 1h and 4h bars wherever every minute is there, to the last digit."""
    made = []
    normalizer = Normalizer()
    rollup = CandleRollup("1m", "5m,15m,30m,1h,4h", made.append)
    path = SHARED / "candles" / f"okx-klines.{symbol}.1m.csv.gz"
    for raw in recordings.candles(path, symbol.upper(), "1m"):
        for line in normalizer.feed(raw):
            rollup.feed(line)
    rollup.finish()
    minutes, revised_minutes = okx_bars(symbol, "1m")
    assert not revised_minutes
    last = {(c.timeframe, c.start): c for c in made}
    for bar, length in LENGTHS.items():
        theirs, revised = okx_bars(symbol, bar)
        whole = [
            start
            for start in theirs
            if all(start + 60_000 * n in minutes for n in range(length)) and start not in revised
        ]
        assert len(whole) > 40
        for start in whole:
            ours = last[bar.lower(), start]
            assert (ours.open, ours.high, ours.low, ours.close, ours.volume, ours.base_volume) == theirs[start]
            assert ours.complete
            assert ours.timestamp == start + 60_000 * length
    assert all(
        c.complete == all(c.start + 60_000 * n in minutes for n in range((c.timestamp - c.start) // 60_000))
        for c in made
    )


@needs_shared
@pytest.mark.parametrize(("name", "missing"), [("btc-usdt-swap", 380), ("btc-usd-swap", 66), ("btc-usdt", 120)])
def test_missing_fills_of_real_captures(name, missing):
    """Recordings that lost every other message: the ids tell exactly how many fills are missing."""
    normalizer = Normalizer()
    candles = RealTimeCandleProcessor("1s,1m")
    for raw in recordings.collected(SHARED / "ws" / f"moon-2024-01-25.{name}.trades.json.gz"):
        for line in normalizer.feed(raw):
            candles.feed(line)
    assert candles.counts()["missing_fills"] == missing
    assert candles.counts()["duplicates"] == 0


@needs_shared
def test_a_gap_free_capture_has_no_missing_fills():
    """A recording that lost nothing: the counts of merged trades close every step of the ids."""
    normalizer = Normalizer()
    candles = RealTimeCandleProcessor("1s")
    messages = list(recordings.collected(SHARED / "ws" / "fastmoon-2024-06-01.perp-trades.json.gz"))
    for raw in reversed(messages):
        for line in normalizer.feed(raw):
            candles.feed(line)
    assert candles.counts()["missing_fills"] == 0
    assert candles.counts()["trades"] == 65


def test_a_capture_of_okx():
    """The recording of 2022: what is a line, and ids without a hole."""
    normalizer = Normalizer()
    kinds, ids = {}, []
    for raw in recordings.captured(recordings.DATA / "okx-2022-05-13.ws.txt.gz"):
        for line in normalizer.feed(raw):
            kinds[type(line).__name__] = kinds.get(type(line).__name__, 0) + 1
            if isinstance(line, StandardizedTrade) and line.symbol == "BTC-USDT":
                ids.append(line.trade_id)
    assert ids
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert set(kinds) == {"StandardizedTrade", "Ticker", "BookUpdate"} and not normalizer.others


@needs_shared
def test_the_whole_capture_of_okx():
    """The whole recording of 2022: 74 trades, 28 tickers and 290 updates of books are lines."""
    normalizer = Normalizer()
    kinds, ids = {}, []
    for raw in recordings.captured(SHARED / "ws" / "cryptofeed-okx-2022-05-13.ws.txt.gz"):
        for line in normalizer.feed(raw):
            kinds[type(line).__name__] = kinds.get(type(line).__name__, 0) + 1
            if isinstance(line, StandardizedTrade) and line.symbol == "BTC-USDT":
                ids.append(line.trade_id)
    assert kinds == {"StandardizedTrade": 74, "Ticker": 28, "BookUpdate": 290}
    assert not normalizer.others
    assert ids == list(range(338476307, 338476376))


@needs_shared
def test_a_damaged_csv():
    """A torn line and runs of NUL bytes in a real log: one reject for each, every neighbour comes out."""
    normalizer = Normalizer()
    ids, rejected = [], []
    path = SHARED / "trades" / "rtos-2025-08-12_2025-09-03.btc-usdt.csv.gz"
    for number, raw in enumerate(recordings.logged_trades(path, "BTC-USDT"), 2):
        try:
            ids += [line.trade_id for line in normalizer.feed(raw)]
        except InvalidLine as reason:
            rejected.append((number, str(reason)))
    assert [number for number, _ in rejected] == [19824, 24356]
    assert "NUL" in rejected[1][1]
    rows = gzip.decompress(path.read_bytes()).split(b"\n")[1:]
    good = [int(row.split(b",")[0]) for n, row in enumerate(rows, 2) if row and n not in (19824, 24356)]
    assert ids == good
    assert len(ids) == 24717
    assert json.dumps(ids) == json.dumps(sorted(set(ids)))
