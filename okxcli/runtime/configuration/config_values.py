"""What a single value of the configuration may be: durations, symbols, timeframes, days, addresses.

Each check returns the value as it was given, or refuses it in a user's words, with what is allowed.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from okxcli.core.timeframes import Timeframe
from okxcli.errors import InvalidLine, UsageError
from okxcli.runtime import proxy as proxies
from okxcli.runtime.archive.disk_guard import size_of
from okxcli.runtime.archive.file_names import FileNames
from okxcli.runtime.clock import parse_duration

#: Parts of a connection string that nobody else may see.
_SECRETS = frozenset({"password", "sslpassword"})
_SYMBOL = re.compile(r"[A-Z0-9]+(?:-[A-Z0-9_]+){1,4}|(?=.*[*?])[A-Z0-9_.*?-]{1,64}", re.ASCII)


def _mistake(reason: str) -> PydanticCustomError:
    return PydanticCustomError("okx", "{reason}", {"reason": reason})


def milliseconds(text: str) -> int:
    """Return the milliseconds of a duration such as `500ms`, `10s`, `1h30m`.

    Raises:
        UsageError: not a duration.
    """
    return round(parse_duration(text) * 1000)


def duration(low_ms: int, high_ms: int, allowed: str) -> AfterValidator:
    """Return the check of a duration from `low_ms` to `high_ms`; `allowed` tells the user what to write."""

    def checked(text: str) -> str:
        try:
            found = milliseconds(text)
        except UsageError:
            raise _mistake(f"{json.dumps(text)} is no duration; write {allowed}") from None
        if not low_ms <= found <= high_ms:
            raise _mistake(f"{json.dumps(text)} is out of range; write {allowed}")
        return text

    return AfterValidator(checked)


def symbol(text: str) -> str:
    """Check the name of an instrument, or a pattern of names; `btc/usdt` is told what it should be."""
    if _SYMBOL.fullmatch(text):
        return text
    tidy = re.sub(r"[/_ ]+", "-", text.strip().upper())
    hint = f"; did you mean {tidy}?" if _SYMBOL.fullmatch(tidy) else "; write it as the exchange does, such as BTC-USDT"
    raise _mistake(f"{shown(text)} is no symbol{hint}")


def timeframe(text: str) -> str:
    """Check the name of a timeframe."""
    try:
        Timeframe.parse(text)
    except InvalidLine as reason:
        raise _mistake(str(reason)) from None
    return text


def days(text: str) -> str:
    """Check a number of whole days, `1d` to `9999d`."""
    if not re.fullmatch(r"[1-9][0-9]{0,3}d", text, re.ASCII):
        raise _mistake(f"{shown(text)} is no number of days; write 7d, or null to keep for ever")
    return text


def dsn(text: str) -> str:
    """Check that libpq can read a connection string; it is not tried."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(text)
    except ProgrammingError:
        # Neither libpq's words nor the value are shown: both may hold the password.
        raise _mistake("no connection string; write postgresql://host/database or host=... dbname=...") from None
    return text


def base_url(*schemes: str) -> AfterValidator:
    """Return the check of an address with one of `schemes` and no path; a slash at its end is dropped."""

    def checked(text: str) -> str:
        try:
            parts = urlsplit(text)
            port_is_number = parts.port is None or parts.port > 0
        except ValueError:
            port_is_number = False
        if not port_is_number or parts.scheme not in schemes or not parts.hostname:
            raise _mistake(f"{shown(text)} is no address; write {schemes[-1]}://host or {schemes[0]}://host:port")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise _mistake(f"{shown(text)}: only scheme, host and port; the path is added by okx")
        return text.rstrip("/")

    return AfterValidator(checked)


def proxy(text: str) -> str:
    """Check the address of a proxy; the value is not shown, it may hold a password."""
    try:
        proxies.parse(text)
    except ValueError as reason:
        raise _mistake(f"{reason}; write {proxies.EXAMPLE}, or none") from None
    return text


def file_names(text: str) -> str:
    """Check a path with times in it."""
    try:
        FileNames(text)
    except UsageError as reason:
        raise _mistake(str(reason)) from None
    return text


def size(text: str) -> str:
    """Check a number of bytes, `500MiB`."""
    bytes_of(text)
    return text


def bytes_of(text: str) -> int:
    """Return the bytes of a size that is written as `500MiB`."""
    try:
        return size_of(text)
    except ValueError as reason:
        raise _mistake(str(reason)) from None


def depth(levels: int) -> int:
    """Check a number of levels of a book."""
    if not 1 <= levels <= 400:
        raise _mistake(f"{levels} is out of range; write 1 to 400, or null for all levels")
    return levels


def once(names: list[str]) -> list[str]:
    """Check that no name is there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _mistake(f"{', '.join(twice)} given more than once")
    return names


def masked(dsn: str) -> str:
    """Return a connection string in keyword form with `***` for its password; an unreadable one hides whole."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:
        return "***"
    return make_conninfo("", **{k: "***" if k in _SECRETS else v for k, v in parts.items()})


def holds_password(dsn: str) -> bool:
    """Tell whether a connection string, URL or keywords, carries a password."""
    from psycopg.conninfo import conninfo_to_dict

    return bool(_SECRETS & conninfo_to_dict(dsn).keys())


def shown(value: Any) -> str:
    """Return a value as JSON of at most 40 characters, for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
