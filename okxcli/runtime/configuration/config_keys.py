"""How the configuration file is spelled: its keys, what each may hold, and mistakes in a user's words.

The models below are the only definition: the JSON Schema, `okx config show` and the checks all come from them.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from okxcli.core.model import TAPE
from okxcli.runtime.archive.disk_guard import WhenLow
from okxcli.runtime.configuration import config_values as values
from okxcli.runtime.configuration.config import ArchiveKeys, Config
from okxcli.runtime.files import expanded

Channel = Literal[
    "trades-all", "trades", "books5", "bbo-tbt", "books", "books50-l2-tbt", "books-l2-tbt", "tickers", "funding-rate",
    "mark-price", "index-tickers", "open-interest", "price-limit", "liquidation-orders",
    "candle1s", "candle1m", "candle3m", "candle5m", "candle15m", "candle30m", "candle1H", "candle2H", "candle4H",
    "candle6Hutc", "candle12Hutc", "candle1D", "candle2D", "candle3D", "candle5D", "candle1W", "candle1M",
    "candle1Dutc", "candle2Dutc", "candle3Dutc", "candle5Dutc", "candle1Wutc", "candle1Mutc",
]  # fmt: skip
#: The channels as a message names them.
_CHANNELS = ", ".join(name for name in get_args(Channel) if not name.startswith("candle")) + ", candle1m and its like"
Type = Literal["spot", "swap", "futures", "option"]
Level = Literal["debug", "info", "warning", "error"]

_KEY = re.compile(r"[\w$-]{1,40}")
_DAY_MS = 86_400_000


Days = Annotated[str, AfterValidator(values.days)] | None


class _Section(BaseModel):
    """Strict and closed: a number where text belongs and an unknown key are mistakes, not guesses."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Candles(_Section):
    """How bars are closed."""

    lateness: Annotated[str, values.duration(1, 3_600_000, "10s (at most 1h)")] = Field(
        default="10s",
        description="How far behind its symbol's newest trade a trade may be and still change a finished bar.",
    )
    grace: Annotated[str, values.duration(1, 60_000, "2s (at most 1m)")] = Field(
        default="2s", description="How long after its end a bar of a quiet symbol is written provisionally."
    )
    fill: bool = Field(default=False, description="Write flat bars where the ids prove that nothing was traded.")


class Keep(_Section):
    """How many days each kind of row is kept; null is for ever."""

    books: Days = Field(default="7d", description="Days that order books are kept.")
    tickers: Days = Field(default="30d", description="Days that tickers are kept.")
    trades: Days = Field(default=None, description="Days that trades are kept.")
    candles: Days = Field(default=None, description="Days that candles are kept.")
    funding_rates: Days = Field(default=None, description="Days that funding rates are kept.")
    mark_prices: Days = Field(default="30d", description="Days that mark prices are kept.")
    index_prices: Days = Field(default="30d", description="Days that prices of indices are kept.")
    open_interest: Days = Field(default="30d", description="Days that open interest is kept.")
    price_limits: Days = Field(default="30d", description="Days that price limits are kept.")
    liquidations: Days = Field(default=None, description="Days that liquidations are kept.")


class Storage(_Section):
    """Where rows go, and for how long."""

    dsn: Annotated[str, AfterValidator(values.dsn)] | None = Field(
        default=None, description="Postgres, as URL or keywords; null: PGHOST and its like, else the embedded server."
    )
    books_every: Annotated[str, values.duration(100, _DAY_MS, "1s (100ms to 1d), or null")] | None = Field(
        default="1s", description="Store a book of each symbol this often; null stores every one."
    )
    books_depth: Annotated[int, AfterValidator(values.depth)] | None = Field(
        default=25, description="Levels of each side to store of a book of the channel books; null stores all 400."
    )
    keep: Keep = Keep()


