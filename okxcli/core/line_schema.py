"""A JSON Schema for each type of line, made from the types themselves."""

import inspect
from typing import Any

import msgspec

from okxcli.core.model import Absent, BookSnapshot, BookUpdate, Instrument, OHLCVCandle, StandardizedTrade
from okxcli.core.states import STATES

#: By the value of a line's key `type`.
LINE_TYPES: dict[str, type[msgspec.Struct]] = {
    "trade": StandardizedTrade,
    "candle": OHLCVCandle,
    "book": BookSnapshot,
    "book_update": BookUpdate,
    **{one.tag: one.kind for one in STATES},
    "instrument": Instrument,
    "absent": Absent,
}

#: The canonical form of a decimal: plain, no sign but a minus, no trailing zeros after the point.
DECIMAL_PATTERN = r"^-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?$"


def line_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the lines that okx writes of a type in `LINE_TYPES`.

    Every key is there in what okx writes, hence required; what it reads may lack those that can be null.
    """
    model = LINE_TYPES[kind]
    found: dict[str, Any] = msgspec.json.schema(model)["$defs"][model.__name__]
    found = _canonical(found)
    for value in found["properties"].values():
        value.pop("default", None)
    found["title"] = f"okx {kind} line"
    found["description"] = inspect.cleandoc(model.__doc__ or "")
    found["required"] = list(found["properties"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _canonical(value: Any) -> Any:
    """Replace "a decimal" by the form that okx writes, wherever it stands."""
    if isinstance(value, dict):
        if value.get("format") == "decimal":
            return {"type": "string", "pattern": DECIMAL_PATTERN}
        return {key: _canonical(item) for key, item in value.items()}
    return [_canonical(item) for item in value] if isinstance(value, list) else value
