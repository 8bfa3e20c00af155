"""Which proxy, if any, leads to an address: the one place that decides, for sockets, REST and files alike.

Pure but for the default of the environment. Who dials through it is the exchange's `tunnel`.
"""

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from okxcli.errors import ConfigError, OkxError, UsageError

EXAMPLE = "http://host:3128 or socks5h://host:1080"
#: Scheme of a proxy: the port that it has by itself.
_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080}
_TARGET_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}
#: What says that there is none.
_NONE = ("", "none")


@dataclass(frozen=True)
class Proxy:
    """A proxy; name and password are shown nowhere. With `socks5` names are resolved here, else by the proxy."""

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str) -> Proxy | None:
    """Return the proxy that a URL names, of `http://` if it has no scheme; None for nothing and for `none`.

    Raises:
        ValueError: it is no such URL. The text says what is wrong and nothing of the value, which may hold a password.
    """
    text = text.strip()
    if text.lower() in _NONE:
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise ValueError("no address of a proxy") from None
    if scheme not in _PORTS:
        raise ValueError("no kind of proxy that okx knows")
    if not host or port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("no address of a proxy")
    user, password = (None if one is None else unquote(one) for one in (parts.username, parts.password))
    if any(len((one or "").encode()) > 255 for one in (user, password)):  # SOCKS5 has one byte for their lengths
        raise ValueError("a name or a password of more than 255 bytes")
    user = (user or None) if password is None else (user or "")
    return Proxy(scheme, host, port or _PORTS[scheme], user, password)


class Proxies:
    """Finds the proxy for an address: `--proxy`, the configuration's, the environment's.

    `option` is what `--proxy` says and holds for every address, as an explicit wish. Without it, the configuration's
    `configured`, else HTTPS_PROXY (wss, https) or HTTP_PROXY (ws, http), else ALL_PROXY, in lower case or else in upper
    case; never for this machine's own addresses, nor for those that NO_PROXY lists. The value `none`, or an empty one,
    is for no proxy. `configured` may be changed; whoever connects next goes by it.
    """

    def __init__(
        self, option: str | None = None, configured: str | None = None, env: Mapping[str, str] = os.environ
    ) -> None:
        self.configured = configured
        self._env = env
        self._explicit = option is not None
        self._option = _named(option or "", "--proxy", UsageError)
        if self._option is not None and self._option.password is not None:
            raise UsageError(
                "--proxy holds a password, which `ps` shows to everybody: leave it out and set HTTPS_PROXY, or "
                "exchange.proxy in the configuration"
            )

    def of(self, url: str) -> Proxy | None:
        """Return the proxy for an address (ws, wss, http, https), None to go straight there.

        Raises:
            UsageError, ConfigError: what names the proxy is no address of one.
        """
        if self._explicit:
            return self._option
        parts = urlsplit(url)
        secure = parts.scheme in ("https", "wss")
        if not parts.hostname or _is_local(parts.hostname) or excepted(parts, self._first("no_proxy")[1] or ""):
            return None
        if self.configured is not None:
            return _named(self.configured, "exchange.proxy", ConfigError)
        for variable in ("https_proxy" if secure else "http_proxy", "all_proxy"):
            name, value = self._first(variable)
            if value is not None:
                return _named(value, name, UsageError)
        return None

    def _first(self, variable: str) -> tuple[str, str | None]:
        """Return a variable, the one in lower case if it is there, and its name."""
        name = variable if variable in self._env else variable.upper()
        return name, self._env.get(name)


def excepted(target: SplitResult, listed: str) -> bool:
    """Whether an address is among those that NO_PROXY lists, separated by commas or spaces.

    `*` is every address; `site.com` and `.site.com` are that host and all below it; `host:port` is one port alone;
    `10.0.0.7`, `[::1]`, `10.0.0.0/8` are addresses, which a name is not compared with.
    """
    host = _plain(target.hostname or "")
    port = target.port or _TARGET_PORTS.get(target.scheme)
    address = _address(host)
    for item in re.split(r"[,\s]+", listed.lower()):
        name, colon, end = item.rpartition(":")
        only = colon and end.isdecimal() and (":" not in name or name.endswith("]"))
        if only and port != int(end):
            continue
        name = _plain((name if only else item).replace("[", "").replace("]", ""))
        if name == "*" or (name and name == host) or (address is None and name and host.endswith(f".{name}")):
            return True
        with contextlib.suppress(ValueError):
            if address is not None and address in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _named(text: str, where: str, kind: type[OkxError]) -> Proxy | None:
    try:
        return parse(text)
    except ValueError as reason:
        raise kind(f"{where} names {reason}: write {EXAMPLE}, or none") from None


def _plain(name: str) -> str:
    return name.lower().removeprefix("*.").strip(".") if name != "*" else name


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_local(host: str) -> bool:
    name, address = _plain(host), _address(host)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)
