"""The Python API: what is promised, what it gives, and that it does nothing that was not asked for."""

import asyncio
import inspect
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path

import pandas
import pytest

import okxcli as okx
from okxcli import api
from okxcli.api.rows import Rows
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.errors import AnswerNo, ConfigError, ExchangeUnavailable, UsageError

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "man" / "topics" / "okxcli.3.md").read_text()
NOW = 1_747_087_200_000
#: All that is promised. A name that goes breaks somebody's program.
PROMISED = {
    "Absent", "BookSnapshot", "BookUpdate", "Gap", "Instrument", "InvalidLine", "Line", "Lines", "Moment",
    "OHLCVCandle", "OkxError", "Rows", "Simulation", "StandardizedTrade", "Ticker", "__version__", "aread", "astream",
    "books", "candles", "gaps", "history", "normalize", "read", "simulate", "store", "stream",
}  # fmt: skip


@pytest.fixture(scope="module")
def market():
    with okx.simulate("BTC-USDT", "ETH-USDT", rate=300, history=20) as found:
        yield found


@pytest.fixture(scope="module")
def lines(market):
    with okx.stream("BTC-USDT", "ETH-USDT", **market.addresses) as raw:
        return list(okx.normalize(islice(raw, 1_500)))


def trade(number, at=0, price="1.5"):
    return okx.StandardizedTrade("okx", "BTC-USDT", number, "buy", Decimal(price), Decimal("0.25"), NOW + at)


def test_what_is_promised():
    """The names, in the module, in the room behind it, and in the manual; each has words of its own."""
    assert set(dir(okx)) == PROMISED == {"__version__", *api.__all__}
    for name in api.__all__:
        assert re.search(rf"^(`|: .*`)?{name}\b|`{name}`", MANUAL, re.M), name
        assert getattr(okx, name) is getattr(api, name)
        assert name in ("Line", "Moment") or getattr(okx, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'collect'"):
        okx.collect  # noqa: B018


def test_what_is_worth_a_word_is_logged_and_not_printed():
    """A program that has set up no logging hears nothing of a bad line."""
    code = "import okxcli as okx; print(list(okx.normalize([b'nonsense'])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", ["stream", "history", "normalize", "candles", "read", "store", "gaps", "simulate"])
def test_the_manual_has_the_signatures(name):
    """Parameter by parameter, with its default; the async twins take the same."""
    shown = re.search(rf"^{name}\((.*)\)$", MANUAL, re.M)[1]
    parameters = inspect.signature(getattr(okx, name)).parameters.values()
    words = []
    for one in parameters:
        if (
            one.kind is one.KEYWORD_ONLY
            and not any(p.kind is p.VAR_POSITIONAL for p in parameters)
            and "*" not in words
        ):
            words.append("*")
        star = "*" if one.kind is one.VAR_POSITIONAL else ""
        default = "" if one.default is one.empty else "=" + repr(one.default).replace("'", '"')
        words.append(f"{star}{one.name}{default}")
    assert shown == ", ".join(words)


def test_the_async_twins_take_the_same():
    """But for `follow`."""
    for name, without in (("stream", set()), ("read", {"follow"})):
        one, two = (inspect.signature(getattr(okx, n)).parameters for n in (name, "a" + name))
        assert set(one) - without == set(two)
        assert all(one[key].default == two[key].default for key in two)


EXAMPLES = re.findall(
    r"(?m)^    (?:import|from) .*\n(?:(?:    .*)?\n)+", MANUAL.split("# EXAMPLES")[1].split("# FUNC")[0]
)


