"""The connection driver against a WebSocket server on loopback that behaves as badly as told."""

import contextlib
import itertools
import json
import socket
import struct
import threading
import time
from collections import Counter

import pytest
from websockets.sync.server import serve

from okxcli.errors import ExchangeUnavailable
from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection import client, dialling, live_session, nonblocking_socket, session
from okxcli.exchanges.okx.connection.client import OKXWebSocketClient
from okxcli.exchanges.okx.connection.dialling import Backoff, DialLimiter, MachineDials
from okxcli.exchanges.okx.connection.nonblocking_socket import DialError, Wire, WireError
from okxcli.exchanges.okx.connection.receiver import Receiver

BTC = Subscription("trades-all", "BTC-USDT")
ETH = Subscription("trades-all", "ETH-USDT")


def push(number):
    return json.dumps({"arg": BTC.argument, "data": [{"tradeId": str(number)}]}, separators=(",", ":"))


class Server:
    """Runs `behave(connection, n)` for the n-th connection (from 1); `acks` answers subscriptions first."""

    def __init__(self, behave, **options):
        self.count = 0
        self._behave = behave
        self._server = serve(self._handle, "127.0.0.1", 0, compression=None, **options)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def _handle(self, connection):
        self.count += 1
        self._behave(connection, self.count)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/ws/v5/business"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join(5)


def acks(connection):
    """Answer one request as OKX does."""
    for argument in json.loads(connection.recv())["args"]:
        connection.send(json.dumps({"event": "subscribe", "arg": argument, "connId": "a4d3ae55"}))


def stay(connection):
    """Answer pings until the other side goes."""
    for message in connection:
        if message == "ping":
            connection.send("pong")


class Run:
    """A client that writes down what it is told."""

    def __init__(self, url, subscriptions=(BTC,), **options):
        self.frames, self.refusals, self.full = [], [], False
        self.receiver = Receiver(self.frames.extend, lambda: self.full)
        self.client = OKXWebSocketClient(
            url,
            subscriptions,
            self.receiver,
            self.refusals.append,
            lambda: None,
            dials=DialLimiter(0.01),
            **options,
        )

    def __enter__(self):
        self.client.start()
        return self

    def __exit__(self, *_):
        self.client.stop()
        assert self.client.join(30)

    def until(self, true, timeout_s=30.0):
        """Wait until `true()` holds."""
        end = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)


def test_pushes_arrive_in_order_and_a_stop_says_goodbye():
    """What the server pushes is delivered as it is; at the end the connection is closed properly."""
    closed = threading.Event()

    def behave(connection, _):
        acks(connection)
        for number in range(2000):
            connection.send(push(number))
        stay(connection)
        assert connection.close_code == 1000
        closed.set()

    with Server(behave) as server:
        with Run(server.url) as run:
            run.until(lambda: len(run.frames) == 2000)
            state = run.client.state()
            assert (state.up, state.standing, state.connects, state.pushes) == (True, 1, 1, 2000)
        assert closed.wait(30)
    assert run.frames == [push(number).encode() for number in range(2000)]


def test_reconnects_and_resubscribes_after_every_kind_of_end(caplog):
    """Cut, closed with 4004, garbage on the wire: the stream goes on, each change told in one line."""

    def behave(connection, n):
        acks(connection)
        connection.send(push(n))
        if n == 1:
            connection.socket.shutdown(socket.SHUT_RDWR)
        elif n == 2:
            connection.close(4004, "No data received in 30s")
        elif n == 3:
            connection.socket.sendall(b"\xff" * 50)
        else:
            stay(connection)

    caplog.set_level("INFO", logger="okxcli")
    with Server(behave) as server, Run(server.url) as run:
        run.until(lambda: len(run.frames) == 4)
    assert run.frames == [push(n).encode() for n in (1, 2, 3, 4)]
    told = [record.getMessage() for record in caplog.records]
    assert sum("connected to" in line for line in told) == 4
    assert sum("connecting again" in line for line in told) == 3
    assert any("closed by OKX (4004: No data received in 30s)" in line for line in told)