class Exchange(_Section):
    """Which exchange, and where it is."""

    name: str = Field(default="okx", description="The exchange: okx.")
    ws_url: Annotated[str, values.base_url("ws", "wss")] | None = Field(
        default=None, description="WebSocket base, without the path; null: the exchange's own."
    )
    rest_url: Annotated[str, values.base_url("http", "https")] | None = Field(
        default=None, description="REST base, without the path; null: the exchange's own."
    )
    proxy: Annotated[str, AfterValidator(values.proxy)] | None = Field(
        default=None,
        description='Proxy on the way there, http://, socks5:// or socks5h://; "none": straight; null: HTTPS_PROXY and '
        "its like.",
    )
    connect_timeout: Annotated[str, values.duration(100, 3_600_000, "30s (100ms to 1h)")] = Field(
        default="30s", description="Give up when never connected for this long after the start."
    )


class Log(_Section):
    """The log file; standard error is another matter (-q, -v)."""

    file: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        default=None, description="Full log, appended to; ~ is your home; null: none."
    )
    level: Level = Field(default="info", description="The least level that the log holds.")


class Archive(_Section):
    """Raw messages kept in files, as they came."""

    path: Annotated[str, AfterValidator(values.file_names)] | None = Field(
        default=None,
        description="Files by the UTC time of receipt, such as raw/%Y-%m-%d/%H.jsonl.zst; ~ is your home; null: none.",
    )
    min_free: Annotated[str, AfterValidator(values.size)] = Field(
        default="1GiB", description="How much of the disk the archive leaves free."
    )
    when_low: WhenLow = Field(
        default="pause",
        description="When less is free: pause archives nothing until there is more, and collects on; drop-oldest "
        "deletes the oldest files of the archive; stop ends okx collect.",
    )


class Document(_Section):
    """The whole file."""

    schema_: str | None = Field(default=None, alias="$schema", description="For editors; okx does not read it.")
    symbols: Annotated[list[Annotated[str, AfterValidator(values.symbol)]], AfterValidator(values.once)] = Field(
        default=[], description="Instruments to collect, as the exchange names them; * and ? stand for others."
    )
    types: Annotated[list[Type], AfterValidator(values.once)] = Field(
        default=[], description="Types of instrument that patterns in symbols select; without symbols: all of these."
    )
    channels: Annotated[list[Channel], Field(min_length=1), AfterValidator(values.once)] = Field(
        default=[TAPE], description="What to collect of each symbol."
    )
    timeframes: Annotated[list[Annotated[str, AfterValidator(values.timeframe)]], AfterValidator(values.once)] = Field(
        default=["1m", "5m", "15m", "1h", "4h", "1d"], description="Bars to make from the trades; [] makes none."
    )
    candles: Candles = Candles()
    storage: Storage = Storage()
    exchange: Exchange = Exchange()
    log: Log = Log()
    archive: Archive = Archive()


