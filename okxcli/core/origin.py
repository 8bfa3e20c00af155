"""Which site of an exchange data is from, as a line says it. A database remembers it.

Data of an exchange's own main site needs no such line, so that it stays as it was sent. That of any other site, and
above all of a simulation, is preceded by one, which every filter passes on, and which `okx store` believes more than
its address. What is read back from a database has none: whoever reads it knows what it is.
"""

import msgspec

#: How the raw line begins that says it.
SITE_HEAD = b'{"event":"site"'


class _Site(msgspec.Struct):
    site: str
    event: str = ""
    type: str = ""


_SITE = msgspec.json.Decoder(_Site)


def site_event(site: str) -> bytes:
    """Return the raw line that goes before data from `site`."""
    return msgspec.json.encode({"event": "site", "arg": {"channel": "site"}, "site": site})


def site_line(site: str) -> bytes:
    """Return the line that goes before lines made of such data."""
    return msgspec.json.encode({"type": "site", "site": site})


def site_told(line: bytes) -> str | None:
    """Return which site a line, raw or not, says that data is from; None for any other line."""
    if b'"site"' not in line:
        return None
    try:
        found = _SITE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.site if "site" in (found.event, found.type) else None