def test_unanswered_subscription_is_a_dead_connection(monkeypatch):
    """An ack that does not come ends the connection and another one is tried."""
    monkeypatch.setattr(session, "ACK_TIMEOUT_MS", 1_000)

    def behave(connection, n):
        if n > 1:
            acks(connection)
        stay(connection)

    with Server(behave) as server, Run(server.url) as run:
        run.until(lambda: run.client.state().up)
        assert server.count == 2


def test_missing_pong_is_a_dead_connection(monkeypatch):
    """A server that takes pings and says nothing is left for another one."""
    monkeypatch.setattr(session, "PING_AFTER_MS", 100)
    monkeypatch.setattr(session, "PONG_TIMEOUT_MS", 1_500)
    pings = Counter()

    def behave(connection, n):
        acks(connection)
        for message in connection:
            pings[n] += 1
            if n > 1:
                assert message == "ping"
                connection.send("pong")

    with Server(behave) as server, Run(server.url) as run:
        run.until(lambda: pings[2] == 5)
        assert server.count == 2
        assert pings[1] == 1
        assert run.client.state().up


def test_planned_end_is_bridged_by_a_second_connection():
    """After 64008 the new connection is up and acked before the old one is closed."""
    order = []

    def behave(connection, n):
        acks(connection)
        order.append(f"{n} up")
        connection.send(push(n))
        if n == 1:
            connection.send('{"event":"notice","msg":"Please reconnect.","code":"64008","connId":"8517149b"}')
        stay(connection)
        order.append(f"{n} closed")

    with Server(behave) as server, Run(server.url) as run:
        run.until(lambda: "1 closed" in order)
        assert order == ["1 up", "2 up", "1 closed"]
        assert run.client.state().connects == 2


def test_what_is_under_way_on_the_old_connection_still_arrives():
    """Pushes that the old connection carries late, after the new one is ready, are not lost."""
    ready = threading.Event()

    def behave(connection, n):
        acks(connection)
        if n == 1:
            connection.send('{"event":"notice","msg":"Please reconnect.","code":"64008","connId":"8517149b"}')
            assert ready.wait(30)
            time.sleep(0.3)
            connection.send(push(1))
        else:
            connection.send(push(2))
            ready.set()
        stay(connection)

    with Server(behave) as server, Run(server.url) as run:
        run.until(lambda: len(run.frames) == 2)
    assert run.frames == [push(2).encode(), push(1).encode()]


def test_refused_symbols_are_told_and_dropped():
    """60018 reaches the caller; after a reconnect the refused one is not asked for again."""
    asked = []

    def behave(connection, n):
        request = json.loads(connection.recv())
        asked.append([argument["instId"] for argument in request["args"]])
        for argument in request["args"]:
            if argument["instId"] == "ETH-USDT":
                text = "Wrong URL or channel:trades-all,instId:ETH-USDT doesn't exist."
                connection.send(json.dumps({"event": "error", "msg": text, "code": "60018", "connId": "x"}))
            else:
                connection.send(json.dumps({"event": "subscribe", "arg": argument}))
        if n == 1:
            connection.socket.shutdown(socket.SHUT_RDWR)
        stay(connection)

    with Server(behave) as server, Run(server.url, [BTC, ETH]) as run:
        run.until(lambda: server.count == 2 and run.client.state().up)
    assert asked == [["BTC-USDT", "ETH-USDT"], ["BTC-USDT"]]
    assert [(r.subscription, r.code) for r in run.refusals] == [(ETH, "60018")]


