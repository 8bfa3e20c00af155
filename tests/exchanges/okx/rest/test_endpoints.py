"""The REST client against a server on loopback that answers as told, and against the local exchange."""

import json
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest

from okxcli.errors import ExchangeUnavailable, NoSuchInstrument, Refused, UsageError
from okxcli.exchanges.okx.rest import endpoints
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.rest.instrument_list import Catalogue
from okxcli.exchanges.okx.rest.rate_limits import Budget
from okxcli.exchanges.okx.rest.rest_market import RestMarket
from okxcli.local.exchange import LocalExchange
from okxcli.runtime.clock import now_ms


class Answers(ThreadingHTTPServer):
    """Gives the prepared answers in turn (status, body, headers), the last one for ever; notes what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = []
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        parts = urlsplit(self.path)
        server.asked.append((parts.path, dict(parse_qsl(parts.query))))
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        status, body, headers = (*answer, {})[:3]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def server():
    with Answers() as answers:
        thread = threading.Thread(target=answers.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield answers
        answers.shutdown()
        thread.join(5)


@pytest.fixture
def slept():
    return []


@pytest.fixture
def client(server, slept):
    client = RestClient(server.url, budget=Budget(), sleep=slept.append, timeout_s=2)
    yield client
    client.close()


def fill(number):
    return {"instId": "BTC-USDT", "tradeId": str(number), "ts": "1747087163557"}


def ok(*rows):
    return 200, {"code": "0", "msg": "", "data": list(rows)}


TOO_MANY = (429, {"msg": "Too Many Requests", "code": "50011"})
HTML = b"<html><head><title>503</title></head><body>cloudflare</body></html>"


@pytest.mark.parametrize(
    "failure",
    [
        TOO_MANY,
        (200, {"code": "50011", "msg": "Rate limit reached.", "data": []}),
        (429, {"code": "50013", "msg": "busy"}),
        (503, {"code": "50001", "msg": "Service temporarily unavailable"}),
        (400, {"code": "50004", "msg": "Endpoint request timeout"}),
        (500, {"code": "50026", "msg": "System error"}),
        (503, HTML),
        (403, HTML),
        (429, HTML),
        (200, HTML),
        (200, b"[]"),
        (200, b'{"code":"0","data":[{"ts'),
    ],
)
def test_passing_failures_are_survived(server, client, slept, failure):
    """Too fast, busy, maintenance, an HTML page or a torn body: asked again, after a pause, until it works."""
    server.answers = [failure, failure, ok({"ts": "1597026383085"})]
    assert client.time_ms() == 1597026383085
    assert len(server.asked) == 3
    assert len([s for s in slept if s > 0]) >= 2


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, 1),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": formatdate(time.time() + 3600, usegmt=True)}, 60),
        ({"Retry-After": formatdate(time.time() - 3600, usegmt=True)}, 1),
        ({"Retry-After": "99999999999999999999"}, 60),
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "-5"}, 1),
    ],
)
def test_too_fast_waits_as_long_as_it_is_told(server, headers, wait_s):
    """429 with Retry-After, in seconds or as a moment, bounded; without it a second: then nobody asks there."""
    for status in (429, 503):
        slept = []
        server.answers = [(status, {"msg": "Too Many Requests", "code": "50011"}, headers), ok({"ts": "1597026383085"})]
        client = RestClient(server.url, budget=Budget(), sleep=slept.append, timeout_s=2)
        assert client.time_ms() == 1597026383085
        client.close()
        assert wait_s - 1 < max(slept) <= wait_s + 0.1


def test_endless_failure_ends_with_one_line(server, client):
    """After all attempts the error names the address and the reason."""
    server.answers = [TOO_MANY]
    with pytest.raises(ExchangeUnavailable) as told:
        client.time_ms()
    assert str(told.value) == f"no answer from OKX at {server.url}/api/v5/public/time: Too Many Requests (50011)"
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        ((200, {"code": "51001", "msg": "Instrument ID does not exist", "data": []}), NoSuchInstrument, "X-Y (51001)"),
        ((400, {"code": "51000", "msg": "Parameter instId error", "data": []}), Refused, "Parameter instId error"),
        ((200, {"code": "50039", "msg": "not supported", "data": []}), Refused, "(50039)"),
        ((404, b"not found"), Refused, "Check --rest-url"),
        ((302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}), Refused, "redirects elsewhere"),
    ],
)
def test_refusals_are_not_repeated(server, client, answer, kind, told):
    """What another attempt would get again ends at once; redirects are not followed."""
    server.answers = [answer]
    with pytest.raises(kind, match=told.replace("(", r"\(").replace(")", r"\)")):
        client.trades("X-Y")
    assert len(server.asked) == 1


def test_unreachable_and_wrong_addresses(slept):
    """Nobody there, or no address at all: one clear line each."""
    with RestClientOn("http://127.0.0.1:9", slept) as client, pytest.raises(ExchangeUnavailable, match="refused"):
        client.time_ms()
    for base in ("ftp://x", "www.okx.com", ""):
        with pytest.raises(UsageError, match="not a REST base"):
            RestClient(base)


class RestClientOn:
    """A client that is closed afterwards."""

    def __init__(self, url, slept):
        self.client = RestClient(url, attempts=2, budget=Budget(), sleep=slept.append, timeout_s=2)

    def __enter__(self):
        return self.client

    def __exit__(self, *_):
        self.client.close()


def test_endless_bodies_are_refused(server, client, monkeypatch):
    """An answer beyond the bound is not read to its end, compressed or not."""
    import gzip

    monkeypatch.setattr("okxcli.exchanges.okx.rest.endpoints._MAX_BODY", 1000)
    server.answers = [(200, gzip.compress(b" " * 5_000_000), {"Content-Encoding": "gzip"})]
    with pytest.raises(Refused, match="more than"):
        client.time_ms()


def test_pages_of_trades_go_back_by_id(server, client):
    """Each page continues below the lowest id; it ends when the wanted id is reached."""
    server.answers = [ok(fill(9), fill(8)), ok(fill(7), fill(6)), ok()]
    pages = list(client.trade_pages("BTC-USDT", 10, down_to=6))
    assert [[row["tradeId"] for row in page] for page in pages] == [["9", "8"], ["7", "6"]]
    assert [query["after"] for _, query in server.asked] == ["10", "8"]
    assert all(query["type"] == "1" for _, query in server.asked)


def test_a_page_that_does_not_move_ends_the_walk(server, client):
    """A node that answers from an old cache for ever does not keep us for ever."""
    server.answers = [ok(fill(10), fill(12))]
    assert len(list(client.trade_pages("BTC-USDT", 10))) == 1
    server.answers = [ok(["5000", *"1111111"])]
    assert len(list(client.candle_pages("BTC-USDT", "1m", 0, 5000))) == 1


def test_a_burst_is_spread_over_the_windows():
    """Not more than the allowed number in any window, with a tenth to spare; the first ones go at once."""
    now, path = [100 * 10**9], "/api/v5/market/history-trades"  # 20 in 2 s
    window = Budget(clock=lambda: now[0])
    turns = [window.turn(path) for _ in range(60)]
    assert turns[:18] == [0.0] * 18
    times = sorted(turns)
    assert all(len([t for t in times if start <= t < start + 2.0]) <= 18 for start in times)
    assert max(turns) < 8.0
    now[0] += 100 * 10**9
    assert window.turn(path) == 0.0


def test_pause_holds_all_turns():
    """After OKX said that it is too much, nothing goes out for the pause."""
    window, path = Budget(clock=lambda: 50 * 10**9), "/api/v5/market/history-trades"
    window.pause(path, 1.0)
    assert all(turn >= 1.0 - 1e-9 for turn in (window.turn(path) for _ in range(40)))


def test_against_the_local_exchange():
    """Trades by pages, candles by pages, instruments and clock, from a server that follows OKX's rules."""
    with LocalExchange(["BTC-USDT", "BTC-USDT-SWAP"], rate=40, seed=3, history_s=30) as exchange:
        exchange.stop_market()
        client = RestClient(exchange.rest_url, budget=Budget())
        fills = exchange.fills("BTC-USDT")
        ids = [fill.trade_id for fill in fills]
        pages = list(client.trade_pages("BTC-USDT", ids[-1] + 1, down_to=ids[0]))
        assert [int(row["tradeId"]) for page in pages for row in page] == ids[::-1]
        assert client.history_trades("BTC-USDT", exchange.now_ms() + 1, by_time=True)[0]["tradeId"] == str(ids[-1])
        assert len(client.trades("BTC-USDT", limit=7)) == 7
        first = ids and fills[0].ts // 1000 * 1000
        bars = [row for page in client.candle_pages("BTC-USDT", "1s", first, exchange.now_ms(), True) for row in page]
        assert len(bars) == len({row[0] for row in bars}) >= 25
        assert abs(client.time_ms() - exchange.now_ms()) < 2000
        with pytest.raises(NoSuchInstrument):
            client.history_trades("NO-SUCH")
        client.close()


