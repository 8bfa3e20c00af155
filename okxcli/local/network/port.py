"""The port of the local exchange: reads HTTP heads, answers REST, hands WebSocket handshakes over."""

import asyncio
from http import HTTPStatus
from typing import NamedTuple, cast
from urllib.parse import parse_qsl, urlsplit

from okxcli.local.network.engine import Engine
from okxcli.local.network.rest_answers import Answer
from okxcli.local.network.websocket_connection import Connection

_MAX_HEAD = 64 * 1024


class _Head(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    keep_alive: bool

    @property
    def upgrades(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket"

    @property
    def body_length(self) -> int:
        text = self.headers.get("content-length", "0")
        return int(text) if text.isascii() and text.isdigit() else 0


def _parse(raw: bytes) -> _Head | None:
    """Return the request whose head (without the empty line) is `raw`; None if it is not HTTP."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            return None
        headers[name.strip().lower()] = value.strip()
    url = urlsplit(parts[1])
    keep = parts[2] != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
    return _Head(parts[0], url.path, dict(parse_qsl(url.query, keep_blank_values=True)), headers, keep)


class Wire(asyncio.Protocol):
    """One TCP connection: REST requests one after the other, or a WebSocket from its first request on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = b""
        self._busy = False
        self._skip = 0
        self._connection: Connection | None = None
        self._transport: asyncio.Transport
        self.client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way back and who is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 30)  # backlog is judged by Connection, nothing is paused
        self.client = str((transport.get_extra_info("peername") or ("?",))[0])
        self._engine.transports.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its subscriptions."""
        self._engine.transports.discard(self._transport)
        if self._connection is not None:
            self._engine.forget(self._connection)

    def data_received(self, data: bytes) -> None:
        """Feed the WebSocket, or collect and answer HTTP requests."""
        if self._connection is not None:
            self._engine.guard(self._engine.receive, self._connection, data)
            return
        self._buffer += data
        self._engine.guard(self._requests)

    def _requests(self) -> None:
        while not self._busy and not self._transport.is_closing():
            taken = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[taken:], self._skip - taken
            end = self._buffer.find(b"\r\n\r\n")
            if self._skip or end < 0:
                if len(self._buffer) > _MAX_HEAD:
                    self._transport.abort()
                return
            raw, rest = self._buffer[:end], self._buffer[end + 4 :]
            self._buffer = rest
            head = _parse(raw)
            if head is None:
                self._send(Answer(400, b'{"msg":"Bad Request","code":"400","data":[]}'), False)
            elif head.upgrades:
                self._upgrade(head, raw + b"\r\n\r\n", rest)
                return
            else:
                self._skip = head.body_length
                self._answer(head)

    def _answer(self, head: _Head) -> None:
        answer = self._engine.rest(self.client, head.method, head.path, head.query)
        if not answer.delay_s:
            self._send(answer, head.keep_alive)
            return
        self._busy = True

        def later() -> None:
            self._busy = False
            self._send(answer, head.keep_alive)
            self._requests()

        asyncio.get_running_loop().call_later(answer.delay_s, self._engine.guard, later)

    def _send(self, answer: Answer, keep_alive: bool) -> None:
        if self._transport.is_closing():
            return
        phrase = HTTPStatus(answer.status).phrase
        head = (
            f"HTTP/1.1 {answer.status} {phrase}\r\nContent-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        )
        self._transport.write(head.encode() + answer.body)
        if not keep_alive:
            self._transport.close()

    def _upgrade(self, head: _Head, raw: bytes, rest: bytes) -> None:
        made = self._engine.connect(self.client, head.path, self._transport)
        if isinstance(made, Answer):
            self._send(made, False)
        elif made.open(raw):
            self._connection = made
            self._engine.connections.add(made)
            if rest:
                self._engine.receive(made, rest)