def test_a_symbol_that_stood_before_is_tried_again(monkeypatch):
    """What is refused after it once stood (maintenance, a delisting) is asked for again later."""
    monkeypatch.setattr(live_session, "RETRY_MS", 100)
    times = []

    def behave(connection, n):
        if n == 1:
            acks(connection)
            connection.socket.shutdown(socket.SHUT_RDWR)
            return
        for message in connection:
            if message == "ping":
                continue
            times.append(time.monotonic())
            for argument in json.loads(message)["args"]:
                if argument == ETH.argument and len(times) < 4:
                    text = "channel:trades-all,instId:ETH-USDT doesn't exist"
                    connection.send(json.dumps({"event": "error", "msg": text, "code": "60018"}))
                else:
                    connection.send(json.dumps({"event": "subscribe", "arg": argument}))

    with Server(behave) as server, Run(server.url, [BTC, ETH]) as run:
        run.until(lambda: run.client.state().standing == 2 and len(times) == 4)
    assert run.refusals == []


def test_subscriptions_change_without_a_new_connection():
    """More and less are asked for on the standing connection, from any thread."""
    asked = []

    def behave(connection, _):
        for message in connection:
            request = json.loads(message)
            asked.append((request["op"], [argument["instId"] for argument in request["args"]]))
            for argument in request["args"]:
                connection.send(json.dumps({"event": request["op"], "arg": argument}))

    with Server(behave) as server, Run(server.url) as run:
        run.until(lambda: run.client.state().up)
        run.client.subscribe([ETH])
        run.until(lambda: run.client.state().standing == 2)
        run.client.unsubscribe([BTC])
        run.until(lambda: len(asked) == 3)
        assert run.client.state().subscriptions == 1
    assert asked == [("subscribe", ["BTC-USDT"]), ("subscribe", ["ETH-USDT"]), ("unsubscribe", ["BTC-USDT"])]
    assert server.count == 1


def test_no_reading_while_there_is_no_room(monkeypatch):
    """When the taker is full, the socket is left alone, the connection lives on, and nothing is lost."""
    monkeypatch.setattr(session, "PING_AFTER_MS", 500)
    monkeypatch.setattr(session, "PONG_TIMEOUT_MS", 1_500)
    monkeypatch.setattr(client, "_BATCH", 10)
    go = threading.Event()

    def behave(connection, _):
        acks(connection)
        go.wait(30)
        for number in range(1000):
            connection.send(push(number))
        stay(connection)

    with Server(behave) as server, Run(server.url) as run:
        run.until(lambda: run.client.state().up)
        run.full = True
        run.receiver.wake()
        time.sleep(0.05)
        go.set()
        time.sleep(2.5)  # longer than both
        assert len(run.frames) <= 10
        run.full = False
        run.receiver.wake()
        run.until(lambda: len(run.frames) == 1000)
        assert server.count == 1


def test_many_connections_over_one_thread_lose_nothing():
    """Twelve clients of a server, cut again and again: each gets its own pushes, in their order."""
    sent, numbers = {}, itertools.count(1)

    def behave(connection, _):
        n = next(numbers)
        acks(connection)
        sent[n] = 300
        for number in range(300):
            connection.send(push(f"{n:04}{number:04}"))
        if n <= 24:
            connection.socket.shutdown(socket.SHUT_WR)
            return
        stay(connection)

    with Server(behave) as server:
        frames = []
        receiver = Receiver(frames.extend)
        clients = [
            OKXWebSocketClient(
                server.url, [BTC], receiver, print, lambda: None,
                dials=DialLimiter(0.0),
            )
            for _ in range(12)
        ]  # fmt: skip
        try:
            for client in clients:
                client.start()
            end = time.monotonic() + 60
            while len(sent) < 36 or len(frames) < 36 * 300:
                assert time.monotonic() < end, (len(sent), len(frames))
                time.sleep(0.01)
        finally:
            for client in clients:
                client.stop()
            assert all(client.join(10) for client in clients)
    ids = [frame.split(b'"tradeId":"')[1][:8] for frame in frames]
    by_connection = {}
    for number in ids:
        by_connection.setdefault(number[:4], []).append(number)
    assert all(len(found) == 300 and found == sorted(found) for found in by_connection.values())


