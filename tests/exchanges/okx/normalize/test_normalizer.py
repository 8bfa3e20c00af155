"""Raw lines of OKX to lines of ours: every form, every kind of damage, real recordings."""

import json
from collections import Counter
from decimal import Decimal
from itertools import pairwise

import pytest
import recordings
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import SHARED, needs_shared

from okxcli.core.codec import decode, encode
from okxcli.core.model import Absent, BookSnapshot, BookUpdate, Instrument, OHLCVCandle, StandardizedTrade, Ticker
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import PartlyInvalid
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

TRADE = {
    "instId": "BTC-USDT",
    "tradeId": "734864333",
    "px": "102537.9",
    "sz": "0.00013669",
    "side": "sell",
    "source": "0",
    "ts": "1747087163557",
}
INSTRUMENTS = {
    "BTC-USD-SWAP": {"instType": "SWAP", "instFamily": "BTC-USD", "ctVal": "100", "ctMult": "1", "ctValCcy": "USD"},
    "BTC-USDT-SWAP": {"instType": "SWAP", "instFamily": "BTC-USDT", "ctVal": "0.01", "ctMult": "1"},
}


def push(channel, *rows, symbol="BTC-USDT", **outer):
    message = {"arg": {"channel": channel, "instId": symbol}, "data": list(rows), **outer}
    return json.dumps(message, separators=(",", ":")).encode()


def one(line, normalizer=None):
    (found,) = (normalizer or Normalizer()).feed(line)
    assert decode(encode(found)) == found
    return found


def reason(line):
    with pytest.raises(InvalidLine) as caught:
        Normalizer().feed(line)
    return str(caught.value)


def test_a_fill():
    """A push of trades-all becomes a trade, digit for digit."""
    assert one(push("trades-all", TRADE, received=1747087163601)) == StandardizedTrade(
        exchange="okx",
        symbol="BTC-USDT",
        trade_id=734864333,
        side="sell",
        price=Decimal("102537.9"),
        size=Decimal("0.00013669"),
        timestamp=1747087163557,
        count=1,
        received=1747087163601,
        source=0,
        origin="trades-all",
    )


def test_merged_trades_and_origins():
    """`count` fills of a taker order stay one trade; what is not live says where it came from."""
    merged = one(push("trades", {**TRADE, "count": "3", "seqId": 279183506666}))
    assert (merged.origin, merged.count, merged.first_id) == ("trades", 3, 734864331)
    assert one(push("trades-all", TRADE, origin="rest")).origin == "rest"
    assert one(push("trades-all", {k: v for k, v in TRADE.items() if k != "source"})).source is None


def test_ids_beyond_32_bits_and_tiny_prices():
    """Ids are 64 bit, prices are exact however small."""
    found = one(push("trades-all", {**TRADE, "tradeId": "9223372036854775807", "px": "0.00000853", "sz": "1e-8"}))
    assert found.trade_id == 2**63 - 1
    assert b'"price":"0.00000853","size":"0.00000001"' in encode(found)


@pytest.mark.parametrize(
    "line",
    [
        b'{"data":[%b],"arg":{"instId":"BTC-USDT","channel":"trades-all"}}',
        b'{"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [%b]}',
        b' {"arg":{"channel":"trades-all","instId":"BTC-USDT"},"new":{"x":[1]},"data":[%b],"action":"x"}\r\n',
    ],
)
def test_order_of_keys_blanks_and_new_keys_do_not_matter(line):
    """The same message spelt another way is the same trade."""
    row = json.dumps({**TRADE, "brandNew": [1, {"a": None}]}).encode()
    assert one(line % row) == one(push("trades-all", TRADE))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"px": ""}, "decimal"),
        ({"px": "NaN"}, "NaN"),
        ({"px": "Infinity"}, "not a number"),
        ({"px": "1e400"}, "out of range"),
        ({"px": "-1"}, "price is not positive"),
        ({"px": "0"}, "price is not positive"),
        ({"px": "1" * 31}, "out of range"),
        ({"px": "9" * 5000}, "out of range"),
        ({"px": "1." + "1" * 70}, "digits"),
        ({"px": " 1"}, "not a number"),
        ({"px": "1_000"}, "not a number"),
        ({"px": "+1"}, "not a number"),
        ({"px": "\u0661"}, "not a number"),
        ({"sz": "-0.5"}, "size is not positive"),
        ({"sz": None}, "sz"),
        ({"side": "hold"}, "side"),
        ({"side": ""}, "side"),
        ({"tradeId": ""}, "tradeId"),
        ({"tradeId": "1.0"}, "tradeId"),
        ({"tradeId": "0"}, "trade_id"),
        ({"tradeId": "-5"}, "trade_id"),
        ({"tradeId": "9223372036854775808"}, "trade_id"),
        ({"tradeId": 5}, "tradeId"),
        ({"ts": "1747087163557000"}, "timestamp out of range"),
        ({"ts": "0"}, "timestamp out of range"),
        ({"ts": "soon"}, "ts is not a whole number"),
        ({"count": "0"}, "count"),
        ({"count": "x"}, "count is not a whole number"),
        ({"source": "x"}, "source is not a whole number"),
        ({"instId": "ETH-USDT"}, "a row of ETH-USDT in a push of BTC-USDT"),
    ],
)
def test_impossible_trades_are_refused_with_a_reason(change, told):
    """A number that is none, a side, time or id that cannot be: refused, and the field is named."""
    text = reason(push("trades-all", {**TRADE, **change}))
    assert told in text
    assert len(text) < 300


