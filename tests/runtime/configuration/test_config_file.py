"""The configuration: where it is found, what it yields, and that every mistake in it is told."""

import json
import logging
from pathlib import Path
from typing import get_args

import pytest

from okxcli.errors import ConfigError
from okxcli.exchanges.okx.normalize.row_forms import TIMEFRAMES
from okxcli.exchanges.registry import exchange
from okxcli.runtime.configuration import config_file as subject
from okxcli.runtime.configuration import config_keys
from okxcli.runtime.configuration.config import Config

ROOT = Path(__file__).parents[3]


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a document (or text) as a private file and returns its path."""

    def write(document, name="okx.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        path.chmod(0o600)
        return path

    return write


def mistakes(text):
    """Return the mistakes of a document or of text."""
    return config_keys.parse(text if isinstance(text, str) else json.dumps(text))[1]


def test_the_shipped_file_says_what_it_promises():
    """config/okx.json has the nine symbols, three channels, six timeframes, and the times that rows are kept."""
    found = subject.load(ROOT / "config" / "okx.json", {}, required=True)
    assert len(found.symbols) == 9 and {"BTC-USDT", "PEPE-USDT", "ETH-USDC"} <= {*found.symbols}
    assert found.channels == ("trades-all", "books5", "tickers")
    assert found.timeframes == ("1m", "5m", "15m", "1h", "4h", "1d")
    assert found.books_every_ms == 1000
    assert {name: found.keep_days[name] for name in ("books", "tickers", "trades", "candles")} == {
        "books": 7, "tickers": 30, "trades": None, "candles": None
    }  # fmt: skip


def test_an_empty_file_means_the_same_as_no_file(written):
    """The defaults of the file and the defaults without one are the same values."""
    path = written({})
    from_file = config_keys.to_config(config_keys.parse(path.read_text())[0], None)
    assert from_file == Config() == subject.load(None, {"HOME": str(path.parent)})


def test_every_key_reaches_the_configuration(written):
    """Each key of the file changes the value that the package sees."""
    found = subject.load(
        written(
            {
                "$schema": "okx.schema.json",
                "symbols": ["BTC-USD-260925-100000-C"],
                "channels": ["trades", "bbo-tbt"],
                "timeframes": ["1s", "1d+8"],
                "candles": {"lateness": "1m30s", "grace": "500ms", "fill": True},
                "storage": {
                    "dsn": "postgresql://db/okx",
                    "books_every": None,
                    "keep": {
                        "books": None,
                        "tickers": "1d",
                        "trades": "90d",
                        "candles": "365d",
                        "funding_rates": "400d",
                        "mark_prices": "2d",
                        "index_prices": "3d",
                        "open_interest": "4d",
                        "price_limits": "5d",
                        "liquidations": None,
                    },
                },
                "exchange": {
                    "ws_url": "wss://wseea.okx.com:8443/",
                    "rest_url": "https://eea.okx.com",
                    "connect_timeout": "1500ms",
                },
                "log": {"file": "/var/log/okx.log", "level": "debug"},
            }
        ),
        {},
    )
    assert found == Config(
        symbols=("BTC-USD-260925-100000-C",),
        channels=("trades", "bbo-tbt"),
        timeframes=("1s", "1d+8"),
        lateness_ms=90_000,
        grace_ms=500,
        fill=True,
        dsn="postgresql://db/okx",
        books_every_ms=0,
        keep_days={
            "books": None,
            "tickers": 1,
            "trades": 90,
            "candles": 365,
            "funding_rates": 400,
            "mark_prices": 2,
            "index_prices": 3,
            "open_interest": 4,
            "price_limits": 5,
            "liquidations": None,
        },
        ws_url="wss://wseea.okx.com:8443",
        rest_url="https://eea.okx.com",
        connect_timeout_s=1.5,
        log_file=Path("/var/log/okx.log"),
        log_level="debug",
        path=found.path,
    )


def test_the_search_goes_from_the_named_to_the_system_file(written, tmp_path, monkeypatch):
    """--config wins over OKX_CONFIG, that over the user's file, that over the system's."""
    system = written({"symbols": ["S-USDT"]}, "etc/okx.json")
    monkeypatch.setattr(subject, "SYSTEM_FILE", system)
    monkeypatch.chdir(system.parent)
    named = written({}, "named.json")
    by_variable = written({}, "variable.json")
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg"), "OKX_CONFIG": ""}
    assert subject.find(None, env) == system
    mine = written({}, "xdg/okx/okx.json")
    assert subject.find(None, env) == mine
    assert subject.find(None, {**env, "OKX_CONFIG": str(by_variable)}) == by_variable
    assert subject.find(named, {**env, "OKX_CONFIG": str(by_variable)}) == named


def test_the_working_directory_is_not_searched(written, tmp_path, monkeypatch):
    """A file that happens to lie where the command was started decides nothing."""
    monkeypatch.setattr(subject, "SYSTEM_FILE", tmp_path / "none" / "okx.json")
    here = written({"symbols": ["BTC-USDT"]})
    monkeypatch.chdir(here.parent)
    assert subject.find(None, {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": "."}) is None


def test_five_mistakes_are_told_at_once(written):
    """One reading tells all five, each on its own line with key, fault and what is allowed."""
    path = written(
        {
            "symbols": ["BTC-USDT", "eth/usdt"],
            "channels": ["trades-all", "book5"],
            "timeframes": ["7m"],
            "storage": {"keep": {"bocks": "7d"}, "books_every": "soon"},
        }
    )
    with pytest.raises(ConfigError) as caught:
        subject.load(path, {})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 5 mistakes"
    assert len(lines) == 6 and caught.value.exit_code == 78
    assert lines[1:] == ["  " + line for line in config_keys.parse(subject.read(path))[1]]
    for key, fault in [
        ("symbols[1]: ", "did you mean ETH-USDT?"),
        ("channels[1]: ", "did you mean books5?"),
        ("timeframes[0]: ", "7m"),
        ("storage.books_every: ", '"soon" is no duration; write 1s (100ms to 1d), or null'),
        ("storage.keep.bocks: ", "unknown key; did you mean books?"),
    ]:
        assert any(line.startswith("  " + key) and fault in line for line in lines), key


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ('{"symbols": ["BTC-USDT",]}', "line 1, column 25: not JSON"),
        ("[]", "not a JSON object"),
        ('{"a": NaN}', "not JSON: NaN is no JSON number"),
        ("[" * 200_000, "not JSON: nested too deep"),
        ('{"symbols": [], "symbols": ["BTC-USDT"]}', "symbols: given twice"),
        ('{"storage": {"keep": {"books": null, "books": "7d"}}}', "storage.keep.books: given twice"),
        ({"symbols": "BTC-USDT"}, 'symbols: "BTC-USDT" is not a list'),
        ({"symbols": [1]}, "symbols[0]: 1 is not text in double quotes"),
        ({"symbols": ["BTC-USDT", "BTC-USDT"]}, "symbols: BTC-USDT given more than once"),
        ({"symbols": ["x'; drop table--"]}, "write it as the exchange does, such as BTC-USDT"),
        ({"channels": []}, "channels: empty; name at least one of trades-all"),
        ({"channels": ["books5"]}, "timeframes: bars are made from trades; add trades-all to channels"),
        ({"candles": {"lateness": 10}}, "candles.lateness: 10 is not text in double quotes"),
        ({"candles": {"grace": "2h"}}, 'candles.grace: "2h" is out of range; write 2s (at most 1m)'),
        ({"candles": {"fill": "yes"}}, 'candles.fill: "yes" is not true or false'),
        ({"candles": []}, "candles: [] is not an object, {...}"),
        ({"storage": {"keep": {"books": "7h"}}}, 'storage.keep.books: "7h" is no number of days; write 7d, or null'),
        ({"storage": {"books_every": "1ms"}}, "storage.books_every: "),
        ({"storage": {"books_depth": 0}}, "books_depth: 0 is out of range; write 1 to 400, or null for all levels"),
        ({"storage": {"books_depth": 401}}, "storage.books_depth: 401 is out of range"),
        ({"storage": {"books_depth": "25"}}, 'storage.books_depth: "25" is not a whole number'),
        ({"exchange": {"ws_url": "https://ws.okx.com"}}, "write wss://host or ws://host:port"),
        ({"exchange": {"ws_url": "wss://ws.okx.com/ws/v5/public"}}, "the path is added by okx"),
        ({"exchange": {"rest_url": "http://[::1"}}, "is no address"),
        ({"exchange": {"rest_url": "http://x:99999"}}, "is no address"),
        ({"log": {"level": "loud"}}, 'log.level: "loud" is none of debug, info, warning, error'),
        ({"log": {"file": ""}}, "log.file: empty; write a path, or null"),
        ({"a key\nof two lines": 1}, '"a key\\nof two lines": unknown key; known: $schema, symbols'),
    ],
)
def test_each_mistake_is_told_in_one_line(document, told):
    """A mistake is one line that names the key, what is wrong and what is allowed."""
    found = mistakes(document)
    assert len(found) == 1 and told in found[0] and "\n" not in found[0], found


def test_a_wrong_dsn_is_not_shown():
    """What cannot be read as a connection string may hold a password: neither it nor libpq's words are repeated."""
    for value in ("host=db passwort sesame", ["sesame"]):
        (found,) = mistakes({"storage": {"dsn": value}})
        assert found.startswith("storage.dsn: ") and "sesame" not in found


