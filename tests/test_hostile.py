"""Servers and input made to harm: bounded memory, one clear line, no crash, and on as soon as the server is good."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import zstandard
from hostile_server import HostileServer, answer, frame

from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.okx.connection.nonblocking_socket import DialError, Wire
from okxcli.exchanges.okx.rest import bounded_http
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.exchanges.okx.rest.rate_limits import Budget

#: Everything below stays under this, Python, its libraries and the largest message allowed included.
MAX_MIB = 200
# `okx`, which writes its largest resident set to a file at its end.
PROGRAM = r"""
import re, sys
place = sys.argv.pop(1)
from okxcli.cli import run
code = run(sys.argv[1:])
with open(place, "w") as file:
    file.write(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""
ARG = b'{"channel":"trades-all","instId":"BTC-USDT"}'
PUSH = (
    b'{"arg":%b,"data":[{"instId":"BTC-USDT","tradeId":"7","px":"1","sz":"1","side":"buy","ts":"1747087163557"}]}' % ARG
)
ROW = {"instId": "BTC-USDT", "instType": "SPOT", "state": "live", "baseCcy": "BTC", "quoteCcy": "USDT", "tickSz": "0.1"}
GOOD_REST = answer(json.dumps({"code": "0", "msg": "", "data": [ROW]}).encode())
MIB = 1 << 20

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="/proc tells the memory of a process")


def okx(home, *arguments, stdin=subprocess.DEVNULL, data=None, timeout=100, **env):
    """Run `okx`; return its exit code, output, lines of stderr, peak of memory in MiB and seconds."""
    home.mkdir(exist_ok=True)
    place = home / f"peak-{time.monotonic_ns()}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env = inherited | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)} | env
    began = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, str(place), *map(str, arguments)]
    options = {"input": data} if data is not None else {"stdin": stdin}
    done = subprocess.run(command, capture_output=True, env=env, timeout=timeout, check=False, **options)
    peak = int(place.read_text()) / 1024 if place.exists() and os.path.exists("/proc/self/status") else 0.0
    return SimpleNamespace(
        code=done.returncode,
        out=done.stdout,
        err=done.stderr.decode().splitlines(),
        peak=peak,
        seconds=time.monotonic() - began,
    )


def harmless(done):
    """No traceback, no bug, memory bounded, nothing on stderr that is long or moves a terminal."""
    words = "\n".join(done.err)
    assert "Traceback" not in words and "bug of okx" not in words, words[:3000]
    assert done.peak < MAX_MIB, f"{done.peak:.0f} MiB"
    assert all(len(line) < 700 and line.isprintable() for line in done.err), words[:3000]
    return words


