"""A connection to the exchange: straight there, or through a proxy by HTTP CONNECT or SOCKS5.

One way for sockets, REST and files. What a proxy answers is bounded in bytes and, all of it together, in time; it is
told by its address, never with the name and password that it wants. TLS is between us and the exchange: that is
spoken, and its certificate verified, by whoever gets the socket.

https://www.rfc-editor.org/rfc/rfc1928 (SOCKS5), rfc1929 (its password), rfc9110 section 9.3.6 (CONNECT)
"""

import base64
import ipaddress
import os
import re
import socket
import ssl
import time
from typing import NoReturn

import urllib3

from okxcli.runtime.proxy import Proxy

_MAX_HEAD = 16 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
#: What makes of an answer a page; the one that connects us has no content.
_PAGE = re.compile(rb"(?=.*\ncontent-type:\s*text/html).*\ncontent-length:\s*[1-9]", re.IGNORECASE | re.DOTALL)
#: What a SOCKS5 proxy answers when it cannot connect us.
_REPLIES = {
    1: "it has failed",
    2: "its rules forbid it",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the connection was refused there",
    6: "it took too long",
    7: "it knows no CONNECT",
    8: "it knows no such addresses",
}


class TunnelError(urllib3.exceptions.HTTPError):
    """The proxy is not there, or does not connect us; the text names it and says why.

    Of urllib3's family, so that its pools let it through as it is.
    """


class NoLogin(TunnelError):
    """The proxy wants a name and a password that it was not given: another attempt gets the same answer."""


def dial(host: str, port: int, proxy: Proxy | None, timeout_s: float | None) -> socket.socket:
    """Return a TCP connection to `host`, made within `timeout_s` (None: as long as it takes), which it keeps.

    Raises:
        OSError: there is none, without a proxy.
        TunnelError: there is none, through the proxy.
    """
    if proxy is None:
        made = socket.create_connection((host, port), timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    try:
        return _Talk(proxy, timeout_s).connect(host, port)
    except TimeoutError:
        raise TunnelError(f"the proxy {proxy} does not answer in time") from None
    except socket.gaierror as error:
        raise TunnelError(f"the proxy {proxy}: no such host") from error
    except OSError as error:
        raise TunnelError(f"the proxy {proxy}: {(error.strerror or str(error)).lower()}") from None


def of_tls(error: ssl.SSLError) -> str:
    """Return what is wrong with the TLS of whoever answers, in a user's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message.rstrip('.')}{_unread()}"
    return "it speaks no TLS" if error.reason == "WRONG_VERSION_NUMBER" else (error.strerror or str(error)).lower()


def _unread() -> str:
    """Say it if the file that names whom to trust cannot be used: OpenSSL passes over that in silence."""
    place = os.environ.get("SSL_CERT_FILE", "")
    try:
        if place:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(place)
    except OSError:
        return f", and {place}, which SSL_CERT_FILE names, cannot be used"
    return ""


class _Talk:
    """What is said to one proxy until it has connected us, before `end`."""

    def __init__(self, proxy: Proxy, timeout_s: float | None) -> None:
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def connect(self, host: str, port: int) -> socket.socket:
        """Return the connection to `host`."""
        proxy = self._proxy
        try:
            if proxy.scheme == "socks5":
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                # One answer is all that it gives; fewer proxies know IPv6 than IPv4.
                host = str(sorted(found, key=lambda one: one[0] != socket.AF_INET)[0][4][0])
            host = host if ":" in host else host.encode("idna").decode()
        except (socket.gaierror, UnicodeError):
            raise TunnelError(f"no such host. With socks5h:// the proxy {proxy} is asked for it") from None
        self._socket = socket.create_connection((proxy.host, proxy.port), self._timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if proxy.scheme == "http":
                self._ask_http(host, port)
            else:
                self._ask_socks(host, port)
            self._socket.settimeout(self._timeout_s)
        except BaseException:
            self._socket.close()
            raise
        return self._socket

    def _ask_http(self, host: str, port: int) -> None:
        """Ask for the connection by CONNECT."""
        proxy = self._proxy
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", "User-Agent: okxcli"]
        if proxy.user is not None:
            login = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {login}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        head = bytearray()
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            head += self._read(1)
            if len(head) == 5 and head != b"HTTP/":
                self._refuse("answers with something that is no HTTP. Is it a SOCKS proxy?")
            if len(head) > _MAX_HEAD:
                self._refuse(f"answers with a head of over {_MAX_HEAD >> 10} KiB")
        status = _STATUS.match(head)
        if status is None:
            self._refuse("answers with something that is no HTTP")
        if status[1] in (b"407", b"401"):  # tinyproxy says 401 to a wrong password
            self._refuse_login()
        if not status[1].startswith(b"2"):
            self._refuse(f"does not connect us to {place} (HTTP status {status[1].decode()})")
        if _PAGE.match(head):  # what asks people to log in or to pay
            self._refuse(f"answers with a page of HTML instead of a connection to {place}")

    def _ask_socks(self, host: str, port: int) -> None:
        """Ask for the connection by SOCKS5."""
        proxy = self._proxy
        self._socket.sendall(b"\x05\x01\x00" if proxy.user is None else b"\x05\x02\x00\x02")
        version, way = self._read(2)
        if version != 5:
            self._refuse("answers with something that is no SOCKS5. Is it an HTTP proxy?")
        if way == 2 and proxy.user is not None:
            user, password = proxy.user.encode(), (proxy.password or "").encode()
            self._socket.sendall(b"\x01%c%b%c%b" % (len(user), user, len(password), password))
            if self._read(2)[1]:
                self._refuse_login()
        elif way != 0:
            self._refuse_login()
        try:
            address = ipaddress.ip_address(host)
            target = (b"\x01" if address.version == 4 else b"\x04") + address.packed
        except ValueError:
            target = b"\x03%c%b" % (len(host), host.encode())
        self._socket.sendall(b"\x05\x01\x00" + target + port.to_bytes(2, "big"))
        version, reply, _, kind = self._read(4)
        if version != 5 or (not reply and kind not in (1, 3, 4)):
            self._refuse("answers with something that is no SOCKS5")
        if reply:
            self._refuse(f"does not connect us to {host}:{port}: {_REPLIES.get(reply, f'error {reply}')}")
        self._read((self._read(1)[0] if kind == 3 else 4 if kind == 1 else 16) + 2)

    def _read(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        data = b""
        while len(data) < size:
            if self._end is not None:
                left_s = self._end - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                self._socket.settimeout(left_s)
            piece = self._socket.recv(size - len(data))
            if not piece:
                self._refuse("closes the connection without an answer")
            data += piece
        return data

    def _refuse_login(self) -> NoReturn:
        if self._proxy.user is None:
            asks = "asks for a name and a password. Give them in HTTPS_PROXY or in exchange.proxy: user:password@"
            self._refuse(asks, NoLogin)
        self._refuse("does not accept the name and password", NoLogin)

    def _refuse(self, reason: str, kind: type[TunnelError] = TunnelError) -> NoReturn:
        raise kind(f"the proxy {self._proxy} {reason}")
