"""Canonical decimals: one text a number, no digit lost, nothing that is not a number."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okxcli.core.decimals import EXACT, canonical, parse, plain, quotient
from okxcli.errors import InvalidLine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("102537.90", "102537.9"),
        ("0.00000853", "0.00000853"),
        ("1E-8", "0.00000001"),
        ("1.5e3", "1500"),
        ("100", "100"),
        ("0.000", "0"),
        ("-0.0", "0"),
        ("9999999999.0000000000000000", "9999999999"),
        ("007.50", "7.5"),
        ("1e0001", "10"),
        ("0.000e57612", "0"),
    ],
)
def test_canonical_form(text, expected):
    """Plain notation, no exponent, no trailing zeros after the point, 0 for zero."""
    assert canonical(text) == expected


IMPOSSIBLE = ["1e400", "1e-400", "1e57612", "0e" + "9" * 30, "1e-" + "9" * 30, "9" * 80]


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "+1", "1_0", "NaN", "Infinity", ".5", "5.", "0x1", "١", "1,5", *IMPOSSIBLE]
)
def test_what_is_not_a_number(text):
    """Blanks, signs, underscores, foreign digits and numbers of impossible size are refused."""
    with pytest.raises(InvalidLine):
        parse(text)


numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=12)


@given(numbers)
def test_equal_numbers_are_equal_text(number):
    """Canonical text reads back as the same number, and is a fixed point."""
    text = plain(number)
    assert Decimal(text) == number
    assert canonical(text) == text
    assert "E" not in text and "+" not in text
    assert "." not in text or text[-1] not in "0."


def test_sums_of_products_are_exact():
    """No digit is lost where the default context of 28 digits would round."""
    a = Decimal("123456789012345678901234.000000000001")
    assert int(EXACT.multiply(EXACT.multiply(a, a), 10**24)) == 123456789012345678901234000000000001**2
    assert EXACT.subtract(EXACT.add(a, Decimal("1E-30")), a) == Decimal("1E-30")


def test_quotients_are_rounded_at_eighteen_places():
    """Contracts to coins is the one division there is; its rounding is fixed."""
    assert plain(quotient(Decimal(100), Decimal(3))) == "33.333333333333333333"
    assert plain(quotient(Decimal(2), Decimal(3))) == "0.666666666666666667"
    with pytest.raises(InvalidLine):
        quotient(Decimal(1), Decimal(0))
