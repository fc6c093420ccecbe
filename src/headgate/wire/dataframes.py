"""
Tables of pandas, Polars and Arrow as a Dataset.

Nothing here imports one of them: who has such a table has imported its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headgate.dataset import Dataset
from headgate.scalars import NO_STEP

__all__ = ["TableError", "dataset_of", "is_table"]


class TableError(ValueError):
    """A table has a column that a Dataset cannot hold."""


def dataset_of(value: Any) -> Any:
    """
    Give the Dataset that a table of pandas, Polars or Arrow is sent as; `NO_STEP` for all else.

    Raises:
        TableError: A column cannot be sent; the error names it.
    """
    columns = _columns_of(value)
    return NO_STEP if columns is None else _built(columns())


def is_table(value: Any) -> bool:
    """
    Tell whether a value is a table of pandas, Polars or Arrow.
    """
    return _columns_of(value) is not None


def _columns_of(value: Any) -> Callable[[], list[_Column]] | None:
    for package, kinds, columns in _LIBRARIES:
        module = sys.modules.get(package)
        # Another thread may be in the middle of the import.
        known = [getattr(module, kind) for kind in kinds if hasattr(module, kind)]
        if isinstance(value, tuple(known)):
            return partial(columns, module, value)
    return None


_Column = tuple[Any, type | None, list[Any]]
"""Name, type (None: the values tell), and values."""


def _built(columns: list[_Column]) -> Dataset:
    names = [name if isinstance(name, str) else str(name) for name, _, _ in columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TableError(f"it has more than one column {twice!r}: rename one")
    try:
        return Dataset.from_columns(
            dict(zip(names, (values for _, _, values in columns), strict=True)),
            [kind for _, kind, _ in columns],
        )
    except (TypeError, ValueError) as error:
        raise TableError(str(error)) from error


def _refused(name: Any, kind: Any) -> TableError:
    return TableError(f"column {name!r} is of type {kind}: make it text, numbers or times first")


# pandas


def _of_pandas(pandas: Any, frame: Any) -> list[_Column]:
    return [
        _pandas_column(pandas, name, frame.iloc[:, at]) for at, name in enumerate(frame.columns)
    ]


def _pandas_column(pandas: Any, name: Any, series: Any) -> _Column:
    if isinstance(name, tuple):
        raise TableError(f"column {name!r} has a name of several levels: join them")
    dtype, types = series.dtype, pandas.api.types
    if isinstance(dtype, pandas.CategoricalDtype):
        return _pandas_column(pandas, name, series.astype(dtype.categories.dtype))
    if isinstance(dtype, pandas.SparseDtype):
        return _pandas_column(pandas, name, series.sparse.to_dense())
    if isinstance(dtype, getattr(pandas, "ArrowDtype", ())):
        arrow = sys.modules["pyarrow"]
        return _arrow_column(arrow, name, arrow.chunked_array([arrow.array(series)]))
    if isinstance(dtype, pandas.DatetimeTZDtype):
        naive = series.dt.tz_convert("UTC").dt.tz_localize(None)
        return name, datetime, _in_zone(_microseconds(naive, "M"), _named(dtype.tz))
    if types.is_datetime64_dtype(dtype):
        return name, datetime, _microseconds(series, "M")
    if types.is_timedelta64_dtype(dtype):
        return name, timedelta, _microseconds(series, "m")
    for check, kind in (
        (types.is_bool_dtype, bool),
        (types.is_integer_dtype, int),
        (types.is_float_dtype, float),
    ):
        if check(dtype):
            return name, kind, _pandas_values(series)
    if not types.is_object_dtype(dtype) and not types.is_string_dtype(dtype):
        raise _refused(name, dtype)
    values = _pandas_values(series)
    return name, None if types.is_object_dtype(dtype) else str, values


def _microseconds(series: Any, kind: str) -> list[Any]:
    """Give times as Python's own, to the microsecond; NaT becomes None."""
    values: list[Any] = series.to_numpy().astype(f"{kind}8[us]").tolist()
    return values


def _pandas_values(series: Any) -> list[Any]:
    """Give values as Python's own; None where text or an object is missing."""
    values: list[Any] = series.tolist()
    if series.dtype.kind in "biuf":
        return values
    missing = series.isna().tolist()
    return [None if lost else value for value, lost in zip(values, missing, strict=True)]


