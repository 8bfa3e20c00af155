"""A server on loopback that does what no decent server does: for WebSocket, REST and files alike.

`http` maps a path's beginning to a function that answers a request; `frames` writes what it likes to a WebSocket after
a right handshake; `handshake` answers in its stead. All of them may be changed while clients are connected.
"""

import base64
import contextlib
import hashlib
import socket
import struct
import threading


class HostileServer:
    """One thread a connection; every connection is closed at the end."""

    def __init__(self, tls=None):
        self.http = {}
        self.frames = None
        self.handshake = None
        self.requests = []
        self.accepted = 0
        self.closing = threading.Event()
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open = set()
        self._threads = []
        self.port = self._socket.getsockname()[1]

    def url(self, scheme):
        """Return its base."""
        return f"{scheme}://127.0.0.1:{self.port}"

    def __enter__(self):
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in [self._acceptor, *self._threads]:
            thread.join(5)

    def _accept(self):
        while not self.closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection):
        self._open.add(connection)
        with contextlib.suppress(OSError, ValueError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            while (head := self._head(connection)) is not None:
                path = head.split(" ")[1]
                self.requests.append(head)
                if "upgrade: websocket" in head.lower():
                    self._websocket(connection, head)
                    return
                answer = max((key for key in self.http if path.startswith(key)), key=len, default=None)
                if answer is None:
                    return
                if self.http[answer](connection, path) is not True:
                    return
        self._open.discard(connection)

    @staticmethod
    def _head(connection):
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                return None
            data += piece
        return data.decode("latin-1")

    def _websocket(self, connection, head):
        if self.handshake is not None:
            self.handshake(connection)
            return
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.frames(connection)
        while connection.recv(1 << 16):  # until the client goes
            pass


def frame(payload, opcode=1, fin=True, rsv1=False, length=None):
    """Return a frame of a server; `length` is what its head claims."""
    length = len(payload) if length is None else length
    first = (fin << 7) | (rsv1 << 6) | opcode
    if length < 126:
        head = struct.pack("!BB", first, length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 126, length)
    else:
        head = struct.pack("!BBQ", first, 127, length)
    return head + payload


def answer(body, status="200 OK", length=None, **headers):
    """Return a function that gives one HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")

    def send(connection, path):
        connection.sendall(head + body)
        return length is None

    return send
