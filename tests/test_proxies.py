"""Behind a proxy: everything that goes to the exchange goes through it, and what it does wrong is told in a line."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from small_proxy import SmallProxy

from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.okx.connection.nonblocking_socket import DialError, Wire
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.local.network.port import Wire as Accepted
from okxcli.runtime.proxy import Proxies, parse

BTC = "BTC-USDT"
#: A host that no resolver knows (RFC 6761): only the proxy of the test knows the way.
HOST = "okx.test"


@pytest.fixture(scope="module")
def peers():
    """The addresses from which connections came to an exchange in this process."""
    found = set()
    made = Accepted.connection_made

    def record(self, transport):
        found.add(transport.get_extra_info("peername")[:2])
        made(self, transport)

    Accepted.connection_made = record
    yield found
    Accepted.connection_made = made


@pytest.fixture(scope="module")
def exchange(peers):
    with LocalExchange([BTC], rate=40, seed=8, history_s=240, options=Options(limits=0)) as exchange:
        yield exchange


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A server of bulk files: its port, its folder, and who asked it."""
    root = tmp_path_factory.mktemp("files")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(root))

        def log_message(self, *_):
            self.server.clients.add(self.client_address)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.clients = set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, root
    server.shutdown()
    server.server_close()


def away(exchange):
    """Return the variables by which the exchange is somewhere else."""
    port = exchange.ws_url.rpartition(":")[2]
    return {"OKX_WS_URL": f"ws://{HOST}:{port}", "OKX_REST_URL": f"http://{HOST}:{port}"}


def names(exchange):
    return {HOST: ("127.0.0.1", int(exchange.ws_url.rpartition(":")[2]))}


def environment(home, **variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    clean = {k: v for k, v in clean.items() if not k.lower().endswith("_proxy")}
    return clean | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)} | variables


def okx(env, *arguments, code=0, data=None, timeout=250):
    command = [sys.executable, "-m", "okxcli", *map(str, arguments)]
    done = subprocess.run(command, env=env, input=data, capture_output=True, check=False, timeout=timeout)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def published(root):
    """Put a bulk file of three days ago on the server; return the span that it covers."""
    at = int(time.time()) - 3 * 86_400
    day = time.strftime("%Y-%m-%d", time.gmtime(at + 8 * 3600))  # OKX's own
    place = root / "trades" / "daily" / day.replace("-", "")
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place / f"{BTC}-trades-{day}.zip", "w") as archive:
        rows = f"instrument_name,trade_id,side,price,size,created_time\n{BTC},7,buy,1,1,{at * 1000}\n"
        archive.writestr(f"{BTC}-trades-{day}.csv", rows)
    return "--since", at * 1000 - 1000, "--until", at * 1000 + 1000


@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("login", [("me", "p:/s é")])
def test_every_command_goes_through_it_and_nothing_beside(tmp_path, exchange, peers, files, database, kind, login):
    """The stream, the past, instruments, the collector, repair, comparison and bulk files; Postgres does not."""
    server, root = files
    peers.clear()
    server.clients.clear()
    user = "" if login is None else "me:p%3A%2Fs%20%C3%A9@"
    now = int(time.time() * 1000)
    (tmp_path / "okx.json").write_text(json.dumps({"symbols": [BTC], "timeframes": ["1m"]}))
    with SmallProxy(kind, names(exchange) | {"files.test": server.server_address}, login) as proxy:
        env = environment(tmp_path, OKX_DSN=database, OKX_CONFIG=str(tmp_path / "okx.json"), **away(exchange))
        env["ALL_PROXY"] = proxy.url(user)

        def through(*arguments, code=0):
            """Run a command and see that the proxy has led it to the exchange; return its output."""
            before = len(proxy.asked)
            done = okx(env, *arguments, code=code)
            assert len(proxy.asked) > before
            return done.stdout

        assert through("stream", BTC, "-n", 30).count(b'"tradeId"') == 30
        lines = okx(env, "normalize", "-q", data=through("history", BTC, "--since", now - 150_000)).stdout
        okx(env, "store", "-q", data=okx(env, "candles", "-q", "--tf", "1m", "--pass", data=lines).stdout)
        assert through("instruments", "--symbols") == b"BTC-USDT\n"
        assert b'"kind": "missing"' in through("gaps", "--online", "--until", "1s", code=1)
        through("collect", "-q", "--duration", "3s")
        through("backfill", "--since", now - 200_000, "--until", "1s")
        assert through("verify", "--since", now - 190_000, "-q") == b""
        base = f"http://files.test:{server.server_port}"
        past = through(
            "history", BTC, "--download", "--files", tmp_path / "kept", "--files-url", base, *published(root)
        )
        assert b'"tradeId":"7"' in past
        assert {host for host, _ in proxy.asked} == {HOST, "files.test"}
        assert (proxy.refused, peers <= proxy.peers, server.clients <= proxy.peers) == (0, True, True)
        assert peers and server.clients