def test_every_example_of_the_manual_runs(tmp_path):
    """As it stands, against a simulation; what goes on for ever is ended when it has shown what it does."""
    assert len(EXAMPLES) == 6
    endless = "def limited(p, n=[0]):\n    n[0] += 1\n    if n[0] > 3: raise SystemExit(0)\n"
    for number, text in enumerate(EXAMPLES):
        code = textwrap.dedent(text)
        if "10_000" in code:
            code = code.replace("10_000", "300")
        elif any(shown in code for shown in ("print(bar", "print(book", "print(line)")):
            code = endless + code.replace('"1m"', '"1s"').replace("print(", "limited(1); print(")
        (tmp_path / f"{number}.py").write_text(code)
    script = " && ".join(f"{sys.executable} {tmp_path}/{number}.py" for number in (1, 0, 2, 3, 4, 5))
    command = [
        sys.executable,
        "-m",
        "okxcli",
        "simulate",
        "BTC-USDT",
        "ETH-USDT",
        "--rate",
        "200",
        "--",
        "sh",
        "-c",
        script,
    ]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OKX_", "PG", "XDG_"))}
    env["HOME"] = str(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=env)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".local" / "share").exists()  # it went into the database of the simulation
    assert "'raw_trades': " in done.stdout and "kind='covered'" in done.stdout and "decimal128(38, 18)" in done.stdout
    assert "Traceback" not in done.stderr


def test_importing_it_does_nothing():
    """No other module is loaded, no thread runs, nothing is said, and the command line is none the slower."""
    code = "import okxcli, sys, threading; print([m for m in sys.modules if 'okxcli.' in m], threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] 1\n", "")
    code = "import sys; from okxcli.cli import run; run(['normalize', '-q']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, input="")
    loaded = [name for name in done.stdout.split() if name.startswith("okxcli.")]
    assert "okxcli.commands.normalize" in loaded
    rooms = {".".join(name.split(".")[:2]) for name in loaded}
    assert rooms.isdisjoint({"okxcli.api", "okxcli.local", "okxcli.storage", "okxcli.pipeline"})


def test_a_users_script_is_typed(tmp_path):
    """`mypy --strict` knows what everything is."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import okxcli as okx

        def closes(symbol: str) -> list[str]:
            with okx.stream(symbol, since="1h") as raw:
                found = [str(bar.close) for bar in okx.candles(okx.normalize(raw), "1m,5m")]
            rows: okx.Rows = okx.read("trades", symbol)
            for row in rows:
                if isinstance(row, okx.StandardizedTrade):
                    found.append(str(row.price))
            counts: dict[str, int] = okx.store(okx.normalize(okx.history(symbol, since="1h")))
            return found + [gap.kind for gap in okx.gaps(symbol)] + [str(counts)]

        async def main() -> None:
            async for raw in okx.astream("BTC-USDT"):
                reveal_type(raw)
        """)
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=110)
    assert re.search(r'Revealed type is "(builtins\.)?bytes"', done.stdout) and "Success" in done.stdout, done.stdout


def test_a_stream_is_the_market(market, lines):
    """The site, what the symbols are, every fill once and in its order."""
    symbols = [line.symbol for line in lines if isinstance(line, okx.Instrument)]
    assert sorted(symbols) == ["BTC-USDT", "ETH-USDT"]
    for symbol in symbols:
        trades = [line for line in lines if isinstance(line, okx.StandardizedTrade) and line.symbol == symbol]
        assert all(b.trade_id == a.trade_id + 1 for a, b in pairwise(trades))
        assert trades == [
            fill for fill in market.fills(symbol) if trades[0].trade_id <= fill.trade_id <= trades[-1].trade_id
        ]


def test_candles_come_as_trades_are_asked_for():
    """Each the moment it is over, and none that the command would not make."""
    asked = []

    def trades():
        for number in range(1, 100):
            asked.append(number)
            yield trade(number, number * 250)

    found = okx.candles(trades(), ["1s", "5s"])
    assert asked == []
    assert next(found).timestamp == NOW + 1_000
    assert asked == [1, 2, 3, 4]
    rest = list(found)
    shown = []
    maker = RealTimeCandleProcessor("1s,5s", shown.append, live=False)
    for number in range(1, 100):
        maker.feed(trade(number, number * 250))
    maker.finish()
    assert rest == shown[1:]
    with pytest.raises(okx.InvalidLine, match="7x"):
        okx.candles([], "7x")


