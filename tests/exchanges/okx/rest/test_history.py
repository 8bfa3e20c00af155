"""The past from REST: against nodes with caches of different ages, against the horizon, and the local exchange."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.errors import UsageError
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.exchanges.okx.rest.history_stream import Past
from okxcli.exchanges.okx.rest.rate_limits import Budget
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options


class Nodes:
    """REST as OKX's rules describe it, over the fills with these ids; `newest` in turn: how far each answer's cache is.

    Only what `TradeHistory` asks for; a real server is used below.
    """

    def __init__(self, ids, newest=(1 << 62,), horizon=0):
        self.ids = sorted(ids)
        self.newest_ids = list(newest)
        self.horizon = horizon
        self.requests = 0

    def history_trades(self, symbol, after, by_time=False, limit=100):
        cache = self.newest_ids[self.requests % len(self.newest_ids)]
        self.requests += 1
        found = [n for n in self.ids if n < after and self.horizon <= n <= cache]
        return [self.row(symbol, n) for n in found[-limit:][::-1]]

    def trades(self, symbol, limit):
        return [self.row(symbol, n) for n in self.ids[-limit:][::-1]]

    @staticmethod
    def row(symbol, n):
        # The id is the time as well, in tens of ms.
        return {"instId": symbol, "side": "buy", "sz": "1", "px": "2", "tradeId": str(n), "ts": str(n // 10 * 10)}


def history(nodes, **options):
    return TradeHistory(nodes, sleep=lambda seconds: None, **options)


def tiled(pages, first, last):
    """Check that pages follow on each other from `first` to `last`; return their ids and what they miss."""
    found, missing = [], []
    at = first
    for page in pages:
        assert page.first == at
        assert page.ids() == [int(json.loads(line)["data"][0]["tradeId"]) for line in page.lines]
        found += page.ids()
        missing += [n for low, high in page.missing for n in range(low, high + 1)]
        assert sorted(page.ids() + [n for low, high in page.missing for n in range(low, high + 1)]) == list(
            range(page.first, page.last + 1)
        )
        at = page.last + 1
    assert at == last + 1
    return found, missing


def test_a_hundred_ids_cost_one_request():
    """Pages are full, begin at the low end, and nothing is asked twice."""
    nodes = Nodes(range(1, 5001))
    pages = list(history(nodes).range("X-Y", 1001, 3050))
    assert tiled(pages, 1001, 3050) == (list(range(1001, 3051)), [])
    assert nodes.requests == 21
    assert all(page.evidence for page in pages)


def test_exactly_the_range():
    """Not an id more than was asked for."""
    (page,) = history(Nodes(range(1, 500))).range("X-Y", 105, 106)
    assert page.ids() == [105, 106]
    assert list(history(Nodes([1])).range("X-Y", 5, 4)) == []


@pytest.mark.parametrize(("absent", "known"), [(range(100, 110), None), (range(290, 301), 301), (range(1, 6), None)])
def test_absent_ids_are_missing_with_evidence(absent, known):
    """Inside, at the upper end (with an id above known to exist): the answer that shows it is evidence."""
    nodes = Nodes(n for n in range(-50, 400) if n not in absent)
    pages = list(history(nodes).range("X-Y", 1, 300, known))
    assert tiled(pages, 1, 300) == ([n for n in range(1, 301) if n not in absent], list(absent))
    assert all(page.evidence for page in pages)
    assert nodes.requests <= 5


def test_the_newest_ids_missing_prove_nothing():
    """Without an id above, an answer says nothing about the upper end: perhaps the cache is behind."""
    pages = list(history(Nodes(range(1, 290))).range("X-Y", 201, 300))
    assert [page.evidence for page in pages] == [True, False]
    assert pages[-1].missing == [(290, 300)]


@pytest.mark.parametrize("size", [99, 100, 101, 150, 5_000, 1_000_000])
def test_a_void_of_any_size_is_looked_over(size):
    """A million absent ids take some dozens of requests, not ten thousand."""
    ids = [*range(1, 101), *range(101 + size, 301 + size)]
    nodes = Nodes(ids)
    pages = list(history(nodes).range("X-Y", 50, 300 + size))
    assert [n for page in pages for n in page.ids()] == [n for n in ids if n >= 50]
    assert [part for page in pages for part in page.missing] == [(101, 100 + size)]
    assert all(page.evidence for page in pages)
    assert nodes.requests < 60


class Witness(Nodes):
    """Nodes that remember what was asked, and what an answer did not show although it was there."""

    def __init__(self, ids, newest):
        super().__init__(ids, newest)
        self.asked = []

    def history_trades(self, symbol, after, by_time=False, limit=100):
        rows = super().history_trades(symbol, after, by_time, limit)
        self.asked.append((after, max((int(row["tradeId"]) for row in rows), default=-(1 << 62))))
        return rows

    def behind(self, low):
        """Count the answers since the last call that showed nothing from `low` on where there was something."""
        asked, self.asked = self.asked, []
        return sum(top < low and any(low <= n < after for n in self.ids) for after, top in asked)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(1, 250)), max_size=6),
    st.integers(1, 700),
    st.integers(0, 400),
    st.lists(st.integers(0, 900), max_size=3),
    st.integers(0, 3),
    st.sampled_from([1, 4, 12, 64]),
)
def test_whatever_is_absent_and_however_old_the_caches_are(voids, first, length, ages, turn, attempts):
    """Only absent ids are missing with evidence, and nothing is given up before so many answers were no use.

    The caches answer in turn, up to three old ones and a good one, whichever is first. With patience enough that finds
    every fill and settles every absent id.
    """
    absent = {n for start, size in voids for n in range(start, start + size)}
    last = first + length
    caches = [*ages, 1 << 62]
    turn %= len(caches)
    nodes = Witness([n for n in range(-100, 1200) if n not in absent], caches[turn:] + caches[:turn])
    pages, settled = [], []
    for page in history(nodes, attempts=attempts).range("X-Y", first, last, 1199):
        assert page.evidence or nodes.behind(page.first) >= attempts
        nodes.asked.clear()
        pages.append(page)
        settled += range(page.first, page.last + 1) if page.evidence else ()
    found, missing = tiled(pages, first, last)
    assert set(found) == set(range(first, last + 1)) - set(missing)
    assert not set(found) & absent
    assert set(missing) & set(settled) <= absent
    if attempts == 64 or not ages:
        assert len(settled) == length + 1


def test_beyond_the_horizon_nothing_is_claimed():
    """Ids older than OKX's history are missing without evidence, and cost a few requests only."""
    nodes = Nodes(range(1, 100_000), horizon=90_000)
    pages = list(history(nodes).range("X-Y", 5, 90_150))
    assert pages[0].missing == [(5, 89_999)]
    assert not pages[0].evidence
    assert [n for page in pages for n in page.ids()] == list(range(90_000, 90_151))
    assert nodes.requests < 60


