"""Bulk files of OKX as raw lines: every generation, any order, damaged rows, aggregates, candles."""

import logging
import random
import zipfile
from itertools import groupby
from types import SimpleNamespace

import pytest
from bulk_files import GENERATIONS, MODERN, chinese, daily, headerless, modern, name, newest, write

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.decimals import plain
from okxcli.errors import UsageError
from okxcli.exchanges.okx.bulk_files import raw_lines, scan, sorting
from okxcli.exchanges.okx.bulk_files.layouts import read_name
from okxcli.exchanges.okx.bulk_files.raw_lines import Archive
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

HOUR = 3_600_000
#: Midnight of 2026-05-18 in UTC+8.
MIDNIGHT = 1_779_033_600_000


def made(count, first=1_000, start=MIDNIGHT - HOUR, step=40_000, seed=1):
    """Return fills of one instrument, consecutive ids, several in a millisecond."""
    rng, clock, found = random.Random(seed), start, []
    for number in range(first, first + count):
        clock += rng.choice([0, 0, step // 2, step])
        found.append(
            SimpleNamespace(
                trade_id=number,
                price=f"{rng.randrange(10_000, 10_400) / 10}".removesuffix(".0"),
                size=f"0.{rng.randrange(1, 10**6):06d}".rstrip("0"),
                side=rng.choice(["buy", "sell"]),
                ts=clock,
                source=0,
            )
        )
    return found


def facts(trades):
    return [(t.symbol, t.trade_id, str(t.price), str(t.size), t.side, t.timestamp, t.count, t.origin) for t in trades]


def wanted(fills, symbol="BTC-USDT", origin="file"):
    return [(symbol, f.trade_id, f.price, f.size, f.side, f.ts, 1, origin) for f in fills]


def read(places, *symbols, **more):
    """Return the trades (or candles) of files, through `normalize`."""
    normalizer = Normalizer()
    places = places if isinstance(places, list) else [places]
    reader = Archive(places, symbols or ["BTC-USDT"], **more)
    found = [line for lines in reader.lines() for raw in lines for line in normalizer.feed(raw)]
    return found, reader


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("make", GENERATIONS.values(), ids=GENERATIONS)
def test_every_generation_gives_the_same_trades(tmp_path, make, packed):
    """Four layouts and encodings, zipped or not, over two days of UTC+8: the fills come out as they were, in order."""
    fills = made(300)
    paths = daily(tmp_path, "BTC-USDT", fills, make, packed)
    assert [path.name[:-4] for path in paths] == ["BTC-USDT-trades-2026-05-17", "BTC-USDT-trades-2026-05-18"]
    found, reader = read(tmp_path)
    assert facts(found) == wanted(fills)
    assert (reader.damaged, reader.unreadable, reader.rows) == (0, 0, 300)
    assert {t.source for t in found} == ({0} if make is newest else {None})


def test_a_file_without_a_telling_name_is_read_for_one_symbol(tmp_path):
    """A layout that does not name the instrument needs a file name that does, or one symbol to ask for."""
    fills = made(5)
    path = write(tmp_path, "mine", headerless("BTC-USDT", fills), packed=False)
    assert facts(read(path)[0]) == wanted(fills)
    found, reader = read(path, "BTC-USDT", "ETH-USDT")
    assert found == [] and reader.unreadable == 1


def test_rows_out_of_order_are_sorted_by_id_not_by_time(tmp_path, monkeypatch):
    """Shuffled rows, whose times step back too, come out by id; whatever the memory for sorting, runs included."""
    fills = made(1_000)
    fills[500].ts -= 30 * 24 * HOUR
    mixed = fills[:]
    random.Random(3).shuffle(mixed)
    path = write(tmp_path, name("BTC-USDT", fills[0].ts), modern("BTC-USDT", mixed))
    assert facts(read(path)[0]) == wanted(fills)
    monkeypatch.setattr(sorting, "MAX_RUNS", 3)
    monkeypatch.setattr(raw_lines, "in_order", lambda rows: sorting.in_order(rows, run_rows=70))
    assert facts(read(path)[0]) == wanted(fills)


def test_files_that_overlap_give_each_fill_once(tmp_path):
    """A month and its days, the same day in two generations: one tape, in order."""
    fills = made(400)
    daily(tmp_path / "days", "BTC-USDT", fills, modern)
    daily(tmp_path / "old", "BTC-USDT", fills[100:350], chinese)
    write(tmp_path, "BTC-USDT-trades-2026-05", newest("BTC-USDT", fills))
    found, reader = read([tmp_path, str(tmp_path / "*.zip")])
    assert [fact[:7] for fact in facts(found)] == [fact[:7] for fact in wanted(fills)]
    assert reader.unreadable == 0


def test_a_fill_that_two_files_tell_differently_comes_twice(tmp_path):
    """It is not for the reader to choose: whoever stores them sees an id reused."""
    fills = made(50)
    other = made(50)
    other[7].price = "1"
    write(tmp_path, "BTC-USDT-trades-2026-05-17", modern("BTC-USDT", fills))
    write(tmp_path, "BTC-USDT-trades-2026-05", modern("BTC-USDT", other))
    found, _ = read(tmp_path)
    assert len(found) == 51 and {str(t.price) for t in found if t.trade_id == 1_007} == {"1", fills[7].price}


def test_symbols_come_file_by_file_siblings_left_out(tmp_path):
    """Two symbols with files of their own take turns by day; rows of an instrument not asked for are passed over."""
    one, two, sibling = made(300), made(300, first=9_000, seed=2), made(20, first=70, seed=3)
    daily(tmp_path, "BTC-USDT", one)
    daily(tmp_path, "ETH-USDT", two)
    path = tmp_path / "ETH-USDT-trades-2026-05-17.zip"
    part = [f for f in two if f.ts < MIDNIGHT]
    write(tmp_path, path.stem, modern("ETH-USDT", part) + modern("ETH-USDT-260626", sibling).split(b"\n", 1)[1])
    found, _ = read(tmp_path, "BTC-USDT", "ETH-USDT")
    assert facts(t for t in found if t.symbol == "BTC-USDT") == wanted(one)
    assert facts(t for t in found if t.symbol == "ETH-USDT") == wanted(two, "ETH-USDT")
    turns = [key for key, _ in groupby((t.timestamp >= MIDNIGHT, t.symbol) for t in found)]
    assert len(turns) == 4 and [late for late, _ in turns] == [False, False, True, True]
    assert len(found) == 600


def test_a_family_file_holds_many_contracts(tmp_path):
    """A file of a family is looked into for each of its contracts, and for no other symbol."""
    one, two = made(100), made(100, first=50, seed=5)
    rows = modern("BTC-USD-260626", one) + modern("BTC-USD-260925", two).split(b"\n", 1)[1]
    write(tmp_path, "BTC-USD-futureschain-trades-2026-05-17", rows)
    found, _ = read(tmp_path, "BTC-USD-260925")
    assert facts(found) == wanted(two, "BTC-USD-260925")
    assert Archive([tmp_path], ["ETH-USDT"])._sizes == {}


def test_a_span_begins_one_fill_early(tmp_path):
    """`since` takes the fill right before along, from the file of the day before if need be; `until` is excluded."""
    fills = made(300)
    daily(tmp_path, "BTC-USDT", fills)
    since = next(f for f in fills if f.ts >= MIDNIGHT).ts
    until = fills[250].ts
    found, _ = read(tmp_path, since_ms=since, until_ms=until)
    inside = [f for f in fills if since <= f.ts < until]
    assert inside[0].trade_id - 1 == found[0].trade_id and found[0].timestamp < since
    assert facts(found[1:]) == wanted(inside)


def test_files_outside_of_the_span_are_not_opened(tmp_path):
    """The name tells the day; a file of another year is not even looked at, damaged as it may be."""
    daily(tmp_path, "BTC-USDT", made(30, start=MIDNIGHT))
    (tmp_path / "BTC-USDT-trades-2024-01-01.zip").write_bytes(b"no zip")
    found, reader = read(tmp_path, since_ms=MIDNIGHT)
    assert len(found) == 30 and reader.unreadable == 0
    assert read(tmp_path)[1].unreadable == 1


def test_damaged_rows_are_told_by_number_and_passed_over(tmp_path, caplog):
    """Torn rows, glued rows, NULs, odd numbers: each is named with its row, its neighbours come out."""
    fills = made(500)
    lines = modern("BTC-USDT", fills).split(b"\n")
    bad = {
        9: b"BTC-USDT,1007,buy,100.",
        20: b"BTC-USDT,1018,buy,100,0.BTC-USDT,1019,buy,100,1,1779030000000",
        30: b"\0" * 300 + lines[30],
        40: lines[40].replace(b",1039,", b",-1039,"),
        50: lines[50].replace(b"BTC-USDT", b"BTC USDT"),
        60: b"\xff\xfe,1058,buy,1,1,1779030000000",
        70: b"BTC-USDT,1068,hold,100,1,1779030000000",
        80: b"BTC-USDT,1078,buy,0,1,1779030000000",
        90: b"BTC-USDT,1088,buy,100,1,17790300000",
    }
    for at, line in bad.items():
        lines[at] = line
    path = write(tmp_path, "BTC-USDT-trades-2026-05-17", b"\n".join(lines), packed=False)
    with caplog.at_level(logging.WARNING):
        found, reader = read(path)
    assert facts(found) == wanted([f for i, f in enumerate(fills, 1) if i not in bad])
    assert reader.damaged == len(bad)
    assert [r.getMessage().split(": ")[1] for r in caplog.records] == [f"row {at + 1}" for at in bad]
    assert all(str(path) in r.getMessage() for r in caplog.records)


def test_unusual_spellings_are_read(tmp_path):
    """Quotes, blanks, capitals, exponents, zeros behind the point, a mark of byte order, columns nobody knows."""
    text = (
        "\ufeffinstrument_name,trade_id,side,price,size,created_time,colour\n"
        '"BTC-USDT","7","BUY","1E2","0.50",1779030000000,red\n'
        "BTC-USDT, 8 ,Sell,100.10,1e-8,1779030000001,\n"
        "\n"
        "BTC-USDT,9,sell,100,1,1779030000002,a b\n"
    )
    found, reader = read(write(tmp_path, "BTC-USDT-trades-2026-05-17", text.encode(), packed=False))
    assert [(t.trade_id, t.side, plain(t.price), plain(t.size)) for t in found] == [
        (7, "buy", "100", "0.5"), (8, "sell", "100.1", "0.00000001"), (9, "sell", "100", "1"),
    ]  # fmt: skip
    assert reader.damaged == 0


def test_aggregates_are_kept_out_of_the_tape(tmp_path, caplog):
    """Merged trades are known by the file's name or by the steps of their ids; their bars are never complete."""
    fills = made(400)
    for path in (
        write(tmp_path / "a", "BTC-USDT-aggtrades-2026-05-17", modern("BTC-USDT", fills)),
        write(tmp_path / "b", "BTC-USDT-trades-2026-05-17", modern("BTC-USDT", fills[::3])),
    ):
        with caplog.at_level(logging.WARNING):
            found, _ = read(path)
        assert "merged trades" in caplog.text and str(path) in caplog.text
        caplog.clear()
        assert {t.origin for t in found} == {"file-merged"} and len(found) in (400, 134)
        bars = []
        maker = RealTimeCandleProcessor("1m,5m", bars.append, live=False, fill=True)
        for trade in found:
            maker.trade(trade)
        assert len(bars) > 20 and not any(bar.complete for bar in bars)
    raw = next(Archive([path], ["BTC-USDT"]).lines())[0]
    assert raw.startswith(b'{"arg":{"channel":"trades","instId"')


def test_whoever_knows_better_says_so(tmp_path, caplog):
    """A file of fills with many holes, and one of aggregates without any, are what they are told to be, without a word;
    the word about the first names the way."""
    fills = made(400)
    thin = write(tmp_path, "BTC-USDT-trades-2026-05-17", modern("BTC-USDT", [f for f in fills if f.trade_id % 40]))
    whole = write(tmp_path, "BTC-USDT-trades-2026-05-18", modern("BTC-USDT", fills))
    with caplog.at_level(logging.WARNING):
        assert b'"file-merged"' in next(Archive([thin], ["BTC-USDT"]).lines())[0]
        assert "--as fills" in caplog.text
        caplog.clear()
        lines = [line for part in Archive([thin], ["BTC-USDT"], rows_as="fills").lines() for line in part]
        assert len(lines) == 390 and all(b'"origin":"file"' in line for line in lines)
        assert b'"file-merged"' in next(Archive([whole], ["BTC-USDT"], rows_as="aggregates").lines())[0]
        assert caplog.text == ""


def test_a_file_of_fills_may_lack_some(tmp_path):
    """A hole or two, or as many as there are damaged rows, do not make a file one of aggregates."""
    fills = made(1_000)
    gone = {1_100, 1_101, 1_500}
    path = write(
        tmp_path, "BTC-USDT-trades-2026-05-17", modern("BTC-USDT", [f for f in fills if f.trade_id not in gone])
    )
    assert {t.origin for t in read(path)[0]} == {"file"}
    few = modern("BTC-USDT", fills[:20]).replace(b",1005,", b",x,").replace(b",1009,", b",x,")
    found, reader = read(write(tmp_path / "few", "BTC-USDT-trades-2026-05-17", few))
    assert {t.origin for t in found} == {"file"} and reader.damaged == 2


CANDLES = "instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm\n"


def test_candle_files_become_candle_pushes(tmp_path):
    """One bar a minute: the confirmed one of two; the columns of the file in the order of the channel."""
    start = MIDNIGHT
    rows = [
        f"BTC-USDT,1,3,0.5,2,10,10,20,{start + 60_000},1\n",
        f"BTC-USDT,1,1,1,1,0,0,0,{start},1\n",
        f"BTC-USDT,1,9,1,9,1,1,1,{start + 120_000},0\n",
        f"BTC-USDT,2,2,2,2,5,5,10,{start + 120_000},1\n",
        f"BTC-USDT,1,3,0.5,2,10,10,20,{start + 60_000},1\n",
        f"BTC-USDT,7,7,7,7,1,1,7,{start + 180_000},0\n",
    ]
    write(tmp_path, "BTC-USDT-candlesticks-2026-05-18", (CANDLES + "".join(rows)).encode())
    write(tmp_path, "BTC-USDT-trades-2026-05-18", modern("BTC-USDT", made(10)))
    found, reader = read(tmp_path, channel="candle1m")
    assert [(c.start, str(c.open), str(c.high), str(c.low), str(c.close)) for c in found] == [
        (start, "1", "1", "1", "1"), (start + 60_000, "1", "3", "0.5", "2"), (start + 120_000, "2", "2", "2", "2"),
    ]  # fmt: skip
    bar = found[1]
    assert (str(bar.volume), str(bar.base_volume), str(bar.quote_volume)) == ("10", "10", "20")
    assert bar.timeframe == "1m" and bar.closed and bar.complete and reader.damaged == 0


def test_a_candle_given_twice_with_other_values_is_told(tmp_path, caplog):
    """Of two confirmed bars of one minute the first is taken, and the other one is no secret."""
    rows = f"BTC-USDT,1,1,1,1,1,1,1,{MIDNIGHT},1\nBTC-USDT,2,2,2,2,2,2,2,{MIDNIGHT},1\n"
    write(tmp_path, "BTC-USDT-candlesticks-2026-05-18", (CANDLES + rows).encode())
    with caplog.at_level(logging.WARNING):
        found, _ = read(tmp_path, channel="candle1m")
    assert [str(c.open) for c in found] == ["1"] and "differ" in caplog.text


def test_what_is_no_bulk_file_is_left_out_with_a_word(tmp_path, caplog):
    """A page of HTML called zip, a torn zip, a zip without a CSV, a CSV of another kind: told, the rest is read."""
    fills = made(40)
    good = write(tmp_path, "BTC-USDT-trades-2026-05-17", modern("BTC-USDT", fills))
    (tmp_path / "BTC-USDT-trades-2026-05-18.zip").write_text("<html>no</html>")
    (tmp_path / "BTC-USDT-trades-2026-05-19.zip").write_bytes(good.read_bytes()[:-100])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as other:
        other.writestr("readme.txt", "hello")
    (tmp_path / "orders.csv").write_text("order,price\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    data = bytearray(good.read_bytes())
    data[90] ^= 0xFF
    (tmp_path / "BTC-USDT-trades-2026-05-20.zip").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        found, reader = read(tmp_path)
    assert facts(found) == wanted(fills) and reader.unreadable == 5
    assert sorted(r.getMessage().split(": ")[0] for r in caplog.records) == ["left out"] * 5


def test_usage(tmp_path):
    """A place that does not exist, a folder without files, a channel without files and an odd symbol are refused."""
    for places, symbol, channel, word in (
        (["/nowhere/at/all"], "BTC-USDT", "trades-all", "no such file"),
        ([tmp_path], "BTC-USDT", "trades-all", "no .zip"),
        ([tmp_path], 'a"b', "trades-all", "not a symbol"),
        ([tmp_path], "BTC-USDT", "candle5m", "--from 1m"),
        ([tmp_path], "BTC-USDT", "tickers", "trades-all and candle1m"),
    ):
        with pytest.raises(UsageError, match=word):
            Archive(places, [symbol], channel=channel)


def test_names():
    """A name tells the instrument and the UTC+8 day or month; what is no such name tells nothing."""
    day = read_name("BTC-USDT-SWAP-trades-2026-05-18.zip")
    assert (day.stem, day.since_ms, day.until_ms) == ("BTC-USDT-SWAP", MIDNIGHT, MIDNIGHT + 24 * HOUR)
    month = read_name("BTC-USDT-aggtrades-2025-12.csv")
    assert month.kind == "aggtrades" and month.until_ms - month.since_ms == 31 * 24 * HOUR
    assert [read_name(text) for text in ("notes.csv", "BTC-trades-2026-02-30.zip", "BTC-trades-2026-13.zip")] == [
        None
    ] * 3


def test_header_alone_is_an_empty_day(tmp_path):
    """A day without trades is no fault."""
    path = write(tmp_path, "BTC-USDT-trades-2026-05-17", (MODERN + "\n").encode())
    assert read(path)[0] == [] and read(path)[1].unreadable == 0


def test_ids_in_any_order_are_counted_exactly():
    """Runs of neighbours and their ids, over the edges of pages and bytes, are those of a plain set."""
    rng = random.Random(5)
    for start in (1, 65_530, 131_060, 2**40 - 9):
        ids, plain_set = scan._Ids(), set()
        for _ in range(40):
            first = start + rng.randrange(3_000)
            last = first + rng.choice([0, 0, 1, 7, 8, 63, 400])
            ids.add_run(first, last)
            plain_set |= set(range(first, last + 1))
        for number in rng.sample(sorted(plain_set), 5):
            ids.add(number)
        assert ids.runs() == (sum(number - 1 not in plain_set for number in plain_set), len(plain_set))


def test_a_shuffled_day_is_no_file_of_aggregates(tmp_path, caplog):
    """However the rows of fills are mixed up, they are known as fills: their ids have no holes."""
    fills = made(60_000, step=200)
    mixed = fills[:]
    random.Random(8).shuffle(mixed)
    path = write(tmp_path, "BTC-USDT-trades-2026-05-17", modern("BTC-USDT", mixed))
    found, _ = read(path)
    assert [t.trade_id for t in found] == [f.trade_id for f in fills] and {t.origin for t in found} == {"file"}
    assert caplog.text == ""
