"""One WebSocket on the network: dial, read what is there, write, close. Never waits to read.

websocket-client does the handshake and the framing, but for whole text frames in one piece, which are nearly all there
are: those are cut out of what was read, ten times as fast. Added too: the way there (see tunnel), reads in large pieces
(it makes two system calls a frame), a bound on the size of a message, TLS with verification and no way to switch it
off, no redirects.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from http import HTTPStatus
from typing import Any

import websocket
from websocket import ABNF, WebSocketException
from websocket._abnf import continuous_frame, frame_buffer
from websocket._handshake import handshake
from websocket._url import parse_url

from okxcli.exchanges.okx.tunnel import TunnelError, dial, of_tls
from okxcli.runtime.proxy import Proxy

#: A message larger than this is refused: OKX's largest (a list of all instruments) is below 2 MiB.
MAX_MESSAGE = 16 << 20
_READ = 1 << 18
_MAX_HEAD = 64 << 10
#: The first byte of a text frame in one piece; the second is its length, or says in how many bytes that follows.
_TEXT = 0x81
_TWO_BYTES, _EIGHT_BYTES = 126, 127


class DialError(Exception):
    """No connection could be made; the text says why, in a user's words."""


class WireError(Exception):
    """The connection broke without a close frame."""


class _Frames(frame_buffer):
    """Refuses a frame by its announced length, before its bytes are read."""

    def recv_length(self) -> None:
        super().recv_length()
        if self.length is not None and self.length > MAX_MESSAGE:
            raise WebSocketException(f"a message of {self.length} bytes, which is over {MAX_MESSAGE >> 20} MiB")


class _Pieces(continuous_frame):
    """Refuses a message whose pieces grow too long together."""

    def add(self, frame: ABNF) -> None:
        if self.cont_data and len(self.cont_data[1]) + len(frame.data) > MAX_MESSAGE:
            raise WebSocketException(f"a message in pieces of over {MAX_MESSAGE >> 20} MiB")
        super().add(frame)


