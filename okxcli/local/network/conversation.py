"""One WebSocket connection's conversation as pure functions: a request text in, replies and subscriptions out.

Wording, codes and key order follow recorded traffic: acks `id, event, arg, connId`; errors `event, msg, code, connId`
without `arg`. Time is an argument (seconds of any steady clock; the login's is the wall clock).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from okxcli.local.network.request_limits import Window
from okxcli.local.venue.bars import PERIODS
from okxcli.local.venue.contracts import LIQUIDATIONS, PACES

#: Channel and what it is about: an instrument id, an instrument type, or "".
Key = tuple[str, str]

#: Channel: the argument that names the subject.
_PUBLIC = {
    "trades": "instId",
    "tickers": "instId",
    "books": "instId",
    "books5": "instId",
    "bbo-tbt": "instId",
    **dict.fromkeys(PACES, "instId"),
    **dict.fromkeys(("instruments", LIQUIDATIONS), "instType"),
    "status": "",
}
_LOGIN_ONLY = ("books-l2-tbt", "books50-l2-tbt")
#: What cannot be had beside books-l2-tbt of the same instrument.
_BESIDE = ("books", "books50-l2-tbt")
PRIVATE = {
    **dict.fromkeys(("orders", "positions", "liquidation-warning"), "instType"),
    **dict.fromkeys(("account", "balance_and_position", "account-greeks", "fills"), ""),
}
_KINDS = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION", "EVENTS", "ANY")

PATHS = ("/ws/v5/public", "/ws/v5/business", "/ws/v5/private")
REQUESTS_PER_HOUR = 480
LOGIN_WINDOW_S = 30

_ID = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
_ADVICE = "Please use the correct URL, channel and parameters referring to API document."


def arg_of(key: Key) -> dict[str, str]:
    """Return the `arg` of a channel's messages, and of the acks of its subscriptions."""
    channel, subject = key
    if not subject:
        return {"channel": channel}
    by_kind = channel in ("instruments", LIQUIDATIONS) or channel in PRIVATE
    return {"channel": channel, "instType" if by_kind else "instId": subject}


class Reply(NamedTuple):
    """A message to send at once."""

    payload: bytes


class Subscribe(NamedTuple):
    """Start to push `key`; comes after its ack and not for a subscription that stands already."""

    key: Key


class Unsubscribe(NamedTuple):
    """Stop to push `key`; comes before its ack."""

    key: Key


Action = Reply | Subscribe | Unsubscribe


def channel_on(path: str, channel: str) -> str | None:
    """Return the argument that names the subject of `channel` ("" for none); None where `path` has no such channel."""
    if path == "/ws/v5/public":
        if channel in _LOGIN_ONLY:
            return "instId"
        return _PUBLIC.get(channel)
    if path == "/ws/v5/business":
        known = channel == "trades-all" or (channel.startswith("candle") and channel[6:] in PERIODS)
        return "instId" if known else None
    return PRIVATE.get(channel)