def test_the_ways_to_name_it(tmp_path, exchange, peers):
    """The option before the configuration before the environment; NO_PROXY and this machine go straight."""
    home = environment(tmp_path, **away(exchange))
    here = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
    config = tmp_path / "okx.json"
    with SmallProxy("http", names(exchange)) as one, SmallProxy("socks5", names(exchange)) as other:
        dead = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"}

        def used(env, *options, code=0):
            one.asked.clear()
            other.asked.clear()
            okx(env, "stream", BTC, "-q", "-n", 1, "--connect-timeout", 5, *options, code=code)
            return bool(one.asked), bool(other.asked)

        assert used(home | {"HTTP_PROXY": one.url(), "ALL_PROXY": other.url()}) == (True, False)
        config.write_text(json.dumps({"exchange": {"proxy": other.url()}}))
        assert used(home | {"HTTP_PROXY": one.url(), "OKX_CONFIG": str(config)}) == (False, True)
        assert used(home | dead | {"OKX_CONFIG": str(config)}, "--proxy", one.url()) == (True, False)
        assert used(home | {"HTTP_PROXY": one.url(), "NO_PROXY": ".test"}, code=69) == (False, False)
        assert used(home | {"HTTP_PROXY": one.url()}, "--proxy", "none", code=69) == (False, False)
        # This machine's own exchange: by an explicit wish only, in all three ways.
        assert used(home | here | dead) == (False, False)
        assert used(home | here | dead, "--proxy", one.url()) == (True, False)
        assert used(home | here | dead, "--proxy", other.url(scheme="socks5")) == (False, True)
        assert other.asked[0][0] == "127.0.0.1"  # resolved here


def test_a_simulation_stays_on_this_machine(tmp_path):
    """`okx simulate -- COMMAND` asks no proxy, whatever is set."""
    with SmallProxy() as proxy:
        env = environment(tmp_path, ALL_PROXY=proxy.url(), HTTPS_PROXY=proxy.url(), HTTP_PROXY=proxy.url())
        inner = (sys.executable, "-m", "okxcli", "stream", BTC, "-n", 3, "-q")
        done = okx(env, "simulate", BTC, "--no-database", "--", *inner)
        assert (done.stdout.count(b'"tradeId"'), proxy.asked) == (3, [])


def test_names_and_passwords_show_nowhere(tmp_path, exchange, database):
    """Not in the log, at its fullest, nor in an error; `config show` leaves them out, and who may read them is told."""
    config = tmp_path / "okx.json"
    with SmallProxy("http", names(exchange), ("someone", "secret")) as proxy:
        env = environment(tmp_path, OKX_DSN=database, OKX_CONFIG=str(config), **away(exchange))
        content = {"symbols": [BTC], "exchange": {"proxy": proxy.url("someone:secret@")}}
        config.write_text(json.dumps(content))
        config.chmod(0o644)
        log = tmp_path / "log"
        done = okx(env, "collect", "-v", "--duration", "2s", "--log-file", log)
        assert proxy.asked
        shown = okx(env, "config", "show")
        assert proxy.url().encode() in shown.stdout
        wrong = environment(tmp_path, HTTP_PROXY=proxy.url("someone:secret2@"), **away(exchange))
        bad = okx(wrong, "instruments", code=69)
        assert f"the proxy {proxy.url()} does not accept the name and password".encode() in bad.stderr
        told = b"".join([done.stderr, log.read_bytes(), shown.stdout, shown.stderr, bad.stderr])
        assert b"secret" not in told and b"someone" not in told
        assert f"{config} holds a password and others can read it".encode() in done.stderr
        checked = okx(env, "config", "check", config)
        assert b"secret" not in checked.stderr + checked.stdout
        refused = okx(env, "instruments", "--proxy", proxy.url("a:secret@"), code=2)
        assert b"--proxy holds a password" in refused.stderr and b"secret" not in refused.stderr
    content["exchange"]["proxy"] = "socks4://a:secret@h"
    config.write_text(json.dumps(content))
    bad = okx(env, "config", "check", config, code=78)
    assert b"exchange.proxy: no kind of proxy that okx knows; write http://host:3128 or" in bad.stderr
    assert b"secret" not in bad.stderr


def says(data):
    """Answer whatever is asked with `data`, and hang up."""

    def spoil(connection):
        connection.recv(4096)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        hangs(connection)  # until the other side has read it: a close would take it back

    return spoil


def resets(connection):
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def hangs(connection):
    while connection.recv(4096):
        pass


def drips(connection):
    while True:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: "[:1])
        time.sleep(0.1)


def connects_and_hangs(connection):
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    hangs(connection)


