"""What goes wrong on purpose does so exactly, and nothing else does."""

import time

import pytest
from local_client import rest
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

BTC, ETH = "BTC-USDT", "ETH-USDT"
FREE = Options(limits=0)


@pytest.fixture
def hand():
    """An exchange on which nothing happens but what the test does."""
    with LocalExchange([BTC, ETH], rate=0, history_s=0, first_push=False, options=FREE) as exchange:
        yield exchange


@pytest.fixture
def listener(hand, client):
    """A client that is subscribed to the fills of both symbols."""
    one = client(hand, "business")
    one.ask("subscribe", f"trades-all:{BTC}", f"trades-all:{ETH}")
    assert [one.next()["event"] for _ in range(2)] == ["subscribe", "subscribe"]
    return one


def ids(messages):
    """Return the ids of the pushed trades."""
    return [int(message["data"][0]["tradeId"]) for message in messages]


def test_cut_ends_without_a_close_frame(hand, listener, client):
    """The client sees the end of the stream and no code; other paths live on."""
    public = client(hand)
    assert hand.cut("business") == 1
    with pytest.raises(ConnectionClosed) as closed:
        listener.next()
    assert closed.value.rcvd is None
    public.socket.send("ping")
    assert public.next() == "pong"
    assert [info.path for info in hand.connections()] == ["/ws/v5/public"]


def test_notice_comes_before_the_end_on_public_only(hand, listener, client):
    """64008 is announced on public connections; business ones end without a word."""
    public = client(hand)
    public.ask("subscribe", f"trades:{BTC}")
    assert public.next()["event"] == "subscribe"
    hand.fault("notice=300ms")
    notice = public.next()
    assert (notice["event"], notice["code"]) == ("notice", "64008")
    for one in (public, listener):
        with pytest.raises(ConnectionClosed):
            one.next()


def test_any_close_code_can_be_sent(hand, listener):
    """OKX's own codes reach the client with their reason."""
    hand.close_connections(4009, "too many", "business")
    with pytest.raises(ConnectionClosed) as closed:
        listener.next()
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4009, "too many")


def test_muted_channels_are_acked_and_silent(hand, listener, client):
    """A mute swallows the pushes of its channel and symbol; a new subscription is acked as ever."""
    hand.fault(f"mute=trades-all:{BTC}")
    for symbol in (BTC, ETH, BTC):
        hand.trade(symbol, "10", "1")
    assert [m["arg"]["instId"] for m in listener.heard()] == [ETH]
    fresh = client(hand, "business")
    fresh.ask("subscribe", f"trades-all:{BTC}")
    assert fresh.next()["event"] == "subscribe"
    hand.fault("unmute")
    last = hand.trade(BTC, "10", "1")
    assert ids(listener.heard()) == [last]


def test_dropped_fills_are_in_rest(hand, listener):
    """Dropped fills leave a hole in the push, and REST fills it; other symbols are whole."""
    first = hand.trade(BTC, "10", "1")
    hand.fault(f"drop=3:{BTC}")
    for price in ("11", "12", "13", "14"):
        hand.trade(BTC, price, "1")
    hand.trade(ETH, "10", "1")
    heard = [m for m in listener.heard() if m["arg"]["instId"] == BTC]
    assert ids(heard) == [first, first + 4]
    _, page = rest(hand, f"market/history-trades?instId={BTC}")
    assert [int(row["tradeId"]) for row in page["data"]] == list(range(first + 4, first - 1, -1))


def test_a_dropped_fill_takes_its_merged_trade_with_it(hand, client):
    """On `trades` a group of which a fill was dropped is missing whole, so that the count rule shows the hole."""
    one = client(hand)
    one.ask("subscribe", f"trades:{BTC}")
    one.next()
    first = hand.order(BTC, "buy", [("10", "1"), ("10", "1")])
    hand.fault(f"drop=1:{BTC}")
    hand.order(BTC, "buy", [("10", "1"), ("10", "1")])
    last = hand.order(BTC, "buy", [("10", "1"), ("10", "1"), ("10", "1")])
    assert ids(one.heard()) == [first, last]


def test_lost_fills_exist_nowhere(hand, listener):
    """A lost fill has an id and nothing else: neither push, nor REST, nor candles; `absent` names it."""
    first = hand.trade(BTC, "10", "1")
    hand.fault(f"lose=2:{BTC}")
    for price in ("11", "12", "13"):
        hand.trade(BTC, price, "1")
    assert ids(listener.heard()) == [first, first + 3]
    _, page = rest(hand, f"market/history-trades?instId={BTC}")
    assert [int(row["tradeId"]) for row in page["data"]] == [first + 3, first]
    assert hand.absent(BTC) == [first + 1, first + 2]
    assert [f.trade_id for f in hand.fills(BTC)] == [first, first + 3]
    assert sum(int(row[5]) for row in hand.candles(BTC)) == 2
    hand.skip_ids(BTC, 5)
    assert hand.trade(BTC, "10", "1") == first + 9


def test_duplicates_are_pushed_twice(hand, listener):
    """The next fills come twice on the wire and once in REST."""
    hand.fault(f"duplicate=2:{BTC}")
    first = hand.trade(BTC, "10", "1")
    hand.trade(BTC, "10", "1")
    hand.trade(BTC, "10", "1")
    assert ids(listener.heard()) == [first, first, first + 1, first + 1, first + 2]
    assert len(rest(hand, f"market/trades?instId={BTC}")[1]["data"]) == 3


