"""OKX's public REST endpoints: one client with retries, limits and time-outs, and pages as generators.

Rows are returned as OKX sends them (strings). All answers are bounded in size, TLS is verified, redirects are refused.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

import orjson
import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from okxcli.errors import ExchangeUnavailable, NoSuchInstrument, Refused
from okxcli.exchanges.okx.channels import TRADES_PAGE
from okxcli.exchanges.okx.rest.bounded_http import Server, TooLarge
from okxcli.exchanges.okx.rest.rate_limits import Budget
from okxcli.exchanges.okx.sites import REST_URL, origin_of
from okxcli.exchanges.okx.tunnel import NoLogin
from okxcli.runtime.clock import SteadyClock
from okxcli.runtime.proxy import Proxies

_log = logging.getLogger(__name__)

_MAX_BODY = 32 << 20
#: Codes that pass: too fast (50011, 50040), busy (50013), maintenance (50001), endpoint time-out (50004), and 50026.
_PASSING = frozenset({"50001", "50004", "50011", "50013", "50026", "50040"})
_TOO_FAST = frozenset({"50011", "50040"})
_NO_INSTRUMENT = "51001"
CANDLES_PAGE = 300
SETTLEMENTS_PAGE = 400
#: `candles` has the last 1440 bars and the present; `history-candles` the years before, and is behind the present: the
#: change is a little before that end.
RECENT_BARS = 1400

Row = dict[str, Any]


class _Passing(Exception):
    """A failure that another attempt may not see."""

    def __init__(self, reason: str, too_fast: bool = False) -> None:
        super().__init__(reason)
        self.too_fast = too_fast


class RestClient:
    """A client of the REST endpoints below `base_url` (scheme and host, no path).

    Each request is tried up to `attempts` times within `patience_s`. `share` is the part of OKX's limits that it may
    take, all `okx` processes of this user together; `budget` replaces that account. `proxies` knows the way there. Safe
    to use from several threads.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 10.0,
        attempts: int = 6,
        patience_s: float = 60.0,
        share: float = 1.0,
        budget: Budget | None = None,
        proxies: Proxies | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = Server(base_url, "a REST base", REST_URL, proxies, timeout_s, connections=4)
        self.base_url = self._server.base
        self._budget = budget or Budget(self.base_url, share)
        self.sleep = sleep
        self._proxies = proxies
        # Retries are ours, since they must see OKX's codes in the body.
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts) | stop_after_delay(patience_s),
            wait=wait_random_exponential(multiplier=0.25, max=8.0),
            retry=retry_if_exception_type(_Passing),
            sleep=sleep,
            before_sleep=_tell,
            reraise=True,
        )

    def close(self) -> None:
        """Close idle connections; another request makes a new one."""
        self._server.close()

    def get(
        self,
        path: str,
        parameters: Mapping[str, object] | None = None,
        form: Callable[[Any], bool] = lambda row: isinstance(row, dict | list),
    ) -> list[Any]:
        """Return the `data` of one answer; an answer with a row that has not the right `form` is none.

        Raises:
            NoSuchInstrument: code 51001.
            Refused: any other code that another attempt would get again.
            ExchangeUnavailable: no good answer in all attempts.
        """
        query = {k: str(v) for k, v in (parameters or {}).items() if v is not None}
        try:
            return self._retrying(self._once, path, query, form)
        except _Passing as reason:
            raise ExchangeUnavailable(f"no answer from OKX at {self.base_url}{path}: {reason}") from None

    def instruments(self, kind: str, family: str | None = None, symbol: str | None = None) -> list[Row]:
        """Return the instruments of a kind (`SPOT`, `SWAP`, `FUTURES`; `OPTION` needs its family)."""
        parameters = {"instType": kind, "instFamily": family, "instId": symbol}
        return self.get("/api/v5/public/instruments", parameters, _is_object)

    def time_ms(self) -> int:
        """Return OKX's clock."""
        return int(self._one("/api/v5/public/time", {}, _has_time)["ts"])

    def clock(self) -> SteadyClock:
        """Return a clock that goes by OKX's; the machine's own where OKX does not tell in one quick attempt.

        A market on this machine has a time of its own, which may stand still in the past: no clock is set back to it.
        """
        clock = SteadyClock()
        quickly = RestClient(self.base_url, timeout_s=4.0, attempts=1, proxies=self._proxies)
        with closing(quickly) as quick, suppress(ExchangeUnavailable):
            asked = clock()
            server = quick.time_ms()
            behind = server - (asked + clock()) // 2
            if behind > 0 or origin_of(self.base_url) != "local":
                clock.correct(behind)
        return clock

    def tickers(self, kind: str) -> list[Row]:
        """Return the tickers of a kind of instrument."""
        return self.get("/api/v5/market/tickers", {"instType": kind}, _is_object)

    def books(self, symbol: str, depth: int = 400) -> Row:
        """Return the order book, at most 400 levels a side."""
        return self._one("/api/v5/market/books", {"instId": symbol, "sz": depth}, _has_time)

    def trades(self, symbol: str, limit: int = 500) -> list[Row]:
        """Return the newest fills, newest first, at most 500."""
        return self.get("/api/v5/market/trades", {"instId": symbol, "limit": limit}, _is_trade)

    def history_trades(
        self, symbol: str, after: int | None = None, by_time: bool = False, limit: int = TRADES_PAGE
    ) -> list[Row]:
        """Return one page of fills older than the id `after`, newest first; with `by_time`, than that millisecond."""
        parameters = {"instId": symbol, "type": 2 if by_time else 1, "after": after, "limit": limit}
        return self.get("/api/v5/market/history-trades", parameters, _is_trade)

    def trade_pages(self, symbol: str, after: int, down_to: int = 1) -> Iterator[list[Row]]:
        """Yield pages of fills older than the id `after`, newest first, until one holds an id at or below `down_to`.

        Ends too where OKX has no more, or where a page brings nothing older: its nodes answer from caches of their own.
        """
        while after > down_to:
            page = self.history_trades(symbol, after)
            if not page:
                return
            yield page
            oldest = min(int(row["tradeId"]) for row in page)
            if oldest >= after or oldest <= down_to:
                return
            after = oldest

    def candle_pages(
        self, symbol: str, bar: str, since_ms: int, until_ms: int, recent: bool = False
    ) -> Iterator[list[list[str]]]:
        """Yield pages of bars that start in `[since_ms, until_ms)`, newest first.

        `recent` asks for the last 1440 bars, which has the running one; otherwise the long history, which lags.
        """
        path = "/api/v5/market/candles" if recent else "/api/v5/market/history-candles"
        after = until_ms
        while after > since_ms:
            parameters = {"instId": symbol, "bar": bar, "after": after, "before": since_ms - 1, "limit": CANDLES_PAGE}
            page: list[list[str]] = self.get(path, parameters, _is_bar)
            if not page:
                return
            yield page
            oldest = min(int(row[0]) for row in page)
            if oldest >= after:
                return
            after = oldest

    def settlements(self, symbol: str, since_ms: int, until_ms: int) -> list[Row]:
        """Return the settlements of funding in `[since_ms, until_ms)`, oldest first; OKX keeps three months of them."""
        found: dict[int, Row] = {}
        after = until_ms
        while after > since_ms:
            parameters = {"instId": symbol, "after": after, "limit": SETTLEMENTS_PAGE}
            page = self.get("/api/v5/public/funding-rate-history", parameters, _is_settlement)
            times = [int(row["fundingTime"]) for row in page]
            found |= dict(zip(times, page, strict=True))
            if not times or min(times) >= after:
                break
            after = min(times)
        return [found[at] for at in sorted(found) if since_ms <= at < until_ms]

    def _one(self, path: str, parameters: Mapping[str, object], form: Callable[[Any], bool]) -> Row:
        """Return the one row of an answer."""
        rows: list[Row] = self.get(path, parameters, form)
        if not rows:
            raise ExchangeUnavailable(f"no answer from OKX at {self.base_url}{path}: it holds nothing")
        return rows[0]

    def _once(self, path: str, query: dict[str, str], form: Callable[[Any], bool]) -> list[Any]:
        wait_s = self._budget.turn(path)
        if wait_s > 0:
            self.sleep(wait_s)
        try:
            status, body, asked_s = self._server.get(path, _MAX_BODY, query)
        except TooLarge:
            raise Refused("", f"OKX at {self.base_url}{path} answers with more than {_MAX_BODY >> 20} MiB") from None
        except NoLogin as error:
            raise ExchangeUnavailable(f"no answer from OKX at {self.base_url}{path}: {error}") from None
        except urllib3.exceptions.HTTPError as error:
            raise _Passing(self._server.in_words(error)) from None
        try:
            rows = _data(status, body, path, query)
        except _Passing as reason:
            if reason.too_fast or asked_s:
                self._budget.pause(path, max(1.0, asked_s))
            raise
        if not all(map(form, rows)):
            raise _Passing("its rows are not what they should be")
        return rows


