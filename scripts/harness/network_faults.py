"""What can happen to a connection, each as a function that makes it happen once, finds out when `collect` notices, and
mends it.

Times are those of the exchange and of okx: half a minute of keep-alive, a minute of patience with a mute channel. With
a `scale` above 1 all of them are so many times shorter.
"""

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psycopg

from harness import common
from harness.gate import Gate
from harness.scene import Scene

# `okx` as it is, but for its times, which are divided by the scale; for the name server and the wall clock, which do
# as a file says; and for the repair that a planted loss takes out.
RUN = (
    """
import os, socket, sys, time
scale, flags, repair = float(sys.argv.pop(1)), sys.argv.pop(1), sys.argv.pop(1) == "repair"
from okxcli.exchanges.okx.connection import session
from okxcli.exchanges.okx.feed import live_feed, liveness
def shorter(*milliseconds):
    return [round(number / scale) for number in milliseconds]
for name in ("PING_AFTER_MS", "PONG_TIMEOUT_MS", "ACK_TIMEOUT_MS"):
    setattr(session, name, *shorter(getattr(session, name)))
def watching(*arguments, **options):
    dog = liveness.Watchdog(*shorter(20_000, 5_000, 60_000))
    times = liveness.Times(*shorter(1_000, 60_000, 300_000), None)
    return liveness.Watch(*arguments, **{**options, "dog": dog, "times": times})
live_feed.Watch = watching
def flag(name):
    try:
        with open(os.path.join(flags, name)) as file:
            return file.read()
    except OSError:
        return ""
find, wall = socket.getaddrinfo, time.time_ns
def lookup(*arguments, **options):
    if flag("dns"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return find(*arguments, **options)
socket.getaddrinfo = lookup
time.time_ns = lambda: wall() + int(flag("wall") or 0) * 10**9
"""
    + common.RUN
)

NOTICE = {
    "event": "notice",
    "msg": "The connection will soon be closed for a service upgrade. Please reconnect.",
    "code": "64008",
    "connId": "8517149b",
}


class Met(NamedTuple):
    """The state that a fault met, and after how many seconds `collect` said so; None: it is not to say anything."""

    state: str
    found_s: float | None
    note: str = ""


class Field:
    """A scene in which faults are dealt: what they need beside it."""

    def __init__(self, scene: Scene, rng: random.Random, scale: float, gate: Gate | None = None) -> None:
        self.scene = scene
        self.gate = gate
        self.exchange = scene.exchange
        self.rng = rng
        self.scale = scale
        self.problems = scene.problems
        self._number = 0

    def s(self, seconds: float) -> float:
        """Return a time of the exchange or of okx as long as it is here."""
        return seconds / self.scale

    def mark(self) -> int:
        """Return how long the log is by now."""
        return len(self.scene.log)

    def found(self, mark: int, pattern: str, began: float, patience_s: float) -> float:
        """Wait for a line of the log after `mark`; return the seconds from `began`.

        Raises:
            RuntimeError: it does not come.
        """
        while re.search(pattern, self.scene.log[mark:]) is None:
            if time.monotonic() > began + patience_s:
                raise RuntimeError(f"collect does not say {pattern!r} within {patience_s:.0f} s")
            self.scene.alive()
            time.sleep(0.02)
        return time.monotonic() - began

    def symbol(self) -> str:
        """Return a symbol, another one each time."""
        self._number += 1
        return self.scene.symbols[self._number % len(self.scene.symbols)]

    def traded(self, symbol: str) -> float:
        """Wait for the next fill of a symbol; return the moment."""
        newest = self.exchange.fills(symbol)[-1].trade_id
        while self.exchange.fills(symbol)[-1].trade_id == newest:
            time.sleep(0.005)
        return time.monotonic()

    def flag(self, name: str, text: str) -> None:
        """Set what a file says to the program; "" takes it away."""
        path = self.scene.folder / "flags" / name
        if text:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").rename(path)
        else:
            path.unlink(missing_ok=True)

    def behind_ms(self) -> int:
        """Return how far the market's time is behind ours: what a fill takes longer is not on its way."""
        return time.time_ns() // 1_000_000 - self.exchange.now_ms()

    def pid(self) -> int:
        """Return the process of `collect`."""
        assert self.scene.process is not None
        return self.scene.process.pid


def cut(field: Field) -> Met:
    """The connection breaks without a close frame."""
    mark, began = field.mark(), time.monotonic()
    field.exchange.cut()
    return Met("standing", field.found(mark, "connecting again", began, 20))


def half_open(field: Field) -> Met:
    """No byte comes or goes any more, and no end."""
    mark, began = field.mark(), time.monotonic()
    field.exchange.freeze()
    # By a ping; or by what is done about channels that are mute: a request without an answer, a replacement.
    return Met("standing", field.found(mark, "no pong for|no answer to|replacing the connection", began, 80))


def no_pong(field: Field) -> Met:
    """Data comes, and pings have no answer."""
    mark, began = field.mark(), time.monotonic()
    field.exchange.fault("no-pong=200s")
    met = Met("data flows", field.found(mark, "no pong for", began, 80))
    field.exchange.fault("no-pong=0s")
    return met


