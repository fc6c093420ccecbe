"""
The single values that a payload and the cells of a Dataset hold, and what becomes one of them.

Nothing here imports NumPy or pandas: who has one of their values has imported them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import NoneType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

__all__ = [
    "BASES",
    "NAMES",
    "NO_STEP",
    "SCALARS",
    "ZONE_NAME",
    "foreign_scalar",
    "plain",
    "with_plain_zone",
    "zone_name",
]

SCALARS: Final[dict[str, type]] = {
    "null": NoneType,
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "Decimal": Decimal,
    "UUID": UUID,
}
"""The types of single values that are carried, by their names on the wire."""

NAMES: Final = {kind: name for name, kind in SCALARS.items()}
"""Those names, by type."""

_ZONED: Final = frozenset({datetime, time})
_FIXED: Final = frozenset(SCALARS.values()) - _ZONED

NO_STEP: Final = object()
"""What a step towards a carried type gives for a value that it does not know."""


def plain(value: Any) -> Any:
    """
    Give the carried value that a single value is sent as.

    Raises:
        TypeError: It is no single value.
        ValueError: It is one that cannot be read, such as a time in a zone that fails.
    """
    kind = type(value)
    if kind in _FIXED:
        return value
    if kind in _ZONED:
        return with_plain_zone(value)
    if isinstance(value, Enum):
        return plain(value.value)
    for base, build in BASES.items():
        if isinstance(value, base):
            return plain(build(value))
    step = foreign_scalar(value)
    if step is NO_STEP:
        raise TypeError(f"{kind.__qualname__} is no single value that can be sent")
    return plain(step)


def _without_subclass(value: datetime) -> datetime | None:
    # Only pandas' NaT, a datetime for isinstance(), is not equal to itself.
    return datetime.combine(value.date(), value.timetz()) if value == value else None


BASES: Final[dict[type, Callable[[Any], Any]]] = {
    int: int.__int__,
    float: float.__float__,
    # A subclass may override what str() and bytes() give.
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: bytes,
    memoryview: bytes,
    datetime: _without_subclass,
    date: lambda value: date(value.year, value.month, value.day),
    time: lambda value: time(
        value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    ),
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
    Decimal: Decimal,
    UUID: lambda value: UUID(int=value.int),
}
"""What makes a plain value of an instance of a subclass."""


def foreign_scalar(value: Any) -> Any:
    """
    Take a NumPy scalar and pandas' NA one step towards a carried type; `NO_STEP` for all else.
    """
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas is not None and value is getattr(pandas, "NA", NO_STEP):
        return None
    if numpy is not None and isinstance(value, getattr(numpy, "generic", ())):
        return _numpy_scalar(numpy, value)
    return NO_STEP


def _numpy_scalar(numpy: Any, value: Any) -> Any:
    if isinstance(value, numpy.datetime64 | numpy.timedelta64):
        return _numpy_time(numpy, value)
    if isinstance(value, numpy.longdouble):
        return float(value)
    item = value.item()
    return NO_STEP if isinstance(value, numpy.void) or type(item) is type(value) else item


def _numpy_time(numpy: Any, value: Any) -> Any:
    if numpy.isnat(value):
        return None
    item = value.item()
    if type(item) is int and numpy.datetime_data(value.dtype)[0] in ("ns", "ps", "fs", "as"):
        item = value.astype(f"{value.dtype.kind}8[us]").item()
    if type(item) is int:
        raise ValueError(f"{value!r} is beyond what Python's datetime and timedelta hold")
    return item


ZONE_NAME: Final = r"[A-Za-z0-9_+./-]+"
"""What the names of time zones consist of."""


def with_plain_zone(value: datetime | time) -> datetime | time:
    """
    Give a moment with its zone as it is carried: a `ZoneInfo` with a key, or an offset.

    Raises:
        Exception: Whatever the zone raises.
    """
    zone = value.tzinfo
    if zone is None or type(zone) is timezone or (type(zone) is ZoneInfo and zone_name(zone)):
        return value
    offset = value.utcoffset()
    return value.replace(tzinfo=None if offset is None else timezone(offset))


@lru_cache(maxsize=1024)
def zone_name(zone: ZoneInfo) -> str:
    """
    Give the name that a zone is carried by; empty if there is none.
    """
    return zone.key if zone.key and re.fullmatch(ZONE_NAME, zone.key) else ""