@pytest.mark.parametrize("cut", [1, 30, 99])
def test_a_short_page_of_one_node(cut):
    """An answer cut short above the ids that are asked for is asked again: another node has them."""
    nodes = Nodes(range(1, 1000))
    whole = nodes.history_trades
    nodes.history_trades = lambda *asked, **how: whole(*asked, **how)[: cut if nodes.requests % 2 else None]
    pages = list(history(nodes).range("X-Y", 101, 700))
    assert tiled(pages, 101, 700) == (list(range(101, 701)), [])
    assert all(page.evidence for page in pages)
    assert nodes.requests < 24


def test_an_empty_answer_about_a_time():
    """A node that shows nothing before a moment does not move the beginning of the past."""
    nodes = Nodes(range(1, 1000), newest=[0, 0, 1 << 62])
    assert history(nodes).last_id_before("X-Y", 500) == 499


def test_the_first_id_of_a_moment():
    """It follows every older fill; fills of the same millisecond belong to it; an old cache is seen through."""
    nodes = Nodes(range(1, 1000), newest=[480, 1 << 62])
    assert history(nodes).first_id_at("X-Y", 500) == 500
    assert history(nodes).span("X-Y", 500) == (499, 999)
    assert history(nodes, clock=lambda: 2000).span("X-Y", 500, 700) == (499, 699)
    assert history(nodes, clock=lambda: 2000).span("X-Y", 5000, 7000)[0] == 999


