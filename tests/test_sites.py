"""A simulation never lands in a real tape: its lines say where they are from, through every step."""

import json
import os
import subprocess
import sys

import psycopg
import pytest

from okxcli.commands.ways import way
from okxcli.core.origin import site_event, site_line, site_told
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.runtime.configuration.config import Config

OKX = f'"{sys.executable}" -m okxcli'


@pytest.fixture(scope="module")
def exchange():
    with LocalExchange(["BTC-USDT"], rate=100, history_s=30, options=Options(limits=0)) as exchange:
        yield exchange


@pytest.fixture
def shell(tmp_path, database):
    """Run a shell script in which `okx` is ours, on the fresh database, with no word about any exchange."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env = clean | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "OKX_DSN": database}

    def run(script, **more):
        text = "set -o pipefail\n" + script.replace("okx ", f"{OKX} ")
        return subprocess.run(["bash", "-c", text], env=env | more, capture_output=True, check=False, timeout=60)

    return run


def stored(database):
    with psycopg.connect(database) as connection:
        return [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("raw_trades", "market_data")
        ]


@pytest.mark.parametrize(
    "source",
    ["stream BTC-USDT -n 300 -q --ws-url {ws} --rest-url {rest}", "history BTC-USDT --since 5s -q --rest-url {rest}"],
)
@pytest.mark.parametrize(
    "steps", ["", "| okx candles --tf 1s --no-live -q ", "| okx candles --tf 1s --pass --no-live -q "]
)
def test_a_store_without_the_variable_takes_nothing_of_a_simulation(exchange, shell, database, source, steps):
    """Whatever steps are between: exit 78, one line that says why, and nothing stored; with the variable it is."""
    source = source.format(ws=exchange.ws_url, rest=exchange.rest_url)
    done = shell(f"okx {source} | okx normalize -q {steps}| okx store -q")
    assert done.returncode == 78, done.stderr
    assert b"these lines are from local, and" in done.stderr and b"OKX_WS_URL" in done.stderr
    assert stored(database) == [0, 0]
    done = shell(f"okx {source} | okx normalize -q {steps}| okx store -q", OKX_WS_URL=exchange.ws_url)
    assert done.returncode == 0, done.stderr
    assert sum(stored(database)) > 0


def test_files_say_it_too(exchange, shell, database, tmp_path):
    """A file of lines, raw or not, is from where it was made."""
    local = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
    raw, lines = tmp_path / "raw.gz", tmp_path / "lines"
    script = (
        f"okx history BTC-USDT --since 5s -q -o {raw} && okx normalize -q {raw} >{lines} && okx store --tee -q {lines}"
    )
    done = shell(script, **local)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0]) == {"type": "site", "site": "local"}
    done = shell(f"okx store -q {lines}", XDG_DATA_HOME=str(tmp_path / "data"), OKX_DSN="")
    assert done.returncode == 78, done.stderr
    assert b"these lines are from local" in done.stderr


def test_a_database_without_data_takes_any(shell, exchange):
    """Who was refused has not spoilt the database for what it is for."""
    assert shell("okx store </dev/null").returncode == 0
    local = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
    fill = "okx history BTC-USDT --since 5s -q | okx normalize -q | okx store -q"
    assert shell(fill, **local).returncode == 0
    done = shell("okx store </dev/null")
    assert done.returncode == 78
    assert b"holds data from local" in done.stderr


def test_okx_com_needs_no_line():
    """Its data stays as it is; other sites say who they are, however the line is written."""
    for url in ("wss://ws.okx.com", "wss://ws.okx.com:8443", "https://www.okx.com"):
        assert way(Config()).first_lines(url) == []
    assert way(Config()).first_lines("wss://wseea.okx.com") == [site_event("eea.okx.com")]
    for line in (site_event("eea.okx.com"), site_line("eea.okx.com"), b'{ "type" : "site", "site" : "eea.okx.com" }'):
        assert site_told(line) == "eea.okx.com"
    for line in (
        b"",
        b'"site"',
        b'{"site":"x"}',
        b'{"type":"trade","site":"x"}',
        b'{"type":"site","site":1}',
        b'["site"]',
    ):
        assert site_told(line) is None
