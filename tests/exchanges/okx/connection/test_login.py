"""Keys: where they are found, what is wrong with them, and the frame that they make."""

import json
import logging

import pytest

from okxcli.errors import ExitCode, LoginRefused
from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.actions import Log, LoginFailed, Ready, Reconnect, Send
from okxcli.exchanges.okx.connection.login import Credentials, Login, credentials, refused
from okxcli.exchanges.okx.connection.protocol import sign
from okxcli.exchanges.okx.connection.session import ACK_TIMEOUT_MS, PING_AFTER_MS, Session

SECRET = "22582BD0CFF14C41EDBF1AB98506286D"
KEY = Credentials("key-1", SECRET, "phrase-1")
ENV = {"OKX_API_KEY": "key-1", "OKX_SECRET_KEY": SECRET, "OKX_PASSPHRASE": "phrase-1"}
FILE = {"api_key": "key-1", "secret_key": SECRET, "passphrase": "phrase-1"}
ORDERS = Subscription("orders", "ANY", "instType")


@pytest.mark.parametrize(
    ("prehash", "signed"),
    [
        ("1538054050GET/users/self/verify", "+LdIr8lkkvhr5hoA3g9TMC0+uQJ849ftAcocA/ouu4M="),
        ("1704876947GET/users/self/verify", "5/36BgGV6m/6pmdc20zdqk0mzF5ZalmzzPD2fo3wavU="),
        ("2020-12-08T09:08:57.715ZGET/api/v5/account/balance?ccy=BTC", "HiZhvSfMtWJA3uUIVXV3a/bSXNPCWvYFXoGCVS8V4zY="),
        (
            '2020-12-08T09:08:57.715ZPOST/api/v5/trade/order{"instId":"BTC-USDT","lever":"5","mgnMode":"isolated"}',
            "B1CIgFITj5o4lMDG+Uz5juzEGMCIDXO9bxM4MBgQ62g=",
        ),
    ],
)
def test_vectors(prehash, signed):
    """The signatures that the documentation of the protocol has."""
    assert sign(prehash, SECRET) == signed


def test_the_frame_is_signed_by_the_time_it_names():
    """Whole seconds of OKX's time, each time anew."""
    times = iter([1_704_876_947_999, 1_538_054_050_000])
    login = Login(KEY, lambda: next(times))
    first, second = (json.loads(login()) for _ in range(2))
    assert first == {
        "op": "login",
        "args": [
            {
                "apiKey": "key-1",
                "passphrase": "phrase-1",
                "timestamp": "1704876947",
                "sign": "5/36BgGV6m/6pmdc20zdqk0mzF5ZalmzzPD2fo3wavU=",
            }
        ],
    }
    assert second["args"][0]["sign"] == "+LdIr8lkkvhr5hoA3g9TMC0+uQJ849ftAcocA/ouu4M="


def written(path, what, mode=0o600):
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    path.chmod(mode)
    return path


