"""Secrets stay secret, files stay private, certificates are verified, and names are only names."""

import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from hostile_server import HostileServer, answer
from test_hostile import GOOD_REST, PUSH, good, harmless, many, okx

from okxcli.errors import UsageError
from okxcli.exchanges.okx.rest import bounded_http
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.runtime.configuration.config_file import load
from okxcli.runtime.configuration.config_keys import parse
from okxcli.runtime.log import printable
from okxcli.storage.write.spool import Spool

PACKAGE = Path(__file__).parents[1] / "okxcli"
SECRET = "s3cr3t-Pa55"
DSNS = {
    "url": f"postgresql://user:{SECRET}@127.0.0.1:%d/db",
    "keywords": f"host=127.0.0.1 port=%d user=user password={SECRET} dbname=db",
    "query": f"postgresql://127.0.0.1:%d/db?user=user&password={SECRET}",
}


@pytest.fixture(scope="module")
def exchange():
    """An exchange that trades."""
    symbols = ["BTC-USDT", "ETH-USDT"]
    with LocalExchange(symbols, rate=20, history_s=60, options=Options(limits=0)) as running:
        yield running


@pytest.fixture
def dead():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def urls(exchange):
    return {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}


# ---- passwords


def test_a_password_shows_nowhere(exchange, tmp_path, dead):
    """Not in errors, tracebacks, logs, file names or `config show`, whatever the command and the form of the DSN."""
    config, log = tmp_path / "okx.json", tmp_path / "okx.log"
    config.write_text(json.dumps({"symbols": ["BTC-USDT"], "storage": {"dsn": DSNS["url"] % dead}}))
    config.chmod(0o600)
    collect = ("collect", "--config", config, "--log-file", log, "--duration", "1s", "-v")
    cases = [
        *(("url", command) for command in (
            ("gaps", "BTC-USDT"), ("read", "trades", "BTC-USDT"), ("store", "-v"), ("db", "path"), ("config", "show"),
            ("--debug", "status"), ("--debug", "store"), ("verify", "BTC-USDT", "--tf", "1m"),
        )),
        *((form, command) for form in ("keywords", "query") for command in (("status",), ("config", "show"))),
        *((None, command) for command in (
            collect, ("--debug", *collect), ("config", "show", "--config", config), ("config", "check", config),
        )),
    ]  # fmt: skip

    def act(case):
        form, command = case
        given = {"OKX_DSN": DSNS[form] % dead} if form else {}
        return okx(tmp_path / "home", *command, data=b"", **urls(exchange), **given)

    for case, done in many(cases, act).items():
        said = done.out.decode() + "\n".join(done.err)
        assert SECRET not in said, (case, said)
        assert done.code in (0, 1, 69, 75), (case, said)  # 1: the database is not the embedded one
        if "show" in case[1]:
            assert "***" in said, said
    for path in tmp_path.rglob("*"):
        assert SECRET not in path.name
        assert path == config or not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_password_in_an_argument_is_refused(tmp_path):
    """Everybody can see it in `ps`: exit 2, the remedy, and not the password once more."""
    dsns = [f"postgresql://u:{SECRET}@h/d", f"host=h password={SECRET}", f"host=h sslpassword={SECRET}"]
    commands = [("status",), ("store",), ("read", "trades", "BTC-USDT")]
    cases = list(zip(commands, dsns, strict=True))
    for done in many(cases, lambda case: okx(tmp_path / "home", *case[0], "--dsn", case[1], data=b"")).values():
        assert done.code == 2
        assert "--dsn holds a password" in done.err[0] and "OKX_DSN" in done.err[0]
        assert SECRET not in "".join(done.err)


