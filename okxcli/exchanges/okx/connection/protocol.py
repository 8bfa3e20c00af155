"""OKX's WebSocket language as pure functions: frames that we send, and what the frames that arrive mean.

Owns error codes and close codes. Knows no socket, clock or state. Source of all
of it: the documentation of OKX's API v5 and recorded traffic.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import orjson

from okxcli.exchanges.okx.channels import PUSH_HEAD, Subscription

#: Text frames of the keep-alive: neither JSON nor protocol pings.
PING = "ping"
PONG = b"pong"

#: Arguments of one request. OKX publishes no number; its clients use 20 to 100.
MAX_ARGS = 50
#: OKX takes 64 KB of arguments in a request and closes with 1009 beyond.
MAX_REQUEST_BYTES = 60_000

# Errors that asking again cannot cure. 60018 is also the answer to the wrong endpoint, for which 64001, 64002 and
# 60008 are documented; 64003 needs a fee tier, 60011 a login, 64004 another channel gone; the rest are malformed.
_words = str.split
_PERMANENT = frozenset(_words("60018 64001 64002 60008 64000 64003 64004 60011 60012 60013 60019 60027 60028 60033"))
_LOGIN = frozenset(_words("60004 60005 60006 60007 60009 60023 60024 60026 60031 60032 63999"))
#: Not refused for good, but too fast: wait before the next request.
TOO_FREQUENT = "60014"
#: The notice that comes about a minute before a planned disconnect (not on the business endpoint).
UPGRADE_NOTICE = "64008"

#: Close codes that say our request or our login was wrong: dialling again at once would end the same way.
WRONG_REQUEST_CLOSES = frozenset({1009, 4001, 4002, 4003, 4007, 4008, 4009})


# What we send


def subscribe(subscriptions: Iterable[Subscription], request_id: str) -> str:
    """Return the frame that subscribes; `request_id` is 1-32 letters and digits and comes back in each answer."""
    return _request("subscribe", [s.argument for s in subscriptions], request_id)


def unsubscribe(subscriptions: Iterable[Subscription], request_id: str) -> str:
    """Return the frame that ends subscriptions."""
    return _request("unsubscribe", [s.argument for s in subscriptions], request_id)


def login(key: str, passphrase: str, secret: str, timestamp_s: int) -> str:
    """Return the frame that logs in; valid for 30 s from `timestamp_s` (seconds since the epoch)."""
    stamp = str(timestamp_s)
    signed = sign(stamp + "GET/users/self/verify", secret)
    argument = {"apiKey": key, "passphrase": passphrase, "timestamp": stamp, "sign": signed}
    return _request("login", [argument], "")


def sign(prehash: str, secret: str) -> str:
    """Return the base64 of the HMAC-SHA256 of `prehash`."""
    return base64.b64encode(hmac.digest(secret.encode(), prehash.encode(), hashlib.sha256)).decode()


def _request(op: str, arguments: list[dict[str, str]], request_id: str) -> str:
    head = {"id": request_id} if request_id else {}
    return orjson.dumps({**head, "op": op, "args": arguments}).decode()


def batches(subscriptions: Iterable[Subscription]) -> Iterator[list[Subscription]]:
    """Cut `subscriptions` into requests that OKX accepts: at most 50 arguments and less than 64 KB each."""
    batch: list[Subscription] = []
    size = 0
    for subscription in subscriptions:
        length = len(orjson.dumps(subscription.argument)) + 1
        if batch and (len(batch) == MAX_ARGS or size + length > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(subscription)
        size += length
    if batch:
        yield batch


# What arrives


class _Event(msgspec.Struct, frozen=True):
    """What a message is; those of two kinds are never equal, though some say it in the same fields."""


class Pong(_Event, frozen=True):
    """The answer to our ping."""


class Push(_Event, frozen=True):
    """Data of one channel and instrument (or whatever else it is subscribed by)."""

    channel: str
    value: str


class Ack(_Event, frozen=True):
    """A subscription stands."""

    subscription: Subscription


class Unack(_Event, frozen=True):
    """A subscription has ended."""

    subscription: Subscription


class LoginOk(_Event, frozen=True):
    """We are logged in."""


class LoginRefused(_Event, frozen=True):
    """We are not logged in, and why."""

    code: str
    message: str


class Refused(_Event, frozen=True):
    """A request was refused. `channel` and `value` are None where OKX does not say which of our arguments it means.

    `request` is the id of the request, if it was given back. `permanent`: asking again gives the same answer.
    """

    code: str
    message: str
    channel: str | None
    value: str | None
    request: str
    permanent: bool


class Notice(_Event, frozen=True):
    """OKX announces something; code 64008: this connection will be closed in about a minute."""

    code: str
    message: str


class ConnCount(_Event, frozen=True):
    """How many connections hold a private channel; `over`: this one is one too many and was ended."""

    channel: str
    count: str
    over: bool


class Unknown(_Event, frozen=True):
    """A well-formed message of a kind that we do not know: new at OKX, and harmless."""

    kind: str


class Garbage(_Event, frozen=True):
    """Not a message of OKX at all."""

    reason: str


Event = Pong | Push | Ack | Unack | LoginOk | LoginRefused | Refused | Notice | ConnCount | Unknown | Garbage

_MESSAGE = msgspec.json.Decoder(dict[str, Any])
# The sentence around it has changed at least three times; these two marks have not.
_REFUSED_CHANNEL = re.compile(r"channel:\s*([A-Za-z0-9_-]+)", re.ASCII)
_REFUSED_VALUE = re.compile(r"inst(?:Id|Type|Family):\s*([A-Za-z0-9_.-]+)", re.ASCII)


def classify(frame: bytes | str) -> Event:
    """Say what `frame` is. Never raises: what cannot be understood is `Garbage`.

    A push is routed by its head alone; whether its data is sound is for `normalize` to say.
    """
    data = frame.encode() if isinstance(frame, str) else frame
    if data == PONG:
        return Pong()
    if data.startswith(PUSH_HEAD):
        found = _routed(data)
        if found is not None:
            return found
    try:
        message = _MESSAGE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Garbage(f"{error}: {data[:60]!r}")
    return _of(message)


def _routed(data: bytes) -> Push | None:
    """Return the push that the head of `data` names, without looking at its data."""
    end = data.find(b"}")
    if end < 0 or not data.startswith((b',"data"', b',"action"'), end + 1):
        return None
    try:
        argument = _MESSAGE.decode(data[7 : end + 1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    subscription = _subscription(argument)
    return Push(subscription.channel, subscription.value)


def _of(message: dict[str, Any]) -> Event:
    event = message.get("event")
    argument = message.get("arg")
    if event is None:
        if isinstance(argument, dict) and "data" in message:
            subscription = _subscription(argument)
            return Push(subscription.channel, subscription.value)
        return Unknown(_words_of(", ".join(list(message)[:5]), 100) or "empty object")
    code, text = _words_of(message.get("code"), 20), _words_of(message.get("msg"), 300)
    if event in ("subscribe", "unsubscribe") and isinstance(argument, dict):
        return (Ack if event == "subscribe" else Unack)(_subscription(argument))
    if event == "login":
        return LoginOk() if code in ("0", "") else LoginRefused(code, text)
    if event == "error":
        return _refused(code, text, str(message.get("id") or ""))
    if event == "notice":
        return Notice(code, text)
    if event in ("channel-conn-count", "channel-conn-count-error"):
        channel, count = (_words_of(message.get(key), 40) for key in ("channel", "connCount"))
        return ConnCount(channel, count, event.endswith("error"))
    return Unknown(_words_of(event, 40))


def _words_of(value: Any, longest: int) -> str:
    """Return a text of the exchange's as it may be shown: one line, not for ever, nothing that moves a terminal."""
    text = "" if value is None else str(value)[: 4 * longest]
    return "".join(letter if letter.isprintable() else " " for letter in text)[:longest].strip()


def _refused(code: str, text: str, request: str) -> Event:
    if code in _LOGIN:
        return LoginRefused(code, text)
    channel = _REFUSED_CHANNEL.search(text)
    value = _REFUSED_VALUE.search(text)
    return Refused(
        code,
        text,
        channel[1] if channel else None,
        value[1] if value else None,
        request,
        code in _PERMANENT,
    )


def _subscription(argument: dict[str, Any]) -> Subscription:
    for key in ("instId", "instFamily", "instType"):
        if argument.get(key):
            return Subscription(str(argument.get("channel", "")), str(argument[key]), key)
    return Subscription(str(argument.get("channel", "")), "", "")
