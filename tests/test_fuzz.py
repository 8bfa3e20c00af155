"""Damaged and made-up input: what is taken is what another decoder reads, and nothing crashes."""

import json
import logging
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from harness import decoder
from harness.fuzz_files import Replay
from harness.fuzz_lines import Candles, Normalize
from harness.tally import Tally
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.core.codec import decode
from okxcli.errors import InputError, InvalidLine
from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
from okxcli.exchanges.okx.bulk_files.unpacking import tables
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.local.recording import read_pushes
from okxcli.local.replay import LocalReplay
from okxcli.pipeline.collector import Collector
from okxcli.runtime.configuration.config import Config
from okxcli.runtime.road import kernel

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos"
TRADE = (
    '{"type":"trade","exchange":"okx","symbol":"BTC-USDT","trade_id":7,"count":1,"side":"buy","price":"%s",'
    '"size":"1","timestamp":1747087163557}'
)
BAR = (
    '{"type":"candle","exchange":"okx","symbol":"BTC-USDT","timeframe":"1m","start":1747087140000,"timestamp":%s,'
    '"open":"1","high":"1","low":"1","close":"1","volume":"1","base_volume":%s,"quote_volume":null,"buy_volume":null,'
    '"trade_count":null,"first_trade_id":null,"last_trade_id":null}'
)
PUSH = '{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[%s]}'
ROW = '{"instId":"BTC-USDT","tradeId":"734864333","px":"%s","sz":"1","side":"buy","ts":"1747087163557"}'

# Values that a field may hold in place of the right one: of any type, and texts that look like numbers.
odd_numbers = st.from_regex(r"[+-]?[0-9_]{0,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | odd_numbers
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
numbers = st.decimals(min_value="1e-8", max_value="1e8", places=8).map(str) | odd_numbers
good_row = {"instId": "BTC-USDT", "tradeId": "734864333", "px": "102537.9", "sz": "0.1", "side": "sell",
            "ts": "1747087163557", "count": "1", "source": "0", "seqId": 5, "asks": [["2", "1", "0", "1"]],
            "bids": [["1", "1", "0", "1"]], "instType": "SPOT", "state": "live", "last": "1"}  # fmt: skip
channels = st.sampled_from(["trades", "trades-all", "books5", "bbo-tbt", "tickers", "instruments", "candle1m", "books"])


@st.composite
def messages(draw):
    """Messages of OKX in which up to three fields are of another kind, or absent."""
    row = dict(good_row)
    for key in draw(st.lists(st.sampled_from(sorted(row)), max_size=3, unique=True)):
        if draw(st.integers(0, 5)):
            row[key] = draw(numbers if isinstance(row[key], str) and draw(st.booleans()) else values)
        else:
            row.pop(key)
    bar = ["1747087140000", *[draw(numbers) for _ in range(draw(st.integers(4, 8)))], "1"]
    channel = draw(channels)
    data = [bar if channel == "candle1m" else row] * draw(st.integers(0, 2))
    return {"arg": {"channel": channel, "instId": "BTC-USDT"}, "data": data, **draw(st.just({}) | stamps)}


stamps = st.fixed_dictionaries({}, optional={"received": values, "origin": values, "event": values})


def wrong(tally: Tally) -> str:
    return "\n".join(tally.findings)


@settings(max_examples=400, deadline=None)
@given(messages(), st.booleans())
def test_made_up_messages(message, ascii_only):
    """Whatever stands in a field: a reason, or lines that say what the message says; the same for a recording."""
    line = json.dumps(message, ensure_ascii=ascii_only).encode(errors="replace")
    normalize = Normalize()
    normalize.feed(line)
    assert not normalize.tally.wrong, wrong(normalize.tally)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*json.loads(TRADE % "1"), *json.loads(BAR % (1, 1))]), values, max_size=3),
    st.booleans(),
)
def test_made_up_lines(changes, bar):
    """The same for lines of ours."""
    base = json.loads(BAR % (1747087200000, "null") if bar else TRADE % "1")
    candles = Candles()
    candles.feed(json.dumps(base | changes).encode(errors="replace"))
    candles.finish()
    assert not candles.tally.wrong, wrong(candles.tally)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40).map(lambda text: text.encode(errors="replace")) | st.binary(max_size=60))
def test_any_bytes(data):
    """Any bytes at all are refused, or are what they are taken for."""
    for target in (Normalize(), Candles()):
        target.feed(data)
        assert not target.tally.wrong, wrong(target.tally)


