"""Which site of the exchange data is from: by its URL, and by a line that says so. A database remembers it.

Data of okx.com itself needs no such line, so that it stays as OKX sent it. That of any other site, and above all of a
simulation, is preceded by one, which every filter passes on, and which `okx store` believes more than its address.
What is read back from a database has none: whoever reads it knows what it is.
"""

import ipaddress
from urllib.parse import urlsplit

import orjson

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


def site_event(site: str) -> list[bytes]:
    """Return the raw line that goes before data from `site`; none for okx.com's."""
    return [] if site == HOME else [orjson.dumps({"event": "site", "arg": {"channel": "site"}, "site": site})]


def site_line(site: str) -> list[bytes]:
    """Return the line that goes before lines made of such data; none for okx.com's."""
    return [] if site == HOME else [orjson.dumps({"type": "site", "site": site})]


def site_told(line: bytes) -> str | None:
    """Return which site a line, raw or not, says that data is from; None for any other line."""
    if b'"site"' not in line:
        return None
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or "site" not in (found.get("event"), found.get("type")):
        return None
    return found["site"] if isinstance(found.get("site"), str) else None