def many(cases, act):
    """Do `act` for each case side by side; return what came of it by name."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(cases, pool.map(act, cases), strict=True))


# ---- a hostile WebSocket


def good(connection):
    """Answer the subscription and push one fill."""
    connection.recv(1 << 16)
    connection.sendall(frame(b'{"event":"subscribe","arg":%b,"connId":"a"}' % ARG) + frame(PUSH))


def pieces(connection):
    connection.sendall(frame(b"x" * MIB, fin=False))
    for _ in range(99):
        connection.sendall(frame(b"x" * MIB, opcode=0, fin=False))


def sends(*frames):
    return lambda connection: connection.sendall(b"".join([*frames, frame(b"\x03\xe8bye", opcode=8)]))


def http(text):
    return lambda connection: connection.sendall(text)


def endless(connection):
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
    for number in range(100_000):
        connection.sendall(b"X-%d: %b\r\n" % (number, b"x" * 1000))


FRAMES = {
    "100 MB": (sends(frame(b"x" * (20 * MIB), length=100 * MIB)), "message of 104857600 bytes"),
    "declared 2^62": (sends(frame(b"", length=1 << 62)), "message of 4611686018427387904 bytes"),
    "pieces": (pieces, "in pieces of over 16 MiB"),
    "garbage": (
        sends(*map(frame, (b"[" * 100_000, b'{"event":"x","code":%b}' % (b"1" * 10**6), b'{"event":"\xff\xc3\x28"}'))),
        "not a message of OKX",
    ),
    "digits": (
        sends(frame(b'{"event":"error","code":"%b","msg":"%b"}' % (b"1" * 10**6, b"2" * 10**6))),
        "(11111111111111111111): 22222",
    ),
    "control characters": (sends(frame(rb'{"event":"notice","code":"1","msg":"\u001b[2J\nokx: fine"}')), "okx: fine"),
    "packed unasked": (
        sends(frame(zlib.compress(b"\0" * (40 * MIB), 1)[2:-4], rsv1=True)),
        "connecting again",
    ),
    "a close of nonsense": (sends(frame(b"\x0f\xff\xff\xfe\x1b[2J", opcode=8)), "connecting again"),
}
HANDSHAKES = {
    "redirect": (None, "redirects elsewhere, which is not followed"),
    "headers": (endless, "over 64 KiB"),
    "no HTTP": (http(b"\x16\x03\x01\x02\x00" * 100 + b"\r\n\r\n"), "cannot connect"),
}
NO_HANDSHAKES = {
    "HTML 200": (http(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>"), "refused with HTTP status 200"),
    "HTML 503": (http(b"HTTP/1.1 503 Busy\r\nContent-Length: 13\r\n\r\n<html></html>"), "HTTP status 503"),
    "one line": (http(b"HTTP/1.1 101 " + b"x" * (2 * MIB)), "over 64 KiB"),
    "no UTF-8": (http(b"HTTP/1.1 101 X\r\n\xff: \xfe\r\n\r\n"), "not valid UTF-8"),
    "307": (http(b"HTTP/1.1 307 X\r\nLocation: ws://example.com/\r\n\r\n"), "redirects elsewhere"),
    "no right key": (
        http(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"),
        "Invalid WebSocket Header",
    ),
}


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """For each hostile beginning: what a `stream` did that met it first, and a good server after it."""
    base = tmp_path_factory.mktemp("streams")
    cases = [*FRAMES, *HANDSHAKES]

    def act(case):
        with HostileServer() as elsewhere, HostileServer() as server:
            server.http["/api/"] = GOOD_REST
            server.frames = good
            bad, _ = FRAMES.get(case) or HANDSHAKES[case]
            if case == "redirect":
                bad = http(b"HTTP/1.1 302 Found\r\nLocation: %b/x\r\n\r\n" % elsewhere.url("ws").encode())
            first = [True]

            def turn(connection):
                if first:
                    first.clear()
                    server.handshake = None
                    bad(connection)
                else:
                    good(connection)

            if case in FRAMES:
                server.frames = turn
            else:
                server.handshake = turn
            done = okx(
                base / re.sub(r"\W", "_", case), "stream", "BTC-USDT", "-n", "1", "--no-repair", "--duration", "40s",
                OKX_WS_URL=server.url("ws"), OKX_REST_URL=server.url("http"),
            )  # fmt: skip
            done.elsewhere = elsewhere.accepted
            done.dials = sum("upgrade: websocket" in head.lower() for head in server.requests)
            done.heads = server.requests
            return done

    return many(cases, act)


@needs_proc
@pytest.mark.parametrize("case", [*FRAMES, *HANDSHAKES])
def test_a_stream_outlives_a_hostile_server(streams, case):
    """One clear line, bounded memory, nothing followed elsewhere; as soon as the server is good its data comes."""
    done = streams[case]
    words = harmless(done)
    assert (FRAMES.get(case) or HANDSHAKES[case])[1] in words, words[:3000]
    assert done.code == 0
    assert done.out.splitlines()[-1] == PUSH
    assert done.elsewhere == 0
    assert done.dials <= 2
    assert not any("authorization" in head.lower() or "cookie" in head.lower() for head in done.heads)


@pytest.mark.parametrize("case", NO_HANDSHAKES)
def test_what_is_no_handshake(case):
    """Each is refused with a short reason."""
    with HostileServer() as server:
        server.handshake, reason = NO_HANDSHAKES[case]
        with pytest.raises(DialError, match=reason) as caught:
            Wire.dial(server.url("ws") + "/ws/v5/public", 10)
        assert len(str(caught.value)) <= 200


def test_a_handshake_that_drips():
    """A byte now and then does not keep a dial alive: the whole answer has its time."""
    with HostileServer() as server:

        def drip(connection):
            for letter in b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 1000:
                connection.sendall(bytes([letter]))
                if server.closing.wait(0.1):
                    return

        server.handshake = drip
        began = time.monotonic()
        with pytest.raises(DialError, match="timed out"):
            Wire.dial(server.url("ws") + "/ws/v5/public", 0.5)
        assert time.monotonic() - began < 5


# ---- hostile REST


def packed(data, encoding):
    return answer(data, Content_Encoding=encoding, Content_Type="application/json")


def rest_headers(connection, path):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        connection.sendall(b"X-%d: %b\r\n" % (number, b"x" * 1000))


def zeros(connection, path):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b" " * MIB)


def chunks(connection, path):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")


def refuses(status):
    return lambda elsewhere: answer(b"", status, Location=elsewhere.url("http") + "/api/v5/public/instruments")


def gzip_bomb(mib=400):
    """Return a small gzip file of so many MiB of zeros, made of a member for each."""
    return gzip.compress(b"\0" * MIB) * mib


REST = {
    "gzip bomb": (packed(gzip_bomb(), "gzip"), "more than 32 MiB"),
    "gzip bomb in a gzip": (packed(gzip.compress(gzip_bomb()), "gzip, gzip"), "more than 32 MiB"),
    "zstd bomb": (packed(zstandard.compress(b"\0" * (200 * MIB)), "zstd"), "(?:more than 32 MiB|no answer from OKX)"),
    "a gigabyte": (zeros, "more than 32 MiB"),
    "deep data": (answer(b'{"code":"0","data":[%b]}' % (b"[" * 100_000 + b"]" * 100_000)), "HTTP 200 without JSON"),
    "no rows": (answer(b'{"code":"0","data":[1,null,"x",[]]}'), "not what they should be"),
    "HTML 200": (answer(b"<html>fine</html>"), "HTTP 200 without JSON"),
    "a long code": (answer(b'{"code":"%b","msg":"\\u001b[2J%b"}' % (b"1" * 10**6, b"x" * 10**6)), "OKX refuses"),
    "302": (refuses("302 Found"), "redirects elsewhere"),
    "headers": (rest_headers, "no answer from OKX"),
    "too short": (answer(b'{"code":"0","data":[]}', length=1000), "no answer from OKX"),
    "length of nonsense": (answer(b"{}", length="9" * 5000), "no answer from OKX"),
}


MORE_REST = {
    "deflate bomb": (packed(zlib.compress(b"\0" * (80 * MIB), 1), "deflate"), "more than 32 MiB"),
    "torn gzip": (packed(gzip.compress(b"{}" * 1000)[:30], "gzip"), "no answer from OKX"),
    "chunks without end": (chunks, "more than 32 MiB"),
    "deep": (answer(b"[" * 100_000), "HTTP 200 without JSON"),
    "digits": (answer(b'{"code":"0","data":[%b]}' % (b"1" * 10**6)), "(?:without JSON|not what they should be)"),
    "no UTF-8": (answer(b'{"code":"0","data":["\xff"]}'), "without JSON"),
    "HTML 503": (answer(b"<html>busy</html>", "503 Busy"), "HTTP 503 without JSON"),
    "a long header": (answer(b"", X=("x" * MIB)), "no answer from OKX"),
    "301": (answer(b"", "301 Moved", Location="http://example.com/"), "redirects elsewhere"),
    "307": (answer(b"", "307 Temporary", Location="http://example.com/"), "redirects elsewhere"),
}


@pytest.fixture(scope="module")
def rest_answers(tmp_path_factory):
    """For each hostile REST: what `instruments` and, for a third of them, `history` did, and what came after it."""
    base = tmp_path_factory.mktemp("rest")
    numbers = {case: number for number, case in enumerate(REST)}

    def act(case):
        with HostileServer() as elsewhere, HostileServer() as server:
            bad, _ = REST[case]
            server.http["/api/"] = bad(elsewhere) if case.isdigit() else bad
            home, url = base / re.sub(r"\W", "_", case), server.url("http")
            command = ("history", "BTC-USDT", "--since", "1h") if numbers[case] % 3 == 0 else ("instruments",)
            done = okx(home, *command, OKX_REST_URL=url)
            done.elsewhere = elsewhere.accepted
            server.http["/api/"] = GOOD_REST
            done.after = RestClient(url, budget=Budget(), sleep=lambda _: None).instruments("SPOT")
            return done

    return many(REST, act)


@needs_proc
@pytest.mark.parametrize("case", REST)
def test_hostile_rest(rest_answers, case):
    """Exit 69 after one clear line, nothing written, bounded memory, no redirect followed; then the server is good."""
    done = rest_answers[case]
    words = harmless(done)
    assert done.code == 69, words
    assert re.search(REST[case][1], words), words
    assert words.startswith("okx ") and len(done.err) == 1, words
    assert done.out == b""
    assert done.elsewhere == 0
    assert done.after == [ROW]


@pytest.mark.parametrize("case", MORE_REST)
def test_more_of_hostile_rest(case):
    """The same within one process, which goes on when the server is good."""
    with HostileServer() as server:
        server.http["/api/"], reason = MORE_REST[case]
        client = RestClient(server.url("http"), budget=Budget(), sleep=lambda _: None)
        with pytest.raises(ExchangeUnavailable, match=reason) as caught:
            client.instruments("SPOT")
        assert len(str(caught.value)) < 500
        server.http["/api/"] = GOOD_REST
        assert client.instruments("SPOT") == [ROW]


@pytest.mark.parametrize("where", ["head", "body"])
def test_rest_that_drips(monkeypatch, where):
    """A byte now and then, in the head or in the body, does not keep a request alive."""
    monkeypatch.setattr(bounded_http, "HEAD_S", 0.5)
    monkeypatch.setattr(bounded_http, "BODY_S", 0.5)
    with HostileServer() as server:

        def drip(connection, path):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            if where == "body":
                connection.sendall(b"Content-Length: 1000\r\n\r\n")
            for _ in range(500):
                connection.sendall(b" " if where == "body" else b"X")
                if server.closing.wait(0.05):
                    return

        server.http["/api/"] = drip
        client = RestClient(server.url("http"), budget=Budget(), timeout_s=5, attempts=1)
        began = time.monotonic()
        with pytest.raises(ExchangeUnavailable, match=r"timed out|no end of the answer"):
            client.instruments("SPOT")
        assert time.monotonic() - began < 5
        server.http["/api/"] = GOOD_REST
        assert client.instruments("SPOT") == [ROW]


# ---- hostile files


def zip_of(data, method=zipfile.ZIP_DEFLATED, name="BTC-USDT-trades-2026-05-18.csv"):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr(name, data)
    return made.getvalue()


FILES = {
    "bomb": (lambda _: answer(zip_of(b"\0" * (80 * MIB))), "unpack to 83886080"),
    "LZMA": (lambda _: answer(zip_of(b"1", zipfile.ZIP_LZMA)), "packed in a way"),
    "out of the folder": (lambda _: answer(zip_of(b"1\n", name="../../../evil.csv")), "row 1: 1 columns"),
    "HTML": (lambda _: answer(b"<html>fine</html>"), "a page of HTML came instead of a zip"),
    "302": (refuses("302 Found"), "redirects elsewhere"),
    "length of nonsense": (lambda _: answer(b"<html>", length="9" * 5000), "(?:cannot fetch|HTML came)"),
}


@needs_proc
def test_hostile_bulk_files(tmp_path):
    """`history --download` says what is wrong with a file, fetches it no more, and writes nowhere but in its folder."""

    def act(case):
        with HostileServer() as elsewhere, HostileServer() as server:
            server.http["/"] = FILES[case][0](elsewhere)
            folder = tmp_path / case / "b" / "files"
            base = ("--files-url", server.url("http") + "/x", "--rest-url", server.url("http"))
            span = ("--since", "2026-05-17T16:00Z", "--until", "2026-05-18T16:00Z")
            done = okx(tmp_path / "home", "history", "BTC-USDT", "--download", "--files", folder, *base, *span)
            done.elsewhere = elsewhere.accepted
            return done

    for case, done in many(FILES, act).items():
        words = harmless(done)
        assert re.search(FILES[case][1], words), (case, words)
        assert done.code in (65, 69), (case, words)
        assert done.out == b"" and done.elsewhere == 0
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file() and "home" not in path.parts}
    assert {str(path.relative_to(path.parts[0])).removesuffix(".part") for path in made} <= {
        "b/files/BTC-USDT-trades-2026-05-18.zip"
    }


# ---- hostile standard input and recordings


def our(price):
    return (
        b'{"type":"trade","exchange":"okx","symbol":"BTC-USDT","trade_id":7,"count":1,"side":"buy","price":"%b",'
        b'"size":"1","timestamp":1747087163557}' % price
    )


LINES = {
    "deep": (b"[" * 100_000, "not JSON"),
    "deep in a message": (b'{"type":"trade","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
    "digits in text": (our(b"9" * 10**6).replace(b'"type"', b'"arg":1,"type"'), "number|not a raw line"),
    "digits": (b'{"type":"trade","x":%b}' % (b"9" * 10**6), "out of range|missing"),
    "no UTF-8": (b'{"type":"\xff\xfe"}', "not UTF-8"),
    "NUL": (b'{"a":"\0"}', "NUL bytes"),
    "a terminal": (rb'{"type":"\u001b[2J"}', "unknown type|not a raw line"),
}


@needs_proc
@pytest.mark.parametrize("command", [("normalize",), ("candles", "--tf", "1m")])
def test_hostile_lines(tmp_path, command):
    """Lines made to harm are rejects with a reason each; a line of 100 MB is one; their neighbours come out."""
    fine = PUSH if command[0] == "normalize" else our(b"1")
    lines = [fine, *(line for line, _ in LINES.values()), b"x" * (100 * MIB), fine]
    done = okx(tmp_path / "home", *command, data=b"\n".join(lines) + b"\n")
    words = harmless(done)
    rejects = [line for line in done.err if ": line " in line]
    wanted = [*(reason for _, reason in LINES.values()), "longer than 1 MiB"]
    told = {int(re.search(r": line (\d+): ", line)[1]): line for line in rejects}
    for number, reason in enumerate(wanted, 2):
        if command[0] == "candles" and number in (8,):  # an unknown type is none of its business
            continue
        assert re.search(reason, told.get(number, "")), (number, words)
    assert done.code == 65
    counts = json.loads(done.err[-1].split(": ", 1)[1])
    assert counts["lines_in"] == len(lines)
    assert counts["rejected"] == len(rejects)
    assert counts["lines_out"] == 2 if command[0] == "normalize" else counts["trades"] + counts["duplicates"] == 2


@needs_proc
@pytest.mark.parametrize("kind", ["pipe", "gz", "zst"])
def test_no_newline_anywhere(tmp_path, kind):
    """A gigabyte from a pipe, or what a small recording unpacks to: one reject, no memory, no disk."""
    home, size = tmp_path / "home", 1024 if kind == "pipe" else 300
    if kind == "pipe":
        with subprocess.Popen(["head", "-c", str(size * MIB), "/dev/zero"], stdout=subprocess.PIPE) as source:
            done = okx(home, "normalize", stdin=source.stdout)
    else:
        path = tmp_path / f"recording.jsonl.{kind}"
        path.write_bytes(gzip_bomb(size) if kind == "gz" else zstandard.compress(b"\0" * (size * MIB)))
        done = okx(home, "normalize", path)
    words = harmless(done)
    assert done.code == 65
    assert "longer than 1 MiB" in words
    assert json.loads(done.err[-1].split(": ", 1)[1])["rejected"] == 1


@needs_proc
def test_a_recording_that_is_a_bomb(tmp_path):
    """`replay` reads it through in bounded memory and finds nothing in it."""
    path = tmp_path / "recording.jsonl.gz"
    path.write_bytes(gzip_bomb(300))
    done = okx(tmp_path / "home", "replay", path, "--no-database", "--", "true")
    assert "no push of OKX" in harmless(done)
    assert done.code == 2