def test_books_are_kept_from_what_is_streamed(market):
    """At each change the levels that a second way gives; intervals from what came before their end."""
    with okx.stream("BTC-USDT", channels="books", **market.addresses) as raw:
        updates = [line for line in okx.normalize(islice(raw, 40)) if isinstance(line, okx.BookUpdate)]
    sides, expected = ({}, {}), []
    for one in updates:
        for side, levels in zip(sides, (one.bids, one.asks), strict=True):
            if one.action == "snapshot":
                side.clear()
            side.update(levels)
        best = [
            tuple(sorted(((p, s) for p, s in side.items() if s), reverse=not n)[:3]) for n, side in enumerate(sides)
        ]
        expected.append((one.timestamp, one.seq_id, *best))
    made = [(book.timestamp, book.seq_id, book.bids, book.asks) for book in okx.books(updates, depth=3)]
    assert made == [new for old, new in pairwise([(0, 0, 0, 0), *expected]) if new[2:] != old[2:]]
    for book in okx.books(iter(updates), "500ms", depth=3):
        before = [one for one in expected if one[0] < book.timestamp]
        assert (book.timestamp % 500, (book.seq_id, book.bids, book.asks)) == (0, before[-1][1:])
    with pytest.raises(UsageError, match="no interval"):
        okx.books([], "1ms")


def test_a_gap_is_told_to_the_log_and_updates_are_not_stored(caplog, database):
    """No book comes of what is broken."""
    level = ((Decimal(1), Decimal(2)),)
    first = okx.BookUpdate("okx", "BTC-USDT", NOW, "snapshot", level, ((Decimal(2), Decimal(2)),), 5, -1)
    gap = okx.BookUpdate("okx", "BTC-USDT", NOW + 1, "update", level, (), 9, 8)
    assert [book.seq_id for book in okx.books([first, gap])] == [5]
    assert "BTC-USDT books: invalid: an update that follows on 8" in caplog.text
    assert not any(okx.store([first, gap], dsn=database).values())


def test_bad_lines(caplog):
    """They are passed over with a word in the log, given to whoever asks, or raised."""
    bad = []
    raw = [
        b"nonsense",
        '{"event":"subscribe"}',
        b'{"arg":{"channel":"trades-all","instId":"A-B"},"data":[{"instId":"A-B"}]}\n',
    ]
    assert list(okx.normalize(raw)) == []
    assert caplog.text.count("a bad line is passed over") == 2
    assert list(okx.normalize(raw, bad=lambda line, reason: bad.append((line, str(reason))))) == []
    assert [line for line, _ in bad] == [raw[0], raw[2]]
    with pytest.raises(okx.InvalidLine):
        list(okx.normalize(raw, strict=True))


def test_stored_and_read_back(database, lines, market):
    """What is stored is read back equal; twice stored is once there; the ids are covered."""
    bars = list(okx.candles(lines, "1s"))
    counts = okx.store([*lines, *bars], dsn=database, ws_url=market.ws_url)
    trades = [line for line in lines if isinstance(line, okx.StandardizedTrade)]
    assert counts["raw_trades"] == len(trades) and counts["duplicates"] == 0
    assert okx.store(iter(trades), dsn=database, ws_url=market.ws_url)["duplicates"] == len(trades)
    with pytest.raises(ConfigError, match="local"):
        okx.store(trades, dsn=database, ws_url="wss://ws.okx.com")
    symbol = "BTC-USDT"
    mine = [line for line in trades if line.symbol == symbol]
    assert list(okx.read("trades", symbol, dsn=database)) == mine
    assert list(okx.read("trades", symbol, count=3, dsn=database)) == mine[-3:]
    since = datetime.fromtimestamp(mine[100].timestamp / 1000, UTC)
    assert next(okx.read("trades", symbol, since=since, count=1, dsn=database)).timestamp >= mine[100].timestamp - 1
    shown = list(okx.read("candles", symbol, "ETH-USDT", timeframes="1s", dsn=database))
    assert sorted(shown, key=str) == sorted(bars, key=str)
    (gap,) = okx.gaps(symbol, until=None, dsn=database)
    assert (gap.kind, gap.first, gap.last) == ("covered", mine[0].trade_id, mine[-1].trade_id)

    async def twice():
        found = [row async for row in okx.aread("trades", symbol, dsn=database)]
        raw = okx.astream(symbol, **market.addresses)
        async with aclosing(raw):
            heard = [line async for line in _first(raw, 50)]
        return found, heard

    found, heard = asyncio.run(twice())
    assert found == mine
    assert len(list(okx.normalize(heard))) == 49  # and the word where it is from