def test_delay_keeps_order_and_loses_nothing(hand, listener):
    """Pushes come later, in their order, also across the end of the delay."""
    hand.fault("delay=400ms")
    begun = time.monotonic()
    first = hand.trade(BTC, "10", "1")
    hand.trade(BTC, "10", "1")
    hand.fault("delay=0s")
    hand.trade(BTC, "10", "1")
    got = ids([listener.next() for _ in range(3)])
    assert got == [first, first + 1, first + 2]
    assert time.monotonic() - begun > 0.35


def test_handshakes_can_be_refused(hand, client):
    """While it lasts every handshake gets 429; then connections open again."""
    hand.fault("refuse=30s")
    with pytest.raises(InvalidStatus):
        client(hand)
    hand.fault("refuse=0s")
    client(hand)


def test_pongs_can_be_withheld(hand, client):
    """The connection stays and pings get no answer."""
    one = client(hand)
    hand.fault("no-pong=30s")
    one.socket.send("ping")
    assert one.during(0.2) == []
    hand.fault("no-pong=0s")
    one.socket.send("ping")
    assert one.next() == "pong"


def test_connections_can_be_half_open(hand, listener, client):
    """A frozen connection neither ends nor says anything; new ones work."""
    assert hand.freeze() == 1
    number = hand.trade(BTC, "10", "1")
    listener.socket.send("ping")
    assert listener.during(0.3) == []
    assert listener.socket.state.name == "OPEN"
    fresh = client(hand, "business")
    fresh.ask("subscribe", f"trades-all:{BTC}")
    assert fresh.next()["event"] == "subscribe"
    assert hand.trade(BTC, "10", "1") == number + 1
    assert ids(fresh.heard()) == [number + 1]


def test_acks_can_be_withheld(hand, client):
    """Requests are ignored for a while, pings are not."""
    one = client(hand)
    hand.fault("no-ack=30s")
    one.ask("subscribe", f"trades:{BTC}")
    one.socket.send("ping")
    assert one.next() == "pong"
    assert one.during(0.2) == []
    hand.fault("no-ack=0s")
    one.ask("subscribe", f"trades:{BTC}")
    assert one.next()["event"] == "subscribe"


def test_rest_can_be_busy_slow_and_html(hand):
    """429 with 50011, 503 with HTML, and answers that take their time."""
    hand.fault("busy=30s")
    assert rest(hand, "public/time") == (429, {"msg": "Too Many Requests", "code": "50011"})
    hand.fault("busy=0s")
    hand.fault("html=30s")
    status, body = rest(hand, "public/time")
    assert (status, body[:6]) == (503, b"<html>")
    hand.fault("html=0s")
    hand.fault("slow-rest=300ms")
    begun = time.monotonic()
    assert rest(hand, "public/time")[0] == 200
    assert time.monotonic() - begun >= 0.3


def test_two_caches_answer_at_random(hand):
    """With a stale cache some answers lack the newest fill, others have it."""
    last = hand.trade(BTC, "10", "1", ts=hand.now_ms())
    hand.fault("stale-rest=60s")
    sizes = [len(rest(hand, f"market/history-trades?instId={BTC}&after={last + 1}")[1]["data"]) for _ in range(30)]
    assert set(sizes) == {0, 1}


def test_planned_faults_happen_at_their_time(client):
    """Faults given at the start come when they are due, again and again where they say so."""
    begun = time.monotonic()
    with LocalExchange([BTC], rate=0, history_s=0, faults=["cut@every:300ms"], options=FREE) as exchange:
        for _ in range(2):
            with pytest.raises((ConnectionClosed, InvalidMessage)):  # the latter if it is cut in the handshake
                client(exchange).next()
        assert time.monotonic() - begun > 0.6
    faults = ["duplicate=1:BTC-USDT"]
    with LocalExchange([BTC], rate=0, history_s=0, first_push=False, faults=faults, options=FREE) as exchange:
        one = client(exchange, "business")
        one.ask("subscribe", f"trades-all:{BTC}")
        one.next()
        number = exchange.trade(BTC, "10", "1")
        assert ids([one.next(), one.next()]) == [number, number]


def test_anything_can_be_sent(hand, listener):
    """Hostile text goes out as it is."""
    hand.send('{"event":"surprise"}')
    assert listener.next() == {"event": "surprise"}


def test_a_symbol_can_be_taken_off_the_lists(hand, listener, client):
    """It is told, silent and refused, its neighbour trades on; listed again it is as it was, with all its fills."""
    public = client(hand)
    public.ask("subscribe", {"channel": "instruments", "instType": "SPOT"})
    assert public.next()["event"] == "subscribe"
    hand.fault(f"delist:{ETH}")
    assert [(row["instId"], row["state"]) for row in public.next()["data"]] == [(ETH, "expired")]
    lost, number = hand.trade(ETH, "10", "1"), hand.trade(BTC, "10", "1")
    assert ids([listener.next()]) == [number]
    assert [row["instId"] for row in rest(hand, "public/instruments?instType=SPOT")[1]["data"]] == [BTC]
    assert rest(hand, f"market/trades?instId={ETH}")[1]["code"] == "51001"
    hand.fault(f"list:{ETH}")
    assert public.next()["data"][0]["state"] == "live"
    number = hand.trade(ETH, "10", "1")
    assert ids([listener.next()]) == [number]
    assert [int(row["tradeId"]) for row in rest(hand, f"market/trades?instId={ETH}")[1]["data"]] == [number, lost]
