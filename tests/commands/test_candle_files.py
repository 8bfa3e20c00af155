"""`okx candles FILE` where FILE is a bulk file of the exchange: what the pipe of commands makes of it."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from bulk_files import chinese, daily, modern, newest, write

from okxcli.core.codec import encode
from okxcli.core.decimals import ZERO
from okxcli.core.model import Instrument

HOUR = 3_600_000
MIDNIGHT = 1_779_033_600_000
SWAP = "BTC-USDT-SWAP"


def made(count=600, first=1_000, start=MIDNIGHT - HOUR):
    """Return fills over two days of the exchange, several in a millisecond."""
    return [
        SimpleNamespace(
            trade_id=first + n, price=f"{10_000 + n * 7 % 90}.5", size=f"0.{n % 9 + 1}",
            side=("buy", "sell")[n % 5 > 2], ts=start + n // 3 * 40_000, source=0,
        )
        for n in range(count)
    ]  # fmt: skip


def okx(*arguments, given=b"", **env):
    env = {**os.environ, "OKX_REST_URL": "http://127.0.0.1:1", "OKX_WS_URL": "ws://127.0.0.1:1", **env}
    command = [sys.executable, "-m", "okxcli", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=100, env=env)
    return done.returncode, done.stdout, done.stderr.decode()


def piped(paths, symbol="BTC-USDT", *options):
    """Return what history, normalize and candles make of files."""
    raw = okx("history", symbol, *(word for path in paths for word in ("--files", path)), "-q")[1]
    lines = okx("normalize", "-q", given=raw)[1]
    return okx("candles", "-q", "--no-live", *options, given=lines)[1]


@pytest.mark.parametrize("pure", ["", "1"], ids=["kernels", "python"])
def test_the_bytes_of_the_pipe(tmp_path, pure):
    """Files of several days and generations, named in any order."""
    fills = made()
    paths = [
        *daily(tmp_path / "old", "BTC-USDT", fills[:200], chinese),
        *daily(tmp_path / "new", "BTC-USDT", fills[200:], newest, packed=False),
    ]
    assert len(paths) == 3
    options = ("--tf", "1m,1h,1d+8", "--fill")
    expected = piped(paths, "BTC-USDT", *options)
    code, bars, told = okx("candles", "-q", *options, *reversed(paths), OKX_PURE=pure)
    assert (code, bars, told) == (0, expected, "")
    assert bars.count(b'"complete":true') > 100
    passed = okx("candles", "-q", *options, "--pass", *paths, OKX_PURE=pure)[1]
    assert passed == piped(paths, "BTC-USDT", *options, "--pass")
    assert passed.count(b'"trade"') == 600


def test_an_instrument_says_what_a_size_is_worth(tmp_path):
    """Its line comes from standard input or a file named before."""
    paths = daily(tmp_path, SWAP, made(90), modern, packed=False)
    kind = Instrument("okx", SWAP, "swap", "live", contract_type="linear", contract_value=ZERO + 100)
    options = ("-q", "--tf", "1m")
    code, bars, _ = okx("candles", *options, "-", *paths, given=encode(kind) + b"\n")
    assert code == 0
    first = json.loads(bars.splitlines()[0])
    assert float(first["base_volume"]) == float(first["volume"]) * 100
    assert json.loads(okx("candles", *options, *paths)[1].splitlines()[0])["base_volume"] is None


def test_all_symbols_of_a_file(tmp_path):
    """Those that its rows name; of one without names and without a name of its own nobody knows."""
    one, other = made(60), made(60, 5_000)
    rows = modern("A-USDT", one) + modern("B-USDT", other).partition(b"\n")[2]
    path = write(tmp_path, "allspot-trades-2026-05-18", rows)
    bars = [json.loads(line) for line in okx("candles", "-q", "--tf", "1m", path)[1].splitlines()]
    assert {bar["symbol"] for bar in bars} == {"A-USDT", "B-USDT"}
    code, bars, told = okx("candles", "-q", "--tf", "1m", write(tmp_path, "x", chinese("", one), packed=False))
    assert (code, bars) == (65, b"")
    assert "nothing in it tells the instrument" in told


def test_what_cannot_be_read(tmp_path):
    """Rows are told by their number and counted, as are files; with --strict that is the end."""
    data = modern("BTC-USDT", made(60)).replace(b",buy,", b",bye,", 1)
    path = write(tmp_path, "BTC-USDT-trades-2026-05-18", data)
    broken = tmp_path / "BTC-USDT-trades-2026-05-19.zip"
    broken.write_bytes(b"PK nothing")
    code, bars, told = okx("candles", "--tf", "1m", path, broken)
    assert code == 65 and bars.count(b"\n") > 10
    assert "row 2: side is 'bye'" in told and f"left out: cannot read {broken}" in told
    assert json.loads(told.splitlines()[-1].removeprefix("okx candles: "))["rejected"] == 2
    code, bars, told = okx("candles", "--tf", "1m", "--strict", path)
    assert code == 65 and bars == b"" and "some of the input cannot be read: see above" in told


@pytest.mark.parametrize("pure", ["", "1"], ids=["kernels", "python"])
def test_a_fill_of_the_future(tmp_path, pure):
    """It is rejected as from the pipe, with the row as it stands there where rows are read, and its place."""
    fills = made(60)
    fills[30].ts = 4_000_000_000_000
    path = write(tmp_path, "x", modern("BTC-USDT", fills), packed=False)
    code, bars, told = okx("candles", "--tf", "1m", "--rejects", tmp_path / "bad", path, OKX_PURE=pure)
    assert code == 65 and bars == piped([path], "BTC-USDT", "--tf", "1m")
    assert f"okx candles: {path}: row 32: " in told or pure
    (bad,) = (tmp_path / "bad").read_text().splitlines()
    assert ("BTC-USDT,1030," in json.loads(bad)["raw"]) != bool(pure)


def test_bars_of_the_exchange(tmp_path):
    """With --from 1m the files of bars are read; they have no other length."""
    rows = [f"BTC-USDT,1,3,1,2,5,5,9,{MIDNIGHT + minute * 60_000},1" for minute in range(120)]
    header = "instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm"
    path = write(tmp_path, "BTC-USDT-candlesticks-2026-05-18", "\n".join([header, *rows, ""]).encode())
    code, bars, _ = okx("candles", "-q", "--tf", "1h", "--from", "1m", path)
    assert code == 0
    (bar,) = (json.loads(line) for line in bars.splitlines()[:1])
    assert (bar["timeframe"], bar["high"], bar["volume"]) == ("1h", "3", "300")
    code, _, told = okx("candles", "--tf", "1h", "--from", "5m", path)
    assert code == 2 and "--from 1m, not --from 5m" in told


def test_files_of_lines_beside_it(tmp_path):
    """They are read in the order in which they are named."""
    fills = made(90)
    first = tmp_path / "first.jsonl"
    path = write(tmp_path, "x", modern("BTC-USDT", fills[:45]), packed=False)
    raw = okx("history", "BTC-USDT", "-q", "--files", path)[1]
    first.write_bytes(okx("normalize", "-q", given=raw)[1])
    second = write(tmp_path, "y", modern("BTC-USDT", fills[45:]), packed=False)
    whole = write(tmp_path, "z", modern("BTC-USDT", fills), packed=False)
    options = ("candles", "-q", "--tf", "1m")
    assert okx(*options, first, second) == okx(*options, whole)
    assert okx(*options, "no-such.csv")[0] == 2