async def _first(lines, count):
    async for line in lines:
        yield line
        count -= 1
        if not count:
            return


def test_following(database):
    """What is stored later comes too."""
    okx.store([trade(1)], dsn=database)
    with okx.read("trades", "BTC-USDT", follow=True, dsn=database) as rows:
        assert next(rows) == trade(1)
        okx.store([trade(2, 1)], dsn=database)
        assert next(rows) == trade(2, 1)


@pytest.mark.parametrize(("price", "kind"), [("1.5", "decimal128(38, 18)"), ("1." + "5" * 25, "decimal256(76, 38)"),
                                             ("1." + "5" * 45, "string")])  # fmt: skip
def test_a_table_keeps_every_digit(price, kind):
    """In the narrowest type that does."""
    table = Rows(lambda: iter([trade(1, 0, price), trade(2)]), (okx.StandardizedTrade,)).arrow()
    assert str(table.schema.field("price").type) == kind
    assert [Decimal(str(value)) for value in table["price"].to_pylist()] == [Decimal(price), Decimal("1.5")]
    assert table.column_names == list(okx.StandardizedTrade.__struct_fields__)
    assert table["received"].null_count == 2


def test_tables_of_other_libraries():
    """Decimals stay decimals; an empty one has its columns; the levels of a book are text."""
    rows = lambda: Rows(lambda: iter([trade(1), trade(2)]), (okx.StandardizedTrade,))  # noqa: E731
    assert rows().polars()["price"].to_list() == [Decimal("1.5")] * 2
    assert rows().table()["price"].to_list() == [Decimal("1.5")] * 2
    frame = rows().pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame["price"]) == [Decimal("1.5")] * 2
    assert Rows(lambda: iter([]), (okx.OHLCVCandle,)).arrow().num_rows == 0
    book = okx.BookSnapshot("okx", "BTC-USDT", NOW, ((Decimal(1), Decimal(2)),), ((Decimal(3), Decimal(4)),))
    assert Rows(lambda: iter([book]), (okx.BookSnapshot,)).arrow()["bids"].to_pylist() == ['[["1","2"]]']
    with pytest.raises(UsageError, match="several types"):
        Rows(lambda: iter([trade(1), book]), (okx.BookSnapshot,)).arrow()


def test_without_the_library(monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        Rows(lambda: iter([]), (okx.StandardizedTrade,)).arrow()


def test_mistakes(database):
    """Each is one line that says what to do, before anything is started."""
    for wrong, words in (
        (okx.stream, "no symbol"), (lambda: okx.read("trade", "A-B"), "There are trades, candles, books"),
        (lambda: okx.read("trades"), "no symbol"), (lambda: okx.read("trades", "A-B", since="soon"), "not a time"),
        (lambda: okx.stream("BTC-USDT", channels="nonsense"), "nonsense"), (lambda: okx.history(since=1), "no symbol"),
        (lambda: okx.stream("BTC-USDT", since=2**45), "in the future"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            wrong()
    okx.store([trade(1)], dsn=database)
    with pytest.raises(AnswerNo, match="Did you mean BTC-USDT"):
        list(okx.read("trades", "BTC-USD", dsn=database))
    nowhere = okx.stream("BTC-USDT", ws_url="ws://127.0.0.1:9", rest_url="http://127.0.0.1:9", connect_timeout=0.5)
    with nowhere as raw, pytest.raises(ExchangeUnavailable):
        next(raw)


def test_nothing_is_left_and_nothing_is_said(capfd, market):
    """Threads and sockets end with what is closed, also where the loop is left in the middle; not a word is printed."""
    before = threading.active_count()
    for _ in range(3):
        with okx.stream("BTC-USDT", **market.addresses) as raw:
            next(raw)
    raw = okx.stream("BTC-USDT", **market.addresses)
    next(raw)
    raw.close()
    with pytest.raises(StopIteration):
        next(raw)
    end = time.monotonic() + 20  # for a request of REST that was on its way
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")