def test_never_connected_ends_with_one_error():
    """Nobody there for the whole time-out: an error that says where and why."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Run(f"ws://127.0.0.1:{port}/x", connect_timeout_s=0.4) as run:
        run.until(lambda: run.client.failure is not None)
    assert isinstance(run.client.failure, ExchangeUnavailable)
    assert f"ws://127.0.0.1:{port}/x: connection refused" in str(run.client.failure)


def test_a_server_that_answers_no_subscription_is_not_connected():
    """An open socket alone is no connection to OKX."""
    with Server(lambda connection, n: stay(connection)) as server, Run(server.url, connect_timeout_s=0.4) as run:
        run.until(lambda: run.client.failure is not None)
    assert "answers no subscription" in str(run.client.failure)


def test_stop_while_dialling_does_not_wait():
    """A handshake that never ends does not hold up the end of the program."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with Run(f"ws://127.0.0.1:{mute.getsockname()[1]}/x") as run:
            time.sleep(0.1)
            began = time.monotonic()
            run.client.stop()
            assert run.client.join(30)
        assert time.monotonic() - began < 5


def test_a_dial_that_takes_too_long_is_given_up(monkeypatch):
    """A server that trickles its handshake for ever is left alone in the end."""
    monkeypatch.setattr(dialling, "_DIAL_LIMIT_MS", 100)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        Run(f"ws://127.0.0.1:{mute.getsockname()[1]}/x") as run,
    ):
        run.until(lambda: "no answer within" in run.client.state().trouble)


# The wire alone