def test_times_that_step_back():
    """A fill that is younger than the one after it belongs to the span too, and the link is the one before it."""
    nodes = Nodes(range(1, 1000))
    times = {n: n // 10 * 10 for n in nodes.ids} | {497: 505, 702: 690}
    row = nodes.row
    nodes.row = lambda symbol, n: row(symbol, n) | {"ts": str(times[n])}
    nodes_by_id = nodes.history_trades

    def history_trades(symbol, after, by_time=False, limit=100):
        highest = max((n for n in nodes.ids if times[n] < after), default=0) + 1
        return nodes_by_id(symbol, highest if by_time else after, limit=limit)

    nodes.history_trades = history_trades
    found = history(nodes, clock=lambda: 2000)
    assert found.first_id_at("X-Y", 500) == 497
    assert found.last_id_before("X-Y", 700) == 702
    assert found.span("X-Y", 500, 700) == (496, 702)


class ByTime(Nodes):
    """Nodes whose fills are a second apart, so that time and id are different things."""

    def history_trades(self, symbol, after, by_time=False, limit=100):
        return super().history_trades(symbol, -(-after // 1000) if by_time else after, limit=limit)

    @staticmethod
    def row(symbol, n):
        return Nodes.row(symbol, n) | {"ts": str(n * 1000)}


@pytest.mark.parametrize("oldest", [5, 90, 1_000, 49_990])
def test_a_past_that_begins_later(oldest):
    """Asked for a time before everything, the oldest fill that OKX shows is the first; there is none before it."""
    nodes = ByTime(range(oldest, 50_001))
    found = history(nodes, clock=lambda: 50_000_000)
    assert found.first_id_at("X-Y", 1) == oldest
    assert found.span("X-Y", 1) == (oldest, 50_000)
    assert nodes.requests < 80


@pytest.fixture(scope="module")
def exchange():
    symbols = ["BTC-USDT", "ETH-USDT"]
    with LocalExchange(symbols, rate=20, seed=21, history_s=900, options=Options(limits=0)) as exchange:
        exchange.stop_market()
        yield exchange


@pytest.fixture
def rest(exchange):
    client = RestClient(exchange.rest_url, budget=FreeBudget())
    yield client
    client.close()


class FreeBudget(Budget):
    """As many requests as one likes: the local exchange was told not to mind."""

    def turn(self, path):
        return 0.0


def test_the_local_exchange_has_it_all(exchange, rest):
    """Every fill of a span, as lines that normalize takes, with the fill before the first; merged by time."""
    now = exchange.now_ms()
    past = Past(TradeHistory(rest), ["ETH-USDT", "BTC-USDT"], "trades-all", (now - 300_000, now))
    lines = list(past.lines())
    normalizer = Normalizer()
    trades = [trade for line in lines for trade in normalizer.feed(line)]
    assert {trade.origin for trade in trades} == {"rest"}
    for symbol in ("BTC-USDT", "ETH-USDT"):
        fills = exchange.fills(symbol)
        first = min(fill.trade_id for fill in fills if fill.ts >= now - 300_000)
        found = [trade.trade_id for trade in trades if trade.symbol == symbol]
        assert found == [fill.trade_id for fill in fills if fill.trade_id >= first - 1 and fill.ts < now]
    times = [trade.timestamp for trade in trades]
    assert sum(b < a for a, b in pairwise(times)) <= 4  # the two fills before the first
    assert past.missing == []


def test_candles_of_the_exchange(exchange, rest):
    """Confirmed bars alone, each once, oldest first, over page ends, from the recent and from the long history."""
    now = exchange.now_ms()
    for bar, length in (("1s", 1000), ("1m", 60_000)):
        since = now - 800_000
        truth = [
            row for row in exchange.candles("BTC-USDT", bar) if since <= int(row[0]) < now - 60_000 and row[-1] == "1"
        ]
        found = [json.loads(line) for line in TradeHistory(rest).candles("BTC-USDT", bar, since, now - 60_000)]
        rows = [message["data"][0] for message in found]
        assert rows == truth
        assert len(rows) >= 700_000 // length - 1
        assert found[0]["arg"] == {"channel": f"candle{bar}", "instId": "BTC-USDT"}
        assert all(Normalizer().feed(json.dumps(m).encode())[0].closed for m in found[:3])


class Bars:
    """The candles of REST from minute 100 on; `spoil` makes of a good page what some node answers."""

    candle_pages = RestClient.candle_pages

    def __init__(self, spoil, last=2_000):
        self.spoil, self.last, self.asked = spoil, last, 0

    def get(self, path, parameters, form):
        self.asked += 1
        first, end = parameters["before"] // 60_000 + 1, parameters["after"] // 60_000
        minutes = range(max(100, first), min(end, self.last))
        rows = [[str(n * 60_000), "1", "1", "1", "1", "0", "0", "0", "1"] for n in minutes]
        return self.spoil(self.asked, rows[::-1][: parameters["limit"]])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda n, rows: rows,
        lambda n, rows: [] if n % 2 else rows,
        lambda n, rows: rows[:7] if n % 3 else rows,
        lambda n, rows: [*rows[:50], *rows[40:], *rows[:3]],
        lambda n, rows: [["99900000", *"1111000", "1"], *rows, ["6060000", *"1111000", "1"]],
        lambda n, rows: [[*row[:-1], "0"] if n % 3 == 1 and place < 3 else row for place, row in enumerate(rows)],
    ],
    ids=["good", "empty", "short", "repeated", "beyond", "unconfirmed"],
)
def test_candles_from_bad_pages(spoil, caplog):
    """Empty, cut short, overlapping, with bars beyond, or not confirmed yet: each bar comes once, in order."""
    for since in (0, 150):
        rest = Bars(spoil)
        past = TradeHistory(rest, sleep=lambda s: None, clock=lambda: 10**12)
        lines = list(past.candles("X-Y", "1m", since * 60_000, 1_500 * 60_000))
        found = [int(json.loads(line)["data"][0][0]) // 60_000 for line in lines]
        assert found == list(range(max(since, 100), 1_500))
        assert rest.asked < 40
    assert caplog.text == ""


def test_bars_that_stay_away_are_told(caplog):
    """What no answer has confirmed is left out and told, not passed over."""

    def spoil(n, rows):
        return [[*row[:-1], "0" if row[0] == "42000000" else "1"] for row in rows]

    past = TradeHistory(Bars(spoil), sleep=lambda s: None, clock=lambda: 10**12)
    found = list(past.candles("X-Y", "1m", 0, 1_500 * 60_000))
    assert len(found) == 1_399
    assert "X-Y: OKX shows 1 bars of 1m between 1970-01-01T10:00" in caplog.text


@settings(max_examples=100, deadline=None)
@given(
    st.sets(st.integers(100, 400), max_size=20), st.lists(st.sampled_from("georsb"), min_size=1, max_size=9), st.data()
)
def test_trades_from_bad_pages(absent, faults, data):
    """Pages that repeat a row, overlap, are short or empty, or hold what was not asked for: nothing comes twice, and
    no id is proved absent that is there."""
    nodes = Nodes([n for n in range(1, 600) if n not in absent])
    good = nodes.history_trades

    def history_trades(symbol, after, by_time=False, limit=100):
        fault = faults[nodes.requests % len(faults)]
        rows = good(symbol, after if fault != "o" else after + 30, by_time, limit)
        if fault == "e":
            return []
        if fault == "r" and rows:
            return [rows[0], *rows][:limit]
        if fault == "s":
            return rows[: data.draw(st.integers(0, 99))]
        return [nodes.row(symbol, 599), *rows][:limit] if fault == "b" else rows

    nodes.history_trades = history_trades
    pages = list(history(nodes).range("X-Y", 90, 450, 599))
    found, missing = tiled(pages, 90, 450)
    assert len(found) == len(set(found)) and not set(found) & absent
    for page in pages:
        lacking = {n for low, high in page.missing for n in range(low, high + 1)}
        assert not page.evidence or lacking <= absent
    if set(faults) <= set("gorb"):
        assert set(missing) <= absent


def test_candles_that_have_no_timeframe():
    """A bar that okx cannot describe is refused with the one to take instead."""
    with pytest.raises(UsageError, match="candle6Hutc"):
        list(TradeHistory(Nodes([1])).candles("X-Y", "6H", 0, 1))
    with pytest.raises(UsageError, match="no candles of 7m"):
        list(TradeHistory(Nodes([1])).candles("X-Y", "7m", 0, 1))
    with pytest.raises(UsageError, match="keeps no past of books5"):
        Past(TradeHistory(Nodes([1])), ["X-Y"], "books5", (0, 1))