PAGE = b"<html><body>Please log in</body></html>"
SPOILT = [
    ("http", says(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n" + PAGE), "(HTTP status 403)"),
    ("http", says(b"HTTP/1.0 407 Who\r\n\r\n"), "asks for a name and a password. Give them in HTTPS_PROXY or in"),
    ("http", says(b"HTTP/1.0 401 No\r\n\r\n"), "asks for a name and a password"),
    ("http", says(b"HTTP/1.1 302 Found\r\nLocation: http://x\r\n\r\n"), "(HTTP status 302)"),
    (
        "http",
        says(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 39\r\n\r\n" + PAGE),
        "answers with a page of HTML instead of a connection",
    ),
    ("http", says(PAGE), "answers with something that is no HTTP"),
    ("http", says(b"\x05\xff\x00\x00\x00\x00"), "answers with something that is no HTTP. Is it a SOCKS proxy?"),
    ("http", says(b"HTTP/9 what\r\n\r\n"), "answers with something that is no HTTP"),
    ("http", says(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000), "answers with a head of over 16 KiB"),
    ("http", says(b""), "closes the connection without an answer"),
    ("http", says(b"HTTP/1.1 200"), "closes the connection without an answer"),
    ("http", resets, "connection reset by peer"),
    ("http", hangs, "does not answer in time"),
    ("http", connects_and_hangs, "timed out, through the proxy "),
    ("http", says(b"HTTP/1.1 200 OK\r\n\r\n" + PAGE), "it speaks no TLS, through the proxy "),
    ("http", drips, "something that is no HTTP"),
    ("socks5", says(PAGE), "answers with something that is no SOCKS5. Is it an HTTP proxy?"),
    ("socks5", says(b"\x05\xff"), "asks for a name and a password"),
    ("socks5", says(b"\x05\x00\x05\x02\x00\x01" + bytes(6)), "its rules forbid it"),
    ("socks5", says(b"\x05\x00\x05\x05\x00"), "closes the connection without an answer"),
    ("socks5", says(b"\x05\x00\x05\x63\x00\x01"), "error 99"),
    ("socks5", says(b"\x05\x00\x04\x00\x00\x01"), "answers with something that is no SOCKS5"),
    ("socks5", says(b"\x05\x00\x05\x00\x00\x07"), "answers with something that is no SOCKS5"),
    ("socks5", resets, "connection reset by peer"),
    ("socks5", hangs, "does not answer in time"),
]


@pytest.mark.parametrize(("kind", "spoil", "told"), SPOILT, ids=lambda part: getattr(part, "__name__", part))
def test_a_proxy_that_does_wrong(kind, spoil, told):
    """REST and socket say the same in a line that names it, within their time, and nothing of what it sent."""
    with SmallProxy(kind, spoil=spoil) as proxy:
        way = Proxies(None, proxy.url(), {})
        rest = RestClient("https://okx.test", timeout_s=0.5, attempts=1, proxies=way)
        began = time.monotonic()
        with pytest.raises(ExchangeUnavailable) as by_rest:
            rest.time_ms()
        with pytest.raises(DialError) as by_socket:
            Wire.dial("wss://okx.test/ws", 0.5, parse(proxy.url()))
        assert time.monotonic() - began < 10
        for error in (str(by_rest.value), str(by_socket.value)):
            assert f"the proxy {proxy.url()}" in error
            assert told in error
            assert "html" not in error and "\n" not in error


def test_a_proxy_that_hangs_longer_than_we_wait(tmp_path):
    """It is named although its own time is not over."""
    with SmallProxy(spoil=hangs) as proxy:
        env = environment(tmp_path, HTTPS_PROXY=proxy.url())
        done = okx(env, "stream", BTC, "--connect-timeout", 1, code=69)
        told = "okx stream: cannot stream from OKX at wss://ws.okx.com/ws/v5/business: no answer yet, through the proxy"
        assert done.stderr.decode().splitlines()[-1].startswith(f"{told} {proxy.url()}. ")


def test_a_proxy_that_is_not_there(tmp_path):
    """Its address and the reason, exit 69, for the socket and for REST."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    env = environment(tmp_path, HTTPS_PROXY=url)
    done = okx(env, "stream", BTC, "--connect-timeout", 1, code=69)
    told = f"cannot stream from OKX at wss://ws.okx.com/ws/v5/business: the proxy {url}: connection refused. "
    assert done.stderr.decode().splitlines()[-1].startswith(f"okx stream: {told}")
    with pytest.raises(ExchangeUnavailable, match=f"the proxy {url}: connection refused"):
        RestClient("https://okx.test", attempts=1, proxies=Proxies(url)).time_ms()
    with pytest.raises(ExchangeUnavailable, match=r"the proxy http://proxy\.test:80: no such host"):
        RestClient("https://okx.test", attempts=1, proxies=Proxies("proxy.test")).time_ms()
    with pytest.raises(ExchangeUnavailable, match=r"no such host\. With socks5h:// the proxy"):
        RestClient("https://okx.test", attempts=1, proxies=Proxies("socks5://h")).time_ms()
    env = environment(tmp_path, HTTP_PROXY="ftp://x:secret@y")
    done = okx(env, "instruments", "--rest-url", "http://okx.test", code=2)
    assert b"HTTP_PROXY names no kind of proxy" in done.stderr and b"secret" not in done.stderr


@pytest.mark.parametrize(("kind", "scheme"), [("http", "http"), ("socks5", "socks5h"), ("socks5", "socks5")])
def test_addresses_of_ipv6(exchange, kind, scheme):
    """They are asked for as addresses, whoever resolves names."""
    port = int(exchange.ws_url.rpartition(":")[2])
    with SmallProxy(kind, {"2001:db8::7": ("127.0.0.1", port)}) as proxy:
        wire = Wire.dial(f"ws://[2001:db8::7]:{port}/ws/v5/business", 5, parse(proxy.url(scheme=scheme)))
        wire.close()
        rest = RestClient(f"http://[2001:db8::7]:{port}", attempts=1, proxies=Proxies(proxy.url(scheme=scheme)))
        assert rest.time_ms() > 0
        assert proxy.asked == [("2001:db8::7", port)] * 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate and its key for the host of the tests."""
    folder = tmp_path_factory.mktemp("tls")
    key, place = folder / "key.pem", folder / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={HOST} -addext subjectAltName=DNS:{HOST}"
    command += f" -keyout {key} -out {place}"
    if subprocess.run(command.split(), capture_output=True, check=False).returncode:
        pytest.skip("openssl cannot make a certificate here")
    return place, key


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_tls_is_with_the_exchange(tmp_path, certificate, kind):
    """Through the tunnel the exchange's own certificate is verified, by its name; another name is refused."""
    place, key = certificate
    with LocalExchange([BTC], rate=40, seed=8, history_s=20, options=Options(cert=place, key=key)) as exchange:
        port = int(exchange.ws_url.rpartition(":")[2])
        there = dict.fromkeys((HOST, "other.test"), ("127.0.0.1", port))
        with SmallProxy(kind, there) as proxy:
            env = environment(tmp_path, HTTPS_PROXY=proxy.url(), SSL_CERT_FILE=str(place))
            for name, code in ((HOST, 0), ("other.test", 69)):
                urls = {"OKX_WS_URL": f"wss://{name}:{port}", "OKX_REST_URL": f"https://{name}:{port}"}
                done = okx(env | urls, "stream", BTC, "-n", 1, "--connect-timeout", 3, code=code)
                if code:
                    line = done.stderr.decode().splitlines()[-1]
                    assert "its certificate is not valid: " in line
                    assert f", through the proxy {proxy.url()}. " in line
                else:
                    assert done.stdout.count(b'"tradeId"') == 1
                assert (name, port) in proxy.asked


def test_collect_outlives_it_and_takes_another(tmp_path, exchange, database):
    """A proxy that cuts everything costs no fill; another one in the configuration is taken at SIGHUP."""
    import psycopg

    file = tmp_path / "okx.json"

    def rows():
        with psycopg.connect(database) as connection:
            try:
                return [one[0] for one in connection.execute("SELECT trade_id FROM raw_trades ORDER BY 1").fetchall()]
            except psycopg.errors.UndefinedTable:
                return []

    def goes_on(process):
        goal, end = exchange.fills(BTC)[-1].trade_id, time.monotonic() + 60
        while (rows() or [0])[-1] <= goal:
            assert time.monotonic() < end and process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)

    with SmallProxy("http", names(exchange)) as one, SmallProxy("socks5", names(exchange)) as other:
        config = {"symbols": [BTC], "timeframes": ["1s"], "exchange": {"proxy": one.url()}}
        file.write_text(json.dumps(config))
        env = environment(tmp_path, OKX_DSN=database, OKX_CONFIG=str(file), **away(exchange))
        command = [sys.executable, "-m", "okxcli", "collect", "-v"]
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen(command, env=env, stderr=log, stdin=subprocess.DEVNULL)
        try:
            goes_on(process)
            one.cut()
            goes_on(process)
            assert other.asked == []
            config["exchange"]["proxy"] = other.url()
            file.write_text(json.dumps(config))
            process.send_signal(1)
            end = time.monotonic() + 30
            while not other.asked:
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.05)
            before = len(one.asked)
            goes_on(process)
            one.cut()  # nothing is there any more
            goes_on(process)
            assert len(one.asked) == before
        finally:
            process.terminate()
            process.wait(60)
    found = rows()
    assert found == list(range(found[0], found[-1] + 1))
