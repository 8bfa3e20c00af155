"""HTTP to a server that may be slow, broken or hostile: answers are bounded in bytes and in time.

Certificates are verified and nothing switches that off; redirects are not followed. Retries are the caller's.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from okxcli.errors import UsageError
from okxcli.exchanges.okx.tunnel import TunnelError, dial, of_tls
from okxcli.runtime.proxy import Proxies, Proxy

#: From the request to the end of the answer's head, and for a whole body that is read by `body_of`.
HEAD_S = 30.0
BODY_S = 60.0
#: Nobody is waited for longer because it asks for it.
MAX_WAIT_S = 60.0
_READ = 1 << 16


# It logs broken heads with a traceback, which Python would print where nobody listens; they are told as errors here.
logging.getLogger("urllib3").addHandler(logging.NullHandler())


Way = Callable[[], Proxy | None]


class TooLarge(Exception):
    """An answer has more bytes than it may have, unpacked."""


class _Impatient:
    """Goes through the proxy, if one leads there, and ends a connection whose head does not end.

    urllib3's own time-outs begin anew with each byte.
    """

    sock: socket.socket | None

    def __init__(self, *arguments: Any, way: Way, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._way = way

    def _new_conn(self) -> socket.socket:
        proxy = self._way()
        if proxy is None:
            return super()._new_conn()  # type: ignore[misc,no-any-return]
        return dial(self._dns_host, self.port, proxy, self.timeout)  # type: ignore[attr-defined]

    def getresponse(self) -> Any:
        """Return the answer, as soon as its head is there.

        Raises:
            TimeoutError: it does not end.
        """
        over = threading.Event()
        timer = threading.Timer(HEAD_S, self._cut, [over])
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread begins while Python ends
            timer.start()
        try:
            answer = super().getresponse()  # type: ignore[misc]
        except Exception:
            if not over.is_set():
                raise
            answer = None
        finally:
            timer.cancel()
        if over.is_set():  # a head that was cut looks like one that ended
            raise TimeoutError(f"no end of the answer's head within {HEAD_S:.0f} s")
        return answer

    def _cut(self, over: threading.Event) -> None:
        over.set()
        if self.sock is not None:
            # Not the method of a TLS socket, which would take itself apart under the hands of who reads.
            with contextlib.suppress(OSError):  # it ended by itself
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class _Plain(_Impatient, HTTPConnection):
    """A connection without TLS."""


class _Secure(_Impatient, HTTPSConnection):
    """A connection with TLS."""


# What a pool is given that it does not know, such as `way`, goes to each of its connections.
class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


def base(url: str, schemes: tuple[str, str], what: str, example: str) -> str:
    """Return an address without the slash at its end.

    Raises:
        UsageError: it has another scheme or no host, or a name and password, which would show in every log.
    """
    try:
        parts = urlsplit(url)
        named = parts.username is not None or parts.password is not None
        right = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        named, right = "@" in url, False
    if named:
        raise UsageError(f"{what} holds a name or a password, which OKX has no use for: write it as {example}")
    if not right:
        raise UsageError(f"not {what}: {url[:100]!r}. Write it as {example}")
    return url.rstrip("/")


class Server:
    """What is below `url`, which is told as `what` and with an `example` where it is wrong.

    Connections are made within `timeout_s`, which is also waited for each piece of an answer; each goes through the
    proxy that `proxies` know when it is made.

    Raises:
        UsageError, ConfigError: it is no address, or what names the proxy is none.
    """

    def __init__(
        self, url: str, what: str, example: str, proxies: Proxies | None, timeout_s: float, connections: int = 1
    ) -> None:
        self.base = base(url, ("http", "https"), what, example)
        self._way = partial((proxies or Proxies()).of, self.base)
        self._way()  # what names it wrongly is told now
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            retries=False,
            maxsize=connections,
            headers={"User-Agent": "okxcli"},
        )
        kinds = {"http": partial(_PlainPool, way=self._way), "https": partial(_SecurePool, way=self._way)}
        self._pool.pool_classes_by_scheme = kinds  # type: ignore[assignment]

    def close(self) -> None:
        """Close idle connections; another request makes a new one."""
        self._pool.clear()

    def request(self, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """Return the answer, of which nothing but its head was read; whoever reads the rest gives it back.

        Raises:
            urllib3.exceptions.HTTPError: no answer, or a broken one.
        """
        return self._pool.request("GET", self.base + path, redirect=False, preload_content=False, **options)

    def get(self, path: str, limit: int, fields: dict[str, str]) -> tuple[int, bytes, float]:
        """Return the status and the body of an answer, unpacked, at most `limit` bytes, and how long to wait (s).

        Raises:
            TooLarge: there are more.
            urllib3.exceptions.HTTPError: no answer, a broken one, or one that goes on for ever.
        """
        response = self.request(path, fields=fields)
        try:
            return response.status, _body(response, limit), _retry_after(response)
        except BaseException:
            response.close()  # what is left of it must not be taken for the next answer
            raise
        finally:
            response.release_conn()

    def in_words(self, error: urllib3.exceptions.HTTPError) -> str:
        """Return what went wrong without the library's decoration, and through which proxy unless that says so."""
        text, proxy = _reason(error), self._way()
        return text if proxy is None or isinstance(error, TunnelError) else f"{text}, through the proxy {proxy}"


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds of `Retry-After`, which may be a moment by the server's clock; 0 if it says none."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_WAIT_S)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError):
        return 0.0
    return min(max(wait.total_seconds(), 0.0), MAX_WAIT_S)


def _body(response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    end = time.monotonic() + BODY_S
    while piece := response.read1(_READ, decode_content=True):
        size += len(piece)
        if size > limit:
            raise TooLarge
        if time.monotonic() > end:
            raise urllib3.exceptions.HTTPError(f"no end of the answer within {BODY_S:.0f} s")
        pieces.append(piece)
    return b"".join(pieces)


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "no such host"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return str(error).rsplit("] ", 1)[-1].lower()
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "timed out"
    if isinstance(error, urllib3.exceptions.SSLError) and isinstance(error.args[0], ssl.SSLError):
        return of_tls(error.args[0])
    return str(error).splitlines()[0][:200]