def test_damaged_recordings_of_okx():
    """The short form of `scripts/chaos fuzz`: every target is there, nothing crashed, nothing was taken wrongly."""
    command = [sys.executable, str(CHAOS), "fuzz", "--inputs", "2000", "--seed", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(.+?)  +([0-9,]+)  +([0-9,]+)  +([0-9,]+)  +0  +0  +[0-9.]+$", done.stdout, re.MULTILINE)
    rows = {name: [int(n.replace(",", "")) for n in counts] for name, *counts in found}
    roads = {"roads", "bulk roads"} if kernel("core.candles._runs") else set()
    assert rows.keys() == {"normalize", "candles", "store", "replay", "CSV reader", "processes", "all"} | roads
    assert all(accepted and rejected for _, accepted, rejected in rows.values()), done.stdout
    assert rows["all"][0] >= 2000


def test_the_judge_is_awake(monkeypatch):
    """A decoder that loses a digit, takes what is no JSON, or refuses what is right is found out."""
    line = (PUSH % (ROW % "102537.9")).encode()

    def verdict(feed):
        normalize = Normalize()
        monkeypatch.setattr("harness.fuzz_lines.Normalizer", lambda: type("Fake", (), {"feed": staticmethod(feed)}))
        normalize.feed(line)
        return normalize.tally.disagreements

    real = Normalizer().feed
    assert verdict(real) == 0
    assert verdict(lambda raw: real(raw.replace(b"102537.9", b"102537.8"))) == 1
    assert verdict(lambda raw: []) == 1

    def refuse(raw):
        raise InvalidLine("not JSON: it is")

    assert verdict(refuse) == 2
    line = b"{" + line
    assert verdict(lambda raw: real(raw[1:])) == 1


@pytest.mark.parametrize(
    "data", [b'{"a":1', b"{'a':1}", b'"\xff"', b"[01]", b"[1.]", b"NaN", b"[1,]", b"\xef\xbb\xbf1"]
)
def test_the_other_decoder_is_strict(data):
    """It takes nothing that JSON does not have."""
    with pytest.raises(decoder.NotJson):
        decoder.decode(data)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("1.50", "1.5"), ("1e3", "1000"), ("0.0010e2", "0.1"), ("-0.0", "0"), ("007", "7"), (".5", None), ("1_0", None)],
)
def test_the_other_decoder_reads_numbers(text, canonical):
    """By moving digits, not by arithmetic."""
    assert decoder.number(text) == canonical


# ---- what it found


@pytest.mark.parametrize("number", [".5", "5.", "5.e3", "+5", r"\u0035.", r"\uff15", "1_0", " 5", "5 ", "٣"])
def test_no_number_of_python_s_own(number):
    """Spellings that Python takes for a number and JSON does not are refused, whatever else the line holds."""
    for line in (TRADE % number, (TRADE % number).replace('"type"', '"x":"é","type"')):
        with pytest.raises(InvalidLine, match="not a number"):
            decode(line.encode())
    with pytest.raises(InvalidLine, match="not a number"):
        Normalizer().feed((PUSH % (ROW % number)).encode())


@pytest.mark.parametrize("line", [
    b'{"arg":{"channel":"books","instId":"BTC-USDT"},"data":[{"x":"\xff"}]}',
    b'{"arg":{"channel":"trades-all","instId\xc3(":"BTC-USDT"},"data":[]}',
    b'{"arg":{"channel":"candle1m","instId":"X"},"data":[["1747087140000","1","1","1","1","1","1","1","1"]],"x":"\xff"}',
])  # fmt: skip
def test_text_is_utf8_everywhere(line):
    """Also where nobody needs it: in other channels, in keys, behind the data."""
    with pytest.raises(InvalidLine, match="not UTF-8"):
        Normalizer().feed(line)


def test_a_channel_named_twice_is_the_last_one():
    """The row is read as the channel that counts wants it."""
    line = (PUSH % (ROW % "1")).replace('"instId":"BTC-USDT"}', '"instId":"BTC-USDT","channel":"tickers"}', 1)
    (found,) = Normalizer().feed(line.encode())
    assert type(found).__name__ == "Ticker"


@pytest.mark.parametrize(("line", "reason"), [
    (TRADE.replace('"trade"', '{"a":1}') % "1", "unknown type"),
    (BAR % (1747087200001, "null"), "no bar of 1m"),
    (BAR % (1747087200000, '"1e-5000"'), "volume out of range"),
    (TRADE.replace("1747087163557", "1e400") % "1", "out of range"),
    ('{"type":"instrument","exchange":"okx","symbol":"X","kind":"spot","state":"live","listed":1e30}', "instrument"),
    ('{"type":"instrument","exchange":"okx","symbol":"X","kind":"spot","state":"live","listed":' + "9" * 30 + "}",
     "listed out of range"),
])  # fmt: skip
def test_what_was_a_bug_or_taken(line, reason):
    """A type that is no text, a bar with edges of no timeframe, a volume of 5,000 places, times beyond any calendar."""
    with pytest.raises(InvalidLine, match=reason) as caught:
        decode(line.encode())
    assert "not JSON" not in str(caught.value)


