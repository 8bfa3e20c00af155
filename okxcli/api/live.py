"""The stream of an exchange, for loops and for asyncio."""

import asyncio
import select
from collections.abc import AsyncGenerator, Generator, Sequence

from okxcli.api.through import Lines, Moment, milliseconds, way_to
from okxcli.commands.ways import Way
from okxcli.core.model import TAPE
from okxcli.errors import UsageError
from okxcli.exchanges.interface import Feed
from okxcli.runtime.clock import now_ms


def stream(
    *symbols: str,
    channels: str | Sequence[str] = TAPE,
    since: Moment | None = None,
    repair: bool = True,
    stamp: bool = False,
    ws_url: str | None = None,
    rest_url: str | None = None,
    proxy: str | None = None,
    connect_timeout: float = 30.0,
) -> Lines[bytes]:
    """Return the raw lines that the exchange pushes, without end; nothing is connected before the first is asked for.

    As `okx stream`: the connection is made anew whenever it breaks, fills of `trades-all` that were missed come from
    REST in their place (unless `repair` is off), and the first line of each symbol says what it is. `since` begins with
    the fills since then, `stamp` adds the time of arrival. Close it when you are done; a thread of its own reads the
    sockets until then.

    Raises:
        UsageError: no symbol, an unknown channel, or what cannot be a symbol.
        ExchangeUnavailable: from the loop, when there never was a connection for `connect_timeout` seconds.
    """
    way, feed = _feed(symbols, channels, since, repair, stamp, ws_url, rest_url, proxy, connect_timeout)

    def run() -> Generator[bytes, None, None]:
        first = way.first_lines(way.ws_url)
        with feed:
            news = select.poll()  # a descriptor may be any number in a large program
            news.register(feed.fileno(), select.POLLIN)
            while True:
                news.poll()
                lines = feed.poll()
                if lines:
                    yield from first
                    first = []
                yield from lines

    return Lines(run)


# The twin has the parameters spelt out, as an editor shows them.
async def astream(
    *symbols: str,
    channels: str | Sequence[str] = TAPE,
    since: Moment | None = None,
    repair: bool = True,
    stamp: bool = False,
    ws_url: str | None = None,
    rest_url: str | None = None,
    proxy: str | None = None,
    connect_timeout: float = 30.0,
) -> AsyncGenerator[bytes, None]:
    """Yield the same for `async for`; the loop is not held up. End it with `aclose`, or by cancelling its task.

    Raises:
        UsageError, ExchangeUnavailable: as `stream`, from the loop.
    """
    way, feed = _feed(symbols, channels, since, repair, stamp, ws_url, rest_url, proxy, connect_timeout)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    first = way.first_lines(way.ws_url)
    with feed:
        loop.add_reader(feed.fileno(), ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                lines = feed.poll()
                for line in first + lines if lines else ():
                    yield line
                if lines:
                    first = []
        finally:
            loop.remove_reader(feed.fileno())


def _feed(
    symbols: Sequence[str],
    channels: str | Sequence[str],
    since: Moment | None,
    repair: bool,
    stamp: bool,
    ws_url: str | None,
    rest_url: str | None,
    proxy: str | None,
    connect_timeout: float,
) -> tuple[Way, Feed]:
    if not symbols:
        raise UsageError("no symbol given, such as BTC-USDT")
    names = [name.strip() for name in channels.split(",")] if isinstance(channels, str) else list(channels)
    way = way_to(ws_url, rest_url, proxy)
    begin = None
    if since is not None:
        now = way.market().clock()() if isinstance(since, str) else now_ms()
        begin = milliseconds(since, now)
        if begin > now:
            raise UsageError("since is in the future: leave it out to begin with the present")
    options = way.stream_options(connect_timeout, stamp)
    return way, way.exchange.feed(symbols, names, repair=repair, since_ms=begin, **options)
