"""Does what a configuration names answer: the exchange by REST and by WebSocket, and the database."""

import time
from collections.abc import Callable, Iterator, Sequence

from okxcli.core.selection import Selection
from okxcli.errors import NoData
from okxcli.exchanges.interface import Exchange, Feed, Market
from okxcli.pipeline.followed_symbols import FollowedSymbols
from okxcli.runtime.configuration.config import Config
from okxcli.runtime.signals import Lifecycle
from okxcli.storage.database import open_database

#: So long is waited for a first message of data: quiet markets have none.
_DATA_S = 10.0
#: So many symbols are listened to.
_HEARD = 20


def first_contact(
    config: Config,
    exchange: Exchange,
    market: Market,
    feed: Callable[[Sequence[str]], Feed],
    dsn: str | None,
    life: Lifecycle,
) -> Iterator[str]:
    """Yield what each says, in the order in which a collector asks them; `feed` gives that of some symbols.

    `dsn` goes before that of the configuration.

    Raises:
        UsageError: a symbol that the exchange does not have; the nearest one is told.
        ExchangeUnavailable: it cannot be reached.
        DatabaseUnavailable: the database cannot be.
    """
    selection = Selection(config.symbols, config.types)
    if selection.open:
        symbols = FollowedSymbols(exchange, market, selection).begin()
    else:
        symbols = selection.names
        market.describe(symbols)
    yield f"REST of {exchange.title} at {market.base_url} answers; symbols that are there: {len(symbols)}"
    yield _heard(exchange, feed(symbols[:_HEARD]), life)
    try:
        with (
            open_database(dsn, config_dsn=config.dsn, create=False, application="okx config") as database,
            database.session() as connection,
        ):
            row = connection.execute(
                "SELECT current_setting('server_version'), current_user, pg_is_in_recovery()"
            ).fetchone()
            version, user, standby = row if row is not None else ("?", "?", False)
            state = "it takes no writes: it is a standby" if standby else "it takes writes"
            yield f"Postgres {version} at {database.where} answers as {user}; {state}"
    except NoData as error:
        yield f"there is no data yet, which the first run changes: {error}"


def _heard(exchange: Exchange, feed: Feed, life: Lifecycle) -> str:
    """Return what a feed brings within some seconds."""
    began = time.monotonic()
    messages = 0
    with feed:
        while not life.stop and not messages and (left := began + _DATA_S - time.monotonic()) > 0:
            if life.wait(feed.fileno(), left):
                messages += sum(not line.startswith(exchange.preface) for line in feed.poll())
    took = time.monotonic() - began
    offset = feed.wall_offset_ms
    clock = "" if offset is None else f"; its clock is {abs(offset)} ms {'ahead of' if offset > 0 else 'behind'} ours"
    if messages:
        return f"its WebSocket answers, with data after {took:.1f} s{clock}"
    return f"its WebSocket brought no data for {_DATA_S:.0f} s, as a quiet market does{clock}"
