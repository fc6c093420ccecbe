"""
A Dataset as bytes: column by column, since a column's values are of one type.

Each is a plain MessagePack array, which msgspec reads and checks in C: nothing in a table can be
nested, so no limit of depth is needed beyond the two levels that a table has.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, Final
from uuid import UUID

import ormsgpack
from msgspec import Raw, ValidationError
from msgspec.msgpack import Decoder
from msgspec.msgpack import Ext as ReadExt
from ormsgpack import Ext, packb

from headgate.dataset import Dataset
from headgate.scalars import NAMES, SCALARS
from headgate.wire.extensions import (
    DATASET,
    INT,
    WTF8,
    read_int,
    read_text,
    write_int,
    write_text,
)
from headgate.wire.moments import read_datetime, read_time, text_of

__all__ = ["read_dataset", "write_dataset"]

_OPTIONS: Final = ormsgpack.OPT_PASSTHROUGH_BIG_INT

_Column = tuple[Any, ...]


def write_dataset(value: Dataset) -> Ext:
    """
    Give a table as an extension type.
    """
    names, types = value._names, value._types
    columns = [
        column if write is None else [None if cell is None else write(cell) for cell in column]
        for column, write in zip(value._columns, map(_WRITERS.get, types), strict=True)
    ]
    body = [names, [NAMES[kind] for kind in types], *columns]
    try:
        return Ext(DATASET, packb(body, write_int, _OPTIONS))
    except Exception:  # text with lone surrogates
        return Ext(
            DATASET, packb([list(map(_any_text, each)) for each in body], write_int, _OPTIONS)
        )


def _any_text(cell: Any) -> Any:
    return cell if type(cell) is not str or cell.isascii() else write_text(cell)


_WRITERS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: text_of,
    date: date.isoformat,
    time: text_of,
    timedelta: lambda value: value // timedelta.resolution,
    Decimal: str,
    UUID: lambda value: value.bytes,
}


def read_dataset(body: memoryview) -> Dataset:
    """
    Read a table from the contents of its extension type.

    Raises:
        Exception: It is none.
    """
    parts = _read_parts(body)
    if len(parts) < 2:
        raise ValueError("a table has names, types and columns")
    names = _read_column(parts[0], str)
    types = [_known_type(name) for name in _read_types(parts[1])]
    if not len(names) == len(types) == len(parts) - 2:
        raise ValueError(
            f"a table has {len(names)} names, {len(types)} types and {len(parts) - 2} columns"
        )
    return Dataset._of(names, types, list(map(_read_column, parts[2:], types)))


_read_parts: Final = Decoder(list[Raw]).decode
_read_types: Final = Decoder(list[str]).decode


def _known_type(name: str) -> type:
    try:
        return SCALARS[name]
    except KeyError:
        raise ValueError(f"{name[:80]!r} is no type of a column") from None


def _read_column(data: Raw, kind: type) -> _Column:
    try:
        cells = _DECODERS[kind](data)
    except ValidationError:
        if kind not in _RARE:
            raise
        cells = _with_extensions(data, kind)
    read = _READERS.get(kind)
    return tuple(None if cell is None else read(cell) for cell in cells) if read else cells


def _cells(kind: Any) -> Callable[[Raw], _Column]:
    read: Callable[[Raw], _Column] = Decoder(tuple[kind, ...]).decode
    return read


_DECODERS: Final[dict[type, Callable[[Raw], _Column]]] = {
    NoneType: _cells(None),
    bool: _cells(bool | None),
    int: _cells(int | None),
    float: _cells(float | None),
    str: _cells(str | None),
    bytes: _cells(bytes | None),
    datetime: _cells(str | None),
    date: _cells(str | None),
    time: _cells(str | None),
    timedelta: _cells(int | None),
    Decimal: _cells(str | None),
    UUID: _cells(bytes | None),
}

_READERS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: read_datetime,
    date: date.fromisoformat,
    time: read_time,
    timedelta: lambda microseconds: timedelta(microseconds=microseconds),
    Decimal: Decimal,
    UUID: lambda value: UUID(bytes=value),
}

_RARE: Final[dict[type, tuple[int, Callable[[bytes], Any], Callable[[Raw], _Column]]]] = {
    int: (INT, read_int, _cells(int | ReadExt | None)),
    timedelta: (INT, read_int, _cells(int | ReadExt | None)),
    str: (WTF8, read_text, _cells(str | ReadExt | None)),
}
"""Types whose cells may be an extension: its code, what reads its contents, what reads a column."""


def _with_extensions(data: Raw, kind: type) -> _Column:
    """Read a column with integers beyond 64 bits or lone surrogates."""
    code, read, decode = _RARE[kind]

    def cell(value: Any) -> Any:
        if type(value) is not ReadExt:
            return value
        if value.code != code:
            raise ValueError(f"extension type {value.code} cannot stand in this column")
        return read(bytes(value.data))

    return tuple(map(cell, decode(data)))
