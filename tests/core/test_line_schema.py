"""Lines keep their schemas, and the schemas are not so loose that anything would."""

import json
from decimal import Decimal

import jsonschema
import pytest
from storage_samples import every_state

from okxcli.core.codec import decode, encode
from okxcli.core.line_schema import LINE_TYPES, line_schema
from okxcli.core.model import Absent, BookSnapshot, BookUpdate, Instrument, OHLCVCandle, StandardizedTrade, Ticker

ONE, TWO, T = Decimal("1.5"), Decimal("2E-7"), 1_747_087_200_000
LINES = [
    StandardizedTrade("okx", "BTC-USDT", 7, "buy", ONE, TWO, T),
    OHLCVCandle("okx", "BTC-USDT", "1m", T, T + 60_000, ONE, ONE, ONE, ONE, TWO, TWO, None, TWO, 1, 7, 7),
    BookSnapshot("okx", "BTC-USDT", T, ((ONE, TWO),), (), 9, T),
    BookUpdate("okx", "BTC-USDT", T, "update", ((ONE, TWO),), (), 9, 7, T),
    Ticker("okx", "BTC-USDT", T, last=ONE),
    *every_state(T),
    Instrument("okx", "BTC-USD-SWAP", "swap", "live", contract_type="inverse", contract_value=Decimal(100)),
    Absent("okx", "BTC-USDT", 3, 5),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_lines_keep_their_schema(line):
    """What encode writes is valid, has every key, and reads back as the same object."""
    data = json.loads(encode(line))
    schema = line_schema(data["type"])
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)
    assert set(schema["required"]) == set(data)
    assert decode(encode(line)) == line


@pytest.mark.parametrize(("key", "value"), [("price", 1.5), ("price", "1.50"), ("price", "1e3"), ("type", "candle"),
                                            ("trade_id", "7"), ("timestamp", None)])  # fmt: skip
def test_a_wrong_value_breaks_the_schema(key, value):
    """Decimals are strings in canonical form, ids and times are integers."""
    data = json.loads(encode(LINES[0])) | {key: value}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, line_schema("trade"))


def test_every_type_has_one():
    """One schema for each type of line."""
    assert {json.loads(encode(line))["type"] for line in LINES} == set(LINE_TYPES)
