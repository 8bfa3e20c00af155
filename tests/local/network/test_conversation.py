"""What the local exchange answers to each request, word by word."""

import base64
import hashlib
import hmac
import json

import pytest

from okxcli.errors import UsageError
from okxcli.local.faults import FAULTS, Faults, parse_fault, use_up
from okxcli.local.network.conversation import Reply, Session, Subscribe, Unsubscribe
from okxcli.local.network.request_limits import HANDSHAKE, Limits

ADVICE = "Please use the correct URL, channel and parameters referring to API document."


def session(path="/ws/v5/public", **more):
    """Return a conversation with an exchange that lists BTC-USDT."""
    return Session(path, "a4d3ae55", lambda channel, symbol: symbol == "BTC-USDT", **more)


def ask(one, request, now=0.0):
    """Return the replies to a request (an object, or text as it is) as objects."""
    text = request if isinstance(request, str) else json.dumps(request)
    return [json.loads(action.payload) for action in one.receive(text, now, now) if isinstance(action, Reply)]


def subscribe(*args, **more):
    """Return a subscribe request."""
    return {"op": "subscribe", "args": list(args), **more}


TRADES = {"channel": "trades", "instId": "BTC-USDT"}


def test_ack_has_the_recorded_bytes():
    """Acks read id, event, arg, connId; without an id they begin with the event."""
    one = session()
    with_id, bare = (
        one.receive(json.dumps(subscribe(TRADES, **more)), 0, 0)[0].payload.decode() for more in ({"id": "1512"}, {})
    )
    tail = '"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}'
    assert with_id == '{"id":"1512",' + tail
    assert bare == "{" + tail


def test_error_has_the_recorded_bytes():
    """Errors read event, msg, code, connId and have no arg."""
    one = session()
    wrong = one.receive(json.dumps(subscribe({"channel": "trades", "instId": "LTC-USD"})), 0, 0)
    assert [action.payload.decode() for action in wrong] == [
        f'{{"event":"error","msg":"Wrong URL or channel:trades,instId:LTC-USD doesn\'t exist. {ADVICE}",'
        '"code":"60018","connId":"a4d3ae55"}'
    ]


def test_a_bad_argument_leaves_its_neighbours_alone():
    """Each argument is answered by itself, in order; the good ones are subscribed."""
    one = session()
    request = subscribe(TRADES, {"channel": "nonsense"}, {"channel": "tickers", "instId": "BTC-USDT"}, 7)
    actions = one.receive(json.dumps(request), 0, 0)
    replies = [json.loads(action.payload) for action in actions if isinstance(action, Reply)]
    assert [reply.get("code", reply["event"]) for reply in replies] == ["subscribe", "60018", "subscribe", "60013"]
    assert [a.key for a in actions if isinstance(a, Subscribe)] == [("trades", "BTC-USDT"), ("tickers", "BTC-USDT")]


@pytest.mark.parametrize(
    ("path", "channel", "good"),
    [
        ("public", "trades", True),
        ("public", "trades-all", False),
        ("public", "candle1m", False),
        ("business", "trades-all", True),
        ("business", "trades", False),
        ("business", "candle1m", True),
        ("business", "candle1M", True),
        ("business", "candle1h", False),
        ("business", "candle6Hutc", True),
        ("business", "candle7m", False),
        ("public", "books5", True),
        ("business", "books5", False),
        ("public", "mark-price", True),
        ("private", "trades", False),
    ],
)
def test_channels_live_on_their_path_alone(path, channel, good):
    """The wrong path, and the wrong case of a bar, are answered with 60018."""
    (reply,) = ask(session(f"/ws/v5/{path}"), subscribe({"channel": channel, "instId": "BTC-USDT"}))
    assert reply["event"] == ("subscribe" if good else "error")
    assert good or reply["code"] == "60018"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ("not json", "60012"),
        ("[]", "60012"),
        ('"ping"', "60012"),
        ({"args": []}, "60012"),
        ({"op": "subscribe"}, "60012"),
        ({"op": "subscribe", "args": []}, "60012"),
        ({"op": "subscribe", "argss": [TRADES]}, "60012"),
        ({"op": "ping"}, "60019"),
        ({"op": "subscribe", "id": "a-b", "args": [TRADES]}, "60033"),
        ({"op": "subscribe", "id": "x" * 33, "args": [TRADES]}, "60033"),
        ({"op": "subscribe", "id": 5, "args": [TRADES]}, "60033"),
        (subscribe({"channel": "trades"}), "60018"),
        (subscribe({"channel": "trades", "instId": 5}), "60018"),
        (subscribe({"channel": "instruments", "instType": "NONE"}), "60018"),
        (subscribe({"channel": "opt-summary", "uly": "BTC-USD"}), "64000"),
        ("[" * 100_000, "60012"),
    ],
)
def test_wrong_requests_get_their_code(request_, code):
    """What is not a request, or names what is not there, gets one error with OKX's code and the connection's id."""
    (reply,) = ask(session(), request_)
    assert (reply["event"], reply["code"], reply["connId"]) == ("error", code, "a4d3ae55")


