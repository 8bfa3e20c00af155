"""A market that is over and a database beside it, for the tests of backfill; requests to it are counted."""

from contextlib import closing
from decimal import Decimal

from okxcli.core.model import StandardizedTrade
from okxcli.exchanges.okx.rest.endpoints import RestClient
from okxcli.storage.database import open_database
from okxcli.storage.write.writer import Writer

#: Ten minutes of trading end here, long over by now.
START_MS = 1_795_000_000_000


class Turns:
    """No limits, as a test has the exchange for itself; counts what is asked for."""

    def __init__(self):
        self.asked = []

    def turn(self, path):
        self.asked.append(path)
        return 0.0

    def pause(self, path, seconds):
        pass


class Place:
    """A local exchange with a past of `symbol`, and an empty database. Who derives from it says how to `backfill`."""

    def __init__(self, exchange, dsn, symbol="BTC-USDT"):
        self.exchange = exchange
        self.symbol = symbol
        self.turns = Turns()
        self.rest = RestClient(exchange.rest_url, budget=self.turns)
        self.database = open_database(dsn, create=True, origin="local")
        self.connection = self.database.connect()
        self.fills = exchange.fills(symbol)
        self.ids = [fill.trade_id for fill in self.fills]

    def close(self):
        self.connection.close()
        self.database.close()
        self.rest.close()

    def run(self, since=None, until=None, **options):
        with closing(self.backfill(**options)) as work:
            return list(work.run([self.symbol], since, until))

    def lines(self):
        """Return every fill as a trade line."""
        return [
            StandardizedTrade("okx", self.symbol, f.trade_id, f.side, Decimal(f.price), Decimal(f.size), f.ts, source=0)
            for f in self.exchange.fills(self.symbol)
        ]

    def store(self, lines):
        with closing(Writer(self.database.connect)) as writer:
            for line in lines:
                writer.add(line)
            writer.flush()

    def execute(self, query, *values):
        return self.connection.execute(query, values[0] if values and isinstance(values[0], dict) else values)
