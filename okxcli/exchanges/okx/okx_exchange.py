"""OKX as the rest of the package knows it: what `interface.Exchange` asks for, each part loaded when it is needed."""

from collections.abc import Callable, Collection, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from okxcli.exchanges import file_interface, interface
from okxcli.exchanges.file_interface import ArchiveOptions, DownloadOptions
from okxcli.exchanges.interface import AccountOptions, Exchange, FeedOptions, Market, MarketOptions
from okxcli.exchanges.okx import sites
from okxcli.exchanges.okx.channels import ACCOUNT_DEFAULT, TRADES_PAGE

if TYPE_CHECKING:
    from okxcli.exchanges.okx.bulk_files.duckdb_reader import DuckFile
    from okxcli.runtime.proxy import Proxies

_DAY_MS = 86_400_000


class _Files:
    """The files of okx.com: days of UTC+8, two days after their day. Source: its page of historical data."""

    url = sites.FILES_URL
    offset_ms = sites.OFFSET_MS
    published_ms = 2 * _DAY_MS
    bars = "candle1m"

    def is_one(self, path: Path) -> bool:
        return path.name.lower().endswith((".zip", ".csv", ".csv.gz", ".csv.zst"))

    def folder(self, url: str | None) -> Path:
        from okxcli.exchanges.okx.bulk_files.download import default_folder

        return default_folder(url or self.url)

    def downloader(
        self, url: str | None, folder: Path, **options: Unpack[DownloadOptions]
    ) -> file_interface.Downloader:
        from okxcli.exchanges.okx.bulk_files.download import Downloader

        return Downloader(url or self.url, folder, **options)

    def archive(
        self, places: Iterable[str | Path], symbols: Iterable[str] | None, **options: Unpack[ArchiveOptions]
    ) -> file_interface.Archive:
        from okxcli.exchanges.okx.bulk_files.raw_lines import Archive

        return Archive(places, symbols, **options)

    def whole(self, path: Path, symbols: Collection[str]) -> "Generator[DuckFile | None, None, None]":
        from okxcli.exchanges.okx.bulk_files.duckdb_reader import opened
        from okxcli.exchanges.okx.bulk_files.unpacking import tables

        for table in tables(path):
            with opened(table, symbols) as file:
                yield file

    def may_hold(self, path: Path, symbol: str) -> bool:
        from okxcli.exchanges.okx.bulk_files.layouts import read_name

        name = read_name(path.name)
        return name is None or name.may_hold(symbol)


class OKX:
    """The exchange of okx.com, and of its other sites."""

    name = "okx"
    title = "OKX"
    home = sites.HOME
    ws_url = sites.WS_URL
    rest_url = sites.REST_URL
    page = TRADES_PAGE
    #: REST has the fills of three months, and it is not said to the day.
    horizon_ms = 85 * _DAY_MS
    preface: tuple[bytes, ...] = (b'{"arg":{"channel":"instruments"',)
    files: file_interface.FileSource | None = _Files()

    def origin_of(self, url: str) -> str:
        """Return where data of `url` comes from."""
        return sites.origin_of(url)

    def is_raw(self, line: bytes) -> bool:
        """Whether a line is a push of OKX."""
        return line.lstrip().startswith(b'{"arg"')

    def pages(self) -> tuple[int, float]:
        """Return how many pages of fills OKX allows in how many seconds."""
        from okxcli.exchanges.okx.rest.rate_limits import RATES

        return RATES["/api/v5/market/history-trades"]

    def normalizer(self, clock: Callable[[], int] | None = None) -> interface.Normalizer:
        """Return what reads pushes."""
        from okxcli.exchanges.okx.normalize.normalizer import Normalizer

        return Normalizer() if clock is None else Normalizer(clock)

    def bar_of(self, timeframe: str) -> str:
        """Return OKX's name of a timeframe."""
        from okxcli.exchanges.okx.rest.exchange_bars import bar_of

        return bar_of(timeframe)

    def timeframe_of(self, channel: str) -> str | None:
        """Return our name of the bars of a channel."""
        from okxcli.exchanges.okx.normalize.row_forms import TIMEFRAMES

        return TIMEFRAMES[channel].name if channel in TIMEFRAMES else None

    def market(self, rest_url: str, proxies: "Proxies", **options: Unpack[MarketOptions]) -> Market:
        """Return OKX's REST."""
        from okxcli.exchanges.okx.rest.rest_market import RestMarket

        return RestMarket(rest_url, proxies=proxies, **options)

    def feed(self, symbols: Iterable[str], channels: Iterable[str], **options: Unpack[FeedOptions]) -> interface.Feed:
        """Return the stream of `channels` of `symbols`."""
        from okxcli.exchanges.okx.feed.live_feed import Feed

        return Feed(symbols, channels, **options)

    def account(self, channels: Iterable[str] | None, **options: Unpack[AccountOptions]) -> interface.LineSource:
        """Return the stream of private `channels` of an account."""
        from okxcli.exchanges.okx.account.account_feed import AccountFeed

        return AccountFeed(ACCOUNT_DEFAULT if channels is None else channels, **options)

    def addresses(self, site: str | None, demo: bool) -> tuple[str, str]:
        """Return the addresses of a site, of demo trading if wanted: WebSocket and REST."""
        return sites.addresses(site or sites.GLOBAL, demo)


EXCHANGE: Exchange = OKX()
