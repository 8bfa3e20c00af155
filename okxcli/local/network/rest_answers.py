"""OKX's public REST end points as a pure function: path and query in, status and JSON body out.

`now` is the market's time, `age` how far behind it the cache is that answers (0: up to date). Rows come newest first;
`after` means older, `before` newer, both exclusive; `before` alone gives the newest page; a limit above the cap is cut.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice, takewhile
from typing import Any, NamedTuple

import orjson

from okxcli.local.venue.bars import DAY, MINUTE, PERIODS, bar_end
from okxcli.local.venue.books import DEPTH
from okxcli.local.venue.fills import Fill
from okxcli.local.venue.venue import Listing, Venue

PREFIX = "/api/v5/"
HORIZON_MS = 92 * DAY  # history-trades reaches three months back
CANDLES_DEPTH = 1440
HISTORY_LAG_MS = MINUTE  # history-candles is behind: a bar appears there this long after its end

#: The newest change that the `status` channel and `system/status` know; long over.
STATUS = {
    "begin": "1764666600000",
    "end": "1764667800000",
    "env": "1",
    "href": "",
    "maintType": "1",
    "preOpenBegin": "",
    "scheDesc": "",
    "serviceType": "11",
    "state": "completed",
    "system": "unified",
    "title": "Copy trading system scheduled maintenance",
    "ts": "1764667948527",
}


class Answer(NamedTuple):
    """What a request gets, and how long to wait before it is sent."""

    status: int
    body: bytes
    content_type: str = "application/json"
    delay_s: float = 0.0


#: What a client gets that asks too often: a body without `data`.
TOO_MANY = Answer(429, b'{"msg":"Too Many Requests","code":"50011"}')


class _Refused(Exception):
    """A request that earns an OKX error: HTTP status, code, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = refusal(status, code, message)


