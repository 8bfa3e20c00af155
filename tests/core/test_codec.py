"""Lines: equal objects are equal bytes, what is no line is refused with its reason, and nothing else."""

import json
import re
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okxcli.core.checks import check
from okxcli.core.codec import UnknownType, decode, encode
from okxcli.core.model import (
    AHEAD_MS,
    Absent,
    BookSnapshot,
    BookUpdate,
    Instrument,
    OHLCVCandle,
    StandardizedTrade,
    Ticker,
    amounts,
)
from okxcli.core.timeframes import DAY, Timeframe
from okxcli.errors import InvalidLine

GOOD = (
    '{"type":"trade","exchange":"okx","symbol":"BTC-USDT","trade_id":734864333,"count":1,"side":"sell",'
    '"price":"102537.9","size":"0.00013669","timestamp":1747087163557,"received":1747087163601,"source":0,'
    '"origin":"trades-all"}'
)

prices = st.decimals(min_value="1e-12", max_value="1e12", places=12).filter(lambda d: d > 0)
sizes = st.decimals(min_value=0, max_value="1e15", places=8)
times = st.integers(1_400_000_000_000, 4_000_000_000_000)
symbols = st.sampled_from(["BTC-USDT", "BTC-USD-SWAP", "BTC-USD_UM-241217-92000-C", "1INCH-USDT"])
some = st.none() | sizes
levels = st.lists(st.tuples(prices, sizes), max_size=5).map(tuple)

trades = st.builds(
    StandardizedTrade, st.just("okx"), symbols, st.integers(2**31, 2**62), st.sampled_from(["buy", "sell"]),
    prices, sizes.filter(lambda d: d > 0), times, st.integers(1, 1000), st.none() | times,
    st.none() | st.integers(0, 3), st.sampled_from(["trades-all", "trades", "rest", "file"]),
)  # fmt: skip
books = st.builds(BookSnapshot, st.just("okx"), symbols, times, levels, levels, st.none() | st.integers(-1, 2**62),
                  st.none() | times, st.sampled_from(["books5", "bbo-tbt"]))  # fmt: skip
numbers = st.one_of(
    st.tuples(st.just("update"), st.integers(0, 2**62), st.integers(-1, 2**62)),
    st.tuples(st.just("snapshot"), st.integers(0, 2**62), st.sampled_from([-1, None])),
    st.tuples(st.sampled_from(["update", "snapshot"]), st.none(), st.none()),
)
updates = st.builds(
    lambda symbol, at, bids, asks, chain, received: BookUpdate(
        "okx", symbol, at, chain[0], bids, asks, *chain[1:], received),
    symbols, times, levels, levels, numbers, st.none() | times)  # fmt: skip
tickers = st.builds(Ticker, st.just("okx"), symbols, times, st.none() | times, *[some] * 14)
absents = st.builds(lambda s, a, n: Absent("okx", s, a, a + n), symbols, st.integers(1, 2**60), st.integers(0, 1000))


@st.composite
def candles(draw):
    four = sorted(draw(st.lists(prices, min_size=4, max_size=4)))
    ids = draw(st.none() | st.integers(1, 2**60))
    more = draw(st.integers(0, 10**6))
    count = draw(st.integers(1, more + 1)) if ids is not None else draw(st.sampled_from([None, 0]))
    frame = Timeframe.parse(draw(st.sampled_from(["1s", "15m", "1d+8", "1M"])))
    start = frame.start_of(draw(times))
    return OHLCVCandle(
        "okx", draw(symbols), frame.name, start, frame.end_of(start),
        four[1], four[3], four[0], four[2], draw(sizes), draw(some), draw(some), draw(some), count, ids,
        None if ids is None else ids + more, draw(st.booleans()), draw(st.booleans()),
        draw(st.integers(0, 100)), draw(st.sampled_from(["trades", "exchange"])),
    )  # fmt: skip


def come(line):
    """Whether a line could have been received when it says."""
    received = getattr(line, "received", None)
    return received is None or line.timestamp <= received + AHEAD_MS


