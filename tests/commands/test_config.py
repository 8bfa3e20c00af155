"""`okx config` as a user runs it: init, check, show, schema."""

import json
import stat
from pathlib import Path

import jsonschema
import pytest

from okxcli.cli import run
from okxcli.commands.serving import make_tables
from okxcli.core.states import STATES
from okxcli.local.exchange import LocalExchange
from okxcli.runtime.configuration import config_file as configuration

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Give the test an empty home without any configuration or database of the machine's own."""
    for name in ("OKX_CONFIG", "OKX_DSN", "OKX_WS_URL", "OKX_REST_URL", "PGHOST", "PGSERVICE", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(configuration, "SYSTEM_FILE", tmp_path / "etc" / "okx.json")
    return tmp_path


def rows(text):
    """Return the JSON lines of a command's output."""
    return [json.loads(line) for line in text.splitlines()]


def test_init_writes_a_private_file_that_check_finds_right(home, capsys):
    """The written file lies where okx looks for it, is readable by its owner alone, and passes the check."""
    assert run(["config", "init"]) == 0
    path = home / "config" / "okx" / "okx.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert f"wrote {path}" in capsys.readouterr().err
    assert run(["config", "check"]) == 0
    assert f"{path} is right" in capsys.readouterr().err


EXAMPLES = ("nine-symbols", "one-symbol", "usdt-pairs", "swaps", "redundant")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_right(home, capsys, name):
    """As it is shipped, and as it is written; an editor finds no fault in it either."""
    assert run(["config", "init", "--example", name]) == 0
    assert run(["config", "check"]) == 0
    written = json.loads((home / "config" / "okx" / "okx.json").read_text())
    jsonschema.validate(written, json.loads((CONFIG / "okx.schema.json").read_text()))
    assert {path.name for path in CONFIG.glob("*.json")} == {
        "okx.json", "okx.schema.json", *(f"{one}.json" for one in EXAMPLES[1:])}  # fmt: skip


def test_the_schema_in_the_tree_is_that_of_the_code(capsys):
    """Written by `okx config schema > config/okx.schema.json`."""
    assert run(["config", "schema"]) == 0
    assert capsys.readouterr().out == (CONFIG / "okx.schema.json").read_text()


def test_init_takes_lists(home, capsys):
    """Symbols, channels and timeframes instead of those of the example; mistakes are told, and nothing is written."""
    words = ["--symbols", "BTC-USDC, ETH-USDC", "--timeframes", "1m,2h", "--channels", "trades-all"]
    assert run(["config", "init", "--example", "usdt-pairs", *words]) == 0
    written = json.loads((path := home / "config" / "okx" / "okx.json").read_text())
    assert written == {
        "symbols": ["BTC-USDC", "ETH-USDC"], "channels": ["trades-all"], "timeframes": ["1m", "2h"],
        "storage": {"keep": {"trades": "90d", "candles": None}}}  # fmt: skip
    path.unlink()
    assert run(["config", "init", "--symbols", "btc/usdt", "--timeframes", "7x"]) == 78
    err = capsys.readouterr().err
    assert "did you mean BTC-USDT" in err and "timeframes[0]" in err
    assert not path.exists()


def test_check_tries_the_exchange_and_the_database(home, database, capsys, monkeypatch):
    """REST, a first message, Postgres, each in a line; a symbol that there is not is told with the nearest one."""
    path = home / "mine.json"
    path.write_text(json.dumps({"symbols": ["BTC-USDT"], "storage": {"dsn": database}}))
    with LocalExchange(["BTC-USDT", "ETH-USDT"], rate=50) as market:
        monkeypatch.setenv("OKX_WS_URL", market.ws_url)
        monkeypatch.setenv("OKX_REST_URL", market.rest_url)
        assert run(["config", "check", "--connect", str(path)]) == 0
        err = capsys.readouterr().err
        assert f"REST of OKX at {market.rest_url} answers; symbols that are there: 1" in err
        assert "its WebSocket answers, with data after " in err
        assert "there is no data yet, which the first run changes: " in err
        make_tables(database)
        assert run(["config", "check", "--connect", str(path)]) == 0
        assert "answers as okx; it takes writes" in capsys.readouterr().err
        path.write_text(json.dumps({"symbols": ["BTC-USDX"]}))
        assert run(["config", "check", "--connect", str(path)]) == 2
        assert "BTC-USDT" in capsys.readouterr().err
        path.write_text(json.dumps({"symbols": ["*-USDT"], "storage": {"dsn": "host=127.0.0.1 port=9 dbname=x"}}))
        assert run(["config", "check", "--connect", str(path)]) == 69
        err = capsys.readouterr().err
        assert "symbols that are there: 2" in err and "port 9" in err.replace("127.0.0.1:9", "port 9")
    assert run(["config", "check", "--connect", str(path)]) == 69
    assert "no answer from OKX" in capsys.readouterr().err


def test_init_replaces_a_file_only_when_told_to(home, capsys):
    """A configuration that is there is somebody's work: exit 2 without --force."""
    path = home / "mine.json"
    path.write_text("{}")
    assert run(["config", "init", str(path)]) == 2
    assert path.read_text() == "{}"
    assert "--force" in capsys.readouterr().err
    assert run(["config", "init", "--force", str(path)]) == 0
    assert "BTC-USDT" in path.read_text()


def test_init_says_where_it_cannot_write(home, capsys):
    """A path below a file gives one line and exit 74."""
    (home / "file").write_text("")
    assert run(["config", "init", str(home / "file" / "okx.json")]) == 74
    assert capsys.readouterr().err.startswith(f"okx config: cannot write {home}/file/okx.json: ")


def test_check_estimates_each_kind_beside_the_free_space(home, capsys):
    """Nine symbols at one book a second are 777,600 rows a day; what is dropped is bounded by its days."""
    run(["config", "init"])
    capsys.readouterr()
    assert run(["config", "check"]) == 0
    out, err = capsys.readouterr()
    found = {row["kind"]: row for row in rows(out)}
    assert list(found) == ["trades", "books", "tickers", "candles"]
    assert found["books"]["rows_a_day"] == 9 * 86_400
    assert found["books"]["kept_bytes"] == 7 * found["books"]["bytes_a_day"]
    assert found["candles"]["rows_a_day"] == 9 * (1440 + 288 + 96 + 24 + 6 + 1)
    assert found["trades"]["kept_bytes"] is None and found["trades"]["bytes_a_day"] > 50_000_000
    assert " GB a day" in err and f"Free for {home}/data/okx: " in err and "an estimate" in err.lower()


def test_check_estimates_every_channel(home, capsys):
    """Each state of contracts has its rows, of an index one of a pair; candles of the exchange are candles."""
    path = home / "okx.json"
    channels = [one.channel for one in STATES] + ["candle1m", "candle1Dutc"]
    wanted = {
        "symbols": ["BTC-USDT", "BTC-USDT-SWAP", "BTC-*"],
        "types": ["swap"],
        "channels": channels,
        "timeframes": [],
    }
    path.write_text(json.dumps(wanted))
    assert run(["config", "check", str(path)]) == 0
    found = {row["kind"]: row for row in rows(capsys.readouterr().out)}
    assert {*found} == {"candles", *(one.table for one in STATES)}
    assert found["candles"]["rows_a_day"] == 2 * 1441
    assert found["mark_prices"]["rows_a_day"] == 2 * found["index_prices"]["rows_a_day"] // 2
    assert found["funding_rates"]["rows_a_day"] == 86_400 // 30 and found["funding_rates"]["kept_bytes"] is None


def test_check_tells_of_the_rest_where_there_is_one(home, capsys):
    """Without books and tickers everything stays: no 0 MB to which the rest would grow."""
    path = home / "okx.json"
    for channels, told in (('["trades-all"]', False), ('["trades-all", "books5"]', True)):
        path.write_text(f'{{"symbols": ["BTC-USDT"], "channels": {channels}}}')
        assert run(["config", "check", str(path)]) == 0
        assert ("the rest grows to" in capsys.readouterr().err) == told


def test_check_tells_every_mistake_and_exits_78(home, capsys):
    """Five mistakes are five lines on standard error, and nothing is estimated."""
    path = home / "wrong.json"
    path.write_text(
        '{"symbols": ["btc-usdt"], "channels": ["x"], "timeframes": ["7m"], "colour": 1, "log": {"level": 3}}'
    )
    assert run(["config", "check", str(path)]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == f"okx config: {path}: 5 mistakes" and len(lines) == 6
    assert {line.split(":")[0].strip() for line in lines[1:]} == {
        "symbols[0]",
        "channels[0]",
        "timeframes[0]",
        "colour",
        "log.level",
    }


def test_check_without_any_file_says_how_to_make_one(home, capsys):
    """The places that were looked at and the remedy are told."""
    assert run(["config", "check"]) == 78
    err = capsys.readouterr().err
    assert "okx config init" in err and "okx config check FILE" in err and f"{home}/etc/okx.json" in err


def test_show_tells_where_each_value_comes_from_and_masks_the_password(home, monkeypatch, capsys):
    """File, environment and default are told apart; the password is never printed."""
    path = home / "okx.json"
    path.write_text('{"symbols": ["BTC-USDT"], "storage": {"dsn": "postgresql://okx:sesame@db/tape"}}')
    path.chmod(0o600)
    assert run(["config", "show", "--config", str(path)]) == 0
    out, err = capsys.readouterr()
    found = {row["key"]: row for row in rows(out)}
    assert found["symbols"] == {"key": "symbols", "value": ["BTC-USDT"], "from": str(path)}
    assert found["candles.lateness"]["from"] == "default"
    assert "sesame" not in out + err and "***" in found["storage.dsn"]["value"]
    monkeypatch.setenv("OKX_DSN", "host=other password=sesame")
    monkeypatch.setenv("OKX_WS_URL", "ws://127.0.0.1:1")
    assert run(["config", "show", "--config", str(path)]) == 0
    found = {row["key"]: row for row in rows(capsys.readouterr().out)}
    assert found["storage.dsn"]["from"] == "OKX_DSN" and "sesame" not in found["storage.dsn"]["value"]
    assert found["exchange.ws_url"]["value"] == "ws://127.0.0.1:1" and found["exchange.ws_url"]["from"] == "OKX_WS_URL"


def test_schema_prints_the_json_schema(home, capsys):
    """What is printed is JSON that knows the keys of the file."""
    assert run(["config", "schema"]) == 0
    assert "symbols" in json.loads(capsys.readouterr().out)["properties"]
