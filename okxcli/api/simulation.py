"""A simulated exchange in this process, to try programs on."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TypedDict

from okxcli.commands.serving import make_tables
from okxcli.core.model import StandardizedTrade
from okxcli.local.exchange import LocalExchange
from okxcli.storage.server.embedded import THROWAWAY, EmbeddedServer


class Addresses(TypedDict):
    """Where the exchange is; `stream(..., **market.addresses)`."""

    ws_url: str
    rest_url: str


@dataclass(frozen=True)
class Simulation:
    """A market that trades; `dsn` is that of a database of its own, if one was asked for."""

    ws_url: str
    rest_url: str
    dsn: str | None
    _exchange: LocalExchange

    @property
    def addresses(self) -> Addresses:
        """Return what leads `stream` there."""
        return {"ws_url": self.ws_url, "rest_url": self.rest_url}

    def fills(self, symbol: str) -> list[StandardizedTrade]:
        """Return every fill of a symbol that the exchange remembers, by id: the truth to hold a program against."""
        return [
            StandardizedTrade(
                "okx", symbol, fill.trade_id, fill.side, Decimal(fill.price), Decimal(fill.size), fill.ts,
                source=fill.source,
            )
            for fill in self._exchange.fills(symbol)
        ]  # fmt: skip


@contextmanager
def simulate(
    *symbols: str,
    rate: float = 10.0,
    seed: int = 1,
    speed: float = 1.0,
    history: float = 600.0,
    faults: tuple[str, ...] = (),
    database: bool = False,
) -> Iterator[Simulation]:
    """Have a simulated exchange on this machine for the length of a `with` block, in threads of this process.

    As `okx simulate`: `rate` fills a second over all symbols, the market's clock `speed` times as fast as ours,
    `history` seconds of trading before. `faults` as `--fault` takes them. With `database` there is a fresh embedded
    Postgres too, thrown away at the end.

    Raises:
        UsageError: what cannot be a symbol, or a fault that there is not.
    """
    with ExitStack() as stack:
        dsn = None
        if database:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="okx-", ignore_cleanup_errors=True))
            dsn = stack.enter_context(EmbeddedServer(Path(folder) / "db", THROWAWAY)).dsn
            make_tables(dsn)
        exchange = LocalExchange(symbols, rate=rate, seed=seed, speed=speed, history_s=history, faults=faults)
        stack.enter_context(exchange)
        yield Simulation(exchange.ws_url, exchange.rest_url, dsn, exchange)