class _Head:
    """The socket while the answer to the handshake is read, byte by byte: an answer without end is none."""

    def __init__(self, raw: socket.socket, timeout_s: float) -> None:
        self._raw = raw
        self._left = _MAX_HEAD
        self._end = time.monotonic() + timeout_s

    def recv(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise WebSocketException(f"its answer to the handshake is over {_MAX_HEAD >> 10} KiB")
        if time.monotonic() > self._end:
            raise websocket.WebSocketTimeoutException
        return self._raw.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class _Socket(websocket.WebSocket):
    """websocket-client's connection over a socket that never blocks, read through a buffer of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.frame_buffer = _Frames(self._recv, True)
        self.cont_frame = _Pieces(False, True)
        self.raw: socket.socket
        self.write_timeout_s = 5.0
        self._received = b""
        self._at = 0
        self.dry = False  # the last read brought all that had come

    def dial(self, url: str, timeout_s: float, proxy: Proxy | None) -> None:
        """Connect, and stop blocking."""
        host, port, resource, secure = parse_url(url)
        place = (host, port, resource)
        self.sock_opt.timeout = timeout_s
        self.raw = dial(host, port, proxy, timeout_s)
        try:
            if secure:
                self.raw = ssl.create_default_context().wrap_socket(self.raw, server_hostname=host)
            answer = handshake(_Head(self.raw, timeout_s), url, *place, suppress_origin=True)  # type: ignore[arg-type]
            if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
                raise WebSocketException("Redirect")
            self.raw.setblocking(False)
        except BaseException:
            self.raw.close()
            raise
        self.sock, self.connected, self.handshake_response = self.raw, True, answer

    def _recv(self, bufsize: int) -> bytes:
        if self._at == len(self._received):
            self._received, self._at = self._chunk(), 0
        piece = self._received[self._at : self._at + bufsize]
        self._at += len(piece)
        return piece

    def _chunk(self) -> bytes:
        """Read what has come, as much of it as one call gives."""
        chunk = self.raw.recv(_READ)
        if not chunk:
            raise WebSocketException("end of stream")
        self.dry = len(chunk) < _READ and not (isinstance(self.raw, ssl.SSLSocket) and self.raw.pending())
        return chunk

    def texts(self, found: list[bytes], limit: int) -> bool:
        """Add the whole text frames that come next to `found`, up to so many; True: the next is for websocket-client.

        Nothing is read where the last read has brought all: there would be nothing, and that costs a system call.

        Raises:
            BlockingIOError, ssl.SSLWantReadError: no more has come; WebSocketException, OSError: nor will it.
        """
        partly = self.frame_buffer
        if partly.recv_buffer or partly.header is not None or partly.length is not None or self.cont_frame.cont_data:
            return True
        data, at = self._received, self._at
        while len(found) < limit:
            head = data[at : at + 2]
            if len(head) == 2:
                start, size = at + 2, head[1]
                if size >= _TWO_BYTES:
                    start += 2 if size == _TWO_BYTES else 8
                    size = int.from_bytes(data[at + 2 : start]) if start <= len(data) else MAX_MESSAGE
                if head[0] != _TEXT or head[1] > _EIGHT_BYTES or size > MAX_MESSAGE:
                    self._received, self._at = data, at
                    return True
                if start + size <= len(data):
                    found.append(data[start : start + size])
                    at = start + size
                    continue
            self._received, self._at = data, at
            if self.dry:
                return False
            data, at = data[at:] + self._chunk(), 0
        self._received, self._at = data, at
        return False

    def _send(self, data: str | bytes) -> int:
        try:
            return self.raw.send(data.encode() if isinstance(data, str) else data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            if not select.select([], [self.raw], [], self.write_timeout_s)[1]:
                raise WebSocketException("cannot write: the other side does not read") from None
            return 0


class Wire:
    """A connection that is up."""

    def __init__(self, connection: _Socket) -> None:
        self._connection = connection
        self.pending = False
        self.close_code: int | None = None
        self.close_reason = ""
        self._broken: str | None = None

    @classmethod
    def dial(cls, url: str, timeout_s: float, proxy: Proxy | None = None) -> "Wire":
        """Connect to `url`, through a proxy if one is given; each step of it may take `timeout_s`.

        Raises:
            DialError: with the reason.
        """
        try:
            connection = _Socket(skip_utf8_validation=True, enable_multithread=False)
            connection.dial(url, timeout_s, proxy)
        except TunnelError as error:
            raise DialError(str(error)) from None
        except (WebSocketException, OSError, ValueError) as error:
            through = "" if proxy is None else f", through the proxy {proxy}"
            raise DialError(f"{_in_words(error)}{through}") from None
        return cls(connection)

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._connection.raw.fileno()

    def frames(self, limit: int) -> list[bytes]:
        """Return the text frames that have arrived, at most `limit`; `pending` tells whether more may be there.

        After the server's close frame, `close_code` is set.

        Raises:
            WireError: the connection is gone.
        """
        if self._broken is not None:
            raise WireError(self._broken)
        found: list[bytes] = []
        self.pending = self._connection.dry = False
        try:
            while self._connection.texts(found, limit):
                opcode, frame = self._connection.recv_data_frame()
                if opcode == ABNF.OPCODE_CLOSE:
                    self._closed(frame.data)
                    return found
                found.append(frame.data)
            self.pending = len(found) >= limit
        except (BlockingIOError, ssl.SSLWantReadError):
            return found
        except (WebSocketException, OSError) as error:
            self._broken = _in_words(error)
            if not found:
                raise WireError(self._broken) from None
            self.pending = True  # hand on what came before; the next call tells the end
        return found

    def send(self, text: str) -> None:
        """Send one text frame.

        Raises:
            WireError: the connection is gone.
        """
        try:
            self._connection.send(text)
        except (WebSocketException, OSError) as error:
            raise WireError(_in_words(error)) from None

    def close(self) -> None:
        """Say goodbye if that is possible at once, and close; never raises, never waits for an answer."""
        with contextlib.suppress(WebSocketException, OSError):
            if self.close_code is None and self._broken is None:
                self._connection.write_timeout_s = 0.0
                self._connection.send(struct.pack("!H", 1000), ABNF.OPCODE_CLOSE)
        with contextlib.suppress(WebSocketException, OSError):
            self._connection.raw.close()

    def _closed(self, data: bytes) -> None:
        self.close_code = struct.unpack("!H", data[:2])[0] if len(data) >= 2 else 1005
        self.close_reason = data[2:].decode(errors="replace")


def _in_words(error: Exception) -> str:
    """Return what went wrong, without the library's decoration."""
    if isinstance(error, websocket.WebSocketBadStatusException):
        return f"the handshake was refused with HTTP status {error.status_code}"
    if isinstance(error, ssl.SSLError):
        return of_tls(error)
    if isinstance(error, TimeoutError | websocket.WebSocketTimeoutException):
        return "timed out"
    if "Redirect" in str(error):
        return "it redirects elsewhere, which is not followed"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
