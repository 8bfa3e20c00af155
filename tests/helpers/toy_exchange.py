"""Another exchange, small and all its own: to see that the package needs nothing of OKX but its folder.

Its raw lines are `TOY;symbol;id;price;size;side;ms`. Its feed brings what the file at $TOY_FILLS holds, without the ids
of $TOY_LOST, which its history has.
"""

import os
from decimal import Decimal
from pathlib import Path

from okxcli.core.model import StandardizedTrade
from okxcli.errors import InvalidLine, UsageError
from okxcli.exchanges.interface import Page, Taken
from okxcli.runtime.clock import SteadyClock, now_ms


def raw(symbol, number, price, size, side, at):
    """Return a line of this exchange's."""
    return f"TOY;{symbol};{number};{price};{size};{side};{at}".encode()


def _fills():
    lines = Path(os.environ["TOY_FILLS"]).read_bytes().splitlines()
    return {int(line.split(b";")[2]): line for line in lines}


class _Normalizer:
    def take(self, block, at):
        return Taken(b"", 0, at, 0)

    def feed(self, line):
        parts = line.decode().split(";")
        if len(parts) != 7 or parts[0] != "TOY":
            raise InvalidLine("not a line of the toy exchange")
        symbol, number, price, size, side, at = parts[1:]
        return [StandardizedTrade("toy", symbol, int(number), side, Decimal(price), Decimal(size), int(at))]

    def counts(self):
        return {}

    def notes(self):
        return []


class _Feed:
    wall_offset_ms = None

    def __init__(self):
        self.clock = SteadyClock()
        self._out, self._in = os.pipe()
        os.write(self._in, b"1")
        lost = {int(number) for number in os.environ["TOY_LOST"].split(",")}
        self._lines = [line for number, line in sorted(_fills().items()) if number not in lost]

    def measure(self):
        pass

    def fileno(self):
        return self._out

    def poll(self):
        if self._lines:
            os.read(self._out, 1)
        found, self._lines = self._lines, []
        return found

    def stop(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self._in)


class _History:
    def range(self, symbol, first, last, known=None):
        fills = _fills()
        for low in range(first, last + 1, TOY.page):
            high = min(low + TOY.page - 1, last)
            assert all(number in fills for number in range(low, high + 1))
            yield Page([fills[number] for number in range(low, high + 1)], low, high, [], True)

    def newest(self, symbol):
        number, line = max(_fills().items())
        return number, int(line.split(b";")[6])


class _Market:
    base_url = "https://toy.example"

    def clock(self):
        return SteadyClock()

    def history(self, clock):
        return _History()

    def describe(self, symbols):
        return []

    def close(self):
        pass


class _Toy:
    name, title, home = "toy", "Toy", "toy.example"
    ws_url, rest_url = "wss://toy.example", "https://toy.example"
    page, horizon_ms, preface, files = 7, now_ms(), (), None

    def origin_of(self, url):
        return url.split("//")[1]

    def pages(self):
        return 10, 1.0

    def is_raw(self, line):
        return line.startswith(b"TOY;")

    def normalizer(self, clock=None):
        return _Normalizer()

    def timeframe_of(self, channel):
        return None

    def bar_of(self, timeframe):
        raise UsageError("the toy exchange has no bars")

    def market(self, rest_url, proxies, **options):
        return _Market()

    def feed(self, symbols, channels, **options):
        return _Feed()


EXCHANGE = TOY = _Toy()