@pytest.mark.parametrize("field", ["instId", "tradeId", "px", "sz", "side", "ts"])
def test_required_fields_of_a_trade(field):
    """Without any of its fields a trade is none, and the missing one is named."""
    assert field in reason(push("trades-all", {k: v for k, v in TRADE.items() if k != field}))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"7", "not a JSON object"),
        (b"{}", "neither a push nor an event"),
        (b'{"type":"trade","exchange":"okx"}', "okx normalize"),
        (b'{"code":"0","msg":"","data":[]}', "REST"),
        (b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[]}', "without data"),
        (b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-U', "not JSON"),
        (b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":7}', "array"),
        (b'{"arg":7,"data":[]}', "arg"),
        (b'{"arg":{"channel":"books","instId":"BTC-USDT"},"data":[{"asks', "not JSON"),
        (b'{"arg":{"channel":"trades-all","instId":"BTC-\xff"},"data":[]}', "not UTF-8"),
        (b'{"arg":{"channel":"trades-all","instId":"BTC\0"},"data":[]}', "NUL bytes"),
        (push("trades-all", TRADE, symbol="../etc"), "push of ../etc"),
        (push("trades-all", {**TRADE, "instId": "a b"}, symbol="a b"), "not a symbol"),
        (push("trades-all", TRADE, received="x"), "received"),
        (push("trades-all", TRADE, received=12), "received out of range"),
        (push("trades-all", TRADE, origin='"'), "origin"),
        (b'{"event":"absent","arg":{},"first":"1","last":"2"}', "absent"),
        (b'{"event":"absent","arg":{"instId":"BTC-USDT"},"first":"3","last":"2"}', "absent ids out of range"),
        (b'{"event":"absent","arg":{"instId":"BTC-USDT"},"first":"x","last":"2"}', "first is not a whole number"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(line, told):
    """Damage of any kind is told in a user's words."""
    assert told in reason(line)


@pytest.mark.parametrize(
    "line",
    [
        b"pong",
        b'{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}',
        b'{"event":"error","msg":"Requests too frequent","code":"60014","connId":"5f3f787a"}',
        b'{"event":"notice","msg":"x","code":"64008","connId":"8517149b"}',
        b'{"event":"channel-conn-count","channel":"orders","connCount":"2","connId":"abcd1234"}',
        b'{"event":"brand-new"}',
    ],
)
def test_control_messages_are_passed_over(line):
    """What is no data gives nothing, and is counted."""
    normalizer = Normalizer()
    assert normalizer.feed(line) == []
    assert normalizer.counts() == {"control": 1, "other_channels": 0}


def test_other_channels_are_counted_by_name():
    """Sound pushes of channels without a line are told at the end; made-up names do not fill the memory."""
    normalizer = Normalizer()
    for _ in range(3):
        assert normalizer.feed(push("opt-summary", {"x": "1"})) == []
    for n in range(10_000):
        normalizer.feed(push(f"made-up-{n}", {}))
    assert normalizer.counts()["other_channels"] == 10_003
    assert "opt-summary: 3 messages of a channel that okx does not normalize" in normalizer.notes()
    assert len(normalizer.notes()) <= 201


def test_good_rows_of_a_partly_bad_push_come_out():
    """One bad row spoils neither those before nor those after it, and is named by its place."""
    rows = [{**TRADE, "tradeId": str(n), "px": "-1" if n == 3 else "5"} for n in range(1, 6)]
    with pytest.raises(PartlyInvalid) as caught:
        Normalizer().feed(push("trades-all", *rows))
    assert [line.trade_id for line in caught.value.lines] == [1, 2, 4, 5]
    assert str(caught.value) == "trades-all, row 3: price is not positive: -1"


def test_absent_ids():
    """The event that says which ids OKX itself does not have becomes an absent line."""
    line = b'{"event":"absent","arg":{"channel":"trades-all","instId":"BTC-USDT"},"first":"105","last":"106"}'
    assert one(line) == Absent("okx", "BTC-USDT", 105, 106)


# Books


BOOK = {
    "asks": [["111.06", "55154", "0", "2"], ["111.07", "53276", "0", "2"]],
    "bids": [["111.05", "57745", "0", "2"], ["111.04", "0.10", "0", "2"]],
    "ts": "1670324386802",
    "seqId": 363996337,
}


@pytest.mark.parametrize(("channel", "inner"), [("books5", {"instId": "BTC-USDT"}), ("bbo-tbt", {})])
def test_books(channel, inner):
    """Both channels of few levels give a snapshot, best first."""
    assert one(push(channel, {**BOOK, **inner})) == BookSnapshot(
        exchange="okx",
        symbol="BTC-USDT",
        timestamp=1670324386802,
        bids=((Decimal("111.05"), Decimal(57745)), (Decimal("111.04"), Decimal("0.1"))),
        asks=((Decimal("111.06"), Decimal(55154)), (Decimal("111.07"), Decimal(53276))),
        seq_id=363996337,
        origin=channel,
    )


def test_books_of_a_thin_or_old_market():
    """A side may be empty, sides may cross, old recordings have no sequence."""
    assert one(push("books5", {**BOOK, "asks": []})).asks == ()
    assert one(push("books5", {"asks": [["1", "1", "0", "1"]], "bids": BOOK["bids"], "ts": BOOK["ts"]})).seq_id is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"asks": BOOK["asks"][::-1]}, "asks do not ascend"),
        ({"bids": BOOK["bids"][::-1]}, "bids do not descend"),
        ({"asks": [["1"]]}, "array"),
        ({"asks": [["x", "1"]]}, "decimal"),
        ({"asks": [["1", "-1"]]}, "level out of range"),
        ({"asks": None}, "asks"),
        ({"seqId": "5"}, "seqId"),
        ({"ts": "x"}, "ts"),
        ({"instId": "ETH-USDT"}, "ETH-USDT"),
    ],
)
def test_impossible_books(change, told):
    """A book out of order, or with a level that is none, is refused."""
    assert told in reason(push("books5", {**BOOK, **change}))