def no_ack(field: Field) -> Met:
    """A new connection is made, and its subscriptions have no answer."""
    mark = field.mark()
    shaken = field.exchange.counts()["handshakes"]
    field.exchange.fault("no-ack=200s")
    field.exchange.cut()
    while field.exchange.counts()["handshakes"] == shaken:
        time.sleep(0.01)
    met = Met("subscribing", field.found(mark, "no answer to the subscription", time.monotonic(), 40))
    field.exchange.fault("no-ack=0s")
    return met


def mute(field: Field) -> Met:
    """One subscription brings nothing any more, until it is made anew."""
    mark, symbol = field.mark(), field.symbol()
    field.exchange.deafen("trades-all", symbol)
    met = Met("one of many", field.found(mark, f"mute: .*{symbol}.*subscribing", field.traded(symbol), 100))
    field.found(mark, f"{symbol} brings data again", time.monotonic(), 60)
    return met


def mute_connection(field: Field) -> Met:
    """Pongs come and no data at all, until the connection is made anew."""
    mark, symbol = field.mark(), field.symbol()
    field.exchange.deafen(lasting=True)
    met = Met("pongs, no data", field.found(mark, "mute: .*replacing", field.traded(symbol), 140))
    field.found(mark, "connected to .* again", time.monotonic(), 60)
    return met


def closed(code: int, reason: str) -> Callable[[Field], Met]:
    """Return the fault that OKX closes the connection with this code."""

    def close(field: Field) -> Met:
        mark, began = field.mark(), time.monotonic()
        field.exchange.close_connections(code, reason)
        return Met("standing", field.found(mark, rf"closed by OKX \({code}", began, 20))

    return close


def upgrade(field: Field) -> Met:
    """64008: the connection will be closed in a while. No fill may be late, none come from REST."""
    mark, began = field.mark(), time.monotonic()
    field.traded(field.scene.symbols[0])
    asked = field.exchange.counts().get("GET market/history-trades", 0)
    newest = field.scene.newest()
    old = [one.conn_id for one in field.exchange.connections() if one.path.endswith("business")]  # its fills
    field.exchange.send(json.dumps(NOTICE))
    found_s = field.found(mark, "connected to .*business again", began, 40)
    time.sleep(field.s(20))
    left = [one for one in field.exchange.connections() if one.conn_id in old]
    if left:
        field.problems.append("the old connection is still there when OKX closes it")
        field.exchange.close_connections(1001, "Service upgrade")
    field.scene.wait_stored()
    more = field.exchange.counts().get("GET market/history-trades", 0) - asked
    late_ms, by_rest = _lateness(field.scene, newest)
    late_ms -= field.behind_ms()
    if more or by_rest:
        field.problems.append(f"64008: {by_rest} fills came from REST, in {more} requests")
    if late_ms > 1_000:
        field.problems.append(f"64008: a fill came {late_ms} ms late")
    return Met("planned end", found_s, f"the latest fill was {late_ms} ms on its way, {by_rest} came from REST")


def _lateness(scene: Scene, newest: dict[str, int]) -> tuple[int, int]:
    """Return how long the latest of the fills since `newest` was under way, and how many came from REST."""
    query = (
        "SELECT coalesce(max((extract(epoch FROM received - timestamp) * 1000)::bigint), 0),"
        " count(*) FILTER (WHERE origin = 'rest') FROM raw_trades WHERE symbol = %s AND trade_id > %s"
    )
    found = []
    with psycopg.connect(scene.postgres.dsn) as connection:
        for symbol, number in newest.items():
            row = connection.execute(query, [symbol, number]).fetchone()
            assert row is not None
            found.append((int(row[0]), int(row[1])))
    return max(late for late, _ in found), sum(by_rest for _, by_rest in found)


def refused(field: Field) -> Met:
    """New connections are refused for a while."""
    mark, began = field.mark(), time.monotonic()
    field.exchange.fault(f"refuse={field.s(15)}s")
    field.exchange.cut()
    met = Met("dialling", field.found(mark, "refused with HTTP status 429", began, 30))
    field.found(mark, "connected to .* again", time.monotonic(), 90)
    return met


def no_name(field: Field) -> Met:
    """The name server does not know OKX for a while."""
    mark, began = field.mark(), time.monotonic()
    field.flag("dns", "1")
    field.exchange.cut()
    met = Met("dialling", field.found(mark, "no such host", began, 30))
    time.sleep(field.s(10))
    field.flag("dns", "")
    field.found(mark, "connected to .* again", time.monotonic(), 90)
    return met


def shown(what: str, words: str) -> Callable[["Field"], Met]:
    """Return the fault that new connections meet another certificate, or none that ends."""

    def make(field: Field) -> Met:
        assert field.gate is not None
        mark, began = field.mark(), time.monotonic()
        field.gate.shows = what
        field.exchange.cut()
        met = Met("dialling", field.found(mark, f"cannot connect to wss://.*{words}", began, 40))
        time.sleep(field.s(10))
        field.gate.shows = "good"
        field.found(mark, "connected to .* again", time.monotonic(), 90)
        return met

    return make


