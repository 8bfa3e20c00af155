"""An exchange that only pushes, as fast as it is told to: a process of its own, `python bench_source.py PLAN`.

PLAN is JSON. Either prepared frames of trades-all go out as fast as they are taken: `file` is where they lie, made by
`write_frames`. Or pushes are stamped and sent at `rates` a second for `seconds`: one channel's symbols in turn, the
fills of trades-all in bursts; each leaves within a millisecond or two of its time, in a segment of its own if nothing
else is due. Pushing begins when each of `channels` of each of `symbols` is subscribed. `log` is a file that gets place
of the symbol, id, and CLOCK_MONOTONIC in ns at the sending of each fill, 8 bytes each.

Lines on stdout: {"port"}; {"began", "wall_ms"} with the first push; the report at the end. It stays until stdin ends.
It answers requests of REST with the time, instruments and nothing else, and pings.
"""

import base64
import gc
import hashlib
import json
import os
import random
import selectors
import socket
import sys
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

from okxcli.local.venue.instruments import any_row

Key = tuple[str, str]

FIRST_ID = 1_000_000_000  # ids have as many digits as this one for as long as anybody measures
_ACCEPT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TICK_S = 0.001
_LISTEN_EVERY = 20
_CHUNK = 1 << 20
_TS = b"0000000000000"  # as long as a time in ms
_ID = b"%d" % FIRST_ID


def frame(payload: bytes) -> bytes:
    """Return a text frame in one piece, as a server sends it."""
    size = len(payload)
    head = bytes([0x81, size]) if size < 126 else b"\x81\x7e" + size.to_bytes(2)
    return head + payload


def fill(symbol: str, number: bytes, rng: random.Random, ts: bytes) -> bytes:
    """Return a push of trades-all."""
    price, size, side = rng.randrange(10**4, 10**6), rng.randrange(1, 10**6), rng.choice(("buy", "sell"))
    return (
        f'{{"arg":{{"channel":"trades-all","instId":"{symbol}"}},"data":[{{"instId":"{symbol}","tradeId":"'
        f'{number.decode()}","px":"{price / 100:.2f}","sz":"{size / 10**5:.5f}","side":"{side}","source":"0",'
        f'"ts":"{ts.decode()}"}}]}}'
    ).encode()


def _book(symbol: str, rng: random.Random) -> bytes:
    middle = rng.randrange(10**4, 10**6)
    sides = (
        [
            [f"{(middle + sign * n) / 100:.2f}", f"{rng.randrange(1, 10**6) / 10**5:.5f}", "0", str(n)]
            for n in range(1, 6)
        ]
        for sign in (1, -1)
    )
    asks, bids = (json.dumps(side, separators=(",", ":")) for side in sides)
    return (
        f'{{"arg":{{"channel":"books5","instId":"{symbol}"}},"data":[{{"asks":{asks},"bids":{bids},'
        f'"instId":"{symbol}","ts":"{_TS.decode()}","seqId":{rng.randrange(10**9, 10**10)}}}]}}'
    ).encode()


def _updates(symbol: str, rng: random.Random) -> list[bytes]:
    """Return the snapshot of a book of 400 levels and four updates of it, up to their time.

    Each has 26 levels, as in a recording of BTC-USDT-SWAP on 2024-06-01; one in four goes, or stands again later.
    """
    middle = rng.randrange(10**5, 10**6)
    head = f'{{"arg":{{"channel":"books","instId":"{symbol}"}},"action":"'

    def levels(places: list[int], sign: int, gone: bool) -> str:
        sizes = ["0" if gone and n > 9 and rng.random() < 0.25 else f"{rng.randrange(1, 10**6)}e-5" for n in places]
        level = [
            [f"{(middle + sign * n) / 100:.2f}", f"{float(size):.5f}", "0", "3"]
            for n, size in zip(places, sizes, strict=True)
        ]
        return json.dumps(level, separators=(",", ":"))

    def message(action: str, places: list[int]) -> bytes:
        gone = action == "update"
        asks, bids = levels(places, 1, gone), levels(places, -1, gone)
        return f'{head}{action}","data":[{{"asks":{asks},"bids":{bids},"ts":"'.encode()

    near = [sorted({1, 2, *(min(400, int(rng.expovariate(1 / 40)) + 1) for _ in range(12))}) for _ in range(4)]
    return [message("snapshot", [*range(1, 401)]), *(message("update", places) for places in near)]