def _is_object(row: Any) -> bool:
    return isinstance(row, dict)


def _is_number(text: Any) -> bool:
    """Whether a field is a whole number as OKX writes them, and not of a million digits."""
    return isinstance(text, str) and len(text) < 20 and text.isascii() and text.isdigit()


def _has_time(row: Any) -> bool:
    return isinstance(row, dict) and _is_number(row.get("ts"))


def _is_trade(row: Any) -> bool:
    return _has_time(row) and _is_number(row.get("tradeId")) and isinstance(row.get("instId"), str)


def _is_settlement(row: Any) -> bool:
    return isinstance(row, dict) and _is_number(row.get("fundingTime"))


def _is_bar(row: Any) -> bool:
    return isinstance(row, list) and len(row) >= 7 and _is_number(row[0]) and all(isinstance(x, str) for x in row)


def _data(status: int, body: bytes, path: str, query: Mapping[str, str]) -> list[Any]:
    """Return the rows of an answer, or say what is wrong with it."""
    if 300 <= status < 400:
        raise Refused(str(status), f"OKX's {path} redirects elsewhere (HTTP {status}), which is not followed")
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or "code" not in answer:
        if status in (403, 429) or status >= 500 or status == 200:
            raise _Passing(f"HTTP {status} without JSON", too_fast=status == 429)
        raise Refused(str(status), f"OKX's {path} answers with HTTP {status}. Check --rest-url")
    code, message = (" ".join(str(answer.get(key, "")).split())[:300] for key in ("code", "msg"))
    rows = answer.get("data")
    if code == "0" and isinstance(rows, list):
        return rows
    if code in _PASSING or status == 429 or status >= 500:
        raise _Passing(f"{message or 'no reason given'} ({code})", too_fast=code in _TOO_FAST or status == 429)
    if code == _NO_INSTRUMENT:
        raise NoSuchInstrument(code, f"OKX has no instrument {query.get('instId', '')} ({code})".replace("  ", " "))
    raise Refused(code, f"OKX refuses {path}: {message} ({code})")


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    _log.debug("REST: %s; trying again in %.1f s", error, state.next_action.sleep if state.next_action else 0.0)
