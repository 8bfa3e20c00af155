"""`okx stream --private` as a process: what it writes, how it ends, and that it shows nothing of a key."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from okxcli.exchanges.okx.sites import addresses, origin_of
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.local.venue.account import KEY

#: `okx` by a clock that is an hour ahead.
LATE = """
import sys, time
ns, s = time.time_ns, time.time
time.time_ns, time.time = lambda: ns() + 3600 * 10**9, lambda: s() + 3600
from okxcli.cli import main
sys.argv[0] = "okx"
sys.exit(main())
"""
STREAM = [sys.executable, "-m", "okxcli", "stream", "--private"]


@pytest.fixture(scope="module")
def exchange():
    options = Options(limits=0)
    with LocalExchange(["BTC-USDT", "BTC-USDT-SWAP"], rate=20, history_s=0, account=True, options=options) as exchange:
        yield exchange


@pytest.fixture
def env(exchange, tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "XDG_", "CREDENTIALS"))}
    place = {"HOME": str(tmp_path), "OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
    return clean | place


def run(env, *arguments, start=STREAM):
    done = subprocess.run([*start, *arguments], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    assert not [part for part in KEY.values() if part in done.stdout + done.stderr]
    return done


@pytest.mark.parametrize("source", ["variables", "file", "systemd"])
def test_an_account_is_streamed(env, tmp_path, source):
    """With a key from each place; without channels those that every account has."""
    names = {"OKX_API_KEY": "api_key", "OKX_SECRET_KEY": "secret_key", "OKX_PASSPHRASE": "passphrase"}
    file = tmp_path / "okx"
    file.write_text(json.dumps({names[name]: value for name, value in KEY.items()}))
    file.chmod(0o600)
    more = {
        "variables": KEY,
        "file": {"OKX_CREDENTIALS": str(file)},
        "systemd": {"CREDENTIALS_DIRECTORY": str(tmp_path)},
    }
    done = run(env | more[source], "-n", "12", "-v")
    assert done.returncode == 0, done.stderr
    first, *lines = map(json.loads, done.stdout.splitlines())
    assert first == {"event": "site", "arg": {"channel": "site"}, "site": "local"}
    assert {line["arg"]["channel"] for line in lines} == {"orders", "account", "positions"}
    assert all(line["arg"]["uid"] and line["data"] for line in lines)


def test_normalize_passes_over_what_is_no_market_data(env):
    """It counts them by name, and does not fail."""
    raw = run(env | KEY, "-n", "5").stdout
    okx = [sys.executable, "-m", "okxcli", "normalize"]
    done = subprocess.run(okx, input=raw, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, [json.loads(line)["type"] for line in done.stdout.splitlines()]) == (0, ["site"])
    assert "messages of a channel that okx does not normalize" in done.stderr


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"OKX_API_KEY": "of-somebody"}, "OKX refuses the login (60032): API key doesn't exist."),
        ({"OKX_SECRET_KEY": "of-another-key"}, "OKX refuses the login (60007): Invalid sign."),
        ({"OKX_PASSPHRASE": "of-the-account"}, "OKX refuses the login (60024): Wrong passphrase."),
        ({"OKX_PASSPHRASE": ""}, "OKX_PASSPHRASE is missing"),
        ({"OKX_CREDENTIALS": "/nowhere"}, "cannot read the credentials /nowhere: No such file"),
    ],
)
def test_no_login(env, changed, told):
    """Exit 77, one line, with what to look at."""
    done = run(env | KEY | changed)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (77, "", 1)
    assert done.stderr.startswith(f"okx stream: {told}")
    assert not [value for value in changed.values() if value and value != "/nowhere" and value in done.stderr]


def test_a_key_that_others_can_read(env, tmp_path):
    """It is not used."""
    file = tmp_path / "key.json"
    file.write_text("{}")
    file.chmod(0o644)
    done = run(env, "--credentials", str(file))
    assert (done.returncode, done.stderr) == (77, f"okx stream: {file} can be read by others: chmod 600 {file}\n")


def test_a_wrong_clock(env):
    """A login is of its time: what is wrong, and what helps."""
    done = run(env | KEY, start=[sys.executable, "-c", LATE, "stream", "--private"])
    assert done.returncode == 77
    assert "OKX refuses the login (60006): Timestamp request expired. OKX takes a login for 30 s: set" in done.stderr


def test_nothing_of_a_key_shows_while_it_runs(env):
    """Neither among its arguments, nor in what it says at length."""
    process = subprocess.Popen([*STREAM, "-v"], env=env | KEY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        process.stdout.readline()
        time.sleep(0.5)
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert b"connected" in err
    assert not [part for part in KEY.values() if part.encode() in line + out + err]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--private", "BTC-USDT"], "a whole account: leave symbols, --type, --since and --resume out"),
        (["--private", "--since", "1h"], "a whole account: leave symbols, --type, --since and --resume out"),
        (["--private", "-c", "books5"], "books5 is no private channel of OKX. There are orders, "),
        (["BTC-USDT", "-c", "orders"], "orders is a channel of your account. Try: okx stream --private -c orders"),
        (["--private", "-c", ","], "no channel given: there is nothing to stream"),
        ([], "no symbol given. Try: okx stream BTC-USDT"),
        (["--private", "--demo"], "--site and --demo name addresses: leave --ws-url, --rest-url, OKX_WS_URL and"),
    ],
)
def test_what_does_not_go_together(env, arguments, told):
    """Exit 2, said in a line."""
    done = run(env | KEY, *arguments, start=[sys.executable, "-m", "okxcli", "stream"])
    assert done.returncode == 2
    assert told in done.stderr


def test_sites():
    """Each site has its hosts, and its name as an origin."""
    assert addresses("global", False) == ("wss://ws.okx.com", "https://www.okx.com")
    assert addresses("eea", True) == ("wss://wseeapap.okx.com", "https://eea.okx.com")
    assert [origin_of(addresses(site, demo)[0]) for site in ("global", "eea", "us") for demo in (False, True)] == [
        "okx.com", "demo.okx.com", "eea.okx.com", "demo.eea.okx.com", "us.okx.com", "demo.us.okx.com",
    ]  # fmt: skip
