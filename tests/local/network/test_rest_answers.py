"""The REST pages of the local exchange: envelope, order, paging, caps, errors."""

import json
from decimal import Decimal

import pytest

from okxcli.local.network.rest_answers import PREFIX, TOO_MANY, answer
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.instruments import known_rows, row_of
from okxcli.local.venue.venue import MarketClock, Venue

START = 1_747_087_140_000  # a whole minute
SYMBOL = "BTC-USDT"


@pytest.fixture
def venue():
    """An exchange with 1,000 fills of BTC-USDT, one every 600 ms from START on, ids from 501; its clock stands."""
    clock = MarketClock(START)
    clock.set(START + 601_000)
    made = Venue([row_of(name) for name in (SYMBOL, "ETH-USDT", "BTC-USDT-SWAP")], clock)
    for number in range(1000):
        price = str(Decimal("102537.9") + Decimal(number) / 10)
        made.listings[SYMBOL].add(Fill(501 + number, price, "0.5", "buy", START + number * 600, 0, number))
    return made


def get(venue, path, age=0):
    """Return status and decoded body of a request."""
    endpoint, _, query = path.partition("?")
    parameters = dict(pair.split("=") for pair in query.split("&") if pair)
    found = answer(venue, endpoint, parameters, age)
    return found.status, json.loads(found.body)


def ids(venue, query, age=0):
    """Return the ids of a page of history-trades."""
    status, body = get(venue, f"market/history-trades?instId={SYMBOL}{query}", age)
    assert (status, body["code"], body["msg"]) == (200, "0", "")
    return [int(row["tradeId"]) for row in body["data"]]


def test_trades_are_the_newest_first_with_okx_fields(venue):
    """100 rows by default, 500 at most, in OKX's fields and order."""
    _, body = get(venue, f"market/trades?instId={SYMBOL}")
    assert body["data"][0] == {
        "instId": SYMBOL,
        "side": "buy",
        "sz": "0.5",
        "px": "102637.8",
        "source": "0",
        "tradeId": "1500",
        "ts": str(START + 599_400),
    }
    assert list(body["data"][0]) == ["instId", "side", "sz", "px", "source", "tradeId", "ts"]
    assert len(body["data"]) == 100
    assert len(get(venue, f"market/trades?instId={SYMBOL}&limit=9999")[1]["data"]) == 500


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", range(1500, 1400, -1)),
        ("&limit=3", (1500, 1499, 1498)),
        ("&limit=5000", range(1500, 1400, -1)),
        ("&after=1000&limit=2", (999, 998)),
        ("&after=503", (502, 501)),
        ("&after=501", ()),
        ("&after=99999&limit=1", (1500,)),
        ("&before=1000&limit=2", (1500, 1499)),
        ("&before=1498", (1500, 1499)),
        ("&before=1500", ()),
        ("&before=600&after=604", (603, 602, 601)),
        (f"&type=2&after={START + 1200}", (502, 501)),
        (f"&type=2&after={START + 1201}&limit=2", (503, 502)),
    ],
)
def test_history_trades_page_by_id_and_by_time(venue, query, expected):
    """`after` is older, `before` newer, both exclusive; `before` alone is the newest page; the cap is 100."""
    assert ids(venue, query) == list(expected)


def test_pages_by_id_reach_every_fill_once(venue):
    """Paging backwards by the last id of each page gives every fill exactly once."""
    seen, page = [], ids(venue, "")
    while page:
        seen += page
        page = ids(venue, f"&after={page[-1]}")
    assert seen == list(range(1500, 500, -1))


def test_a_stale_cache_lacks_the_newest(venue):
    """An answer from a cache behind holds nothing newer than its age, in trades and in candles."""
    newest = max(ids(venue, "", age=60_000))
    assert START + (newest - 501) * 600 <= START + 541_000 < START + (newest - 500) * 600
    _, body = get(venue, f"market/candles?instId={SYMBOL}", age=121_000)
    assert int(body["data"][0][0]) == START + 480_000
    assert body["data"][0][8] == "0"


