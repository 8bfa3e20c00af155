"""The sites of OKX, their addresses, and by an address which one it is."""

import ipaddress
from urllib.parse import urlsplit

HOME = "okx.com"
GLOBAL = "global"
#: By site: what it is called as an origin, and the first labels of its hosts: WebSocket, that of demo trading, REST. A
#: key and a tape of one are nothing on another. Source: okx.com, "Production trading URL" and "Demo trading URL" of the
#: API guide.
_HOSTS = {
    GLOBAL: (HOME, "ws", "wspap", ("www", "openapi")),
    "eea": ("eea.okx.com", "wseea", "wseeapap", ("eea",)),
    "us": ("us.okx.com", "wsus", "wsuspap", ("us",)),
}
_SITES = {label: site for site, live, _, rest in _HOSTS.values() for label in (live, *rest)}
_SITES |= {demo: f"demo.{site}" for site, _, demo, _ in _HOSTS.values()}

WS_URL = "wss://ws.okx.com"
REST_URL = "https://www.okx.com"
FILES_URL = "https://static.okx.com/cdn/okex/traderecords"
#: Its days are those of UTC+8, which begin so long before those of UTC.
OFFSET_MS = 8 * 3_600_000


def addresses(site: str, demo: bool) -> tuple[str, str]:
    """Return the addresses of a site (`global`, `eea`, `us`): WebSocket, of demo trading if wanted, and REST."""
    _, live, simulated, rest = _HOSTS[site]
    return f"wss://{simulated if demo else live}.okx.com", f"https://{rest[0]}.okx.com"


def origin_of(url: str) -> str:
    """Return where data of `url` comes from: a site such as `okx.com`, `local` for this machine, else the host.

    What is no URL is its own: whoever connects to it tells what is wrong.
    """
    try:
        host = (urlsplit(url).hostname or "").lower().rstrip(".")
    except ValueError:
        return url
    if host.endswith(".okx.com"):
        label = host.removesuffix(".okx.com")
        return _SITES.get(label, host)
    if host == "localhost" or host.endswith(".localhost"):
        return "local"
    try:
        return "local" if ipaddress.ip_address(host).is_loopback else host
    except ValueError:
        return host
