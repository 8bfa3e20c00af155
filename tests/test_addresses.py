"""Where the exchange may be: at an IPv6 address, behind an authority of one's own; for socket, REST and files."""

import io
import json
import os
import ssl
import subprocess
import sys
import zipfile

import pytest
from hostile_server import HostileServer, answer

from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.okx.bulk_files.download import Downloader
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

OKX = [sys.executable, "-m", "okxcli"]
SYMBOL = "BTC-USDT"
MIDNIGHT = 1_779_033_600_000  # of 2026-05-18 in UTC+8


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A folder with an authority of one's own, ca.pem, and what it signed: good, other (a name), expired."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments):
        if subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=False).returncode:
            pytest.skip("openssl cannot make certificates here")

    new = ("-newkey", "rsa:2048", "-nodes")
    usage = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem", *usage)
    here = "IP:127.0.0.1,IP:::1,DNS:localhost"
    for name, names, days in (("good", here, "2"), ("other", "DNS:other.example", "2"), ("expired", here, "-1")):
        (folder / "names").write_text(f"subjectAltName={names}\n")
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(*signed, "-out", f"{name}.pem", "-extfile", "names", "-days", days)
    return folder


@pytest.fixture
def okx(tmp_path):
    """Run `okx ...` with an empty home; return exit status, lines and standard error."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "SSL_", "PYTHON"))}

    def run(*arguments, **env):
        done = subprocess.run(
            [*OKX, *map(str, arguments)], capture_output=True, timeout=60, check=False,
            env=clean | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)} | env,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()

    return run


def serving(host, certificate=None):
    """Return a local exchange there, with this certificate (a path without its suffix)."""
    files = {} if certificate is None else {"cert": f"{certificate}.pem", "key": f"{certificate}.key"}
    options = Options(host=host, limits=0, **files)
    return LocalExchange([SYMBOL], rate=50, history_s=20, options=options)


def urls(exchange):
    return {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}


def whole(lines):
    """Check that every fill of the lines follows on the one before."""
    ids = [int(row["tradeId"]) for m in lines if m["arg"]["channel"] == "trades-all" for row in m["data"]]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    return len(ids)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("secure", [False, True])
def test_an_address_of_either_kind(host, secure, authority, okx):
    """Socket and REST, the past and the present, plain and with TLS by one's own authority (SSL_CERT_FILE)."""
    with serving(host, authority / "good" if secure else None) as exchange:
        assert ("[::1]" in exchange.ws_url) == (host == "::1")
        env = urls(exchange) | ({"SSL_CERT_FILE": str(authority / "ca.pem")} if secure else {})
        code, lines, told = okx("stream", SYMBOL, "--since", "10s", "-n", "600", "-q", **env)
        assert (code, told) == (0, "")
        assert whole(lines) == 600
        code, lines, told = okx("instruments", **env)
        assert (code, [line["symbol"] for line in lines], told) == (0, [SYMBOL], "")


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ("good", None, "unable to get local issuer certificate"),
        ("other", "ca.pem", "IP address mismatch"),
        ("expired", "ca.pem", "certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_do(certificate, trusted, reason, authority, okx):
    """Exit 69 and the reason, from socket and REST alike."""
    env = {} if trusted is None else {"SSL_CERT_FILE": str(authority / trusted)}
    with serving("::1", authority / certificate) as exchange:
        for command in (("stream", SYMBOL, "-n", "1", "--connect-timeout", "1"), ("instruments",)):
            code, lines, told = okx(*command, **urls(exchange), **env)
            assert (code, lines) == (69, [])
            assert f"its certificate is not valid: {reason}" in told.splitlines()[-1]
            assert "[::1]" in told.splitlines()[-1]


@pytest.mark.parametrize("place", ["none.pem", "ca.key"])
def test_an_authority_that_cannot_be_read(place, authority, okx):
    """SSL_CERT_FILE names a file that is not there, or no certificate: that is told, for nobody is trusted then."""
    with serving("127.0.0.1", authority / "good") as exchange:
        for command in (("stream", SYMBOL, "-n", "1", "--connect-timeout", "1"), ("instruments",)):
            code, _, told = okx(*command, **urls(exchange), SSL_CERT_FILE=str(authority / place))
            assert code == 69
            assert f"/{place}, which SSL_CERT_FILE names, cannot be used" in told.splitlines()[-1]


@pytest.mark.parametrize("host", ["[::1]", "[::ffff:127.0.0.1]"])
def test_nobody_at_an_ipv6_address(host, okx):
    """Exit 69, with the address as it was written."""
    env = {"OKX_WS_URL": f"ws://{host}:9", "OKX_REST_URL": f"http://{host}:9"}
    for command in (("stream", SYMBOL, "--connect-timeout", "1"), ("history", SYMBOL, "--since", "1m")):
        code, _, told = okx(*command, **env)
        assert code == 69
        assert f"{host}:9" in told and "connection refused" in told.splitlines()[-1]


@pytest.mark.parametrize("place", ["//::1:9", "//[::1", "//[zz::1]:9", "//[::1]:x"])
def test_what_is_no_ipv6_address(place, okx):
    """Exit 2: brackets belong around it."""
    env = {"OKX_WS_URL": f"ws:{place}", "OKX_REST_URL": f"http:{place}"}
    assert okx("stream", SYMBOL, **env)[0] == 2
    assert okx("instruments", **env)[0] == 2


def test_files_by_an_authority_of_ones_own(authority, tmp_path, monkeypatch):
    """Bulk files are fetched from whom SSL_CERT_FILE vouches for, and from nobody else."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("BTC-USDT-trades-2026-05-18.csv", "BTC-USDT,1,buy,1,1,1\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "good.pem", authority / "good.key")
    wanted = (SYMBOL, MIDNIGHT, MIDNIGHT + 86_400_000, MIDNIGHT + 10**10)
    with HostileServer(tls=context) as server:
        server.http["/"] = answer(packed.getvalue())
        base = server.url("https")
        with pytest.raises(ExchangeUnavailable, match="certificate"):
            Downloader(base, tmp_path / "none", sleep=lambda s: None).fetch(*wanted)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
        found = Downloader(base, tmp_path / "files", sleep=lambda s: None).fetch(*wanted)
        assert [path.read_bytes() for path in found] == [packed.getvalue()]
