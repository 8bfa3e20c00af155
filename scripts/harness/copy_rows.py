"""Rows of fills in COPY's binary format, read again: as Postgres spells them in its text format."""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction

_COLUMNS = 11
_SINCE = datetime(2000, 1, 1, tzinfo=UTC)


def text_of(rows: bytes) -> str:
    """Return the rows, each with its newline."""
    return "".join("\t".join(_fields(row)) + "\n" for row in _split(rows))


def _split(rows: bytes) -> Iterator[list[bytes | None]]:
    at = 0
    while at < len(rows):
        (count,) = struct.unpack_from("!h", rows, at)
        if count != _COLUMNS:
            raise ValueError(f"a row of {count} columns")
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", rows, at)
            at += 4
            row.append(None if size < 0 else rows[at : at + size])
            at += max(size, 0)
        yield row


def _fields(row: list[bytes | None]) -> Iterator[str]:
    readers = (bytes.decode, bytes.decode, _integer, _integer, bytes.decode, _numeric, _numeric, _time, _time, _integer,
               bytes.decode)  # fmt: skip
    for value, reader in zip(row, readers, strict=True):
        yield "\\N" if value is None else reader(value)


def _integer(value: bytes) -> str:
    return str(int.from_bytes(value, "big", signed=True))


def _time(value: bytes) -> str:
    moment = _SINCE + timedelta(microseconds=int.from_bytes(value, "big", signed=True))
    return moment.isoformat(" ", "milliseconds").removesuffix(":00")


def _numeric(value: bytes) -> str:
    count, weight, sign, places = struct.unpack_from("!hhHH", value)
    digits = struct.unpack_from(f"!{count}H", value, 8)
    if sign or len(value) != 8 + 2 * count or max(digits) > 9_999:
        raise ValueError("no positive numeric")
    number = sum((digit * Fraction(10_000) ** (weight - at) for at, digit in enumerate(digits)), Fraction(0))
    scaled = number * 10**places
    if scaled.denominator != 1:
        raise ValueError("more digits than it says")
    text = str(scaled.numerator).rjust(places + 1, "0")
    return f"{text[:-places]}.{text[-places:]}" if places else text