# Tickers


def ticker(**change):
    names = "last lastSz askPx askSz bidPx bidSz open24h high24h low24h sodUtc0 sodUtc8 volCcy24h vol24h".split()
    values = dict.fromkeys(names, "1") | {"vol24h": "10.5", "volCcy24h": "200.50"}
    return {"instType": "SPOT", "instId": "BTC-USDT", **values, "ts": "1765201256914", **change}


def test_volumes_of_a_ticker_depend_on_its_kind():
    """The turnover is quote currency for spot and base currency for derivatives; unknown stays unknown."""
    spot = one(push("tickers", ticker()))
    assert (spot.volume_24h, spot.base_volume_24h, spot.quote_volume_24h) == (
        Decimal("10.5"),
        Decimal("10.5"),
        Decimal("200.5"),
    )
    swap = one(push("tickers", ticker(instType="SWAP")))
    assert (swap.volume_24h, swap.base_volume_24h, swap.quote_volume_24h) == (Decimal("10.5"), Decimal("200.5"), None)
    odd = one(push("tickers", ticker(instType="", instId="WHAT"), symbol="WHAT"))
    assert (odd.base_volume_24h, odd.quote_volume_24h) == (None, None)


def test_empty_fields_of_a_new_listing():
    """Where OKX says nothing, nothing is said."""
    found = one(push("tickers", ticker(last="", lastSz="0", open24h="", askPx="", askSz="", sodUtc0="", sodUtc8="")))
    assert isinstance(found, Ticker)
    assert (found.last, found.open_24h, found.ask, found.ask_size, found.open_utc0) == (None,) * 5
    assert found.last_size == 0


