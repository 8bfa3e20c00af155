"""The local exchange over real sockets: what a client sees, and that every channel tells the same story."""

import contextlib
import http.client
import json
import socket
import time
from decimal import Decimal
from itertools import pairwise

import pytest
from local_client import rest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from okxcli.errors import UsageError
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.local.venue import venue

BTC, PEPE = "BTC-USDT", "PEPE-USDT"
START = 1_747_087_140_000
FREE = Options(limits=0)


def is_final(message):
    """Whether it is the last push of a candle."""
    return "data" in message and message["arg"]["channel"].startswith("candle") and message["data"][0][-1] == "1"


@pytest.fixture
def hand():
    """An exchange on which nothing happens but what the test does; its clock runs from START."""
    with LocalExchange([BTC, "ETH-USDT"], rate=0, history_s=0, start_ms=START, options=FREE) as exchange:
        yield exchange


def test_text_ping_gets_text_pong(hand, client):
    """The four bytes ping are answered by pong, with and without compression, and count as no request."""
    for compression in ("deflate", None):
        one = client(hand, compression=compression)
        one.socket.send("ping")
        assert one.next() == "pong"
    assert [info.requests for info in hand.connections()] == [0, 0]


def test_compression_is_negotiated_and_optional(hand, client):
    """permessage-deflate is used when the client offers it; both kinds of client get the same messages."""
    packed, plain = client(hand, compression="deflate"), client(hand, compression=None)
    assert packed.socket.protocol.extensions
    assert not plain.socket.protocol.extensions
    for one in (packed, plain):
        one.ask("subscribe", f"trades:{BTC}")
        assert one.next()["event"] == "subscribe"
    for number in range(50):
        hand.trade(BTC, f"100.{number}1", "1")
    assert packed.pushes("trades", 50) == plain.pushes("trades", 50)


@pytest.mark.parametrize("path", ["/", "/ws", "/ws/v5/publics", "/ws/v5/public/"])
def test_other_paths_are_refused(hand, path):
    """A handshake on any other path fails with 404; a query string is ignored."""
    with pytest.raises(InvalidStatus) as refused, connect(hand.ws_url + path):
        pass
    assert refused.value.response.status_code == 404
    with connect(f"{hand.ws_url}/ws/v5/public?brokerId=9999") as one:
        one.send("ping")
        assert one.recv(timeout=5) == "pong"


def test_too_long_a_request_closes_with_1009(hand, client):
    """More than 64 KB in one request ends the connection with OKX's reason, in one frame or in many."""
    for frames in ("x" * 70_000, ("x" * 30_000 for _ in range(3))):
        one = client(hand)
        with contextlib.suppress(ConnectionClosed):  # it may be over before the last piece has left
            one.socket.send(frames)
        with pytest.raises(ConnectionClosed) as closed:
            one.next()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            1009,
            "Request message exceeds the maximum frame length",
        )


def test_idle_connections_are_closed_with_4004(client):
    """Silence, and a connection that never subscribes, end with 4004; pushes and pings keep a connection."""
    with LocalExchange([BTC], rate=0, history_s=0, options=Options(limits=0, idle_s=2)) as exchange:
        barren, silent, pinging, pushed = (client(exchange) for _ in range(4))
        silent.ask("subscribe", "trades:ETH-USDT")
        pinging.ask("subscribe", "trades:ETH-USDT")
        pushed.ask("subscribe", "tickers:BTC-USDT")
        end = time.monotonic() + 30
        while len(exchange.connections()) > 2 and time.monotonic() < end:
            time.sleep(0.1)
            pinging.socket.send("ping")
            exchange.trade(BTC, "10", "1")
            if barren.socket.state.name == "OPEN":
                barren.socket.send("ping")
        for one in (barren, silent):
            with pytest.raises(ConnectionClosed) as closed:
                one.until(lambda message: False)
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4004, "No data received in 30s")
        for one in (pinging, pushed):
            one.socket.send("ping")
            assert one.until(lambda message: message == "pong")


def test_book_pushes_keep_a_connection_alive(client):
    """A client that only listens to a busy channel is not closed."""
    with LocalExchange([BTC], rate=300, options=Options(limits=0, idle_s=1.5)) as exchange:
        one = client(exchange)
        one.ask("subscribe", "bbo-tbt:BTC-USDT")
        assert len(one.during(3)) > 10
        one.heard()


def test_acks_come_before_data_and_each_argument_has_one(client):
    """The replies to a request come in its order, before the first push of any of them."""
    with LocalExchange([BTC, PEPE], rate=50, options=FREE) as exchange:
        one = client(exchange)
        one.ask("subscribe", *(f"{c}:{s}" for s in (BTC, PEPE) for c in ("trades", "tickers", "books5")), id="7")
        replies = [one.next() for _ in range(6)]
        assert [(r["id"], r["event"], r["arg"]["channel"], r["arg"]["instId"]) for r in replies] == [
            ("7", "subscribe", channel, symbol) for symbol in (BTC, PEPE) for channel in ("trades", "tickers", "books5")
        ]
        assert len({r["connId"] for r in replies}) == 1
        assert "data" in one.next()


