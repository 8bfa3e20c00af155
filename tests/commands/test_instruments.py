"""`okx instruments` as a process, against the local exchange."""

import json
import os
import subprocess
import sys

import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options


@pytest.fixture(scope="module")
def exchange():
    symbols = ["BTC-USDT", "ETH-USDC", "PEPE-USDT", "BTC-USDT-SWAP"]
    with LocalExchange(symbols, rate=0, history_s=0, options=Options(limits=0)) as exchange:
        yield exchange


@pytest.fixture
def run(exchange):
    def run(*arguments):
        env = {**os.environ, "OKX_REST_URL": exchange.rest_url}
        command = [sys.executable, "-m", "okxcli", "instruments", *arguments]
        return subprocess.run(command, env=env, capture_output=True, check=False, timeout=30)

    return run


def test_lines_of_all_kinds(run):
    """One instrument line each, sorted, with what a size of it means."""
    done = run()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["symbol"] for line in lines] == ["BTC-USDT", "BTC-USDT-SWAP", "ETH-USDC", "PEPE-USDT"]
    assert all(line["type"] == "instrument" and line["state"] == "live" for line in lines)
    swap = lines[1]
    assert (swap["kind"], swap["base"], swap["quote"], swap["contract_value"]) == ("swap", "BTC", "USDT", "0.01")


@pytest.mark.parametrize(
    ("arguments", "symbols"),
    [
        ([], "BTC-USDT BTC-USDT-SWAP ETH-USDC PEPE-USDT"),
        (["--kind", "spot"], "BTC-USDT ETH-USDC PEPE-USDT"),
        (["--kind", "swap,futures"], "BTC-USDT-SWAP"),
        (["--quote", "usdt"], "BTC-USDT BTC-USDT-SWAP PEPE-USDT"),
        (["--quote", "USDT,USDC", "--base", "BTC, ETH", "--kind", "spot"], "BTC-USDT ETH-USDC"),
        (["--quote", "EUR"], ""),
    ],
)
def test_names_alone_and_choices(run, arguments, symbols):
    """--symbols writes names; kinds, quote and base currencies choose."""
    done = run("--symbols", *arguments)
    assert (done.returncode, done.stdout.decode().split()) == (0, symbols.split())


def test_what_does_not_trade_is_left_out_unless_asked_for(exchange, run):
    """A suspended instrument is shown with --all alone."""
    exchange.set_state("PEPE-USDT", "suspend")
    assert b"PEPE" not in run("--symbols").stdout
    assert b"PEPE" in run("--symbols", "--all").stdout
    exchange.set_state("PEPE-USDT", "live")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--kind", "bond"], 2, "no kind of instrument: 'bond'"),
        (["--kind", "option"], 2, "--family"),
        (["--rest-url", "http://127.0.0.1:9"], 69, "connection refused"),
        (["--rest-url", "okx"], 2, "not a REST base"),
    ],
)
def test_mistakes_are_told_in_one_line(run, arguments, code, told):
    """Each with its exit code, and no traceback."""
    done = run(*arguments)
    assert done.returncode == code
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("okx instruments: ")
    assert told in line


def test_names_and_patterns(run):
    """Those alone, whatever else narrows them."""
    assert run("--symbols", "*-USDT").stdout == b"BTC-USDT\nPEPE-USDT\n"
    assert run("--symbols", "BTC-*", "ETH-USDC").stdout == b"BTC-USDT\nBTC-USDT-SWAP\nETH-USDC\n"
    assert run("--symbols", "--kind", "swap", "*").stdout == b"BTC-USDT-SWAP\n"
    assert run("--symbols", "DOGE-*").stdout == b""