@pytest.mark.parametrize(
    ("field", "value"), [("last", "x"), ("vol24h", "-1"), ("bidPx", "NaN"), ("ts", ""), ("askPx", 1)]
)
def test_impossible_tickers(field, value):
    """A ticker with a number that is none is refused."""
    assert "tickers: " in reason(push("tickers", ticker(**{field: value})))


# Candles


CANDLE = ["1757076060000", "112600.1", "112631.9", "112477.1", "112477.1", "3.10944629", "349947.33", "349947.34", "1"]


def test_candles_are_turned_to_the_right():
    """OKX labels a bar by its open, we by its end; what OKX confirmed is closed and complete."""
    assert one(push("candle1m", CANDLE)) == OHLCVCandle(
        exchange="okx",
        symbol="BTC-USDT",
        timeframe="1m",
        start=1757076060000,
        timestamp=1757076120000,
        open=Decimal("112600.1"),
        high=Decimal("112631.9"),
        low=Decimal("112477.1"),
        close=Decimal("112477.1"),
        volume=Decimal("3.10944629"),
        base_volume=Decimal("3.10944629"),
        quote_volume=Decimal("349947.34"),
        buy_volume=None,
        trade_count=None,
        first_trade_id=None,
        last_trade_id=None,
        closed=True,
        complete=True,
        origin="exchange",
    )
    running = one(push("candle1m", [*CANDLE[:8], "0"]))
    assert (running.closed, running.complete) == (False, False)


@pytest.mark.parametrize(
    ("bar", "start", "timeframe", "length"),
    [
        ("1s", 1757076061000, "1s", 1000),
        ("4H", 1757073600000 - 1757073600000 % 14_400_000, "4h", 14_400_000),
        ("6Hutc", 1757073600000 - 1757073600000 % 21_600_000, "6h", 21_600_000),
        ("1D", 1761494400000, "1d+8", 86_400_000),
        ("1Dutc", 1761436800000, "1d", 86_400_000),
        ("1W", 1761494400000, "1w+8", 604_800_000),
        ("1Wutc", 1761523200000, "1w", 604_800_000),
        ("1M", 1759248000000, "1M+8", 31 * 86_400_000),
        ("1Mutc", 1759276800000, "1M", 31 * 86_400_000),
    ],
)
def test_bars_and_timeframes(bar, start, timeframe, length):
    """Each bar of OKX has its timeframe; days and longer are cut at UTC+8 unless the name says utc."""
    found = one(push("candle" + bar, [str(start), *CANDLE[1:]]))
    assert (found.timeframe, found.timestamp - found.start) == (timeframe, length)


@pytest.mark.parametrize(
    ("channel", "row", "told"),
    [
        ("candle3M", CANDLE, "take candle1M"),
        ("candle6H", CANDLE, "take candle6Hutc"),
        ("candle1H", CANDLE, "no bar of 1h starts at 1757076060000"),
        ("candle1D", ["1761436800000", *CANDLE[1:]], "no bar of 1d+8 starts"),
        ("candle1m", CANDLE[:6], "6 elements"),
        ("candle1m", [*CANDLE[:8], "2"], "confirm"),
        ("candle1m", [CANDLE[0], "1", "2", "3", "1", *CANDLE[5:]], "high and low"),
        ("candle1m", [*CANDLE[:5], "", *CANDLE[6:]], "not a number"),
        ("candle1m", [*CANDLE[:5], "-1", *CANDLE[6:]], "volume"),
        ("candle1m", {"o": "1"}, "array"),
    ],
)
def test_impossible_candles(channel, row, told):
    """A bar that no timeframe describes, or that cannot be, is refused with a reason."""
    assert told in reason(push(channel, row))


def test_volumes_of_a_candle_depend_on_the_instrument():
    """Contracts, base and quote currency stand in other places for derivatives; an instrument line decides."""
    swap = one(push("candle1m", CANDLE, symbol="BTC-USDT-SWAP"))
    assert (swap.volume, swap.base_volume, swap.quote_volume) == (
        Decimal("3.10944629"),
        Decimal("349947.33"),
        Decimal("349947.34"),
    )
    normalizer = Normalizer()
    normalizer.feed(push("instruments", {"instId": "ODD-ONE", "instType": "SWAP", "state": "live"}, symbol=""))
    assert one(push("candle1m", CANDLE, symbol="ODD-ONE"), normalizer).base_volume == Decimal("349947.33")
    assert one(push("candle1m", CANDLE, symbol="WHAT")).base_volume is None