def test_first_push_is_the_newest_old_trade_and_can_be_switched_off(hand, client):
    """A new subscription of trades or trades-all gets the newest trade at once, however old."""
    hand.order(BTC, "buy", [("10", "1"), ("10", "2")], ts=START - 3_600_000)
    public, business = client(hand), client(hand, "business")
    public.ask("subscribe", f"trades:{BTC}")
    business.ask("subscribe", f"trades-all:{BTC}")
    (merged,), (fill,) = public.pushes("trades", 1), business.pushes("trades-all", 1)
    assert (merged["sz"], merged["count"], fill["sz"]) == ("3", "2", "2")
    assert merged["tradeId"] == fill["tradeId"]
    with LocalExchange([BTC], rate=0, history_s=0, first_push=False, options=FREE) as exchange:
        exchange.trade(BTC, "10", "1")
        one = client(exchange)
        one.ask("subscribe", f"trades:{BTC}")
        assert len(one.heard()) == 1


def test_repeated_subscription_brings_no_second_stream(hand, client):
    """It is acked, and each trade still comes once; after unsubscribing none comes."""
    one = client(hand, "business")
    for _ in range(2):
        one.ask("subscribe", f"trades-all:{BTC}")
        assert one.next()["event"] == "subscribe"
    hand.trade(BTC, "10", "1")
    hand.trade(BTC, "11", "1")
    assert [message["data"][0]["px"] for message in one.heard()] == ["10", "11"]
    one.ask("unsubscribe", f"trades-all:{BTC}")
    assert one.next()["event"] == "unsubscribe"
    hand.trade(BTC, "12", "1")
    assert one.heard() == []


def test_trades_have_the_documented_bytes(hand, client):
    """`trades-all` has source and no count; `trades` has count, source and an integer seqId."""
    public, business = client(hand), client(hand, "business")
    public.ask("subscribe", f"trades:{BTC}")
    business.ask("subscribe", f"trades-all:{BTC}")
    assert (public.next()["event"], business.next()["event"]) == ("subscribe", "subscribe")
    last = hand.order(BTC, "sell", [("102537.9", "0.1"), ("102537.9", "0.2"), ("102537.8", "1")], ts=START + 5)
    fills = [business.socket.recv(timeout=5) for _ in range(3)]
    assert fills[0] == (
        '{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT",'
        f'"tradeId":"{last - 2}","px":"102537.9","sz":"0.1","side":"sell","source":"0","ts":"{START + 5}"}}]}}'
    )
    merged = [json.loads(public.socket.recv(timeout=5))["data"][0] for _ in range(2)]
    assert [(row["tradeId"], row["count"], row["sz"]) for row in merged] == [
        (str(last - 1), "2", "0.3"),
        (str(last), "1", "1"),
    ]
    assert list(merged[0]) == ["instId", "tradeId", "px", "sz", "side", "ts", "count", "source", "seqId"]
    assert isinstance(merged[0]["seqId"], int)


def test_all_channels_tell_the_same_story(client):
    """Fills, merged trades, REST pages, the fills file and candles of a busy market agree exactly."""
    with LocalExchange([BTC, PEPE], rate=50, speed=60, start_ms=START, options=FREE) as exchange:
        public, business = client(exchange), client(exchange, "business")
        public.ask("subscribe", f"trades:{PEPE}")
        business.ask("subscribe", f"trades-all:{PEPE}", f"candle1m:{PEPE}")
        heard = business.during(3.5)
        while sum(is_final(m) for m in heard) < 2:
            heard.append(business.next())
        exchange.stop_market()
        heard += business.heard()
        merged = [m["data"][0] for m in public.heard() if "data" in m]
        fills = exchange.fills(PEPE)
        single = [m["data"][0] for m in heard if "data" in m and m["arg"]["channel"] == "trades-all"]
        truth = [(str(f.trade_id), f.price, f.size, f.side, str(f.ts)) for f in fills]
        told = [tuple(row[key] for key in ("tradeId", "px", "sz", "side", "ts")) for row in single]
        assert told == truth[-len(told) :]
        assert all(int(b["tradeId"]) == int(a["tradeId"]) + 1 for a, b in pairwise(single))
        assert all(int(b["tradeId"]) - int(b["count"]) == int(a["tradeId"]) for a, b in pairwise(merged))
        assert len(merged) < len(single)
        status, page = rest(exchange, f"market/history-trades?instId={PEPE}")
        assert status == 200
        assert [row["tradeId"] for row in page["data"]] == [f[0] for f in truth[:-101:-1]]
        candles = [m["data"][0] for m in heard if "data" in m and m["arg"]["channel"] == "candle1m"]
        final = [row for row in candles if row[8] == "1"]
        assert len(final) >= 2
        assert all(int(b[0]) - int(a[0]) == 60_000 for a, b in pairwise(final))
        by_start = {row[0]: row for row in exchange.candles(PEPE)}
        assert all(by_start[row[0]] == row for row in final)
        _, page = rest(exchange, f"market/candles?instId={PEPE}&limit=300")
        assert page["data"][::-1] == list(by_start.values())
        for row in final:
            inside = [f for f in fills if int(row[0]) <= f.ts < int(row[0]) + 60_000]
            assert Decimal(row[5]) == sum(Decimal(f.size) for f in inside)


