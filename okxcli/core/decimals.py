"""Exact decimal numbers: strict parsing, canonical text, arithmetic that never rounds unseen.

Money is never a float here. A number is read from text, kept as `decimal.Decimal`, and written in one canonical form,
so that equal numbers are equal text: plain notation, no exponent, no `+`, no trailing zeros after the point, `0` for
zero.
"""

import re
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow

from okxcli.errors import InvalidLine

# The widest number seen so far is 9999999999.0000000000000000 (26 digits). These bounds leave room,
# fit Postgres' numeric, and keep a sum of products far below EXACT's precision.
MAX_MAGNITUDE = 30
MAX_DIGITS = 60

#: Adds and multiplies without rounding: an inexact result raises instead of losing a digit.
EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])

#: Divides; the quotient is rounded afterwards by `quotient`.
_DIVIDE = Context(prec=100, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])

#: Places that a quotient keeps (contracts to base currency of an inverse swap is the one division there is).
QUOTIENT_PLACES = 18
_QUANTUM = Decimal(1).scaleb(-QUOTIENT_PLACES)

ZERO, ONE = Decimal(0), Decimal(1)

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)


def parse(text: str) -> Decimal:
    """Return the number that `text` spells.

    Accepts plain and exponent notation of ASCII digits; refuses blanks, `+`, `_`, `NaN`, `Infinity`, the empty string,
    and what `check_range` refuses.

    Raises:
        InvalidLine: `text` is not such a number.
    """
    if _NUMBER.fullmatch(text) is None:
        raise InvalidLine(f"not a number: {_shown(text)}")
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise InvalidLine(f"number out of range: {_shown(text)}") from None
    check_range(number)
    return number


def python_takes(text: str) -> bool:
    """Whether `Decimal` makes a number of `text`, which is more than `parse` does."""
    try:
        Decimal(text)
    except ArithmeticError:
        return False
    return True


def check_range(number: Decimal) -> None:
    """Refuse a number that is not finite, or too large, small or long to be a price, size or volume.

    Raises:
        InvalidLine: with the reason.
    """
    if not number.is_finite():
        raise InvalidLine(f"not a number: {number}")
    if number and not -MAX_MAGNITUDE <= number.adjusted() < MAX_MAGNITUDE:
        raise InvalidLine(f"number out of range: 1e{number.adjusted()}")
    if len(str(number)) > MAX_DIGITS + 2:
        raise InvalidLine(f"number of more than {MAX_DIGITS} digits")


def plain(number: Decimal) -> str:
    """Return the canonical text of a finite number: `1E-7` gives `0.0000001`, `1.50` gives `1.5`, `-0.0` gives `0`."""
    text = str(number)
    if "E" in text:
        text = format(number, "f")
    if text[-1] == "0" and "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def canonical(text: str) -> str:
    """Return the canonical text of the number that `text` spells.

    Raises:
        InvalidLine: as `parse`.
    """
    return plain(parse(text))


def total(numbers: Iterable[Decimal | None]) -> Decimal | None:
    """Return the exact sum; 0 of nothing, None if one of them is not known."""
    found = ZERO
    for number in numbers:
        if number is None:
            return None
        found = EXACT.add(found, number)
    return found


def quotient(dividend: Decimal, divisor: Decimal) -> Decimal:
    """Divide, rounded half to even at `QUOTIENT_PLACES` places: the only rounding there is in a candle.

    Raises:
        InvalidLine: the divisor is zero.
    """
    if not divisor:
        raise InvalidLine("division by a price of zero")
    return _DIVIDE.divide(dividend, divisor).quantize(_QUANTUM, context=_DIVIDE)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