@given(st.one_of(trades, books, updates, tickers, absents, candles()).filter(come))
def test_what_is_written_reads_back(line):
    """Encode and decode are inverse, and the encoding is canonical: JSON, UTF-8, one line, a fixed point."""
    check(line)
    data = encode(line)
    assert decode(data) == line
    assert encode(decode(data)) == data
    assert b"\n" not in data
    assert json.loads(data)["type"] in ("trade", "book", "book_update", "ticker", "absent", "candle")


NOW = 1_747_087_200_000


@given(trades, st.integers(-10 * DAY, 10 * DAY), st.none() | st.integers(-2 * DAY, 2 * DAY))
def test_a_time_that_has_not_come_is_refused(trade, ahead, received):
    """More than an hour after it was received, or a day after the clock where nobody knows when that was."""
    stamped = None if received is None else NOW + received
    trade = msgspec.structs.replace(trade, timestamp=NOW + ahead, received=stamped)
    late = ahead > DAY if received is None else ahead - received > 3_600_000
    try:
        found = decode(encode(trade), NOW)
    except InvalidLine as reason:
        (early,) = reason.early
        assert late and early[:3] == (trade.symbol, trade.first_id, trade.trade_id)
        assert early.ahead_ms == ahead - (received or 0)
        assert "h ahead of" in str(reason)
    else:
        assert not late and found == trade
    if received is None:
        assert decode(encode(trade)) == trade  # without a clock there is nothing to compare with


@pytest.mark.parametrize("kind", ["book", "update", "ticker", "candle"])
def test_other_lines_from_the_future_are_refused(kind):
    """They would be the newest for years; a running bar of a month ends long after now."""
    start = Timeframe.parse("1M").start_of(NOW)
    good = {
        "book": BookSnapshot("okx", "A-B", NOW, (), ()),
        "update": BookUpdate("okx", "A-B", NOW, "update", (), (), 2, 1),
        "ticker": Ticker("okx", "A-B", NOW),
        "candle": OHLCVCandle("okx", "A-B", "1M", start, Timeframe.parse("1M").end_of(start), *[Decimal(1)] * 8, 0,
                              None, None, closed=False),
    }[kind]  # fmt: skip
    assert decode(encode(good), NOW) == good
    with pytest.raises(InvalidLine, match="ahead of this machine's clock") as reason:
        decode(encode(good), NOW - 40 * DAY)
    assert reason.value.early == ()
    if kind != "candle":
        with pytest.raises(InvalidLine, match="ahead of received"):
            decode(encode(msgspec.structs.replace(good, received=NOW - 3_600_001)))


def test_the_documented_trade_line():
    """Byte for byte, keys in their order."""
    assert encode(decode(GOOD.encode())).decode() == GOOD


def test_other_spellings_give_the_canonical_line():
    """Blanks, another order of keys, unknown keys, trailing zeros and exponents make no difference."""
    data = json.loads(GOOD) | {"price": "1.025379E5", "size": "0.000136690", "extra": {"a": ["1_0"]}}
    spelt = json.dumps(dict(reversed(data.items())), indent=1)
    assert encode(decode(spelt.encode())).decode() == GOOD