def test_a_password_that_others_can_read_is_warned_about(written, caplog):
    """The warning names the remedy, not the password; a private file or one without a password is quiet."""
    path = written({"storage": {"dsn": "postgresql://okx:sesame@db/okx"}})
    with caplog.at_level(logging.WARNING, "okxcli"):
        subject.load(path, {})
        assert not caplog.records
        path.chmod(0o640)
        subject.load(path, {})
    (record,) = caplog.records
    assert f"chmod 600 {path}" in record.getMessage() and "sesame" not in record.getMessage()
    caplog.clear()
    path.write_text('{"storage": {"dsn": "postgresql://db/okx"}}')
    subject.load(path, {})
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "told"), [(b"\xff\xfe", "not UTF-8"), (b" " * (subject.MAX_BYTES + 1), "over 1 MiB")]
)
def test_what_is_no_configuration_is_refused(tmp_path, content, told):
    """A binary, or a huge file, named by mistake gives one clear line."""
    path = tmp_path / "okx.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        subject.load(path, {})


def test_a_missing_file_is_an_error_and_a_missing_default_is_not(tmp_path, monkeypatch):
    """A file that was named must be there; without one the defaults hold, unless one is required."""
    monkeypatch.setattr(subject, "SYSTEM_FILE", tmp_path / "system.json")
    env = {"HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        subject.load(tmp_path / "named.json", env)
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        subject.load(tmp_path, env)
    assert subject.load(None, env) == Config()
    with pytest.raises(ConfigError, match="okx config init"):
        subject.load(None, env, required=True)


def test_a_required_configuration_must_name_symbols(written):
    """The collector cannot start from a file that names no symbol; others can read such a file."""
    path = written({"storage": {"dsn": "postgresql://db/okx"}})
    assert subject.load(path, {}).dsn == "postgresql://db/okx"
    with pytest.raises(ConfigError, match="symbols: none given"):
        subject.load(path, {}, required=True)


def test_the_dsn_is_in_no_repr(written):
    """A configuration that is printed or logged does not show the connection string."""
    found = subject.load(written({"storage": {"dsn": "postgresql://okx:sesame@db/okx"}}), {})
    assert "sesame" not in repr(found)


def test_the_schema_knows_every_key_and_describes_it():
    """The JSON Schema is closed, and every key in it has a description."""
    schema = config_keys.json_schema()
    for name, section in [("okx.json", schema), *schema["$defs"].items()]:
        assert section["additionalProperties"] is False, name
        for key, value in section["properties"].items():
            assert value.get("description") or "$ref" in value, f"{name}: {key}"
    assert set(schema["properties"]) >= {"symbols", "channels", "timeframes", "candles", "storage", "exchange", "log"}


def test_the_exchanges_own_candles_are_channels():
    """By the names that the exchange gives them; one that no timeframe describes is refused with those that are."""
    names = [name for name in get_args(config_keys.Channel) if name.startswith("candle")]
    frames = {exchange().timeframe_of(name) for name in names}
    assert frames >= {"1s", "1m", "6h", "1d", "1d+8", "1w", "1w+8", "1M", "1M+8"} and None not in frames
    assert len(frames) == len(names) and {*names} == {*TIMEFRAMES}
    parse = config_keys.parse
    document, mistakes = parse(json.dumps({"channels": ["candle1m", "candle1D"], "timeframes": []}))
    assert not mistakes and document.channels == ["candle1m", "candle1D"]
    for bad, hint in (("candle1h", "candle1H"), ("candle1dUTC", "candle1Dutc"), ("funding", "funding-rate")):
        _, (mistake,) = parse(json.dumps({"channels": [bad], "timeframes": []}))
        assert "candle1m and its like" in mistake and f"did you mean {hint}?" in mistake
    _, mistakes = parse(json.dumps({"channels": ["candle1m"]}))
    assert mistakes == ["timeframes: bars are made from trades; add trades-all to channels, or write []"]
