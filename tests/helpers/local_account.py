"""An account of the local exchange that trades when a test says so."""

from okxcli.local.exchange import LocalExchange


def with_account():
    """Return a market where nobody trades but by hand, with an account."""
    return LocalExchange(["BTC-USDT", "BTC-USDT-SWAP"], rate=0, history_s=0, account=True)


def own_fill(exchange, symbol="BTC-USDT", price="100", size="0.5", side="buy"):
    """Trade a second after the last time, so that the fill is ours; return its id."""
    exchange.set_time(exchange.now_ms() + 1_000)
    return exchange.trade(symbol, price, size, side)