def test_what_is_over_is_whole_however_slow_the_machine(client, monkeypatch):
    """A bar that is final, in a push or on REST, lacks no fill: all that is done at once is done at one time."""
    begun = time.monotonic()

    class Slow:
        """Each look at the clock takes half a second."""

        looks = 0

        @classmethod
        def monotonic(cls):
            cls.looks += 1
            return begun + cls.looks * 0.5

    monkeypatch.setattr(venue, "time", Slow)
    with LocalExchange([BTC], rate=20, history_s=5, start_ms=START, options=FREE) as exchange:
        one = client(exchange, "business")
        one.ask("subscribe", f"candle1s:{BTC}")
        final, shown = {}, {}
        while len(final) < 40:
            if is_final(message := one.next()):
                final[message["data"][0][0]] = message["data"][0]
            _, page = rest(exchange, f"market/candles?instId={BTC}&bar=1s&limit=2")
            shown |= {row[0]: row for row in page["data"] if row[-1] == "1" and row[0] not in shown}
        exchange.stop_market()
        whole = {row[0]: row for row in exchange.candles(BTC, "1s")}
        assert {start: whole[start] for start in final} == final
        assert len(shown) > 5 and {start: whole[start] for start in shown} == shown


def test_books_chain_from_snapshot_to_update(client):
    """`books` begins with a snapshot of 400 levels; updates chain by prevSeqId and lead to what REST shows."""
    with LocalExchange([BTC], rate=50, options=FREE) as exchange:
        one = client(exchange)
        one.ask("subscribe", f"books:{BTC}")
        messages = [m for m in one.during(2) if "data" in m]
        exchange.stop_market()
        (book,) = rest(exchange, f"market/books?instId={BTC}&sz=400")[1]["data"]
        messages += [m for m in one.heard() if "data" in m]
        assert [m["action"] for m in messages] == ["snapshot"] + ["update"] * (len(messages) - 1)
        assert len(messages) > 8
        rows = [m["data"][0] for m in messages]
        assert (rows[0]["prevSeqId"], rows[0]["checksum"], len(rows[0]["asks"])) == (-1, 0, 400)
        assert all(b["prevSeqId"] == a["seqId"] < b["seqId"] for a, b in pairwise(rows))
        sides = {"asks": {}, "bids": {}}
        for row in rows:
            for side, levels in sides.items():
                for price, size, zero, _ in row[side]:
                    assert zero == "0"
                    levels[price] = size
                    if size == "0":
                        del levels[price]
        assert {len(levels) for levels in sides.values()} == {400}
        assert {price: size for price, size, *_ in book["asks"]} == sides["asks"]
        assert {price: size for price, size, *_ in book["bids"]} == sides["bids"]
        asks, bids = ([Decimal(level[0]) for level in book[side]] for side in ("asks", "bids"))
        assert asks == sorted(asks)
        assert bids == sorted(bids, reverse=True)
        assert bids[0] < asks[0]
        assert len(rest(exchange, f"market/books?instId={BTC}")[1]["data"][0]["asks"]) == 1


def test_small_books_are_whole_snapshots(client):
    """`books5` repeats the instrument and has five levels, `bbo-tbt` one; both only when something changed."""
    with LocalExchange([BTC], rate=50, options=FREE) as exchange:
        one = client(exchange)
        begun = time.monotonic()
        one.ask("subscribe", f"books5:{BTC}", f"bbo-tbt:{BTC}", f"tickers:{BTC}")
        messages = [m for m in one.during(2) if "data" in m]
        elapsed = time.monotonic() - begun
        for channel, levels in (("books5", 5), ("bbo-tbt", 1)):
            rows = [m["data"][0] for m in messages if m["arg"]["channel"] == channel]
            assert len(rows) > 5
            assert all(a["seqId"] < b["seqId"] and a != {**b, "seqId": a["seqId"]} for a, b in pairwise(rows))
            assert {len(row[side]) for row in rows for side in ("asks", "bids")} == {levels}
            assert {row.get("instId") for row in rows} == {BTC if channel == "books5" else None}
            assert not any("checksum" in row or "prevSeqId" in row for row in rows)
        tickers = [m for m in messages if m["arg"]["channel"] == "tickers"]
        assert 2 <= len(tickers) <= elapsed / 0.1 + 2