def test_candles_run_from_the_running_bar_back(venue):
    """The first row is the running bar; `after` and `before` are exclusive open times; history-candles lags."""
    _, body = get(venue, f"market/candles?instId={SYMBOL}&limit=2")
    assert [row[0] for row in body["data"]] == [str(START + 600_000), str(START + 540_000)]
    assert [row[8] for row in body["data"]] == ["0", "1"]
    assert body["data"][1][5] == "50"
    _, body = get(venue, f"market/candles?instId={SYMBOL}&before={START - 1}&after={START + 120_000}")
    assert [int(row[0]) - START for row in body["data"]] == [60_000, 0]
    _, body = get(venue, f"market/history-candles?instId={SYMBOL}")
    assert int(body["data"][0][0]) == START + 480_000
    _, body = get(venue, f"market/history-candles?instId={SYMBOL}&bar=5m")
    assert [row[5] for row in body["data"]] == ["250", "50"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("market/trades?instId=NO-NO", 200, "51001"),
        ("market/trades", 400, "50014"),
        ("market/history-trades?instId=BTC-USDT&after=x", 400, "51000"),
        ("market/history-trades?instId=BTC-USDT&type=3", 400, "51000"),
        ("market/history-trades?instId=BTC-USDT&type=2&before=5", 200, "50039"),
        ("market/candles?instId=BTC-USDT&bar=1h", 400, "51000"),
        ("market/tickers", 400, "50014"),
        ("public/instruments", 400, "50014"),
        ("public/instruments?instType=SPOT&instId=NO-NO", 200, "51001"),
        ("market/nonsense", 404, "404"),
    ],
)
def test_errors_have_their_status_and_code(venue, path, status, code):
    """Each mistake has OKX's HTTP status and code, and empty data."""
    found, body = get(venue, path)
    assert (found, body["code"], body["data"]) == (status, code, [])


def test_rate_limit_answer_has_no_data():
    """429 comes with two keys and no data."""
    assert TOO_MANY[:2] == (429, b'{"msg":"Too Many Requests","code":"50011"}')
    assert PREFIX == "/api/v5/"


def test_instruments_are_full_rows(venue):
    """Rows come as recorded, by type and by id."""
    _, body = get(venue, "public/instruments?instType=SPOT")
    assert [row["instId"] for row in body["data"]] == [SYMBOL, "ETH-USDT"]
    assert body["data"][0] == known_rows()[SYMBOL]
    _, body = get(venue, "public/instruments?instType=SWAP&instId=BTC-USDT-SWAP")
    assert [row["ctVal"] for row in body["data"]] == ["0.01"]
    assert get(venue, "public/instruments?instType=OPTION")[1]["data"] == []


def test_delisted_instruments_are_gone(venue):
    """An expired instrument vanishes from the list and answers 51001."""
    venue.listings["ETH-USDT"].row["state"] = "expired"
    assert [row["instId"] for row in get(venue, "public/instruments?instType=SPOT")[1]["data"]] == [SYMBOL]
    assert get(venue, "market/trades?instId=ETH-USDT")[1]["code"] == "51001"


def test_tickers_sum_up_the_day(venue):
    """A ticker holds the last fill, the day's open, high, low and both volumes; without fills it holds empty text."""
    _, body = get(venue, f"market/ticker?instId={SYMBOL}")
    (row,) = body["data"]
    assert (row["last"], row["open24h"], row["high24h"], row["low24h"]) == (
        "102637.8",
        "102537.9",
        "102637.8",
        "102537.9",
    )
    assert row["vol24h"] == "500"
    turnover = sum((Decimal("102537.9") + Decimal(n) / 10) * Decimal("0.5") for n in range(1000))
    assert Decimal(row["volCcy24h"]) == turnover
    assert Decimal(row["bidPx"]) < Decimal(row["askPx"])
    empty = get(venue, "market/ticker?instId=ETH-USDT")[1]["data"][0]
    assert (empty["last"], empty["lastSz"], empty["askPx"], empty["vol24h"]) == ("", "0", "", "0")
    assert len(get(venue, "market/tickers?instType=SPOT")[1]["data"]) == 2


def test_time_and_status(venue):
    """The time is the market's; status shows finished maintenance only when asked for it."""
    assert get(venue, "public/time")[1]["data"] == [{"ts": str(START + 601_000)}]
    assert get(venue, "system/status")[1]["data"] == []
    assert len(get(venue, "system/status?state=completed")[1]["data"]) == 1