def _ticker(symbol: str, rng: random.Random) -> bytes:
    last = rng.randrange(10**4, 10**6)
    day = [f"{(last + step) / 100:.2f}" for step in (0, 1, -1, 50, 900, -900, 30, 20)]
    names = ("last", "askPx", "bidPx", "open24h", "high24h", "low24h", "sodUtc0", "sodUtc8")
    sizes = {"lastSz": "0.5", "askSz": "1.25", "bidSz": "0.75", "volCcy24h": "525802090.62", "vol24h": "17602.13085371"}
    row = {"instType": "SPOT", "instId": symbol, **dict(zip(names, day, strict=True)), **sizes, "ts": _TS.decode()}
    push = {"arg": {"channel": "tickers", "instId": symbol}, "data": [row]}
    return json.dumps(push, separators=(",", ":")).encode()


def write_frames(path: Path, lines: Path, symbols: list[str], count: int) -> None:
    """Write `count` fills of trades-all to `path` as frames, and to `lines` as lines."""
    rng = random.Random(1)
    now = time.time_ns() // 1_000_000
    shapes = [fill(symbol, _ID, rng, _TS).replace(_TS, b"%d") for symbol in symbols for _ in range(50)]
    ids = dict.fromkeys(range(len(symbols)), FIRST_ID)
    with path.open("wb") as frames, lines.open("wb") as plain:
        for n in range(count):
            shape = rng.randrange(len(shapes))
            number = ids[shape // 50] = ids[shape // 50] + 1
            payload = (shapes[shape] % (now + n // 1000)).replace(_ID, b"%d" % number, 1)
            frames.write(frame(payload))
            plain.write(payload + b"\n")


class Client:
    """A connection: what was read and not understood yet, what it subscribed, what it did not take yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.path = ""
        self.read = b""
        self.keys: set[Key] = set()
        self.due: list[bytes] = []  # in this tick
        self.behind = b""

    def send(self, data: bytes) -> int:
        """Send what can be sent; the rest waits. Returns how much does."""
        data = self.behind + data if self.behind else data
        try:
            self.behind = data[self.sock.send(data) :]
        except BlockingIOError:
            self.behind = data
        except OSError:
            self.behind = b""
        return len(self.behind)


class Source:
    """The server, and the pushes."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.symbols: list[str] = plan["symbols"]
        self.channels: list[str] = plan["channels"]
        self.place = {symbol: n for n, symbol in enumerate(self.symbols)}
        self.missing = {(channel, symbol) for channel in self.channels for symbol in self.symbols}
        self.owner: dict[Key, Client] = {}
        self.ids = [FIRST_ID] * len(self.symbols)
        self.sent: Counter[str] = Counter()
        self.same: Counter[str] = Counter()  # those of the time of the last one of their symbol: not two snapshots
        self.last: dict[Key, bytes] = {}
        self.numbers: dict[Key, int] = {}  # of the last message of each book
        self.backlog = 0
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.over = False
        self.random = random.Random(2)
        self.pieces = self._pieces() if "rates" in plan else {}

    def _pieces(self) -> dict[Key, list[list[bytes]]]:
        """Return four frames of each channel and symbol, cut where an id and a time belong."""
        make = {"books5": _book, "tickers": _ticker, "trades-all": lambda s, rng: fill(s, _ID, rng, _TS)}
        found: dict[Key, list[list[bytes]]] = {}
        for key in self.missing:
            if key[0] == "books":
                found[key] = [[one] for one in _updates(key[1], self.random)]
                continue
            whole = [frame(make[key[0]](key[1], self.random)) for _ in range(4)]
            found[key] = [[part for half in one.split(_TS) for part in half.split(_ID)] for one in whole]
        return found

    # Whoever asks

    def listen(self, timeout_s: float = 0.0) -> None:
        """Take in what has come."""
        for key, _ in self.selector.select(timeout_s):
            if key.fileobj is self.listener:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.selector.register(sock, selectors.EVENT_READ, Client(sock))
            elif key.data is None:
                self.over = not os.read(0, 4096) or self.over
            else:
                self._hear(key.data)

    def _hear(self, client: Client) -> None:
        try:
            data = client.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(client.sock)
            client.sock.close()
            self.owner = {key: one for key, one in self.owner.items() if one is not client}
            return
        client.read += data
        while client.read and (self._frame(client) if client.path else self._head(client)):
            pass

    def _head(self, client: Client) -> bool:
        head, end, client.read = client.read.partition(b"\r\n\r\n")
        if not end:
            client.read = head
            return False
        first, *fields = head.decode().split("\r\n")
        path = first.split()[1]
        named = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
        if "sec-websocket-key" not in named:
            body = json.dumps({"code": "0", "msg": "", "data": self._rest(path)}).encode()
            kind = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            client.send(f"{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return True
        client.path = path
        digest = hashlib.sha1((named["sec-websocket-key"] + _ACCEPT).encode(), usedforsecurity=False).digest()
        upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        client.send(f"{upgrade}Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n".encode())
        return True

    def _rest(self, path: str) -> list[dict[str, Any]]:
        if "/public/time" in path:
            return [{"ts": str(time.time_ns() // 1_000_000)}]
        if "/public/instruments" in path and "instType=SPOT" in path:
            return [any_row(symbol) for symbol in self.symbols if f"instId={symbol}" in path or "instId=" not in path]
        return []

    def _frame(self, client: Client) -> bool:
        """Take the next frame of a client, which is masked."""
        data = client.read
        size, at = data[1] & 0x7F if len(data) > 1 else 0, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at])
        if len(data) < at + 4 + size:
            return False
        mask, body = data[at : at + 4], data[at + 4 : at + 4 + size]
        client.read = data[at + 4 + size :]
        text = bytes(byte ^ mask[n % 4] for n, byte in enumerate(body))
        if data[0] & 0x0F == 9:
            client.send(bytes([0x8A, len(text)]) + text)
        elif text == b"ping":
            client.send(frame(b"pong"))
        elif data[0] & 0x0F == 1:
            self._request(client, json.loads(text))
        return True

    def _request(self, client: Client, request: dict[str, Any]) -> None:
        for argument in request["args"]:
            named = {"id": request["id"]} if "id" in request else {}
            answer = {**named, "event": request["op"], "arg": argument, "connId": "b0000001"}
            client.send(frame(json.dumps(answer, separators=(",", ":")).encode()))
            key = argument["channel"], argument.get("instId", "")
            if request["op"] == "subscribe":
                client.keys.add(key)
                self.owner[key] = client
                self.missing.discard(key)
                if key in self.pieces:
                    client.send(self._push(key, b"%d" % (time.time_ns() // 1_000_000)))
            elif self.owner.get(key) is client:
                del self.owner[key]

    # Pushing

    def _push(self, key: Key, ts: bytes) -> bytes:
        """Return a push, and take note of it."""
        self.sent[key[0]] += 1
        if key[0] == "books":
            return self._book_push(key, ts)
        one = self.pieces[key][self.sent[key[0]] & 3]
        if key[0] != "trades-all":
            self.same[key[0]] += self.last.get(key) == ts
            self.last[key] = ts
            return one[0] + ts + one[1]
        place = self.place[key[1]]
        number = self.ids[place] = self.ids[place] + 1
        return b"%b%d%b%b%b" % (one[0], number, one[1], ts, one[2])

    def _book_push(self, key: Key, ts: bytes) -> bytes:
        """Return the next message of a book, the first one being its snapshot."""
        before = self.numbers.get(key, -1)
        number = self.numbers[key] = FIRST_ID if before < 0 else before + 2
        body = self.pieces[key][0 if before < 0 else 1 + (number >> 1 & 3)][0]
        return frame(b'%b%b","checksum":0,"seqId":%d,"prevSeqId":%d}]}' % (body, ts, number, before))

    def _turns(self, channel: str) -> list[Key]:
        """Return the symbols of a channel in the order in which they are pushed, again and again."""
        if channel != "trades-all":
            keys = [(channel, symbol) for symbol in self.symbols]
            self.random.shuffle(keys)
            return keys
        turns: list[Key] = []
        while len(turns) < 50_000:
            turns += [(channel, self.random.choice(self.symbols))] * self.random.choice((1, 1, 1, 2, 3))
        return turns

    def paced(self) -> dict[str, Any]:
        """Push at the rates; return the report."""
        turns = {channel: self._turns(channel) for channel in self.plan["rates"]}
        rates: dict[str, float] = self.plan["rates"]
        log, late = array("q"), array("d")
        gone = dict.fromkeys(rates, 0)
        begin = self._begin()
        ticks = 0
        while not self.over:
            now = time.monotonic()
            passed = min(now - begin, self.plan["seconds"])
            late.append(max(0.0, now - begin - ticks * _TICK_S))
            self._tick(turns, {channel: int(passed * rate) for channel, rate in rates.items()}, gone, log)
            ticks = int((now - begin) / _TICK_S) + 1
            if ticks % _LISTEN_EVERY == 0:
                self.listen()
            if passed == self.plan["seconds"]:
                break
            time.sleep(max(0.0, begin + ticks * _TICK_S - time.monotonic()))
        took = time.monotonic() - begin
        if self.plan.get("log"):
            Path(self.plan["log"]).write_bytes(log.tobytes())
        every = sorted(late)
        return {"seconds": took, "late_ms": {p: every[int(len(every) * p / 100) - 1] * 1000 for p in (50, 99, 100)}}

    def _tick(self, turns: dict[str, list[Key]], due: dict[str, int], gone: dict[str, int], log: "array[int]") -> None:
        ts = b"%d" % (time.time_ns() // 1_000_000)
        touched: dict[Client, None] = {}
        logged = bool(self.plan.get("log"))
        for channel, until in due.items():
            order = turns[channel]
            for n in range(gone[channel], until):
                key = order[n % len(order)]
                client = self.owner.get(key)
                if client is None:
                    continue
                client.due.append(self._push(key, ts))
                touched[client] = None
                if logged:
                    place = self.place[key[1]]
                    log.extend((place, self.ids[place], time.monotonic_ns()))
            gone[channel] = until
        for client in touched:
            self.backlog = max(self.backlog, client.send(b"".join(client.due)))
            client.due.clear()

    def at_full_speed(self) -> dict[str, Any]:
        """Send the prepared frames as fast as they are taken; return the report."""
        client = self.owner["trades-all", self.symbols[0]]
        begin = self._begin()
        path = Path(self.plan["file"])
        left, at = path.stat().st_size, 0
        with path.open("rb") as file, selectors.DefaultSelector() as writable:
            writable.register(client.sock, selectors.EVENT_WRITE)
            while left and not self.over:
                try:
                    gone = os.sendfile(client.sock.fileno(), file.fileno(), at, min(left, _CHUNK))
                except BlockingIOError:
                    writable.select(0.1)
                    self.listen()
                    continue
                except OSError:
                    break
                at, left = at + gone, left - gone
        return {"seconds": time.monotonic() - begin, "left": left}

    def _begin(self) -> float:
        tell({"began": time.monotonic(), "wall_ms": time.time_ns() // 1_000_000})
        return time.monotonic()

    def run(self) -> None:
        """Serve until stdin ends."""
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        tell({"port": self.listener.getsockname()[1]})
        while self.missing and not self.over:
            self.listen(1.0)
        cpu_s = time.process_time()
        report = self.at_full_speed() if "file" in self.plan else self.paced()
        while any(client.behind for client in self.owner.values()) and not self.over:
            for client in self.owner.values():
                client.send(b"")
            self.listen(0.001)
        report |= {"sent": self.sent, "same": self.same, "backlog": self.backlog, "cpu_s": time.process_time() - cpu_s}
        report["ids"] = dict(zip(self.symbols, self.ids, strict=True))
        tell(report)
        while not self.over:
            self.listen(1.0)


def tell(what: dict[str, Any]) -> None:
    """Write a line for the one who started this."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.disable()
    Source(json.loads(sys.argv[1])).run()