def test_candles_of_2022_say_nothing_about_their_end():
    """Seven elements, no confirm: the bar is taken, but never as closed."""
    old = one(push("candle1m", CANDLE[:7]))
    assert (old.closed, old.complete, old.quote_volume) == (False, False, Decimal("349947.33"))
    assert one(push("candle1m", CANDLE[:7], symbol="BTC-USDT-SWAP")).quote_volume is None


# Instruments


def instrument(symbol, **fields):
    row = {"instId": symbol, "state": "live", "tickSz": "0.1", "lotSz": "1", "minSz": "1", **fields}
    message = {"arg": {"channel": "instruments", "instType": row["instType"]}, "data": [row]}
    return json.dumps(message, separators=(",", ":")).encode()


def test_base_and_quote_of_a_derivative_come_from_its_family():
    """REST leaves both empty for derivatives; recordings of 2022 have an underlying instead of a family."""
    found = one(instrument("BTC-USD-SWAP", **INSTRUMENTS["BTC-USD-SWAP"], ctType="inverse", settleCcy="BTC"))
    assert isinstance(found, Instrument)
    assert (found.kind, found.base, found.quote, found.settle) == ("swap", "BTC", "USD", "BTC")
    assert (found.contract_type, found.contract_value, found.contract_currency) == ("inverse", Decimal(100), "USD")
    old = one(instrument("BTC-USD-220527", instType="FUTURES", uly="BTC-USD"))
    assert (old.base, old.quote) == ("BTC", "USD")
    option = one(instrument("BTC-USD_UM-260101-9-C", instType="OPTION", instFamily="BTC-USD_UM"))
    assert (option.base, option.quote) == ("BTC", "USD")


def test_instrument_before_its_listing():
    """Almost every field may be empty."""
    found = one(instrument("LISTING-SPOT-SLX-USDT", instType="SPOT", tickSz="", lotSz="", minSz=""))
    assert (found.tick_size, found.base, found.listed) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"instType": "SPOT", "tickSz": "0"}, "tick_size is not positive"),
        ({"instType": "SPOT", "listTime": "x"}, "listTime"),
        ({"instType": "", "x": ""}, "not an exchange or origin"),
    ],
)
def test_impossible_instruments(fields, told):
    """A step of zero or a time that is none is refused."""
    assert told in reason(instrument("A-B", **fields))


# Recordings


def test_recorded_messages():
    """A piece of a real capture: each acknowledgement, ticker and fill is recognised, ids are consecutive."""
    normalizer = Normalizer()
    lines = [
        line
        for raw in recordings.captured(recordings.DATA / "okx-2022-05-13.ws.txt.gz")
        for line in normalizer.feed(raw)
    ]
    assert Counter(type(line) for line in lines) == {StandardizedTrade: 74, Ticker: 28, BookUpdate: 9}
    assert normalizer.counts() == {"control": 18, "other_channels": 0}
    ids = [line.trade_id for line in lines if isinstance(line, StandardizedTrade) and line.symbol == "BTC-USDT"]
    assert ids == list(range(338476307, 338476376))


@needs_shared
def test_the_whole_capture_of_2022():
    """74 trades, 28 tickers and 290 messages of books, 18 acknowledgements, nothing refused."""
    normalizer = Normalizer()
    found = Counter(
        type(line)
        for raw in recordings.captured(SHARED / "ws" / "cryptofeed-okx-2022-05-13.ws.txt.gz")
        for line in normalizer.feed(raw)
    )
    assert found == {StandardizedTrade: 74, Ticker: 28, BookUpdate: 290}
    assert normalizer.notes() == []
    assert normalizer.control == 18


@needs_shared
@pytest.mark.parametrize(
    ("name", "messages", "missed"), [("btc-usdt-swap", 242, 380), ("btc-usd-swap", 53, 66), ("btc-usdt", 104, 120)]
)
def test_merged_trades_of_2024_miss_what_they_miss(name, messages, missed):
    """The count of each merged trade says exactly how many fills the collector of these captures threw away."""
    normalizer = Normalizer()
    raw = recordings.collected(SHARED / "ws" / f"moon-2024-01-25.{name}.trades.json.gz")
    trades = [line for message in raw for line in normalizer.feed(message)]
    assert len(trades) == messages
    gaps = [after.first_id - before.trade_id - 1 for before, after in pairwise(trades)]
    assert min(gaps) >= 0
    assert sum(gaps) == missed