# Polars


def _of_polars(polars: Any, frame: Any) -> list[_Column]:
    return [_polars_column(polars, series) for series in frame.get_columns()]


def _polars_column(polars: Any, series: Any) -> _Column:
    dtype, base = series.dtype, series.dtype.base_type()
    if base is polars.Datetime and dtype.time_zone is not None:
        naive = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return series.name, datetime, _in_zone(naive.to_list(), _zone(dtype.time_zone))
    if base in (polars.Categorical, polars.Enum):
        return series.name, str, series.cast(polars.String).to_list()
    if dtype.is_integer() or dtype.is_float():
        return series.name, int if dtype.is_integer() else float, series.to_list()
    kinds: dict[Any, type] = {
        polars.Boolean: bool,
        polars.Decimal: Decimal,
        polars.String: str,
        polars.Binary: bytes,
        polars.Date: date,
        polars.Time: time,
        polars.Datetime: datetime,
        polars.Duration: timedelta,
        polars.Null: NoneType,
    }
    if base not in kinds:
        raise _refused(series.name, dtype)
    return series.name, kinds[base], series.to_list()


# Arrow


def _of_arrow(arrow: Any, table: Any) -> list[_Column]:
    return [
        _arrow_column(arrow, name, column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]


def _arrow_column(arrow: Any, name: str, column: Any) -> _Column:
    kind, types = column.type, arrow.types
    if types.is_dictionary(kind):
        return _arrow_column(arrow, name, column.cast(kind.value_type))
    if types.is_timestamp(kind):
        naive = column.cast(arrow.timestamp("us", kind.tz), safe=False).cast(arrow.timestamp("us"))
        values = naive.to_pylist()
        return name, datetime, _in_zone(values, _zone(kind.tz)) if kind.tz else values
    for check, python, cast in (
        (types.is_boolean, bool, None),
        (types.is_integer, int, None),
        (types.is_floating, float, None),
        (types.is_decimal, Decimal, None),
        (_is_arrow_text(types), str, None),
        (_is_arrow_bytes(types), bytes, None),
        (types.is_date, date, arrow.date32()),
        (types.is_time, time, arrow.time64("us")),
        (types.is_duration, timedelta, arrow.duration("us")),
        (types.is_null, NoneType, None),
    ):
        if check(kind):
            return name, python, (column.cast(cast, safe=False) if cast else column).to_pylist()
    raise _refused(name, kind)


def _is_arrow_text(types: Any) -> Callable[[Any], bool]:
    view = getattr(types, "is_string_view", lambda kind: False)
    return lambda kind: types.is_string(kind) or types.is_large_string(kind) or view(kind)


def _is_arrow_bytes(types: Any) -> Callable[[Any], bool]:
    view = getattr(types, "is_binary_view", lambda kind: False)
    return lambda kind: (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or view(kind)
    )


def _in_zone(moments: list[Any], zone: tzinfo) -> list[Any]:
    """Give moments of UTC that have no zone in a zone."""
    return [
        None if moment is None else moment.replace(tzinfo=UTC).astimezone(zone)
        for moment in moments
    ]


def _zone(name: str) -> tzinfo:
    """Give the zone that these libraries call so: UTC, an offset, or an IANA name."""
    if name == "UTC":
        return UTC
    if name.startswith(("+", "-", "UTC+", "UTC-")):
        found = datetime.strptime(name.removeprefix("UTC"), "%z").tzinfo
        return UTC if found is None else found
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise TableError(f"time zone {name!r} is not known here; pip install tzdata") from error


def _named(zone: tzinfo) -> tzinfo:
    """Give pytz's zones as a ZoneInfo of the same name, and all others as they are."""
    name = getattr(zone, "zone", None)
    return _zone(name) if isinstance(name, str) else zone


_Columns = Callable[[Any, Any], list[_Column]]

_LIBRARIES: Final[tuple[tuple[str, tuple[str, ...], _Columns], ...]] = (
    ("pandas", ("DataFrame",), _of_pandas),
    ("polars", ("DataFrame",), _of_polars),
    ("pyarrow", ("Table", "RecordBatch"), _of_arrow),
)