def test_a_broken_dsn_is_not_quoted(tmp_path):
    """libpq's own complaint quotes it, so it is not passed on; by a configuration neither, nor in a traceback."""
    config = tmp_path / "okx.json"
    broken = f"host=h password='{SECRET}"
    config.write_text(json.dumps({"symbols": ["BTC-USDT"], "storage": {"dsn": broken}}))
    cases = [
        *((dsn, ("--debug", "status")) for dsn in (broken, SECRET)),
        *(("", command) for command in (("config", "check", config), ("--debug", "collect", "--config", config))),
    ]
    for case, done in many(cases, lambda case: okx(tmp_path / "home", *case[1], OKX_DSN=case[0])).items():
        assert done.code not in (0, 70), case
        assert SECRET not in "\n".join(done.err), case


@pytest.mark.parametrize(
    ("mode", "secret", "warned"),
    [(0o600, "password", False), (0o640, "password", True), (0o604, "sslpassword", True), (0o644, "", False)],
)
def test_a_configuration_that_others_can_read(tmp_path, caplog, mode, secret, warned):
    """With a password in it that is a warning with the remedy; without one it is nobody's business."""
    path = tmp_path / "okx.json"
    dsn = f"host=127.0.0.1 {secret}={SECRET}" if secret else "host=127.0.0.1"
    path.write_text(json.dumps({"symbols": ["BTC-USDT"], "storage": {"dsn": dsn}}))
    path.chmod(mode)
    loaded = load(path)
    assert (f"chmod 600 {path}" in caplog.text) is warned
    assert SECRET not in caplog.text
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize("schemes", [("ws", "wss"), ("http", "https")])
def test_a_base_address_holds_no_password(tmp_path, schemes):
    """OKX has no use for one there, and it would show in every log line: refused, and not quoted."""
    for url in (f"{schemes[1]}://me:{SECRET}@ws.okx.com", f"{schemes[0]}://{SECRET}@h", f"{schemes[0]}://{SECRET}@[h"):
        with pytest.raises(UsageError, match="holds a name or a password") as caught:
            bounded_http.base(url, schemes, "a base", "wss://ws.okx.com")
        assert SECRET not in str(caught.value)
    done = okx(tmp_path / "home", "stream", "BTC-USDT", "--ws-url", f"wss://me:{SECRET}@ws.okx.com")
    assert done.code == 2 and len(done.err) == 1 and SECRET not in done.err[0]


# ---- private files


def test_everything_that_is_made_is_private(exchange, tmp_path):
    """Under a umask that hides nothing: database, sockets, notes, log, budget, configuration, downloads."""
    home = tmp_path / "home"
    home.mkdir()
    places = {f"XDG_{name}_HOME": str(home / "deep" / name.lower()) for name in ("DATA", "STATE", "CONFIG", "CACHE")}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)} | places | urls(exchange)
    config, log = home / "deep" / "config" / "okx" / "okx.json", home / "okx.log"

    def start(*arguments):
        command = [sys.executable, "-c", "import os; os.umask(0); from okxcli.cli import main; main()"]
        return subprocess.Popen([*command, *arguments], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("config", "init").wait(60) == 0
    config.write_text(json.dumps({"symbols": ["BTC-USDT", "ETH-USDT"], "timeframes": ["1s"]}))
    collector = start("collect", "--log-file", str(log))
    try:
        assert exchange.wait_subscribed("trades-all", "ETH-USDT", 60)
        assert wait_for(lambda: b"connected" in log.read_bytes(), 30)
        made = open_to_others(home)  # the sockets are there while it runs
    finally:
        collector.terminate()
        collector.wait(60)
    with HostileServer() as files:
        files.http["/"] = answer(b"PK" + b"\0" * 100, length=10_000)
        base = ("--files-url", files.url("http"), "--rest-url", files.url("http"))
        span = ("--since", "2026-05-17T16:00Z", "--until", "2026-05-18T16:00Z")
        downloading = start("history", "BTC-USDT", "--download", *base, *span)
        try:
            assert wait_for(lambda: list(home.glob("deep/cache/okx/files/**/*.part")), 30)
        finally:
            downloading.kill()
            downloading.wait(30)
    made |= open_to_others(home)
    assert not made, made
    assert list(home.glob("okx/budget-*")) and list(home.glob("deep/data/okx/*.lock")) and log.read_bytes()


def wait_for(look, seconds):
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def open_to_others(home):
    """Return what others may read, write or list below `home`; a folder that one can only pass shows nothing.

    The programs of Postgres, of which root's server has a copy, are no secret.
    """
    found = set()
    for folder, names, files in os.walk(home):
        for name in [*names, *files]:
            path = Path(folder) / name
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue
            program = any(part.name.startswith("postgres-") for part in (path, *path.parents))
            allowed = 0o011 if stat.S_ISDIR(mode) else 0
            if not stat.S_ISLNK(mode) and not program and mode & 0o077 & ~allowed:
                found.add(f"{path.relative_to(home)} {stat.S_IMODE(mode):04o}")
    return found


def test_the_spool_is_private(tmp_path):
    """Its files hold what was collected: for the owner alone, with the folders above them, under any umask."""
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "a" / "b" / "c")
        spool.write([b"line"])
        spool.rotate()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.rglob("*"))]
    assert modes == [0o700, 0o700, 0o700, 0o600]


