"""Which exchange a command is about, and the way there: options, else the configuration, else its own addresses."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Unpack

    from okxcli.exchanges.interface import Exchange, Market, MarketOptions, StreamOptions
    from okxcli.runtime.configuration.config import Config
    from okxcli.runtime.proxy import Proxies


class Way(NamedTuple):
    """An exchange and how it is reached; both addresses without a path."""

    exchange: "Exchange"
    ws_url: str
    rest_url: str
    proxies: "Proxies"

    @property
    def origin(self) -> str:
        """Where data that is streamed comes from."""
        return self.exchange.origin_of(self.ws_url)

    def stream_options(self, connect_timeout_s: float, stamp: bool) -> "StreamOptions":
        """Return what `Exchange.feed` and `Exchange.account` want to know alike."""
        return {
            "ws_url": self.ws_url,
            "rest_url": self.rest_url,
            "proxies": self.proxies,
            "connect_timeout_s": connect_timeout_s,
            "stamp": stamp,
        }

    def first_lines(self, url: str) -> list[bytes]:
        """Return what goes before raw lines from `url`: nothing where that is the exchange's main site."""
        from okxcli.core.origin import site_event

        site = self.exchange.origin_of(url)
        return [] if site == self.exchange.home else [site_event(site)]

    def market(self, **options: "Unpack[MarketOptions]") -> "Market":
        """Return the exchange as it answers requests; `options` as for `Exchange.market`."""
        return self.exchange.market(self.rest_url, self.proxies, **options)


def way(config: "Config", ws_url: str | None = None, rest_url: str | None = None, proxy: str | None = None) -> Way:
    """Return the way that options and a configuration name.

    Raises:
        ConfigError: the configuration names an exchange that there is not.
    """
    from okxcli.exchanges.registry import configured
    from okxcli.runtime.proxy import Proxies

    named = configured(config)
    ws_base, rest_base = ws_url or config.ws_url or named.ws_url, rest_url or config.rest_url or named.rest_url
    return Way(named, ws_base, rest_base, Proxies(proxy, config.proxy))


def way_of_options(ws_url: str | None, rest_url: str | None, proxy: str | None) -> Way:
    """Return the same for a command that needs no configuration where options name a market on this machine.

    What is simulated here is the default exchange, whatever is configured.
    """
    from okxcli.exchanges.registry import exchange
    from okxcli.runtime.configuration.config import Config
    from okxcli.runtime.configuration.config_file import load

    here = all(url and exchange().origin_of(url) == "local" for url in (ws_url, rest_url))
    return way(Config() if here else load(), ws_url, rest_url, proxy)