def delisted(field: Field) -> Met:
    """One symbol is refused at the next connection (60018), the others go on; it comes back by SIGHUP."""
    mark, symbol = field.mark(), field.symbol()
    field.exchange.set_state(symbol, "expired")
    began = time.monotonic()
    field.exchange.cut()
    met = Met("one of many", field.found(mark, f"{symbol} is retired", began, 40))
    other = next(name for name in field.scene.symbols if name != symbol)
    field.traded(other)
    newest = field.exchange.fills(other)[-1].trade_id
    while field.scene.stored().get(other, 0) < newest:
        field.scene.alive()
        time.sleep(0.02)
    field.exchange.set_state(symbol, "live")
    os.kill(field.pid(), signal.SIGHUP)
    field.found(mark, f"{symbol} is back", time.monotonic(), 60)
    return met


def no_such_symbol(field: Field) -> Met:
    """A symbol that OKX never had is added beside the others: it alone is refused."""
    file = field.scene.folder / "okx.json"
    config = json.loads(file.read_text())
    shaken = field.exchange.counts()["handshakes"]
    mark, began = field.mark(), time.monotonic()
    file.write_text(json.dumps(config | {"symbols": [*config["symbols"], f"NO{mark}-USDT"]}))
    os.kill(field.pid(), signal.SIGHUP)
    met = Met("one of many", field.found(mark, f"OKX has no NO{mark}-USDT", began, 40))
    mark = field.mark()
    file.write_text(json.dumps(config))
    os.kill(field.pid(), signal.SIGHUP)
    field.found(mark, "configuration is read again", time.monotonic(), 40)
    if field.exchange.counts()["handshakes"] != shaken:
        field.problems.append("60018 for one of many made another connection")
    return met


def stopped(field: Field) -> Met:
    """`collect` is stopped for longer than the keep-alive, and goes on (a laptop's lid, a debugger)."""
    os.kill(field.pid(), signal.SIGSTOP)
    time.sleep(field.s(35))
    os.kill(field.pid(), signal.SIGCONT)
    return Met("nobody reads", None)


def wall_clock(field: Field) -> Met:
    """The wall clock steps ahead by an hour, back by two, and is right again."""
    before = _bars(field.scene)
    for hour in (1, -1, 0):
        field.flag("wall", str(hour * 3600))
        time.sleep(max(field.s(5), 2.5))
    field.flag("wall", "")
    field.scene.wait_stored()
    made, revised = (after - then for after, then in zip(_bars(field.scene), before, strict=True))
    # Where fills were under way at its end a bar is written twice at any time; by a clock that is ahead, all are.
    if revised * 3 > made:
        field.problems.append(f"steps of the wall clock had {revised} of {made} bars written too early")
    return Met("trading", None)


def _bars(scene: Scene) -> tuple[int, int]:
    """Return how many bars are stored, and how many of them were written more than once."""
    with psycopg.connect(scene.postgres.dsn) as connection:
        row = connection.execute("SELECT count(*), count(*) FILTER (WHERE revision > 0) FROM market_data").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def dropped(field: Field) -> Met:
    """Fills are left out of the pushes, and REST has them: with the repair out of order they stay lost."""
    symbol = field.symbol()
    field.exchange.fault(f"drop=3:{symbol}")
    field.traded(symbol)
    time.sleep(0.3)
    return Met("one of many", None)


class Fault(NamedTuple):
    """How a fault is made, and within how many seconds it must be noticed (None: it need not be)."""

    make: Callable[[Field], Met]
    bound_s: float | None


#: The bounds are those of the manual: a pong that is missing 40 s, an answer 10 s, data of a channel 60 s.
FAULTS = {
    "cut": Fault(cut, 5),
    "half open": Fault(half_open, 40),
    "no pong": Fault(no_pong, 40),
    "no ack": Fault(no_ack, 10.5),
    "mute channel": Fault(mute, 60),
    "mute connection": Fault(mute_connection, 60),
    "4004": Fault(closed(4004, "No data received in 30s"), 5),
    "4005": Fault(closed(4005, "Buffer is full, cannot write data"), 5),
    "64008": Fault(upgrade, 10),
    "refused": Fault(refused, 10),
    "no such host": Fault(no_name, 10),
    "tls expired": Fault(shown("expired", "certificate has expired"), 10),
    "tls wrong host": Fault(shown("other", "IP address mismatch"), 10),
    "tls unknown CA": Fault(shown("stranger", "unable to get local issuer certificate"), 10),
    "tls cut": Fault(shown("cut", ""), 10),
    "delisted": Fault(delisted, 10),
    "60018": Fault(no_such_symbol, 10),
    "stopped": Fault(stopped, None),
    "wall clock": Fault(wall_clock, None),
    "dropped": Fault(dropped, None),
}


def flags(folder: Path) -> Path:
    """Make the folder of the files that the program looks at."""
    path = folder / "flags"
    path.mkdir()
    return path