def test_errors_echo_the_offending_text_and_the_id():
    """60012 shows the text; an id that could be read comes back."""
    one = session()
    assert ask(one, "nonsense")[0]["msg"] == "Illegal request: nonsense"
    for bad in (r'{"op":"\ud800","args":[1]}', "[" * 3000, '{"op":NaN}'):  # no reply could say the first one
        assert ask(one, bad)[0]["code"] == "60012"
    request = {"id": "1512", "op": "subscribe", "argss": [TRADES]}
    (reply,) = ask(one, request)
    assert list(reply) == ["id", "event", "msg", "code", "connId"]
    assert reply["msg"] == f"Invalid request: {json.dumps(request)}"
    assert ask(one, {"op": "nonsense"})[0]["msg"] == "Invalid op: nonsense"
    assert ask(one, {**request, "id": "a_b"})[0]["msg"] == "Parameter id error"


def test_a_repeated_subscription_is_acked_and_nothing_more():
    """The second ack starts no second stream; after an unsubscription it starts again."""
    one = session()
    keys = []
    for request in (subscribe(TRADES), subscribe(TRADES), {"op": "unsubscribe", "args": [TRADES]}, subscribe(TRADES)):
        actions = one.receive(json.dumps(request), 0, 0)
        keys.append([type(action) for action in actions])
    assert keys == [[Reply, Subscribe], [Reply], [Unsubscribe, Reply], [Reply, Subscribe]]


def test_unsubscribing_what_was_not_subscribed_is_acked():
    """It gets the normal ack."""
    (reply,) = ask(session(), {"op": "unsubscribe", "args": [TRADES]})
    assert reply["event"] == "unsubscribe"


def test_only_recognised_keys_are_echoed():
    """An argument comes back with the keys that the channel knows."""
    (reply,) = ask(session(), subscribe({**TRADES, "instType": "SPOT", "extra": 1}))
    assert reply["arg"] == TRADES
    (reply,) = ask(session(), subscribe({"channel": "status", "instId": "BTC-USDT"}))
    assert reply["arg"] == {"channel": "status"}


def test_request_limit_counts_requests_in_a_sliding_hour():
    """The 481st request within an hour gets 60014; an hour later requests pass again."""
    one = session()
    for number in range(480):
        assert ask(one, subscribe(TRADES), float(number))[0]["event"] == "subscribe"
    assert ask(one, subscribe(TRADES), 3000.0)[0] == {
        "event": "error",
        "msg": "Requests too frequent",
        "code": "60014",
        "connId": "a4d3ae55",
    }
    assert ask(one, subscribe(TRADES), 3600.5)[0]["event"] == "subscribe"


def test_level_2_channels_are_acked_and_then_refused():
    """Without login books-l2-tbt gets its ack and then 60011, as OKX does it."""
    replies = ask(session(), subscribe({"channel": "books-l2-tbt", "instId": "BTC-USDT"}))
    assert [reply.get("code") for reply in replies] == [None, "60011"]


