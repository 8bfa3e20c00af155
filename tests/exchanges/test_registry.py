"""The registry, and by way of it another exchange than OKX: collected, mended and told of by the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_exchange import raw

from okxcli.errors import ConfigError
from okxcli.exchanges.registry import DEFAULT, exchange
from okxcli.runtime.clock import now_ms

HELPERS = Path(__file__).parents[1] / "helpers"
_WITH_TOY = (
    "from okxcli.exchanges import registry; registry._MODULES['toy'] = 'toy_exchange';"
    "from okxcli.cli import main; main()"
)
MINUTE = 60_000


def test_what_is_there():
    """OKX is meant where nothing is said; what is not there is told with what there is."""
    assert exchange() is exchange(DEFAULT) is exchange("okx")
    with pytest.raises(ConfigError, match=r"^no exchange is called 'nowhere'\. There is okx"):
        exchange("nowhere")


def test_an_exchange_that_there_is_not(tmp_path):
    """Exit 78, from whatever reads the configuration; `okx config check` says so beforehand."""
    config = tmp_path / "okx.json"
    config.write_text(json.dumps({"symbols": ["BTC-USDT"], "exchange": {"name": "nowhere"}}))
    environment = os.environ | {"OKX_CONFIG": str(config), "HOME": str(tmp_path)}
    for command in (["config", "check"], ["collect"], ["stream", "BTC-USDT"], ["backfill"], ["status"]):
        done = subprocess.run(
            [sys.executable, "-m", "okxcli", *command], capture_output=True, env=environment, timeout=60, check=False
        )
        assert done.returncode == 78
        told = f"okx {command[0]}: {config}: exchange.name: no exchange is called 'nowhere'. There is okx"
        assert told.encode() in done.stderr


@pytest.fixture
def okx(tmp_path, database):
    """Run `okx ...` where the toy exchange is one of the exchanges, and configured."""
    begin = now_ms() // MINUTE * MINUTE - 10 * MINUTE
    sides = ("buy", "sell")
    fills = [raw("ABC-X", n, f"{100 + n % 7}.5", "0.25", sides[n % 2], begin + 2_000 * n) for n in range(1, 200)]
    (tmp_path / "fills").write_bytes(b"\n".join(fills))
    config = {"symbols": ["ABC-X"], "timeframes": ["1m"], "exchange": {"name": "toy"}}
    (tmp_path / "okx.json").write_text(json.dumps(config))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OKX_", "PG", "XDG_"))}
    more = {"TOY_FILLS": str(tmp_path / "fills"), "TOY_LOST": "31,32,33,90", "OKX_DSN": database}
    more |= {"OKX_CONFIG": str(tmp_path / "okx.json"), "HOME": str(tmp_path), "PYTHONPATH": str(HELPERS)}

    def run(*arguments, given=b""):
        command = [sys.executable, "-c", _WITH_TOY, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False, env=clean | more)
        assert b"Traceback" not in done.stderr, done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()

    return run


def test_another_exchange_is_collected_and_mended(okx, tmp_path):
    """Nothing but its folder and its name in the registry: trades, holes, repair, whole bars, all under its name."""
    code, _, told = okx("collect", "--duration", "2s")
    assert code == 0, told
    code, holes, _ = okx("gaps", "--lines")
    assert code == 1
    missing = [(one["exchange"], one["first"], one["last"]) for one in holes if one["kind"] == "missing"]
    assert missing == [("toy", 31, 33), ("toy", 90, 90)]
    code, rows, told = okx("backfill", "--no-download", "--lines")
    assert (code, [row["fetched"] for row in rows]) == (0, [4]), told
    code, ranges, _ = okx("gaps", "--lines", "--online")
    assert (code, [(one["kind"], one["first"], one["last"]) for one in ranges]) == (0, [("covered", 1, 199)])
    _, trades, _ = okx("read", "trades", "ABC-X")
    assert [trade["trade_id"] for trade in trades] == list(range(1, 200))
    assert {(trade["exchange"], trade["symbol"]) for trade in trades} == {("toy", "ABC-X")}
    _, bars, _ = okx("read", "candles", "ABC-X", "--tf", "1m")
    assert len(bars) == 6
    assert [(bar["exchange"], bar["complete"], bar["trade_count"]) for bar in bars[1:]] == [("toy", True, 30)] * 5
    (fill, *_), site = (
        (tmp_path / "fills").read_bytes().splitlines(),
        b'{"event":"site","arg":{"channel":"site"},"site":"x"}',
    )
    code, lines, told = okx("normalize", "-q", given=b"\n".join([site, fill, b"TOY;bad", fill]))
    assert (code, [line["type"] for line in lines]) == (65, ["site", "trade", "trade"]), told
    code, _, told = okx("history", "ABC-X", "--files", "*.zip")
    assert (code, "Toy has no bulk files" in told) == (2, True)
    code, _, told = okx("verify", "ABC-X")
    assert (code, "the toy exchange has no bars" in told) == (2, True)