@needs_shared
@pytest.mark.parametrize(
    ("coin", "good", "bad"), [("btc", 24717, 2), ("ada", 2841, 1), ("bnb", 1214, 1), ("doge", 7276, 0)]
)
def test_damaged_logs_lose_the_damaged_lines_alone(coin, good, bad):
    """A torn line and runs of NUL bytes cost one line each, and none of their neighbours."""
    normalizer = Normalizer()
    path = SHARED / "trades" / f"rtos-2025-08-12_2025-09-03.{coin}-usdt.csv.gz"
    ids, reasons = [], []
    for raw in recordings.logged_trades(path, f"{coin.upper()}-USDT"):
        try:
            ids += [line.trade_id for line in normalizer.feed(raw)]
        except InvalidLine as told:
            reasons.append(str(told))
    assert (len(ids), len(reasons)) == (good, bad)
    assert ids == sorted(ids)
    assert all("NUL" in told or "decimal" in told for told in reasons)


@needs_shared
def test_full_rows_of_instruments():
    """Every row of two full answers of REST is an instrument."""
    import gzip

    normalizer = Normalizer()
    for kind, count in (("spot", 1218), ("swap", 312)):
        path = SHARED / "rest" / f"okxapi-2026-04-27.production.public-instruments-{kind}.json.gz"
        rows = json.loads(gzip.decompress(path.read_bytes()))["data"]
        found = [normalizer.feed(instrument(row["instId"], **row))[0] for row in rows]
        assert len(found) == count
        assert all(line.kind == kind and line.base and line.quote and line.tick_size for line in found)


# Anything at all


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_ROW = st.dictionaries(st.sampled_from([*TRADE, "count", "asks", "bids", "seqId", "instType", "last"]), _JSON)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    channel=st.sampled_from(["trades-all", "trades", "books5", "bbo-tbt", "tickers", "candle1m", "instruments", "x"]),
    rows=st.lists(_ROW | st.lists(_JSON, max_size=9) | st.just(TRADE), max_size=3),
)
def test_any_push_gives_sound_lines_or_a_reason(channel, rows):
    """Whatever stands in a push, the outcome is lines that decode again, or one reason; never another error."""
    try:
        lines = Normalizer().feed(push(channel, *rows))
    except PartlyInvalid as told:
        lines = told.lines
    except InvalidLine:
        lines = []
    for line in lines:
        assert decode(encode(line)) == line


@settings(max_examples=400, deadline=None)
@given(cut=st.integers(0, 300), noise=st.binary(max_size=6), at=st.integers(0, 300))
def test_any_damage_gives_sound_lines_or_a_reason(cut, noise, at):
    """A line cut anywhere, with bytes put in anywhere, is a sound line or refused."""
    line = push("trades-all", TRADE, TRADE)[: cut or None]
    line = line[:at] + noise + line[at:]
    try:
        lines = Normalizer().feed(line)
    except PartlyInvalid as told:
        lines = told.lines
    except InvalidLine:
        return
    for found in lines:
        assert decode(encode(found)) == found


def test_rows_from_the_future_are_refused():
    """An hour after the push was received, a day after the clock where it does not say; its neighbours are unharmed."""
    normalizer = Normalizer(lambda: int(TRADE["ts"]) - 2 * 86_400_000)
    wild = {**TRADE, "tradeId": "9", "ts": "4000000000000"}
    with pytest.raises(PartlyInvalid, match=r"row 2: timestamp 4000000000000 is .* h ahead of received") as caught:
        normalizer.feed(push("trades-all", TRADE, wild, received=int(TRADE["ts"]) - 3_600_000))
    assert [line.timestamp for line in caught.value.lines] == [int(TRADE["ts"])]
    assert [one[:3] for one in caught.value.early] == [("BTC-USDT", 9, 9)]
    for channel, row in (
        ("trades-all", TRADE),
        ("candle1m", ["1747087140000", "1", "1", "1", "1", "1", "1", "1", "0"]),
    ):
        with pytest.raises(InvalidLine, match="h ahead of this machine's clock"):
            normalizer.feed(push(channel, row))
