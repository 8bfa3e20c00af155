"""Other people's OKX clients run against the local exchange unchanged but for the address.

They are no dependencies: each test is skipped where its client is not installed (`pip install ccxt python-okx`).
python-okx speaks TLS only, so its test makes a certificate with openssl.
"""

import asyncio
import shutil
import subprocess
import time

import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.local.venue.account import KEY

SYMBOLS = ("BTC-USDT", "ETH-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP")


def test_ccxt_pro_watches_and_fetches():
    """ccxt.pro loads markets, watches trades, books, tickers and candles, and fetches the same from REST."""
    pro = pytest.importorskip("ccxt.pro", reason="ccxt is not installed")

    async def run(exchange):
        okx = pro.okx()
        okx.urls["api"] = {"rest": exchange.rest_url, "ws": f"{exchange.ws_url}/ws/v5"}
        try:
            markets = await okx.load_markets()
            assert set(markets) == {"BTC/USDT", "ETH/USDT", "BTC/USDT:USDT", "BTC/USD:BTC"}
            watched = []
            while len(watched) < 50:
                watched += await okx.watch_trades("BTC/USDT")
            fills = {str(fill.trade_id): fill for fill in exchange.fills("BTC-USDT")}
            assert all(fills[trade["id"]].price == okx.number_to_string(trade["price"]) for trade in watched)
            for _ in range(5):
                book = await okx.watch_order_book("BTC/USDT")
            assert len(book["bids"]) == 400
            assert book["bids"][0][0] < book["asks"][0][0]
            assert (await okx.watch_ticker("ETH/USDT"))["last"] > 0
            candles = await okx.fetch_ohlcv("BTC/USDT", "1m", limit=5)
            mine = {int(row[0]): row for row in exchange.candles("BTC-USDT")}
            assert len(candles) == 5
            for start, *_, volume in candles[:-1]:
                assert okx.number_to_string(volume) == mine[start][5]
            assert (await okx.watch_ohlcv("BTC/USDT", "1m"))[-1][0] % 60_000 == 0
            pages = await okx.fetch_trades("BTC/USDT:USDT", limit=50)
            assert len(pages) == 50
            assert abs(await okx.fetch_time() - time.time() * 1000) < 5_000
        finally:
            await okx.close()

    with LocalExchange(SYMBOLS, rate=200) as exchange:
        asyncio.run(run(exchange))


def test_ccxt_pro_logs_in():
    """It watches the orders and the balance of the account, whose key it has; a wrong passphrase is refused."""
    pro = pytest.importorskip("ccxt.pro", reason="ccxt is not installed")
    key, secret, phrase = KEY.values()

    async def run(exchange, password):
        kinds = {"fetchMarkets": {"types": ["spot", "swap"]}}
        okx = pro.okx({"apiKey": key, "secret": secret, "password": password, "options": kinds})
        okx.has["fetchCurrencies"] = False  # of an account too
        okx.urls["api"] = {"rest": exchange.rest_url, "ws": f"{exchange.ws_url}/ws/v5"}
        try:
            await okx.load_markets()
            orders = await asyncio.wait_for(okx.watch_orders("BTC/USDT"), 20)
            balance = await asyncio.wait_for(okx.watch_balance(), 20)
        finally:
            await okx.close()
        return orders[-1], balance

    with LocalExchange(SYMBOLS, rate=100, account=True) as exchange:
        order, balance = asyncio.run(run(exchange, phrase))
        assert (order["symbol"], order["status"], order["filled"] > 0) == ("BTC/USDT", "closed", True)
        assert balance["BTC"]["total"] > 0
        with pytest.raises(pro.AuthenticationError, match="60024"):
            asyncio.run(run(exchange, "wrong"))


async def told(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.05)


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate of this machine and its key, which clients in this process trust."""
    pytest.importorskip("okx.websocket.WsPublicAsync", reason="python-okx is not installed")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    command = [openssl, *request.split(), "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    return Options(cert=cert, key=key)


def test_python_okx_logs_in(certificate):
    """OKX's own Python client logs in and hears of orders; with a wrong passphrase it hears why not."""
    from okx.websocket.WsPrivateAsync import WsPrivateAsync

    key, secret, phrase = KEY.values()

    async def run(exchange, passphrase, good):
        heard = []
        client = WsPrivateAsync(key, passphrase, secret, f"{exchange.ws_url}/ws/v5/private")
        await client.start()
        await client.subscribe([{"channel": "orders", "instType": "ANY"}], heard.append)
        await told(lambda: any(good in text for text in heard))
        await client.factory.close()
        return heard

    with LocalExchange(SYMBOLS, rate=100, account=True, options=certificate) as exchange:
        assert any('"event":"login","code":"0"' in text for text in asyncio.run(run(exchange, phrase, '"tradeId"')))
        assert not any('"data"' in text for text in asyncio.run(run(exchange, "wrong", "60011")))


def test_python_okx_subscribes_and_asks(certificate):
    """OKX's own Python client subscribes over TLS, unsubscribes, and reads the REST pages."""
    from okx import MarketData, PublicData
    from okx.websocket.WsPublicAsync import WsPublicAsync

    async def run(exchange):
        heard = []
        client = WsPublicAsync(f"{exchange.ws_url}/ws/v5/public")
        await client.start()
        arguments = [{"channel": channel, "instId": "BTC-USDT"} for channel in ("trades", "books5")]
        await client.subscribe(arguments, heard.append)
        await told(lambda: sum('"channel":"books5"' in text and '"data"' in text for text in heard) > 5)
        await client.unsubscribe(arguments, heard.append)
        await told(lambda: sum('"event":"unsubscribe"' in text for text in heard) == 2)
        assert sum('"event":"subscribe"' in text for text in heard) == 2
        # The client's own stop() ends the loop it runs in; closing its socket is enough.
        await client.factory.close()

    with LocalExchange(SYMBOLS, rate=100, options=certificate) as exchange:
        asyncio.run(run(exchange))
        market = MarketData.MarketAPI(domain=exchange.rest_url, flag="0", debug=False)
        assert len(market.get_tickers("SPOT")["data"]) == 2
        assert len(market.get_history_trades("BTC-USDT", limit=50)["data"]) == 50
        assert len(market.get_candlesticks("BTC-USDT", bar="1m", limit=5)["data"]) == 5
        assert len(market.get_orderbook("BTC-USDT", sz="20")["data"][0]["asks"]) == 20
        public = PublicData.PublicAPI(domain=exchange.rest_url, flag="0", debug=False)
        assert [row["instId"] for row in public.get_instruments("SWAP")["data"]] == ["BTC-USDT-SWAP", "BTC-USD-SWAP"]