def test_damage_in_bulk_files_is_the_row_s_alone(tmp_path, caplog):
    """The first row of a file without header does not decide about the others; a lone quote is no quotation."""
    caplog.set_level(logging.ERROR)
    rows = [b"%d,buy,0.5,100.5,1755000000000" % number for number in range(100, 110)]
    for damaged in (b"100,buy,0.5,1,00.5,1755000000000", b'100,buy,"0.5,100.5,1755000000000'):
        path = tmp_path / "BTC-USDT-trades-2025-08-12.csv"
        path.write_bytes(b"\n".join([damaged, *rows[1:]]) + b"\n")
        reader = Archive([path], ["BTC-USDT"])
        assert sum(map(len, reader.lines())) == 9
        assert reader.damaged == 1


def test_bulk_files_that_are_bombs(tmp_path, caplog):
    """What unpacks to endless bytes, or is packed as OKX packs nothing, is left out with a word."""
    path = tmp_path / "BTC-USDT-trades-2025-08-12.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTC-USDT-trades-2025-08-12.csv", b"\0" * (70 << 20))
    with pytest.raises(InputError, match="unpack to 73400320"):
        tables(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("BTC-USDT-trades-2025-08-12.csv", b"100,buy,0.5,100.5,1755000000000\n")
    reader = Archive([path], ["BTC-USDT"])
    assert list(reader.lines()) == [] and reader.unreadable == 1
    assert "packed in a way" in caplog.text


def test_a_zip_with_a_member_without_a_name(tmp_path, caplog):
    """It is left out; the others are read."""
    path = tmp_path / "BTC-USDT-trades-2025-08-12.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BTC-USDT-trades-2025-08-12.csv", b"100,buy,0.5,100.5,1755000000000\n")
        archive.writestr("x.csv", b"")
    data = bytearray(path.read_bytes())
    last = data.rindex(b"PK\x01\x02")  # in the directory: its name becomes its comment
    data[last + 28 : last + 30], data[last + 32 : last + 34] = b"\0\0", b"\5\0"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert "" in archive.namelist()
    assert [table.member for table in tables(path)] == ["BTC-USDT-trades-2025-08-12.csv"]


def test_damaged_recordings_are_replayed(tmp_path):
    """No instrument in a push of trades, a nonsense instrument, numbers and nesting without end: the rest plays."""
    good = (PUSH % (ROW % "1")).encode()
    instrument = {"instId": "BTC-USDT", "instType": {}, "tickSz": "x", "ctVal": "y"}
    lines = [
        good.replace(b'"instId":"BTC-USDT"}', b'"x":1}', 1),
        json.dumps(
            {"arg": {"channel": "instruments", "instType": "SPOT"}, "data": [instrument, {"instId": []}]}
        ).encode(),
        good.replace(b"1747087163557", b"7" * 5000),
        good[:-1] + b',"x":11111111111111111111111,"origin":"rest","received":1747087163601}',
        good[:-1] + b',"received":null,"deep":' + b"[" * 500 + b"]" * 500 + b"}",
    ]
    path = tmp_path / "recording.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    pushes = list(read_pushes(path))
    assert [push.payload for push in pushes][2] == good[:-1] + b',"x":11111111111111111111111}'
    assert len(pushes) == 4
    assert LocalReplay([path]).contents.pushes == 4
    target = Replay(tmp_path)
    for line in lines:
        target.feed(line)
    assert not target.tally.wrong, wrong(target.tally)


def test_a_long_quiet_is_not_held_in_memory():
    """A day without a fill is 86,400 flat bars of a second: they pass through, they do not pile up."""
    held = []

    class DurableWriter:
        up = full = False
        room = 1

        def add(self, line):
            held.append(collector._candles.candles - len(held))  # made, and not handed on

    config = Config(symbols=("BTC-USDT",), timeframes=("1s",), fill=True)
    collector = Collector(config, None, DurableWriter(), None, lambda: 0)
    for number, time in ((7, "1747087163557"), (8, "1747173563557"), (9, "1747173593557")):
        collector.take([(PUSH % (ROW % "1")).replace("734864333", str(number)).replace("1747087163557", time).encode()])
    assert len(held) > 86_400
    assert max(held) <= 1_000
