"""Frames to and from OKX."""

import json

import pytest

from okxcli.errors import UsageError
from okxcli.exchanges.okx.channels import BUSINESS, PUBLIC, Subscription, argument_of, path_of
from okxcli.exchanges.okx.connection.protocol import (
    Ack,
    ConnCount,
    Garbage,
    LoginOk,
    LoginRefused,
    Notice,
    Pong,
    Push,
    Refused,
    Unack,
    Unknown,
    batches,
    classify,
    login,
    sign,
    subscribe,
    unsubscribe,
)

SECRET = "22582BD0CFF14C41EDBF1AB98506286D"


@pytest.mark.parametrize(
    ("prehash", "expected"),
    [
        ("1538054050GET/users/self/verify", "+LdIr8lkkvhr5hoA3g9TMC0+uQJ849ftAcocA/ouu4M="),
        ("1704876947GET/users/self/verify", "5/36BgGV6m/6pmdc20zdqk0mzF5ZalmzzPD2fo3wavU="),
        ("2020-12-08T09:08:57.715ZGET/api/v5/account/balance?ccy=BTC", "HiZhvSfMtWJA3uUIVXV3a/bSXNPCWvYFXoGCVS8V4zY="),
    ],
)
def test_signature_equals_the_known_vectors(prehash, expected):
    """A signature is the base64 HMAC-SHA256 that OKX computes."""
    assert sign(prehash, SECRET) == expected


def test_login_signs_the_timestamp_it_sends():
    """The login frame carries the signature of its own timestamp, and no id."""
    frame = json.loads(login("key", "phrase", SECRET, 1704876947))
    assert frame == {
        "op": "login",
        "args": [
            {
                "apiKey": "key",
                "passphrase": "phrase",
                "timestamp": "1704876947",
                "sign": "5/36BgGV6m/6pmdc20zdqk0mzF5ZalmzzPD2fo3wavU=",
            }
        ],
    }


def test_subscribe_and_unsubscribe_frames():
    """Each argument names its channel and what it is subscribed by; status has nothing else."""
    wanted = [
        Subscription("trades-all", "BTC-USDT"),
        Subscription("instruments", "SWAP", "instType"),
        Subscription("status", "", ""),
    ]
    assert json.loads(subscribe(wanted, "okx1")) == {
        "id": "okx1",
        "op": "subscribe",
        "args": [
            {"channel": "trades-all", "instId": "BTC-USDT"},
            {"channel": "instruments", "instType": "SWAP"},
            {"channel": "status"},
        ],
    }
    assert json.loads(unsubscribe(wanted[:1], "okx2"))["op"] == "unsubscribe"


def test_batches_keep_order_and_bounds():
    """No request has more than 50 arguments, or arguments of 64 KB; none is lost."""
    wanted = [Subscription("trades-all", f"S{n}-USDT") for n in range(123)]
    cut = list(batches(wanted))
    assert [len(batch) for batch in cut] == [50, 50, 23]
    assert [s for batch in cut for s in batch] == wanted
    long = [Subscription("trades-all", "X" * 5000 + str(n)) for n in range(30)]
    assert all(len(subscribe(batch, "")) < 64_000 for batch in batches(long))
    assert list(batches([])) == []


@pytest.mark.parametrize(
    ("channel", "path"),
    [
        ("trades-all", BUSINESS),
        ("candle1m", BUSINESS),
        ("mark-price-candle1Dutc", BUSINESS),
        ("trades", PUBLIC),
        ("tickers", PUBLIC),
        ("books5", PUBLIC),
    ],
)
def test_each_channel_has_its_endpoint(channel, path):
    """Every fill and candles are on the business endpoint, the rest on the public one."""
    assert path_of(channel) == path


def test_unknown_channel_is_told_with_the_nearest_name():
    """The case of a bar's name matters, and the mistake is told."""
    with pytest.raises(UsageError, match=r"no channel candle1h\. Did you mean candle1H"):
        path_of("candle1h")
    assert argument_of("instruments") == "instType"