def login(secret="s3cret", key="k", passphrase="p", stamp="1704876947"):
    """Return a login request."""
    digest = hmac.new(secret.encode(), f"{stamp}GET/users/self/verify".encode(), hashlib.sha256).digest()
    sign = base64.b64encode(digest).decode()
    return {"op": "login", "args": [{"apiKey": key, "passphrase": passphrase, "timestamp": stamp, "sign": sign}]}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (login(), "0"),
        (login(secret="wrong"), "60007"),
        (login(key="other"), "60032"),
        (login(passphrase="other"), "60024"),
        (login(stamp="1704870000"), "60006"),
        (login(stamp="soon"), "60004"),
    ],
)
def test_login_is_checked_as_okx_checks_it(request_, code):
    """Key, passphrase, signature and time each have their error; a second login is refused."""
    one = session("/ws/v5/private", keys={"k": ("s3cret", "p")})
    orders = subscribe({"channel": "orders", "instType": "ANY"})
    assert ask(one, orders, 1_704_876_950.0)[0]["code"] == "60011"
    assert ask(one, request_, 1_704_876_950.0)[0]["code"] == code
    assert one.logged_in is (code == "0")
    if code == "0":
        assert ask(one, request_, 1_704_876_950.0)[0]["code"] == "60031"
        assert ask(one, orders, 1_704_876_950.0)[0]["event"] == "subscribe"


def test_rate_limits_are_per_client_and_endpoint():
    """20 requests pass in two seconds and no more; other clients and end points have their own count."""
    limits = Limits()
    assert sum(limits.take("a", "market/history-trades", 0.01 * n) for n in range(60)) == 20
    assert limits.take("b", "market/history-trades", 1.0)
    assert limits.take("a", "market/trades", 1.0)
    assert limits.take("a", "market/history-trades", 2.05)
    assert sum(limits.take("a", HANDSHAKE, 5 + 0.1 * n) for n in range(10)) == 3
    assert all(Limits(0).take("a", "x", 0) for _ in range(100))


def test_fault_specs_are_read():
    """Name, value, symbol and time are told apart, with defaults for what is left out."""
    cut, drop, mute, delay = map(
        parse_fault, ("cut@10s", "drop=5:BTC-USDT@every:30s", "mute=trades-all", "delay=200ms")
    )
    assert (cut.name, cut.after_s, cut.every_s) == ("cut", 10, None)
    assert (drop.number, drop.symbol, drop.after_s, drop.every_s) == (5, "BTC-USDT", 30, 30)
    assert (mute.channel, mute.symbol, mute.after_s) == ("trades-all", "*", 0)
    assert delay.seconds == 0.2


@pytest.mark.parametrize(
    "spec", ["", "nonsense", "cut=5", "drop=x", "drop=0", "delay=5", "cut@soon", "cut@every:0s", "drop=5@", "cut 5"]
)
def test_wrong_fault_specs_are_refused(spec):
    """What is no fault is a wrong option, named in the message."""
    with pytest.raises(UsageError, match="fault"):
        parse_fault(spec)


def test_every_fault_can_be_applied():
    """Each fault that is state changes the state, and only for the symbol that it names."""
    for name, (kind, _) in FAULTS.items():
        faults = Faults()
        value = {"none": "", "count": "=2", "duration": "=3s", "channel": "=trades"}[kind]
        faults.apply(parse_fault(f"{name}{value}:BTC-USDT"), ["BTC-USDT", "ETH-USDT"], 100.0)
        assert (faults != Faults()) is (name not in ("cut", "delist", "freeze", "list", "notice", "unmute"))
    faults = Faults()
    faults.apply(parse_fault("drop=2:BTC-USDT"), ["BTC-USDT", "ETH-USDT"], 0)
    taken = [use_up(faults.drop, symbol) for symbol in ("ETH-USDT", "BTC-USDT", "BTC-USDT", "BTC-USDT")]
    assert taken == [False, True, True, False]


def test_who_has_the_fee_tier_gets_the_fast_books_but_not_all_at_once():
    """After a login; books-l2-tbt rules the other books of its instrument out (64004)."""
    one = session(keys={"k": ("s3cret", "p")}, vip=True)
    fast = {"channel": "books-l2-tbt", "instId": "BTC-USDT"}
    assert [reply.get("code") for reply in ask(one, subscribe(fast))] == [None, "60011"]
    assert ask(one, login(), 1704876947)[0]["code"] == "0"
    assert ask(one, subscribe(fast))[0]["event"] == "subscribe"
    for channel in ("books", "books50-l2-tbt"):
        (reply,) = ask(one, subscribe({"channel": channel, "instId": "BTC-USDT"}))
        assert (reply["code"], reply["event"]) == ("64004", "error")
    assert ask(one, subscribe({"channel": "books5", "instId": "BTC-USDT"}))[0]["event"] == "subscribe"
    poor = session(keys={"k": ("s3cret", "p")})
    ask(poor, login(), 1704876947)
    assert [reply.get("code") for reply in ask(poor, subscribe(fast))] == [None, "64003"]
