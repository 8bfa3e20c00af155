"""Small real proxies on loopback, HTTP (CONNECT) and SOCKS5, that write down what they are asked for.

`names` says where a name really is: the exchange of a test has one that no resolver knows, so that whatever does not go
through the proxy does not get there. `login` is the (name, password) that is wanted; `spoil(connection)` may answer
in the proxy's stead.
"""

import base64
import contextlib
import select
import socket
import struct
import threading


class SmallProxy:
    """One thread a connection; every connection is closed at the end."""

    def __init__(self, kind="http", names=None, login=None, spoil=None):
        self.kind = kind
        self.names = names or {}
        self.login = login
        self.spoil = spoil
        self.asked = []  # (host, port) as the client named it
        self.refused = 0
        self.peers = set()  # our ends of the connections that go on
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._open = set()
        self._closing = False

    def url(self, user="", scheme=None):
        """Return its address, with `user` as `name:password@`."""
        return f"{scheme or ('http' if self.kind == 'http' else 'socks5h')}://{user}127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    def cut(self):
        """End every connection."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while not self._closing:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection):
        self._open.add(connection)
        with contextlib.suppress(OSError, EOFError), connection:
            if self.spoil is not None:
                self.spoil(connection)
                return
            target = self._http(connection) if self.kind == "http" else self._socks(connection)
            if target is not None:
                self._relay(connection, target)
        self._open.discard(connection)

    def _connected(self, host, port):
        self.asked.append((host, port))
        made = socket.create_connection(self.names.get(host, (host, port)), 5)
        self.peers.add(made.getsockname())
        self._open.add(made)
        return made

    def _http(self, connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += _some(connection, 1)
        first, *fields = head.decode().split("\r\n")
        verb, place, _ = first.split()
        assert verb == "CONNECT"
        given = dict(line.lower().split(": ", 1) for line in fields if line).get("proxy-authorization", "")
        if self.login is not None:
            wanted = base64.b64encode(":".join(self.login).encode()).decode()
            if given != f"basic {wanted}".lower():
                self.refused += 1
                connection.sendall(b'HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n')
                return None
        host, _, port = place.rpartition(":")
        try:
            target = self._connected(host.strip("[]"), int(port))
        except OSError:
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return None
        connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        return target

    def _socks(self, connection):
        _, count = _some(connection, 2)
        ways = _some(connection, count)
        if self.login is None:
            connection.sendall(b"\x05\x00")
        elif 2 not in ways:
            self.refused += 1
            connection.sendall(b"\x05\xff")
            return None
        else:
            connection.sendall(b"\x05\x02")
            given = []
            _some(connection, 1)
            for _ in range(2):
                given.append(_some(connection, _some(connection, 1)[0]).decode())
            if tuple(given) != self.login:
                self.refused += 1
                connection.sendall(b"\x01\x01")
                return None
            connection.sendall(b"\x01\x00")
        kind = _some(connection, 4)[3]
        if kind == 3:
            host = _some(connection, _some(connection, 1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, _some(connection, size))
        (port,) = struct.unpack("!H", _some(connection, 2))
        try:
            target = self._connected(host, port)
        except OSError:
            connection.sendall(b"\x05\x04\x00\x01" + bytes(6))
            return None
        connection.sendall(b"\x05\x00\x00\x03\x04name\x00\x07")  # an address of a form that few send
        return target

    def _relay(self, one, other):
        ends = {one: other, other: one}
        with other:
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    ends[end].sendall(data)


def _some(connection, size):
    """Read exactly so many bytes."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
