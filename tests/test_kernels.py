"""The kernels in C: as good as the Python road, built where they can be, left out where not, clean under sanitizers."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from harness.fuzz_roads import Roads
from harness.mutation import raw_corpus

from okxcli.core import model
from okxcli.core.candles.block_processor import BlockCandleProcessor
from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.codec import decode, encode
from okxcli.core.decimals import EXACT
from okxcli.core.model import Instrument, StandardizedTrade
from okxcli.core.tape import Run
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.runtime import road
from okxcli.runtime.road import KERNELS, kernel

ROOT = Path(__file__).parents[1]
BUILD = [sys.executable, str(ROOT / "scripts" / "kernels.py")]
NO_COMPILER = shutil.which("cc") is None and shutil.which("gcc") is None
built = pytest.mark.skipif(kernel(KERNELS[0]) is None, reason="no kernels: scripts/test builds them where cc is")
needs_cc = pytest.mark.skipif(NO_COMPILER, reason="needs a C compiler: apt-get install gcc")
NOW = 1_747_087_200_000
#: Damaged inputs and markets through both roads, in a process whose kernels look at every access.
SANITIZED = """
import sys
from pathlib import Path
from harness.fuzz_bulk import BulkRoads
from harness.fuzz_roads import Roads
from harness.mutation import raw_corpus
roads = Roads("sanitized")
assert roads.built
roads.run(raw_corpus(), int(sys.argv[1]))
bulk = BulkRoads("sanitized", Path.cwd())
bulk.run(int(sys.argv[1]) // 100)
accepted = roads.tally.accepted * (bulk.tally.accepted > 10)
print(roads.tally.inputs, accepted, roads.tally.findings + bulk.tally.findings)
"""


def push(number, **changed):
    row = {"instId": "BTC-USDT", "tradeId": str(number), "px": "10.50", "sz": "1", "side": "buy", "ts": str(NOW)}
    row |= changed
    return json.dumps(
        {"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [row]}, separators=(",", ":")
    ).encode()


def fill(number, at=0, price="100", size="1", symbol="BTC-USDT", side="buy", count=1):
    trade = StandardizedTrade("okx", symbol, number, side, *map(model.Decimal, (price, size)), NOW + at, count=count)
    return encode(trade) + b"\n"


def put_through(maker, block):
    """Give a maker a block as `okx candles` does; return how many lines were folded."""
    at = folded = 0
    while at < len(block):
        if isinstance(maker, BlockCandleProcessor):
            at, some = maker.take(block, at, NOW + 10**9)
            folded += some
        if at < len(block):
            end = block.index(b"\n", at)
            maker.feed(decode(block[at:end]))
            at = end + 1
    return folded


def folder():
    return kernel("core.candles._runs").Folder()


@built
def test_both_roads_make_the_same():
    """Of damaged recordings, and of markets by chance in blocks that are cut anywhere."""
    roads = Roads("suite")
    roads.run(raw_corpus(), 22_000)
    assert not roads.tally.wrong, "\n".join(roads.tally.findings[:5])
    assert roads.tally.accepted > 3_000


def test_many_lines_at_a_time_say_what_each_says():
    """The road of a machine without kernels: pieces of blocks, whatever stands in them."""
    roads = Roads("pieces")
    together = sum(roads.pieces(roads.block(size)) for size in (1, 3, 70, 700) * 30)
    assert not roads.tally.wrong, "\n".join(roads.tally.findings[:5])
    assert together > 1_000


@built
def test_every_recorded_push_of_everyday_channels_is_taken():
    """The everyday forms are those that OKX sends."""
    normalizer = Normalizer()
    heads = tuple(b'{"arg":{"channel":"' + name for name in (b"trades", b"books5", b"tickers"))
    pushes = [line for line in raw_corpus() if line.startswith(heads)]
    assert len(pushes) > 100
    assert [line for line in pushes if normalizer.take(line + b"\n", 0).taken != 1] == []


def snapshot(channel, row, **behind):
    message = {"arg": {"channel": channel, "instId": "BTC-USDT"}, "data": [row]} | behind
    return json.dumps(message, separators=(",", ":")).encode()


def book(channel="books5", **changed):
    row = {
        "asks": [["10.50", "1.0", "0", "2"], ["10.6", "0", "0", "0"], ["101", "3", "0", "2"]],
        "bids": [["10.4", "5", "0", "1"], ["9.95", "7", "0", "2"]],
        "instId": "BTC-USDT", "ts": str(NOW), "seqId": 7,
    }  # fmt: skip
    return snapshot(channel, {key: value for key, value in (row | changed).items() if value is not None})


def ticker(**changed):
    row = {"instType": "SPOT", "instId": "BTC-USDT", "last": "10.50", "lastSz": "0", "askPx": "", "vol24h": "100.0",
           "volCcy24h": "1050", "ts": str(NOW)}  # fmt: skip
    return snapshot("tickers", {key: value for key, value in (row | changed).items() if value is not None})


#: Good ones in every everyday form, and ones of which the Python road has something to say, or knows more.
TAKEN = [
    book(), book(seqId=None), book(instId=None), book("bbo-tbt", instId=None), book(asks=[]), book(bids=[], asks=[]),
    book(asks=[["9", "1"], ["10", "1"], ["10.5", "1"], ["10.51", "1"], ["11", "1"]]),
    book(asks=[["0.9", "1"], ["0.91", "1"]], bids=[["100.1", "1"], ["99.9", "1"], ["99.89", "1"]]),
    snapshot("books5", json.loads(book())["data"][0], origin="tape", received=NOW - 3_600_000),
    ticker(), ticker(instType="MARGIN"), ticker(instType="SWAP"), ticker(instType="FUTURES"), ticker(sodUtc8="0.0"),
    ticker(last=None, lastSz=None), ticker(volCcy24h=""),
    snapshot("tickers", json.loads(ticker())["data"][0], received=NOW),
]  # fmt: skip
LEFT = [
    book(asks=[["10.5", "1"], ["10.50", "1"]]), book(asks=[["10.6", "1"], ["10.5", "1"]]),
    book(bids=[["9.9", "1"], ["10", "1"]]), book(asks=[["0", "1"]]), book(asks=[["10", "-1"]]), book(asks=[["10"]]),
    book(asks=[["10", ""]]), book(asks=[["1e1", "1"]]), book(asks=[[str(n), "1"] for n in range(1, 12)]),
    book(instId="ETH-USDT"), book(ts=None), book(ts=str(NOW + 86_400_001)), book(ts=NOW), book(seqId="7"), book(more=1),
    book(seqId=-1), book().replace(b'"seqId":7', b'"seqId":7,"seqId":8'), book("books5-x"),
    snapshot("books5", json.loads(book())["data"][0], received=NOW - 3_600_001),
    ticker(instType=""), ticker(instType=None), ticker(instType="EVENTS"), ticker(instId="X"), ticker(ts=None),
    ticker(last="-1"), ticker(last="1e5"), ticker(last=" 1"), ticker(last=1), ticker(more=""), ticker(ts=""),
    ticker(ts=str(NOW + 86_400_001)), ticker().replace(b'"last":', b'"last":"1","last":'),
]  # fmt: skip


@built
@pytest.mark.parametrize("line", TAKEN)
def test_everyday_books_and_tickers_are_taken(line):
    """As the Python road reads them."""
    normalizer = Normalizer(lambda: NOW)
    made = normalizer.take(line + b"\n", 0)
    assert made == (b"".join(map(encode, normalizer.feed(line))), 1, len(line) + 1, 1)


@built
@pytest.mark.parametrize("line", LEFT)
def test_other_books_and_tickers_are_left(line):
    """Whatever the Python road refuses, or reads in another way."""
    assert Normalizer(lambda: NOW).take(line + b"\n", 0) == (b"", 0, 0, 0)


@built
def test_a_block_is_taken_up_to_the_first_odd_line():
    """What comes before it is made, and the rest is left; without a newline a line is not whole."""
    normalizer = Normalizer()
    lines = [push(1), push(2), b'{"event":"x"}', push(3)]
    block = b"\n".join(lines)
    made = normalizer.take(block, 0)
    assert (made.made, made.taken, block[made.next :]) == (2, 2, b"\n".join(lines[2:]))
    rest = normalizer.take(block, block.index(push(3)))
    assert (rest.lines, rest.taken) == (b"", 0)
    with pytest.raises(ValueError, match="offset"):
        normalizer.take(block, len(block) + 1)
    with pytest.raises(ValueError, match="offset"):
        folder().take(block, -1, NOW)


@built
def test_several_rows_of_a_push():
    """All of them, in their order, with what is said behind them; or none, if one of them is odd."""
    message = json.loads(push(5, count="3", source="0"))
    message["data"].append({**message["data"][0], "tradeId": "9", "count": "1", "side": "sell"})
    message |= {"origin": "rest", "received": NOW + 5}
    line = json.dumps(message, separators=(",", ":")).encode()
    normalizer = Normalizer()
    made = normalizer.take(line + b"\n", 0)
    assert made.lines == b"\n".join(map(encode, normalizer.feed(line)))
    assert (made.made, made.taken) == (2, 1)
    message["data"][1]["ts"] = str(NOW + 3_600_006)
    line = json.dumps(message, separators=(",", ":")).encode()
    assert normalizer.take(push(1) + b"\n" + line + b"\n", 0)[1:] == (1, len(push(1)) + 1, 1)


@built
def test_a_seeded_symbol_is_folded():
    """What the store knows and what comes since make the bar that the trades would have made."""
    shown = []
    maker = BlockCandleProcessor(folder(), "1m", shown.append)
    plain = []
    line = RealTimeCandleProcessor("1m", plain.append)
    for one in (maker, line):
        one.seed("okx", "BTC-USDT", [Run(1, 5, NOW - 90_000, NOW - 1)], 3, [], NOW)
    block = b"".join(fill(number, number * 700, f"{100 + number % 7}.5") for number in range(6, 200))
    taken = put_through(maker, block)
    put_through(line, block)
    assert shown == plain
    assert [bar.complete for bar in shown] == [True] * len(shown)
    assert maker.counts() == line.counts()
    assert taken > 180
    for one in (maker, line):
        one.forget("okx", "BTC-USDT")
    assert maker.take(fill(200, 200 * 700), 0, NOW + 10**9) == (0, 0)


@built
def test_merged_trades_are_folded():
    """Each is of all its fills; one that overlaps the one before, or claims more than there can be, is looked at."""
    last, block, counts = 0, b"", [1, 3, 2, 1, 5] * 40
    for number, count in enumerate(counts):
        last += count
        block += fill(last, number * 900, f"{100 + number % 7}", count=count)
    block += fill(last + 2, 180_100, count=3) + fill(last + 3, 180_200, count=2) + fill(last + 6, 180_300, count=3)
    shown, bars = [], []
    for maker in (BlockCandleProcessor(folder(), "1m", bars.append), RealTimeCandleProcessor("1m", bars.append)):
        folded = put_through(maker, block)
        if isinstance(maker, BlockCandleProcessor):
            assert folded >= len(counts) - 8
        shown.append((list(bars), maker.counts()))
        bars.clear()
    assert shown[0] == shown[1]
    assert (shown[0][1]["trades"], shown[0][1]["overlapping"]) == (len(counts) + 2, 1)
    assert sum(bar.trade_count for bar in shown[0][0]) == last


@built
def test_sums_that_128_bits_do_not_hold():
    """They go to Python before they overflow, and not a digit is lost."""
    big = ("999999999999999999", "0.999999999999999999")
    block = b"".join(fill(number, number, *big) for number in range(1, 700)) + fill(700, 60_000)
    bars = []
    for maker in (BlockCandleProcessor(folder(), "1m", bars.append), RealTimeCandleProcessor("1m", bars.append)):
        put_through(maker, block)
    assert len(bars) == 2 and bars[0] == bars[1]
    assert bars[0].quote_volume == EXACT.multiply(EXACT.multiply(*map(model.Decimal, big)), 699)


@built
def test_inverse_contracts_are_looked_at_one_by_one():
    """Their base amount is a quotient, rounded a trade."""
    maker = BlockCandleProcessor(folder(), "1m")
    kind = {"kind": "swap", "state": "live", "contract_value": model.Decimal(100)}
    for symbol, contract, taken in (("BTC-USD-SWAP", "inverse", 0), ("BTC-USDT-SWAP", "linear", 1)):
        maker.feed(Instrument("okx", symbol, contract_type=contract, **kind))
        maker.feed(decode(fill(1, symbol=symbol)))
        assert maker.take(fill(2, 1, symbol=symbol), 0, NOW + 10**9)[1] == taken


@built
def test_a_thousand_symbols():
    """Each has its run."""
    bars = []
    maker = BlockCandleProcessor(folder(), "1m", bars.append)
    names = [f"S{number}-USDT" for number in range(1000)]
    for name in names:
        maker.feed(decode(fill(1, symbol=name)))
    block = b"".join(fill(number, number, symbol=name) for number in range(2, 12) for name in names)
    assert maker.take(block, 0, NOW + 10**9) == (len(block), 10_000)
    for name in names:
        maker.feed(decode(fill(12, 60_000, symbol=name)))
    assert [(bar.symbol, bar.trade_count) for bar in bars] == [(name, 11) for name in names]


def test_the_bounds_are_those_of_the_lines():
    """What stands in C stands in Python."""
    text = (ROOT / "okxcli/core/scan.h").read_text()
    for name in ("MIN_TIMESTAMP", "MAX_TIMESTAMP", "AHEAD_MS", "UNSTAMPED_AHEAD_MS"):
        assert int(re.search(rf"define {name} INT64_C\((\d+)\)", text)[1]) == getattr(model, name)
    assert int(re.search(r"define KERNEL (\d+)", text)[1]) == road.KERNEL
    assert f'origin, "{model.FILE_MERGED}"' in (ROOT / "okxcli/core/fill.h").read_text()


def test_a_kernel_of_other_sources_is_left_alone(monkeypatch):
    """After an update without a new build."""
    monkeypatch.delenv("OKX_PURE", raising=False)
    monkeypatch.setattr(road, "KERNEL", -1)
    assert kernel(KERNELS[0]) is None
    assert road.road()[0] == "Python alone"


def raw_market(size):
    """Return raw pushes, a few of them bad."""
    rng = random.Random(5)
    lines = []
    for number in range(1, size):
        at = NOW + number * 37 - rng.choice([0, 0, 0, 90])
        lines.append(push(number, px=f"{rng.randrange(9000, 11000) / 100:.2f}", ts=str(at)))
        if rng.random() < 0.01:
            lines.append(rng.choice([lines[-1], b"", b"{}", push(number, side="b"), lines[0][:70], b"\xff"]))
    return b"\n".join(lines)


def piped(command, given, pure):
    env = {**os.environ, "OKX_PURE": str(pure)}
    done = subprocess.run(
        [sys.executable, "-m", "okxcli", *command], input=given, capture_output=True, check=False, env=env
    )
    return done.returncode, done.stdout, done.stderr


@built
@pytest.mark.parametrize("flags", [[], ["--pass"], ["--fill", "--partial"]], ids=" ".join)
def test_commands_on_both_roads(flags):
    """The same bytes on both streams, and the same end."""
    raw = raw_market(6_000)
    trades = [piped(["normalize"], raw, pure) for pure in (0, 1)]
    assert trades[0] == trades[1]
    assert trades[0][0] == 65 and trades[0][1].count(b"\n") > 5_900
    bars = [piped(["candles", "--tf", "1s,1m", "--no-live", *flags], trades[0][1], pure) for pure in (0, 1)]
    assert bars[0] == bars[1]
    assert bars[0][1].count(b'"candle"') > 220


@needs_cc
def test_nothing_is_built_quietly_badly(tmp_path):
    """The sources compile without a warning; what the compiler refuses is told."""
    warnings = ["-Werror", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-std=gnu11"]
    done = subprocess.run([*BUILD, tmp_path, *warnings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("*.abi3.so"))) == len(KERNELS)
    done = subprocess.run(
        [*BUILD, tmp_path, "-include", "no-such-header.h"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "CannotBuild" in done.stderr


@needs_cc
@pytest.mark.timeout(900)
def test_the_sanitizers_are_silent(tmp_path):
    """Under AddressSanitizer and UBSan, damaged inputs give no error and the same bytes; and they do look."""
    shutil.copytree(ROOT / "okxcli", tmp_path / "okxcli", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    flags = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    done = subprocess.run([*BUILD, tmp_path, *flags], capture_output=True, text=True, check=False)
    if done.returncode and "san" in done.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    preload = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{ROOT / 'scripts'}",
        "LD_PRELOAD": preload.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    env.pop("OKX_PURE", None)
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, "4000"], capture_output=True, text=True, check=False, env=env, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    inputs, accepted, findings = done.stdout.split(" ", 2)
    assert int(inputs) >= 4000 and int(accepted) > 400 and findings.strip() == "[]"
    assert "AddressSanitizer" in subprocess.run(
        [sys.executable, "-c", "import ctypes; ctypes.string_at(ctypes.CDLL(None).malloc(1) or 0, 1 << 30)"],
        capture_output=True, text=True, check=False, env=env,
    ).stderr  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("compiler", [pytest.param(True, marks=needs_cc), False], ids=["compiler", "no compiler"])
def test_installing(compiler, tmp_path):
    """With a compiler the kernels are in, without one it works without them; each says which road it takes."""
    tree = tmp_path / "tree"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "all.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    env = {
        **os.environ,
        "PATH": os.environ["PATH"] if compiler else str(tmp_path),
        "CC": "" if compiler else "no-such-cc",
    }
    env.pop("OKX_PURE", None)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
    done = subprocess.run(
        [*pip, "install", "-v", "--no-deps", "--no-build-isolation", "--no-index", str(tree)],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("without its C kernels" in done.stdout + done.stderr) == (not compiler)
    assert len(list(site.glob("okxcli/**/*.abi3.so"))) == (len(KERNELS) if compiler else 0)
    okx = [
        str(home / "bin" / "python"),
        "-c",
        "import sys; sys.path.remove('') if '' in sys.path else 0; from okxcli.start import main; main()",
    ]
    told = subprocess.run([*okx, "--version"], capture_output=True, text=True, check=True, env=env, cwd=tmp_path).stdout
    assert ("C kernels" if compiler else "Python alone; no C kernels were built") in told
    raw = raw_market(50)
    done = subprocess.run([*okx, "normalize"], input=raw, capture_output=True, check=False, env=env, cwd=tmp_path)
    assert done.stdout == piped(["normalize"], raw, 1)[1]


def test_what_is_built_is_what_is_loaded():
    """Every kernel has its source, its stub of a name, and the hook that builds it."""
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "okxcli").rglob("*.c"))
    assert [f"{path.parent.as_posix().replace('/', '.')}._{path.stem}" for path in sources] == [
        f"okxcli.{name}" for name in KERNELS
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["path"] == "scripts/kernels.py"