def test_same_seed_and_start_give_the_same_market():
    """Two exchanges with one seed and one start hold the same fills, however the wall clock jitters."""
    tapes = []
    for _ in range(2):
        with LocalExchange([BTC, PEPE], rate=50, seed=9, start_ms=START, speed=30, options=FREE) as exchange:
            time.sleep(0.5)
            tapes.append([exchange.fills(symbol) for symbol in (BTC, PEPE)])
    for one, other in zip(*tapes, strict=True):
        shorter = min(len(one), len(other))
        assert one[-1].ts > START
        assert one[:shorter] == other[:shorter]


def test_status_and_instruments_channels(hand, client):
    """`status` pushes its last change at once; `instruments` pushes a row when its state changes."""
    one = client(hand)
    one.ask("subscribe", {"channel": "status"}, {"channel": "instruments", "instType": "SPOT"})
    assert [one.next()["event"], one.next()["event"]] == ["subscribe", "subscribe"]
    assert one.next()["data"][0]["state"] == "completed"
    hand.set_state("ETH-USDT", "expired")
    (row,) = one.pushes("instruments", 1)
    assert (row["instId"], row["state"]) == ("ETH-USDT", "expired")
    one.ask("subscribe", "trades:ETH-USDT")
    assert one.next()["code"] == "60018"


def test_handshakes_and_requests_are_limited(client):
    """Handshakes and pages that come too fast are refused as OKX refuses them, not before the limit is reached."""
    with LocalExchange([BTC], rate=0, history_s=0) as exchange:
        with pytest.raises(InvalidStatus) as refused:
            for _ in range(100):  # the fourth within a second; a slow machine needs some more
                client(exchange)
        assert refused.value.response.status_code == 429
        assert len(exchange.connections()) >= 3
        answers = []
        while len(answers) < 300 and (not answers or answers[-1][0] == 200):
            answers.append(rest(exchange, f"market/history-trades?instId={BTC}"))
        assert len(answers) >= 21
        assert answers[-1] == (429, {"msg": "Too Many Requests", "code": "50011"})
        assert exchange.counts()["429"] == 1


def test_rest_keeps_connections_open_and_refuses_other_methods(hand):
    """One connection serves many requests; POST gets 405 and 50115, and its body is passed over."""
    port = int(hand.rest_url.rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    for method, body in (("GET", None), ("POST", b'{"x":1}'), ("GET", None)):
        connection.request(method, "/api/v5/public/time", body)
        answer = connection.getresponse()
        decoded = json.loads(answer.read())
        assert (answer.status, decoded["code"]) == ((200, "0") if method == "GET" else (405, "50115"))
    connection.close()


def test_what_is_no_http_is_dropped(hand):
    """Noise on the port ends that connection and nothing else."""
    port = int(hand.rest_url.rsplit(":", 1)[1])
    for noise in (b"\x00\xff" * 40_000, b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(noise)
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(100)[:12] in (b"", b"HTTP/1.1 400")
    assert rest(hand, "public/time")[0] == 200


def test_a_taken_port_is_one_clear_error(hand):
    """The message names the port and the way out."""
    port = int(hand.rest_url.rsplit(":", 1)[1])
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}.*--port"):
        LocalExchange([BTC], options=Options(port=port)).__enter__()


def test_slow_readers_are_closed_with_4005():
    """A client that does not read is closed once too much waits for it; the others go on."""
    with LocalExchange([BTC], rate=0, history_s=0, options=Options(limits=0, max_backlog=200_000)) as exchange:
        port = int(exchange.ws_url.rsplit(":", 1)[1])
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", port))
        url = f"{exchange.ws_url}/ws/v5/public"
        with connect(url, sock=raw, compression=None, max_queue=1, close_timeout=0.1) as one:
            one.send('{"op":"subscribe","args":[{"channel":"trades","instId":"BTC-USDT"}]}')
            assert exchange.wait_subscribed("trades", BTC)
            end = time.monotonic() + 60
            while exchange.connections() and time.monotonic() < end:
                exchange.send("x" * 100_000)
            assert exchange.connections() == []


@pytest.mark.parametrize(
    "wrong",
    [{"rate": -1}, {"speed": 0}, {"quiet": 1}, {"history_s": -1}, {"rate": 1e6, "history_s": 3600}, {"faults": ["x"]}],
)
def test_impossible_markets_are_refused(wrong):
    """Numbers that cannot be are a wrong option."""
    with pytest.raises(UsageError):
        LocalExchange([BTC], **wrong)