def test_a_link_in_the_place_of_the_budget_is_not_followed(exchange, tmp_path):
    """Somebody else's file is not written through a link that was put there."""
    home, victim = tmp_path / "home", tmp_path / "victim"
    (home / "okx").mkdir(parents=True, mode=0o700)
    victim.write_text("untouched")
    assert okx(home, "instruments", **urls(exchange)).code == 0
    places = list((home / "okx").glob("budget-*"))
    for place in places:
        place.unlink()
        place.symlink_to(victim)
    assert places and okx(home, "instruments", **urls(exchange)).code == 0
    assert victim.read_text() == "untouched"


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of 127.0.0.1: (its file, a server's context with it)."""
    folder = tmp_path_factory.mktemp("tls")
    key, place = folder / "key.pem", folder / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout {key} -out {place}"
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1"]
    if subprocess.run([*command.split(), *alternative], capture_output=True, check=False).returncode:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place, key)
    return place, context


def test_nobody_is_trusted_unasked(certificate, tmp_path):
    """A certificate that nobody vouches for: exit 69 and one clear line, and no variable changes that."""
    _, context = certificate
    weaken = dict.fromkeys(("PYTHONHTTPSVERIFY", "SSL_VERIFY", "OKX_VERIFY", "NODE_TLS_REJECT_UNAUTHORIZED"), "0")
    with HostileServer(tls=context) as server:
        server.http["/api/"] = GOOD_REST
        server.frames = good
        env = {"OKX_WS_URL": server.url("wss"), "OKX_REST_URL": server.url("https")} | weaken
        for command in (("instruments",), ("stream", "BTC-USDT", "-n", "1", "--connect-timeout", "2")):
            done = okx(tmp_path / "home", *command, **env)
            assert "its certificate is not valid: self" in harmless(done)
            assert done.code == 69 and done.out == b""
        assert not server.requests


def test_who_is_vouched_for_is_trusted(certificate, tmp_path):
    """SSL_CERT_FILE names whom to trust, for WebSocket and REST alike."""
    place, context = certificate
    with HostileServer(tls=context) as server:
        server.http["/api/"] = GOOD_REST
        server.frames = good
        env = {"SSL_CERT_FILE": str(place), "OKX_WS_URL": server.url("wss"), "OKX_REST_URL": server.url("https")}
        assert b"BTC-USDT" in okx(tmp_path / "home", "instruments", "--all", **env).out
        done = okx(tmp_path / "home", "stream", "BTC-USDT", "-n", "1", "--no-repair", **env)
        assert done.code == 0 and done.out.splitlines()[-1] == PUSH


