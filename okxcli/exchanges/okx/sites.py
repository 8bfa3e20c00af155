"""The sites of OKX, their addresses, and by an address which one it is."""

import ipaddress
from urllib.parse import urlsplit

#: First label of OKX's hosts, by site: a key and a tape of one are nothing on another. Source: okx.com, "Production
#: trading URL" and "Demo trading URL" of the API guide.
_SITES = {
    "ws": "okx.com",
    "www": "okx.com",
    "openapi": "okx.com",
    "wspap": "demo.okx.com",
    "wseea": "eea.okx.com",
    "eea": "eea.okx.com",
    "wseeapap": "demo.eea.okx.com",
    "wsus": "us.okx.com",
    "us": "us.okx.com",
    "wsuspap": "demo.us.okx.com",
}


HOME = "okx.com"
WS_URL = "wss://ws.okx.com"
REST_URL = "https://www.okx.com"
FILES_URL = "https://static.okx.com/cdn/okex/traderecords"
#: Its days are those of UTC+8, which begin so long before those of UTC.
OFFSET_MS = 8 * 3_600_000


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