class Session:
    """The state of one connection: what it subscribed, how many requests it made, whether it is logged in.

    `listed(channel, symbol)` tells whether the exchange has that. `keys` maps an API key to its secret and passphrase;
    `vip`: who logs in has the fee tier for the fast books.
    """

    def __init__(
        self,
        path: str,
        conn_id: str,
        listed: Callable[[str, str], bool],
        keys: Mapping[str, tuple[str, str]] | None = None,
        requests_per_hour: int = REQUESTS_PER_HOUR,
        vip: bool = False,
    ) -> None:
        self.path = path
        self.conn_id = conn_id
        self.subscriptions: dict[Key, None] = {}  # in their order
        self.ever_subscribed = False
        self.logged_in = False
        self._listed = listed
        self._keys = keys or {}
        self._vip = vip
        self._requests = Window(requests_per_hour, 3600)

    def receive(self, text: str, now_s: float, wall_s: float) -> list[Action]:
        """Return what the request `text` leads to, in order."""
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError:
            return [self._error("60012", f"Illegal request: {text}")]
        identity = request.get("id") if isinstance(request, dict) else None
        known = identity if isinstance(identity, str) and _ID.fullmatch(identity) else None
        if not isinstance(request, dict) or "op" not in request:
            return [self._error("60012", f"Invalid request: {text}", known)]
        if identity is not None and known is None:
            return [self._error("60033", "Parameter id error")]
        operation, args = request["op"], request.get("args")
        if operation not in ("subscribe", "unsubscribe", "login"):
            return [self._error("60019", f"Invalid op: {operation}", known)]
        if not isinstance(args, list) or not args:
            return [self._error("60012", f"Invalid request: {text}", known)]
        if not self._requests.take(now_s):
            return [self._error("60014", "Requests too frequent", known)]
        if operation == "login":
            return [self._login(args[0], wall_s)]
        return [action for arg in args for action in self._change(operation, arg, known)]

    def _change(self, operation: str, arg: object, identity: str | None) -> list[Action]:
        key = self._resolve(arg, identity)
        if isinstance(key, Reply):
            return [key]
        ack = self._reply(operation, identity, arg=arg_of(key))
        if operation == "unsubscribe":
            if key not in self.subscriptions:
                return [ack]
            del self.subscriptions[key]
            return [Unsubscribe(key), ack]
        if self.path == "/ws/v5/private" and not self.logged_in:
            return [self._error("60011", "Please log in", identity)]
        if key[0] in _LOGIN_ONLY and not (self.logged_in and self._vip):  # acked first, then refused
            code, why = ("64003", "Your trading fee tier is too low") if self.logged_in else ("60011", "Please log in")
            return [ack, self._error(code, why, identity)]
        if key in self.subscriptions:
            return [ack]
        if key[0] in _BESIDE and ("books-l2-tbt", key[1]) in self.subscriptions:
            why = f"{key[0]} together with books-l2-tbt for {key[1]} is not allowed; unsubscribe books-l2-tbt first"
            return [self._error("64004", why, identity)]
        self.subscriptions[key] = None
        self.ever_subscribed = True
        return [ack, Subscribe(key)]

    def _resolve(self, arg: object, identity: str | None) -> Key | Reply:
        """Return the key of an argument, or the error that it earns."""
        if not isinstance(arg, dict):
            return self._error("60013", "Invalid args", identity)
        if "uly" in arg:
            return self._error("64000", "uly is no longer accepted, use instFamily", identity)
        channel = arg.get("channel")
        kind = channel_on(self.path, channel) if isinstance(channel, str) else None
        subject = arg.get(kind) if kind else ""
        key = (str(channel), str(subject))
        good = kind is not None and isinstance(subject, str)
        if good and kind == "instType":
            good = subject in _KINDS
        elif good and kind == "instId":
            good = key in self.subscriptions or self._listed(*key)
        if not good:
            return self._error("60018", f"Wrong URL or {_named(arg)} doesn't exist. {_ADVICE}", identity)
        return key

    def _login(self, arg: object, wall_s: float) -> Reply:
        fields = arg if isinstance(arg, dict) else {}
        key, passphrase, stamp, sign = (str(fields.get(n, "")) for n in ("apiKey", "passphrase", "timestamp", "sign"))
        if self.logged_in:
            return self._error("60031", "The WebSocket endpoint does not allow multiple or repeated logins.")
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", stamp, re.ASCII) is None:
            return self._error("60004", "Invalid timestamp")
        if abs(float(stamp) - wall_s) > LOGIN_WINDOW_S:
            return self._error("60006", "Timestamp request expired")
        if key not in self._keys:
            return self._error("60032", "API key doesn't exist")
        secret, password = self._keys[key]
        if passphrase != password:
            return self._error("60024", "Wrong passphrase")
        digest = hmac.new(secret.encode(), f"{stamp}GET/users/self/verify".encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(base64.b64encode(digest), sign.encode()):
            return self._error("60007", "Invalid sign")
        self.logged_in = True
        return self._reply("login", code="0", msg="")

    def notice(self) -> Reply:
        """Return the warning that the connection will be closed (64008)."""
        message = "The connection will soon be closed for a service upgrade. Please reconnect."
        return self._reply("notice", msg=message, code="64008")

    def _error(self, code: str, message: str, identity: str | None = None) -> Reply:
        return self._reply("error", identity, msg=message, code=code)

    def _reply(self, event: str, identity: str | None = None, **fields: object) -> Reply:
        named = {} if identity is None else {"id": identity}
        return Reply(orjson.dumps({**named, "event": event, **fields, "connId": self.conn_id}))


def _named(arg: dict[str, Any]) -> str:
    """Name an argument as 60018 does: `channel:books,instId:BTC-USDT`."""
    shown = ("channel", "instId", "instType", "instFamily")
    return ",".join(f"{name}:{arg[name]}" for name in shown if name in arg) or "channel:null"