FRAMES = [
    (b"pong", Pong()),
    (
        b'{"id":"1512","event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}',
        Ack(Subscription("trades", "BTC-USDT")),
    ),
    (
        b'{"event":"subscribe","arg":{"channel":"instruments","instType":"SWAP"}}',
        Ack(Subscription("instruments", "SWAP", "instType")),
    ),
    (
        b'{"event":"unsubscribe","arg":{"channel":"tickers","instId":"BTC-USDT"},"connId":"d0b44253"}',
        Unack(Subscription("tickers", "BTC-USDT")),
    ),
    (b'{"event":"login","code":"0","msg":"","connId":"a4d3ae55"}', LoginOk()),
    (b'{"event":"error","code":"60009","msg":"Login failed.","connId":"a"}', LoginRefused("60009", "Login failed.")),
    (
        b'{"event":"channel-conn-count","channel":"orders","connCount":"2","connId":"abcd1234"}',
        ConnCount("orders", "2", False),
    ),
    (
        b'{"event":"channel-conn-count-error","channel":"orders","connCount":"30","connId":"a4d3ae55"}',
        ConnCount("orders", "30", True),
    ),
    (b'{"event":"notice","msg":"soon","code":"64008","connId":"8517149b"}', Notice("64008", "soon")),
    (b'{"event":"something-new","x":1}', Unknown("something-new")),
    (b'{"arg":{"channel":"trades","instId":"A-B"},"data":[{"cut off', Push("trades", "A-B")),
    (b'{"arg":{"channel":"books","instId":"A-B"},"action":"update","data":[]}', Push("books", "A-B")),
    (b'{"data":[],"arg":{"instId":"A-B","channel":"trades"}}', Push("trades", "A-B")),
    (b'{"arg": {"channel": "trades", "instId": "A-B"}, "data": []}', Push("trades", "A-B")),
    (
        b'{"arg":{"channel":"tickers","instId":"A-B"},"event":"subscribe"}',
        Ack(Subscription("tickers", "A-B")),
    ),
]


@pytest.mark.parametrize(("frame", "event"), FRAMES)
def test_every_kind_of_message_is_recognised(frame, event):
    """What OKX sends, also in an order of keys that it has not used yet, is what it is."""
    assert classify(frame) == event
    if frame.isascii():
        assert classify(frame.decode()) == event


@pytest.mark.parametrize(
    ("message", "channel", "value"),
    [
        ("channel:tickers,instId:LTC-USD doesn't exist", "tickers", "LTC-USD"),
        (
            "Wrong URL or channel:books, instId:BTC-USDT doesn't exist. Please use the correct URL, channel and "
            "parameters referring to API document.",
            "books",
            "BTC-USDT",
        ),
        ("Subscribe failed, wrong URL or channel:candle1m,instId:BTC-USDT doesn't exist.", "candle1m", "BTC-USDT"),
        ("channel:estimated-price,instType:FUTURES doesn't exist", "estimated-price", "FUTURES"),
        ("Wrong URL or something else", None, None),
    ],
)
def test_refusal_tells_which_subscription(message, channel, value):
    """Every wording of 60018 that was seen yields the channel and the instrument, and is permanent."""
    event = classify(json.dumps({"event": "error", "msg": message, "code": "60018", "connId": "94d38802"}))
    assert event == Refused("60018", message, channel, value, "", True)


@pytest.mark.parametrize(("code", "permanent"), [("60014", False), ("64007", False), ("64001", True), ("60012", True)])
def test_refusals_are_permanent_or_pass(code, permanent):
    """Too many requests and internal errors pass; a wrong endpoint or request does not."""
    event = classify(json.dumps({"id": "okx3", "event": "error", "msg": "x", "code": code}))
    assert isinstance(event, Refused)
    assert (event.permanent, event.request) == (permanent, "okx3")


@pytest.mark.parametrize(
    "frame", [b"", b"{", b"[]", b"7", b"\xff\xfe", b'{"arg":{"channel":"trades"', b"[" * 100_000, b"ping pong"]
)
def test_garbage_never_raises(frame):
    """What is not OKX's language is garbage, whatever it is."""
    assert isinstance(classify(frame), Garbage)