@pytest.mark.parametrize(
    ("price", "read"), [("1e0001", "10"), ("1.5e0000", "1.5"), ("1e5761", ""), ("0e" + "9" * 30, "")]
)
def test_a_long_exponent_is_read_alike_however_the_line_is_spelt(price, read):
    """Without blanks, and with some, for which every number is looked at."""
    for separators in ((",", ":"), (", ", ": ")):
        line = json.dumps(json.loads(GOOD) | {"price": price}, separators=separators).encode()
        if read:
            assert decode(line).price == Decimal(read)
        else:
            with pytest.raises(InvalidLine):
                decode(line)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"price": ""}, "price"), ({"price": "NaN"}, "NaN"), ({"price": "1e400"}, "out of range"),
        ({"price": "-1"}, "positive"), ({"price": " 1"}, "' 1'"), ({"price": "١"}, "not a number"),
        ({"price": "0"}, "positive"), ({"price": "1_0"}, "1_0"),
        ({"price": None}, "price"), ({"size": "-0.5"}, "positive"), ({"size": "9" * 70}, "out of range"),
        ({"size": "0." + "1" * 70}, "digits"), ({"side": "hold"}, "side"), ({"side": None}, "side"),
        ({"trade_id": 0}, "trade_id"), ({"trade_id": -5}, "trade_id"), ({"trade_id": 2**63}, "trade_id"),
        ({"trade_id": "7"}, "trade_id"), ({"trade_id": 7.5}, "trade_id"), ({"count": 0}, "count"),
        ({"count": 10**12}, "count"), ({"timestamp": 0}, "timestamp"), ({"timestamp": 1747087163}, "timestamp"),
        ({"timestamp": 1747087163557000}, "timestamp"), ({"received": 5}, "received"), ({"source": -1}, "source"),
        ({"symbol": ""}, "symbol"), ({"symbol": "a'; DROP TABLE"}, "symbol"), ({"symbol": "x" * 65}, "symbol"),
        ({"symbol": "A\x00B"}, "symbol"), ({"exchange": "OK X"}, "exchange"), ({"origin": '"'}, "origin"),
    ],
)  # fmt: skip
def test_impossible_values(change, told):
    """Each is refused with a reason that names it."""
    with pytest.raises(InvalidLine) as reason:
        decode(json.dumps(json.loads(GOOD) | change, ensure_ascii=False).encode())
    assert told in str(reason.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"", "not JSON"), (b"nonsense", "not JSON"), (b"[1]", "not a JSON object"), (b"{}", "no type"),
        (b'{"type":7}', "unknown type"), (GOOD[:-20].encode(), "not JSON"), (GOOD.encode() + b"x", "not JSON"),
        (GOOD.encode().replace(b"okx", b"o\0x"), "NUL"), (GOOD.encode().replace(b"okx", b"o\xffx"), "UTF-8"),
        (b'{"a":' * 100_000, "not JSON"), (b"[" * 100_000, "not JSON"),
        (b'{"type":"trade","exchange":"okx"}', "symbol"),
    ],
)  # fmt: skip
def test_what_is_no_line(line, told):
    """Torn, foreign and hostile lines are refused with a reason."""
    with pytest.raises(InvalidLine, match=told):
        decode(line)


def test_a_type_of_somebody_else():
    """It is told apart from a bad line: filters drop it, --pass keeps it."""
    with pytest.raises(UnknownType):
        decode(b'{"type":"weather","rate":"0.1"}')


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_no_damage_gets_through_unseen(junk, at, cut):
    """Whatever bytes are put into a line, it is refused or it is JSON to another decoder, with the same values."""
    line = GOOD.encode()[:at] + junk + GOOD.encode()[at + cut :]
    try:
        found = decode(line)
    except InvalidLine:
        return
    data = json.loads(line)
    assert isinstance(found, StandardizedTrade)
    assert Decimal(str(data["price"])) == found.price
    assert (data["trade_id"], data["symbol"], data["side"]) == (found.trade_id, found.symbol, found.side)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"low": "11"}, "high and low"), ({"high": "9"}, "high and low"), ({"first_trade_id": None}, "missing"),
     ({"trade_count": None}, "trade_count"), ({"timeframe": "7x"}, "timeframe"), ({"timestamp": 1747087140000}, "ends"),
     ({"volume": "-1"}, "volume"), ({"revision": -1}, "revision"), ({"last_trade_id": 1}, "ids")],
)  # fmt: skip
def test_impossible_candles(change, told):
    """A bar whose parts contradict each other is refused."""
    bar = OHLCVCandle("okx", "BTC-USDT", "1m", 1747087140000, 1747087200000, *map(Decimal, ("10", "12", "9", "11")),
                      Decimal(1), Decimal(1), None, None, 3, 7, 9)  # fmt: skip
    assert decode(encode(bar)) == bar
    with pytest.raises(InvalidLine, match=told):
        decode(json.dumps(json.loads(encode(bar)) | change).encode())