class Query(NamedTuple):
    """A request: its parameters, the market's time and the age of the cache that answers (ms)."""

    parameters: Mapping[str, str]
    now: int
    age: int

    @property
    def stale(self) -> bool:
        """Whether the answer comes from a cache that is behind."""
        return self.age > 0

    @property
    def until(self) -> int:
        """The time (ms) of the latest fill that the answer may know."""
        return self.now if self.stale else sys.maxsize

    def number(self, name: str) -> int | None:
        """Return the integer parameter `name`, None if it is not given."""
        text = self.parameters.get(name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise _Refused(400, "51000", f"Parameter {name} error")
        return int(text)

    def limit(self, default: int, cap: int) -> int:
        """Return how many rows are asked for, at most `cap`."""
        return min(self.number("limit") or default, cap)

    def required(self, name: str) -> str:
        """Return the parameter `name`, which must be given."""
        if not self.parameters.get(name):
            raise _Refused(400, "50014", f"Parameter {name} can not be empty.")
        return self.parameters[name]

    def listing(self, venue: Venue) -> Listing:
        """Return the instrument that is asked about."""
        found = venue.find(self.required("instId"))
        if found is None:
            raise _Refused(*_NO_INSTRUMENT)
        return found


_NO_INSTRUMENT = (200, "51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")


def refusal(status: int, code: str, message: str) -> Answer:
    """Return an error with OKX's envelope."""
    return Answer(status, orjson.dumps({"code": code, "data": [], "msg": message}))


def answer(venue: Venue, endpoint: str, parameters: Mapping[str, str], age: int = 0) -> Answer:
    """Answer a GET of `endpoint`, the path below /api/v5/."""
    handler = _HANDLERS.get(endpoint)
    if handler is None:
        return Answer(404, b'{"msg":"Resource Not Found","code":"404","data":[]}')
    now = venue.clock.now_ms()
    try:
        rows = handler(venue, Query(parameters, now - age, age))
    except _Refused as error:
        return error.answer
    return Answer(200, orjson.dumps({"code": "0", "msg": "", "data": rows}))


def trade_row(symbol: str, fill: Fill) -> dict[str, str]:
    """Return a fill as REST shows it."""
    return {
        "instId": symbol,
        "side": fill.side,
        "sz": fill.size,
        "px": fill.price,
        "source": str(fill.source),
        "tradeId": str(fill.trade_id),
        "ts": str(fill.ts),
    }


def _trades(venue: Venue, query: Query) -> list[Any]:
    listing = query.listing(venue)
    return [
        trade_row(listing.symbol, fill) for fill in listing.tape.page(None, None, query.limit(100, 500), query.until)
    ]


def _history_trades(venue: Venue, query: Query) -> list[Any]:
    listing = query.listing(venue)
    limit = query.limit(100, 100)
    after, before, until = query.number("after"), query.number("before"), query.until
    kind = query.parameters.get("type", "1")
    if kind not in ("1", "2"):
        raise _Refused(400, "51000", "Parameter type error")
    if kind == "2":  # by time
        if before is not None:
            raise _Refused(200, "50039", 'Parameter "before" isn\'t supported for timestamp pagination')
        if after is not None:
            until, after = min(until, after - 1), None
    page = listing.tape.page(after, before, limit, until)
    return [trade_row(listing.symbol, fill) for fill in page if fill.ts > query.now - HORIZON_MS]


def _bars(venue: Venue, query: Query, history: bool = False) -> list[Any]:
    listing = query.listing(venue)
    name = query.parameters.get("bar") or "1m"
    if name not in PERIODS or name.startswith("5D"):
        raise _Refused(400, "51000", "Parameter bar error")
    limit = query.limit(100, 300)
    rows = listing.bars.rows(name, query.now, query.number("after"), query.number("before"), query.stale)
    if history:
        rows = (row for row in rows if bar_end(name, int(row[0])) + HISTORY_LAG_MS <= query.now)
    else:
        length = PERIODS[name].length or 31 * DAY * PERIODS[name].months
        rows = takewhile(lambda row: int(row[0]) > query.now - CANDLES_DEPTH * length, rows)
    return list(islice(rows, limit))


def _tickers(venue: Venue, query: Query) -> list[Any]:
    names = (row["instId"] for row in venue.rows(query.required("instType")))
    return [venue.listings[name].ticker.data(venue.clock.now_ms()) for name in names if venue.find(name)]


def _ticker(venue: Venue, query: Query) -> list[Any]:
    return [query.listing(venue).ticker.data(venue.clock.now_ms())]


def _state(channel: str, venue: Venue, query: Query) -> list[Any]:
    if query.parameters.get("instId"):
        found = venue.subject(channel, query.parameters["instId"])
        if found is None:
            raise _Refused(*_NO_INSTRUMENT)
        names = [found]
    else:
        kind = query.required("instType")
        names = [venue.listings[row["instId"]] for row in venue.rows(kind) if venue.subject(channel, row["instId"])]
    rows = (one.states.data(channel, query.now) for one in names)
    return [row for row in rows if row is not None]


def _settlements(venue: Venue, query: Query) -> list[Any]:
    found = venue.subject("funding-rate", query.required("instId"))
    if found is None:
        raise _Refused(*_NO_INSTRUMENT)
    after, before = query.number("after"), query.number("before")
    horizon = query.now - HORIZON_MS
    until = query.now + 1 if after is None else min(after, query.now + 1)
    return found.states.settlements(until, max(before or 0, horizon), query.limit(400, 400))


def _books(venue: Venue, query: Query) -> list[Any]:
    listing = query.listing(venue)
    depth = min(query.number("sz") or 1, DEPTH)
    sides = listing.books.sides(depth)
    return [{"asks": sides.asks, "bids": sides.bids, "ts": str(listing.books.ts), "seqId": listing.books.seq}]


def _instruments(venue: Venue, query: Query) -> list[Any]:
    rows = venue.rows(query.required("instType"))
    for name in {"instFamily", "instId"} & query.parameters.keys():
        rows = [row for row in rows if row[name] == query.parameters[name]]
    if not rows and "instId" in query.parameters:
        raise _Refused(*_NO_INSTRUMENT)
    return rows


def _time(venue: Venue, _: Query) -> list[Any]:
    return [{"ts": str(venue.clock.now_ms())}]


def _status(_: Venue, query: Query) -> list[Any]:
    wanted = query.parameters.get("state")
    row = {name: value for name, value in STATUS.items() if name != "ts"}
    return [row] if wanted == STATUS["state"] else []


_HANDLERS: dict[str, Callable[[Venue, Query], list[Any]]] = {
    "market/trades": _trades,
    "market/history-trades": _history_trades,
    "market/candles": _bars,
    "market/history-candles": partial(_bars, history=True),
    "market/tickers": _tickers,
    "market/ticker": _ticker,
    "market/books": _books,
    "public/instruments": _instruments,
    "public/funding-rate": partial(_state, "funding-rate"),
    "public/funding-rate-history": _settlements,
    "public/mark-price": partial(_state, "mark-price"),
    "market/index-tickers": partial(_state, "index-tickers"),
    "public/open-interest": partial(_state, "open-interest"),
    "public/price-limit": partial(_state, "price-limit"),
    "public/time": _time,
    "system/status": _status,
}
