"""Everything that an exchange says of contracts, from the socket into rows and back, in one process and in a pipe."""

import json
import os
import subprocess
import sys

import pytest
from storage_samples import rows

from okxcli.core.states import STATES
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

OKX = [sys.executable, "-m", "okxcli"]
SYMBOLS = ["BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP"]
CHANNELS = [one.channel for one in STATES]


@pytest.fixture
def okx(tmp_path, database):
    """Run `okx` at a busy market, with a configuration of all its states and of its own candles."""
    channels = ["trades-all", *CHANNELS, "candle1s"]
    settings = {"symbols": SYMBOLS, "channels": channels, "timeframes": ["1s"]}
    (tmp_path / "okx.json").write_text(json.dumps(settings))
    with LocalExchange(SYMBOLS, rate=300, history_s=30, options=Options(limits=0)) as exchange:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
        env = clean | {
            "OKX_DSN": database, "HOME": str(tmp_path), "OKX_CONFIG": str(tmp_path / "okx.json"),
            "OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url,
        }  # fmt: skip

        def run(*arguments, data=b""):
            done = subprocess.run(
                [*OKX, *arguments], input=data, capture_output=True, env=env, check=False, timeout=120
            )
            assert done.returncode == 0, done.stderr.decode()
            return done.stdout

        yield run


def test_everything_is_collected(okx, database):
    """Rows of each type, of the symbols that have it, none refused; the exchange's bars beside ours, and equal."""
    okx("collect", "--duration", "10s", "--stats", "/dev/null")
    of_contracts = {"funding_rates", "open_interest", "liquidations"}
    for one in STATES:
        symbols = {symbol for (symbol,) in rows(database, f"SELECT DISTINCT symbol FROM {one.table}")}
        wanted = {"BTC-USDT", "BTC-USD"} if one.pairs else {*SYMBOLS[one.table in of_contracts :]}
        assert symbols == wanted, one.table
        lines = okx("read", one.word, *sorted(wanted)).splitlines()
        assert len(lines) == rows(database, f"SELECT count(*) FROM {one.table}")[0][0] > 1
        assert {json.loads(line)["type"] for line in lines} == {one.tag}
    assert rows(database, "SELECT count(*) FROM quarantine") == [(0,)]
    same = rows(database, """
        SELECT count(*), bool_and((a.open, a.high, a.low, a.close, a.volume, a.base_volume, a.quote_volume)
            = (b.open, b.high, b.low, b.close, b.volume, b.base_volume, b.quote_volume)),
            bool_and(b.trade_count IS NULL)
        FROM market_data a JOIN market_data b USING (exchange, symbol, timeframe, timestamp)
        WHERE a.origin = 'trades' AND b.origin = 'exchange' AND a.complete AND a.trade_count > 0
    """)  # fmt: skip
    assert same[0][0] > 10 and same[0][1:] == (True, True)
    assert rows(database, "SELECT DISTINCT origin, closed FROM market_data ORDER BY 1") == [
        ("exchange", True), ("trades", True),
    ]  # fmt: skip


def test_a_pipe_stores_the_same(okx, database):
    """`stream`, `normalize` and `store`, with the instruments that liquidations are measured by."""
    raw = okx("stream", *SYMBOLS, "-c", ",".join(CHANNELS), "--duration", "8s", "--stamp")
    lines = okx("normalize", data=raw)
    counts = {}
    for line in lines.splitlines():
        kind = json.loads(line)["type"]
        counts[kind] = counts.get(kind, 0) + 1
    okx("store", data=lines)
    for one in STATES:
        assert rows(database, f"SELECT count(*) FROM {one.table}")[0][0] == counts[one.tag], one.table
    worth = "CASE symbol WHEN 'BTC-USDT-SWAP' THEN size * 0.01 * bankruptcy_price ELSE size * 100 END"
    assert rows(database, f"SELECT bool_and(quote_size = {worth}) FROM liquidations") == [(True,)]