def test_nothing_in_the_code_switches_verification_off():
    """No context without verification and no name that goes unchecked, anywhere in the package."""
    text = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    weak = r"CERT_NONE|check_hostname\s*=|verify\s*=\s*False|_create_unverified|cert_reqs|assert_hostname"
    assert not re.search(weak, text)


# ---- names


NAMES = [
    "'; DROP TABLE raw_trades; --", "../../etc/passwd", "/etc/passwd", "BTC-USDT\nokx: fine", "%s%n", "BTC\x1b[2J",
    "$(id)", "{0}", "\\N", "BTC-USDT\tX", '"', "A" * 500, "-n", "ＢＴＣ",
]  # fmt: skip


def test_names_that_are_none(exchange, database, tmp_path):
    """What cannot be a symbol is refused by its name, in one line, before anything is asked or written."""
    stream = ("stream", "--duration", "1s")
    download = ("history", "--download", "--since", "2026-05-17", "--files-url", exchange.rest_url)
    others = [
        ("history", "--since", "1h"),
        download,
        ("backfill", "--dry-run"),
        ("verify", "--tf", "1m"),
        ("simulate",),
    ]
    cases = [(stream, name) for name in NAMES[::3]] + [(command, name) for command in others for name in NAMES[1::8]]

    def act(case):
        return okx(tmp_path / "home", *case[0], "--", case[1], OKX_DSN=database, **urls(exchange))

    for case, done in many(cases, act).items():
        words = harmless(done)
        assert done.code in (2, 69, 78), (case, words)
        assert len(done.err) <= 2, (case, words)
    assert not [path for path in tmp_path.rglob("*") if "passwd" in path.name]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_configuration(name):
    """The same in a configuration: each is told, shortened and quoted."""
    _, mistakes = parse(json.dumps({"symbols": [name], "channels": [name], "timeframes": [name], name: name}))
    assert [mistake.split(":")[0] for mistake in mistakes if mistake.startswith("symbols")] == ["symbols[0]"]
    assert len(mistakes) >= 4 and all(len(mistake) < 300 and printable(mistake) == mistake for mistake in mistakes)


def test_names_reach_postgres_as_values_alone(database, tmp_path):
    """Through normalize, store, read and gaps: refused or stored as they are, and the tables stand."""
    home = tmp_path / "home"
    odd = ["A'B", "A;DROP TABLE raw_trades", "..", "A/../B", "A\\B", "A\x00B", "A\nB", "%s", "A B", "A.B_C-D", "x" * 65]
    rows = [
        {"type": "trade", "exchange": exchange, "symbol": name, "trade_id": 7, "count": 1, "side": "buy", "price": "1",
         "size": "1", "timestamp": 1747087163557, "origin": origin}
        for name in odd for exchange, origin in (("okx", "trades-all"), ("o'kx", "trades-all"), ("okx", "'; --"))
    ]  # fmt: skip
    row = {"tradeId": "7", "px": "1", "sz": "1", "side": "buy", "ts": "1747087163557"}
    pushes = [{"arg": {"channel": "trades-all", "instId": name}, "data": [{"instId": name, **row}]} for name in odd]
    done = okx(home, "normalize", data=b"".join(json.dumps(push).encode() + b"\n" for push in pushes))
    harmless(done)
    assert done.code == 65 and done.out.count(b"\n") == 1
    stored = okx(home, "store", data=b"".join(json.dumps(row).encode() + b"\n" for row in rows), OKX_DSN=database)
    harmless(stored)
    assert stored.code == 65
    cases = [(("read", "trades"), odd[1]), (("gaps",), odd[0]), (("gaps",), odd[7]), (("status",), odd[4])]
    for case, done in many(cases, lambda case: okx(home, *case[0], "--", case[1], OKX_DSN=database)).items():
        assert done.code in (0, 1, 2, 69), (case, done.err)
        harmless(done)
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT symbol, count(*) FROM raw_trades GROUP BY 1").fetchall()
    assert found == [("A.B_C-D", 1)]