def test_where_a_key_is_found(tmp_path):
    """The file that is named, else the variables, else systemd's credential; line ends around a part are none of it."""
    file = written(tmp_path / "okx", {name: f" {part}\n" for name, part in FILE.items()})
    assert credentials(file, {"OKX_API_KEY": "other"}) == KEY
    assert credentials(None, ENV | {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == KEY
    assert credentials(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == KEY


@pytest.mark.parametrize(
    ("file", "mode", "told"),
    [
        (FILE, 0o640, "can be read by others: chmod 600"),
        (FILE, 0o604, "can be read by others: chmod 600"),
        ("not JSON", 0o600, "is no JSON object"),
        ([], 0o600, "is no JSON object"),
        ({**FILE, "secret": "x"}, 0o600, "unknown 'secret'"),
        ({"api_key": "key-1", "secret_key": SECRET}, 0o600, "passphrase is missing"),
        ({**FILE, "secret_key": 12}, 0o600, "secret_key is missing"),
        ({**FILE, "passphrase": "\u00e9"}, 0o600, "passphrase has a character"),
        ({**FILE, "passphrase": "a\nb"}, 0o600, "passphrase has a character"),
    ],
)
def test_a_file_that_does_not_do(tmp_path, file, mode, told):
    """What is wrong is said, and nothing of what it holds."""
    with pytest.raises(LoginRefused, match=told) as raised:
        credentials(written(tmp_path / "key", file, mode), {})
    assert SECRET not in str(raised.value) and raised.value.exit_code == ExitCode.LOGIN


@pytest.mark.parametrize("missing", ENV)
def test_a_variable_that_is_missing(missing):
    """Half a key is none, whatever systemd has."""
    with pytest.raises(LoginRefused, match=f"^{missing} is missing$"):
        credentials(None, {name: value for name, value in ENV.items() if name != missing})


def test_no_key_at_all(tmp_path):
    """What to do is said."""
    with pytest.raises(LoginRefused, match="set OKX_API_KEY, OKX_SECRET_KEY, OKX_PASSPHRASE, or name a file"):
        credentials(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    with pytest.raises(LoginRefused, match=r"cannot read the credentials .*: No such file"):
        credentials(tmp_path / "none", {})


def test_nothing_of_a_key_is_shown():
    """Not by what holds it, nor by the frame, as text."""
    for one in (KEY, Login(KEY, lambda: 0), Send(Login(KEY, lambda: 0)()), Session([ORDERS], Login(KEY, lambda: 0))):
        assert not [part for part in KEY if part in repr(one)]


def test_refusals_say_what_to_look_at():
    """By their code; an unknown one says what OKX says."""
    wrong = str(refused("60024", "Wrong passphrase"))
    assert wrong.startswith("OKX refuses the login (60024): Wrong passphrase. OKX_PASSPHRASE is")
    assert "NTP" in str(refused("60006", "x"))
    assert str(refused("69999", "No.")) == "OKX refuses the login (69999): No."


# The session


def answer(session, event, now, **more):
    return session.frames([json.dumps({"event": event, **more}).encode()], now, [])


def logging_in(now=0):
    session = Session([ORDERS], Login(KEY, lambda: 1_704_876_947_000))
    (login,) = session.opened(now)
    assert json.loads(login.text)["op"] == "login"
    return session


def test_nothing_is_subscribed_before_the_login():
    """Not at once, not by time, not for who adds something; after the answer all of it is."""
    session = logging_in()
    assert session.tick(1_000) == [] and session.due() == ACK_TIMEOUT_MS
    assert session.add([Subscription("account", "", "")], 1_100) == []
    (asked,) = answer(session, "login", 1_200, code="0", msg="")
    request = json.loads(asked.text)
    assert [one["channel"] for one in request["args"]] == ["orders", "account"]
    assert answer(session, "subscribe", 1_300, arg=ORDERS.argument) == []
    assert answer(session, "subscribe", 1_300, arg={"channel": "account"}) == [Ready()]


def test_a_refused_login_ends_the_connection():
    """It is told once, and nothing is asked for afterwards."""
    session = logging_in()
    assert answer(session, "error", 10, code="60024", msg="Wrong") == [LoginFailed("60024", "Wrong")]
    assert session.tick(50_000) == [] and session.closed(4001, "", 60_000) == [] and session.due() is None


def test_no_answer_to_the_login_is_a_dead_connection():
    """As soon as it could have come, and not while nothing is read."""
    session = logging_in()
    assert session.tick(ACK_TIMEOUT_MS - 1) == []
    assert session.tick(ACK_TIMEOUT_MS, reading=False) == []
    assert session.tick(2 * ACK_TIMEOUT_MS - 1) == []
    assert session.tick(2 * ACK_TIMEOUT_MS) == [Reconnect("no answer to the login for 10 s")]
    assert ACK_TIMEOUT_MS < PING_AFTER_MS


def test_a_refusal_after_the_login_is_only_told():
    """That of a second login, say: the first one stands."""
    session = logging_in()
    answer(session, "login", 10, code="0", msg="")
    (told,) = answer(session, "error", 20, code="60031", msg="repeated")
    assert isinstance(told, Log) and told.level == logging.ERROR
    session = logging_in()
    assert answer(session, "error", 20, code="60031", msg="repeated") == [LoginFailed("60031", "repeated")]