def test_amounts_of_every_kind():
    """What a size is in base and quote currency, by OKX's definition of contract value."""

    def contract(kind, contract_type, value, multiplier="1"):
        return Instrument("okx", "X", kind, "live", contract_type=contract_type, contract_value=Decimal(value),
                          contract_multiplier=Decimal(multiplier))  # fmt: skip

    size, price = Decimal(3), Decimal(50_000)
    assert amounts(None, "BTC-USDT", price, size) == (3, 150_000)
    assert amounts(Instrument("okx", "BTC-USDT", "spot", "live"), "BTC-USDT", price, size) == (3, 150_000)
    assert amounts(None, "BTC-USDT-SWAP", price, size) == (None, None)
    assert amounts(contract("swap", "linear", "0.01"), "X", price, size) == (Decimal("0.03"), 1500)
    assert amounts(contract("swap", "inverse", "100"), "X", price, size) == (Decimal("0.006"), 300)
    assert amounts(contract("option", None, "1", "0.01"), "X", price, size) == (Decimal("0.03"), None)
    third = amounts(contract("swap", "inverse", "100"), "X", Decimal(3), Decimal(1))[0]
    assert third == Decimal("33.333333333333333333")


UPDATE = (
    '{"type":"book_update","exchange":"okx","symbol":"A-B","timestamp":1747087200000,"received":null,'
    '"action":"update","seq_id":12,"prev_seq_id":11,"bids":[["1.5","2"]],"asks":[["1.6","0"]],"origin":"books"}'
)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"update"', '"delete"', "action is neither snapshot nor update: 'delete'"),
        ('"seq_id":12', '"seq_id":-1', "seq_id out of range: -1"),
        ('"seq_id":12', '"seq_id":9223372036854775808', "out of range"),
        ('"seq_id":12', '"seq_id":null', "an update without seq_id"),
        ('"prev_seq_id":11,', "", "an update without prev_seq_id"),
        ('"prev_seq_id":11', '"prev_seq_id":-2', "prev_seq_id out of range: -2"),
        ('"prev_seq_id":11', '"prev_seq_id":"11"', "Expected `int | null`, got `str`"),
        ('"action":"update"', '"action":"snapshot"', "a snapshot that follows on another message: prev_seq_id 11"),
        ('"action":"update",', "", "missing required field `action`"),
        ('"bids":[["1.5","2"]],', "", "missing required field `bids`"),
        ('"1.5"', '"-1.5"', "book level out of range"),
        ('"1.5"', '"0"', "book level out of range"),
        ('"2"', '"-2"', "book level out of range"),
        ('"2"', "null", "got `null`"),
        ('"2"', '"1e40"', "number out of range"),
        ('"2"', '"2_0"', "not a number"),
        ('"2"', '"NaN"', "not a number"),
        ('["1.5","2"]', '["1.5"]', "length"),
        ("1747087200000", "1747087200000000", "timestamp out of range"),
        ('"A-B"', '"A B"', "not a symbol"),
    ],
)
def test_an_update_of_a_book_that_cannot_be_is_refused(old, new, reason):
    """Each value by itself, with its reason."""
    assert encode(decode(UPDATE.encode())).decode() == UPDATE
    assert old in UPDATE
    with pytest.raises(InvalidLine, match=re.escape(reason)):
        decode(UPDATE.replace(old, new, 1).encode())


def test_a_side_of_an_update_has_an_end():
    """Five thousand levels are the most that the exchange tells of."""
    side = ",".join(f'["{n}","1"]' for n in range(1, 5002))
    with pytest.raises(InvalidLine, match="more than 5000 levels"):
        decode(UPDATE.replace('["1.5","2"]', side).encode())