@pytest.mark.parametrize(
    ("site", "off_ms", "told"),
    [("okx.com", -7e6, -7e6), ("okx.com", 7e6, 7e6), ("local", -7e6, 0), ("local", 7e6, 7e6)],
)
def test_a_clock_of_the_exchange(monkeypatch, site, off_ms, told):
    """It goes by OKX's time, and by ours where that cannot be had; a simulated market's sets no clock back."""
    monkeypatch.setattr(endpoints, "origin_of", lambda url: site)
    with LocalExchange(["BTC-USDT"], rate=1, history_s=1, start_ms=now_ms() + int(off_ms)) as exchange:
        client = RestClient(exchange.rest_url, budget=Budget())
        assert abs(client.clock()() - now_ms() - told) < 2_000
        client.close()
    assert abs(RestClient("http://127.0.0.1:9", budget=Budget()).clock()() - now_ms()) < 2_000


def test_catalogue_finds_kinds_and_nearest_names():
    """A symbol is found in the list that has it; each list is asked for once; a mistyped name has a neighbour."""
    with LocalExchange(["BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP"], rate=1, history_s=1) as exchange:
        client = RestMarket(exchange.rest_url, budget=Budget())
        asked = Counter()
        fetch = client.instruments
        client.instruments = lambda kind, family=None: asked.update([kind]) or fetch(kind, family)
        catalogue = Catalogue(client)
        found = catalogue.find(["BTC-USDT-SWAP", "BTC-USTD", "BTC-USDT"])
        assert [row["instType"] for row in found.values()] == ["SWAP", "SPOT"]
        assert catalogue.nearest("BTC-USTD") == "BTC-USDT"
        assert catalogue.nearest("eth-usdt") == "ETH-USDT"
        assert catalogue.nearest("ZZZZZZ") is None
        assert max(asked.values()) == 1
        assert [i.symbol for i in client.listed(["swap", "spot"])] == ["BTC-USDT", "BTC-USDT-SWAP", "ETH-USDT"]
        client.close()


@pytest.mark.parametrize("row", [
    7, None, "x", [], {}, {"tradeId": "x"}, fill(5) | {"tradeId": 5}, fill(5) | {"ts": "9" * 5000},
    fill("²"), fill(5) | {"instId": None}, ["1747087160000", 1, 1, 1, 1, 1, 1],
])  # fmt: skip
def test_rows_of_another_form_are_no_answer(client, server, row):
    """One line for the user, as for any other answer that is none; nothing falls over them."""
    server.answers = [ok(row)]
    for ask in (
        lambda: client.trades("BTC-USDT"),
        lambda: client.history_trades("BTC-USDT"),
        lambda: list(client.candle_pages("BTC-USDT", "1m", 0, 10)),
    ):
        with pytest.raises(ExchangeUnavailable, match="not what they should be"):
            ask()


def test_an_empty_answer_has_no_time(client, server):
    """OKX's clock and a book are one row; an answer without it is told as none."""
    server.answers = [ok()]
    for ask in (client.time_ms, lambda: client.books("BTC-USDT")):
        with pytest.raises(ExchangeUnavailable, match="holds nothing"):
            ask()