class _Object(dict[str, Any]):
    """An object of the file, which remembers the keys that it gives twice."""

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        super().__init__(items)
        names = [name for name, _ in items]
        self.twice = [name for name in self if names.count(name) > 1]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors and other checkers."""
    schema = Document.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "okx.json"}


def parse(text: str) -> tuple[Document | None, list[str]]:
    """Return what the file says, and every mistake in it; None with what cannot be read as a configuration."""
    try:
        raw = json.loads(text, object_pairs_hook=_Object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return None, [f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}"]
    except (RecursionError, ValueError) as error:
        return None, [f"not JSON: {'nested too deep' if isinstance(error, RecursionError) else error}"]
    if not isinstance(raw, dict):
        return None, ['not a JSON object: it begins with {"symbols": [...]}']
    try:
        document, mistakes = Document.model_validate(raw), []
    except ValidationError as error:
        document, mistakes = None, [_explained(found) for found in error.errors(include_url=False)]
    twice = [f"{name}: given twice" for name in _twice(raw)]
    return document, twice + mistakes + _contradictions(raw)


def to_config(document: Document, path: Path | None) -> Config:
    """Return the values of a checked file as the rest of the package uses them."""
    keep = document.storage.keep
    every = document.storage.books_every
    file = document.log.file
    return Config(
        symbols=tuple(document.symbols),
        types=tuple(document.types),
        channels=tuple(document.channels),
        timeframes=tuple(document.timeframes),
        lateness_ms=values.milliseconds(document.candles.lateness),
        grace_ms=values.milliseconds(document.candles.grace),
        fill=document.candles.fill,
        dsn=document.storage.dsn,
        books_every_ms=values.milliseconds(every) if every else 0,
        books_depth=document.storage.books_depth,
        keep_days={kind: int(days[:-1]) if days else None for kind, days in keep.model_dump().items()},
        exchange=document.exchange.name,
        ws_url=document.exchange.ws_url,
        rest_url=document.exchange.rest_url,
        proxy=document.exchange.proxy,
        connect_timeout_s=values.milliseconds(document.exchange.connect_timeout) / 1000,
        log_file=expanded(file) if file else None,
        log_level=document.log.level,
        archive=_archive_of(document.archive),
        path=path,
    )


def _archive_of(archive: Archive) -> ArchiveKeys | None:
    if archive.path is None:
        return None
    return ArchiveKeys(str(expanded(archive.path)), values.bytes_of(archive.min_free), archive.when_low)


def settings(document: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Yield every setting as (dotted key, value, whether the file gives it), in the order of the schema."""
    for name, field in type(document).model_fields.items():
        value = getattr(document, name)
        if isinstance(value, BaseModel):
            yield from settings(value, f"{prefix}{name}.")
        elif field.alias is None:
            yield f"{prefix}{name}", value, name in document.model_fields_set


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _twice(raw: dict[str, Any]) -> list[str]:
    """Return the place of each key that is given twice, the outer ones first."""
    found: list[str] = []
    left: list[tuple[tuple[Any, ...], Any]] = [((), raw)]
    for where, value in left:  # which grows meanwhile
        if isinstance(value, _Object):
            found += [_place((*where, name)) for name in value.twice]
            left += [((*where, name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            left += [((*where, index), inner) for index, inner in enumerate(value)]
    return found


def _contradictions(raw: dict[str, Any]) -> list[str]:
    """Return what no single key can tell; looks at the raw values, so that it finds them beside other mistakes."""
    channels = raw.get("channels", [TAPE])
    timeframes = raw.get("timeframes", ["1m"])
    known = isinstance(channels, list) and channels and all(channel in get_args(Channel) for channel in channels)
    if known and timeframes and not {TAPE, "trades"} & {*channels}:
        return ["timeframes: bars are made from trades; add trades-all to channels, or write []"]
    return []


def _explained(error: Any) -> str:
    """Return one of pydantic's findings as `key: what is wrong, what is allowed`."""
    where, kind, value = error["loc"], error["type"], error["input"]
    place = _place(where)
    if kind == "extra_forbidden":
        known = _keys_beside(where)
        return f"{place}: unknown key{_nearest(str(where[-1]), known) or '; known: ' + ', '.join(known)}"
    if kind == "okx":
        return f"{place}: {error['msg']}"
    if kind == "literal_error":
        names = get_args({"log": Level, "types": Type, "archive": WhenLow}.get(str(where[0]), Channel))
        shown = _CHANNELS if where[0] == "channels" else ", ".join(names)
        return f"{place}: {values.shown(value)} is none of {shown}{_nearest(str(value), names)}"
    if kind == "too_short":
        return f"{place}: empty; name at least one of {_CHANNELS}"
    if kind == "string_too_short":
        return f"{place}: empty; write a path, or null"
    wanted = {
        "list_type": 'a list, such as ["..."]',
        "string_type": "text in double quotes",
        "int_type": "a whole number",
        "bool_type": "true or false",
        "model_type": "an object, {...}",
    }.get(kind, error["msg"])
    return (
        f"{place}: {'a value' if place in ('storage.dsn', 'exchange.proxy') else values.shown(value)} is not {wanted}"
    )


def _place(where: tuple[Any, ...]) -> str:
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." + (part if _KEY.fullmatch(part) else values.shown(part))
    return text.lstrip(".")


def _keys_beside(where: tuple[Any, ...]) -> list[str]:
    """Return the known keys of the section that holds the last part of `where`."""
    section: type[BaseModel] = Document
    for part in where[:-1]:
        section = type(section.model_fields[part].default)
    return [field.alias or name for name, field in section.model_fields.items()]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = {one.lower(): one for one in reversed(list(known))}
    near = difflib.get_close_matches(name.lower(), names, 1, 0.6)
    return f"; did you mean {names[near[0]]}?" if near else ""
