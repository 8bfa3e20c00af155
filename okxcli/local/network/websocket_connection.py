"""One WebSocket connection of the local exchange: frames in and out, keep-alive, closing.

The websockets library keeps the rules of the protocol (its sans-I/O half); bytes go straight to the transport, so that
a message which many uncompressed connections get is framed once and written in blocks.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from okxcli.local.network.conversation import Key, Session

MAX_REQUEST = 64 * 1024
#: Bytes that may wait for a slow reader before the connection is closed with 4005.
MAX_BACKLOG = 16 * 1024 * 1024
_CLOSE_GRACE_S = 1.0
_DEFLATE = ServerPerMessageDeflateFactory(compress_settings={"level": 1, "memLevel": 5})


class Message:
    """A text message: its payload, and the frame that every uncompressed connection sends."""

    __slots__ = ("_frame", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        """The unmasked, uncompressed frame, made once."""
        if self._frame is None:
            self._frame = Frame(Opcode.TEXT, self.payload).serialize(mask=False)
        return self._frame


class Connection:
    """A connection after its HTTP head was read. Not thread-safe: it lives in the engine's event loop."""

    def __init__(
        self, transport: asyncio.Transport, session: Session, max_backlog: int, on_gone: Callable[["Connection"], None]
    ) -> None:
        self.session = session
        self.requests = 0
        self.frozen = False
        self.deaf: set[Key] = set()  # subscriptions that are acked on it and get nothing
        self._max_backlog = max_backlog
        self._transport = transport
        self._on_gone = on_gone
        self._protocol = ServerProtocol(extensions=[_DEFLATE], max_size=4 * MAX_REQUEST)
        self._outbox: list[bytes] = []
        self._fragments: list[bytes] = []
        self._compressed = False
        self._born_s = self._active_s = time.monotonic()

    def open(self, head: bytes) -> bool:
        """Answer the handshake whose HTTP head is `head`; return False when it was refused."""
        self._protocol.receive_data(head)
        events = self._protocol.events_received()
        if not events or not isinstance(events[0], Request):
            self._transport.close()
            return False
        self._protocol.send_response(self._protocol.accept(events[0]))
        self._write()
        self._compressed = bool(self._protocol.extensions)
        if self._protocol.state is not State.OPEN:
            self._transport.close()
            return False
        return True

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.state is State.OPEN

    @property
    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def receive(self, data: bytes) -> Iterator[str]:
        """Take bytes from the client and yield the text of every message in them."""
        if self.frozen:
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            text = self._frame(event) if isinstance(event, Frame) else None
            if text is not None:
                yield text
        self._write()
        if self._protocol.close_expected():
            self._abort_later()

    def _frame(self, frame: Frame) -> str | None:
        """Take a frame in; return the text of the message that it ends."""
        self._active_s = time.monotonic()
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return None
        self._fragments.append(bytes(frame.data))
        if sum(map(len, self._fragments)) > MAX_REQUEST:
            self._fragments.clear()
            self.close(1009, "Request message exceeds the maximum frame length")
            return None
        if not frame.fin:
            return None
        text = b"".join(self._fragments).decode("utf-8", "replace")
        self._fragments.clear()
        return text

    def pong(self) -> None:
        """Answer a ping at once, past whatever waits in line."""
        self._transport.write(_PONG)

    def push(self, message: Message) -> None:
        """Put a message in line; `flush` sends it."""
        if not self.is_open or self.frozen:
            return
        self._active_s = time.monotonic()
        if self._compressed:
            self._protocol.send_text(message.payload)
            self._outbox += self._protocol.data_to_send()
        else:
            self._outbox.append(message.frame)

    def flush(self) -> None:
        """Hand everything in line to the network; close a connection whose reader is too slow (4005)."""
        if self._outbox:
            self._transport.write(b"".join(self._outbox))
            self._outbox.clear()
            if self.backlog > self._max_backlog:
                self.close(4005, "Buffer is full, cannot write data")

    def check_idle(self, now_s: float, idle_s: float) -> None:
        """Close with 4004 what has been silent, or without any subscription, for `idle_s` seconds."""
        barren = not self.session.subscriptions and not self.session.logged_in and not self.session.ever_subscribed
        if now_s - (self._born_s if barren else self._active_s) >= idle_s:
            self.close(4004, "No data received in 30s")

    def close(self, code: int, reason: str) -> None:
        """Close with a close frame; what the client does not answer in a second is cut."""
        if self.is_open and not self.frozen:
            if self._outbox:
                self._transport.write(b"".join(self._outbox))
                self._outbox.clear()
            self._protocol.send_close(code, reason)
            self._write()
            self._on_gone(self)
            self._abort_later()

    def cut(self) -> None:
        """Drop the TCP connection without a close frame."""
        self._transport.abort()

    def _abort_later(self) -> None:
        asyncio.get_running_loop().call_later(_CLOSE_GRACE_S, self._transport.abort)

    def _write(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            elif not self._transport.is_closing():
                self._transport.close()  # flushes first


_PONG = Frame(Opcode.TEXT, b"pong").serialize(mask=False)