def raw_server(answer):
    """A TCP server that reads a request's head and answers with bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        with listener:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(answer)
                peer.settimeout(30)
                with contextlib.suppress(ConnectionError):
                    while peer.recv(4096):
                        continue

    threading.Thread(target=run, daemon=True).start()
    return f"ws://127.0.0.1:{listener.getsockname()[1]}/x"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "HTTP status 429"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "HTTP status 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/elsewhere\r\n\r\n", "redirects elsewhere"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "Invalid WebSocket Header"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "Invalid status line"),
    ],
)
def test_handshakes_that_fail_are_told(answer, told):
    """Refused, redirected or no WebSocket at all: one reason, no traceback."""
    with pytest.raises(DialError, match=told):
        Wire.dial(raw_server(answer), 10)


def test_names_and_schemes_that_cannot_be():
    """An unknown host and a scheme that is none are told."""
    for url in ("ws://no-such-host.invalid/x", "gopher://127.0.0.1/x"):
        with pytest.raises(DialError):
            Wire.dial(url, 10)


def test_certificates_are_verified(tmp_path, monkeypatch):
    """A TLS server with a certificate that nobody vouches for is refused; one that is trusted is read."""
    import ssl
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout {key} -out {certificate}"
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run([*command.split(), *alternative], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Server(lambda connection, n: connection.send("hello" * 20_000), ssl=context) as server:
        url = server.url.replace("ws:", "wss:")
        with pytest.raises(DialError, match="certificate is not valid"):
            Wire.dial(url, 10)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        connection = Wire.dial(url, 10)
        assert frames_of(connection, 1) == [b"hello" * 20_000]
        connection.close()


def test_a_certificate_of_somebody_else_is_refused(tmp_path, monkeypatch):
    """A certificate that is trusted, and not that of the host that was dialled, is none."""
    import ssl
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -keyout {key} -out {certificate}"
    made = subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:www.example.com"], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    wrong = pytest.raises(DialError, match=r"certificate is not valid: (IP address|Hostname) mismatch")
    with Server(lambda connection, n: None, ssl=context) as server, wrong:
        Wire.dial(server.url.replace("ws:", "wss:"), 2)


def frames_of(wire_, count):
    """Read until `count` frames have come."""
    found = []
    end = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < end
        found += wire_.frames(100)
        time.sleep(0.002)
    return found


def test_huge_messages_are_refused_before_they_are_read(monkeypatch):
    """A frame that announces 100 MB, and pieces that grow past the bound, end the connection; memory stays."""
    monkeypatch.setattr(nonblocking_socket, "MAX_MESSAGE", 100_000)

    def behave(connection, n):
        if n == 1:
            connection.socket.sendall(b"\x81\x7f" + struct.pack("!Q", 100_000_000) + b"x" * 1000)
        else:
            piece = b"\x00\x7e" + struct.pack("!H", 60_000) + b"x" * 60_000
            connection.socket.sendall(b"\x01\x00" + piece * 3)
        time.sleep(0.3)

    with Server(behave) as server:
        for told in ("a message of 100000000 bytes", "a message in pieces"):
            connection = Wire.dial(server.url, 10)
            with pytest.raises(WireError, match=told):
                frames_of(connection, 1)
            with pytest.raises(WireError, match=told):
                connection.frames(1)
            connection.close()


def test_frames_cut_anywhere_are_put_together():
    """Frames that arrive byte by byte, in pieces, with protocol pings between, are the same messages."""
    ponged = []

    def trickle(connection, data):
        for byte in data:
            connection.socket.sendall(bytes([byte]))

    def behave(connection, _):
        text = push(1).encode()
        half = len(text) // 2
        trickle(connection, b"\x01" + bytes([half]) + text[:half])
        pong = connection.ping("hi")
        trickle(connection, b"\x80" + bytes([len(text) - half]) + text[half:] + b"\x81\x04pong")
        ponged.append(pong.wait(30))

    with Server(behave) as server:
        connection = Wire.dial(server.url, 10)
        assert frames_of(connection, 2) == [push(1).encode(), b"pong"]
        end = time.monotonic() + 30
        while not ponged and time.monotonic() < end:
            time.sleep(0.01)
        connection.close()
    assert ponged == [True]


def test_backoff_grows_at_random_and_starts_over():
    """The wait is random, below a bound that doubles up to 30 s; after a success it is short again."""
    for _ in range(20):
        backoff = Backoff(0.5, 30.0)
        waits = [backoff.failed() for _ in range(12)]
        assert all(0 <= wait <= min(30.0, 0.5 * 2**n) for n, wait in enumerate(waits))
        backoff.succeeded()
        assert backoff.failed() <= 0.5
    assert len({Backoff().failed() for _ in range(20)}) > 10


def test_dials_are_spaced_for_all_who_share_the_limit():
    """Five callers at once get their turns one second apart."""
    limiter = DialLimiter(1.0)
    turns = [limiter.turn() for _ in range(5)]
    assert [round(turn) for turn in turns] == [0, 1, 2, 3, 4]


def test_dials_of_all_processes_stay_below_okxs_limit(tmp_path, monkeypatch):
    """Three processes that dial at once share three turns a second for each host, whoever comes first."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    processes = [MachineDials(0.0) for _ in range(3)]
    turns = [processes[n % 3].turn("wss://ws.okx.com/ws/v5/public") for n in range(9)]
    assert [turn // 1.0 for turn in turns] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert processes[0].turn("wss://wseea.okx.com/ws/v5/public") == 0


def test_what_is_put_off_is_tried_ever_more_rarely():
    """After one minute, two, four, up to an hour; from the beginning after a long time, or when somebody asks."""
    put_off, now = live_session.PutOff(), 0
    waits = []
    for _ in range(9):
        put_off.add([BTC], now)
        (due,) = put_off.dues()
        waits.append((due - now) // 60_000)
        assert put_off.take(due - 1) == []
        assert put_off.take(due) == [BTC]
        now = due
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    put_off.add([BTC], now + 3 * 3_600_000)
    assert put_off.dues() == [now + 3 * 3_600_000 + 60_000]
    put_off.hurry(now)
    assert put_off.subscriptions() == put_off.take(now) == [BTC]
    put_off.add([BTC, ETH], now)
    put_off.drop([BTC])
    assert put_off.subscriptions() == [ETH]
    assert put_off
