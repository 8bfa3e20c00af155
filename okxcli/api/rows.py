"""Rows as they come, or all of them as a table of a library that is installed."""

from collections.abc import Callable, Generator
from decimal import Decimal
from importlib import import_module
from types import UnionType
from typing import Any, get_args

import msgspec

from okxcli.api.through import Lines
from okxcli.core.model import Line
from okxcli.errors import UsageError

#: Digits before and after the point that a column of decimals has at first, and where that is too little.
_NARROW, _WIDE = (38, 18), (76, 38)


class Rows(Lines[Line]):
    """Stored rows, one by one; or, instead, all that are left as one table.

    Columns have the names of the lines' keys. Decimals are exact: `decimal128(38, 18)`, wider ones `decimal256`, and
    text where even those do not hold them. Times are integers, milliseconds since 1970. Lists (of books) are JSON.
    """

    def __init__(self, make: Callable[[], Generator[Line, None, None]], kinds: tuple[type, ...]) -> None:
        super().__init__(make)
        self._kinds = kinds

    def arrow(self) -> Any:
        """Return a `pyarrow.Table`.

        Raises:
            UsageError: pyarrow is not installed.
        """
        arrow = _library("pyarrow")
        rows = list(self)
        kinds = {type(row) for row in rows} or set(self._kinds)
        if len(kinds) > 1:
            raise UsageError("lines of several types do not fit into one table: leave context out")
        (kind,) = kinds
        columns = {
            name: _column(arrow, [getattr(row, name) for row in rows], kind.__annotations__[name])
            for name in kind.__struct_fields__
        }
        return arrow.table(columns)

    def polars(self) -> Any:
        """Return a `polars.DataFrame`; pyarrow is needed as well.

        Raises:
            UsageError: one of them is not installed.
        """
        return _library("polars").from_arrow(self.arrow())

    def pandas(self) -> Any:
        """Return a `pandas.DataFrame` with columns of Arrow, in which decimals stay exact; pyarrow is needed as well.

        Raises:
            UsageError: one of them is not installed.
        """
        pandas = _library("pandas")
        return self.arrow().to_pandas(types_mapper=pandas.ArrowDtype)

    def table(self) -> Any:
        """Return the table of the first library that is installed: polars, pandas, pyarrow.

        Raises:
            UsageError: none is.
        """
        for name, make in (("polars", self.polars), ("pandas", self.pandas)):
            if _is_there(name) and _is_there("pyarrow"):
                return make()
        return self.arrow()


def _is_there(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UsageError(f"{name} is not installed. Try: pip install {name}") from None


def _column(arrow: Any, values: list[Any], annotation: Any) -> Any:
    kinds = set(get_args(annotation)) if isinstance(annotation, UnionType) else {annotation}
    if Decimal in kinds:
        return _decimals(arrow, values)
    if int in kinds:
        return arrow.array(values, arrow.int64())
    if bool in kinds:
        return arrow.array(values, arrow.bool_())
    if str in kinds:
        return arrow.array(values, arrow.string())
    return arrow.array(
        [None if value is None else msgspec.json.encode(value).decode() for value in values], arrow.string()
    )


def _decimals(arrow: Any, values: list[Decimal | None]) -> Any:
    for make, (digits, places) in ((arrow.decimal128, _NARROW), (arrow.decimal256, _WIDE)):
        try:
            return arrow.array(values, make(digits, places))
        except arrow.ArrowInvalid:
            continue
    return arrow.array([None if value is None else f"{value:f}" for value in values], arrow.string())
