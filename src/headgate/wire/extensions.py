"""
The extension types of a payload: what of Python MessagePack has no type for.

None, booleans, integers of 64 bits, floats, text, bytes, lists and dictionaries are MessagePack's
own; the keys of a map may be any value that Python can hash. Whatever else is carried is an
extension type:

====  ==========  ================================================================================
code  carries     contents
====  ==========  ================================================================================
1     int         an integer beyond 64 bits: two's complement, big-endian, any number of bytes
2     str         text with lone surrogates: UTF-8 with each surrogate as its own three bytes
                  (WTF-8); all other text is MessagePack's own str
3     tuple       one MessagePack array of the members
4     set         one MessagePack array of the members, in any order
5     frozenset   one MessagePack array of the members, in any order
6     datetime    ASCII, RFC 9557: ``2024-10-27T02:30:00.000001+01:00[Europe/Berlin]``. Without
                  offset: naive. The zone, an IANA name, is left out if only the offset is known.
                  ``[_fold=1]`` may end it: Python's ``fold``, for naive times too
7     date        ASCII, ISO 8601: ``2024-10-27``
8     time        ASCII, as in 6, without the date: ``02:30:00+01:00``, ``02:30:00[Europe/Berlin]``
9     timedelta   ASCII: the whole number of microseconds in decimal digits, ``-`` before a negative
10    Decimal     ASCII: ``-1.50``, ``1E+3``, ``NaN``, ``sNaN``, ``-Infinity``; the exponent is kept
11    UUID        its 16 bytes, in the order of the text form
12    Dataset     one MessagePack array: the columns' names (array of str), their types (array of
                  str), then an array of values for each column, all of the same length. A value is
                  nil, or by its column's type: ``null`` (nil only), ``bool``, ``int``, ``float``,
                  ``str``, ``bytes`` as by themselves; ``datetime``, ``date``, ``time`` and
                  ``Decimal`` a str as in 6, 7, 8 and 10; ``timedelta`` an integer, microseconds;
                  ``UUID`` a bin as in 11
13    array       one MessagePack array of four: the type of an element as NumPy writes it
                  (``<f8``; str), ``C`` or ``F`` (str), the length of each dimension (array of
                  int), and the elements (bin), in the order of C or of Fortran
14…   nothing     reserved for later releases; refused
====  ==========  ================================================================================

MessagePack's own timestamp (code -1) is read as a datetime in UTC and never written. A receiver
refuses an unknown code, bytes after the value, and more than its `Limits` allow; every list, tuple,
dictionary and set is one level, whether it stands in an extension or not; a Dataset and an array
are two. Of equal keys in a map the last one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ormsgpack import Ext

from headgate.wire.moments import read_datetime, read_time, text_of

__all__ = [
    "ARRAY",
    "CODES",
    "CONTAINERS",
    "DATASET",
    "FIXED",
    "INT",
    "LEAVES",
    "READERS",
    "TUPLE",
    "WRITERS",
    "WTF8",
    "Reader",
    "read_int",
    "read_text",
    "write_int",
    "write_text",
]

INT: Final = 1
WTF8: Final = 2
TUPLE: Final = 3
SET: Final = 4
FROZENSET: Final = 5
DATETIME: Final = 6
DATE: Final = 7
TIME: Final = 8
TIMEDELTA: Final = 9
DECIMAL: Final = 10
UNIQUE_ID: Final = 11
DATASET: Final = 12
ARRAY: Final = 13


def write_int(value: int) -> Ext:
    """
    Give an integer of more than 64 bits.
    """
    return Ext(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def write_text(value: str) -> Ext:
    """
    Give text that has lone surrogates.
    """
    return Ext(WTF8, value.encode("utf-8", "surrogatepass"))


def _write_datetime(value: datetime) -> Ext:
    return Ext(DATETIME, text_of(value).encode())


def _write_date(value: date) -> Ext:
    return Ext(DATE, value.isoformat().encode())


def _write_time(value: time) -> Ext:
    return Ext(TIME, text_of(value).encode())


def _write_timedelta(value: timedelta) -> Ext:
    return Ext(TIMEDELTA, str(value // timedelta.resolution).encode())


def _write_decimal(value: Decimal) -> Ext:
    return Ext(DECIMAL, str(value).encode())


def _write_uuid(value: UUID) -> Ext:
    return Ext(UNIQUE_ID, value.bytes)


WRITERS: Final[dict[type, Callable[[Any], Ext]]] = {
    int: write_int,
    datetime: _write_datetime,
    date: _write_date,
    time: _write_time,
    timedelta: _write_timedelta,
    Decimal: _write_decimal,
    UUID: _write_uuid,
}

CODES: Final[dict[type, int]] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}

LEAVES: Final = frozenset({*WRITERS, type(None), bool, float, str, bytes})
FIXED: Final = LEAVES - {datetime, time}
"""Types that convert() leaves as they are."""

CONTAINERS: Final = frozenset({*CODES, list, dict})

Reader = Callable[[Any], Any]


def read_int(body: memoryview | bytes) -> int:
    """
    Read an integer of any size.
    """
    return int.from_bytes(body, "big", signed=True)


def read_text(body: memoryview | bytes) -> str:
    """
    Read text that may have lone surrogates.
    """
    return bytes(body).decode("utf-8", "surrogatepass")


def _read_timedelta(body: memoryview) -> timedelta:
    return timedelta(microseconds=int(str(body, "ascii")))


def _read_decimal(body: memoryview) -> Decimal:
    return Decimal(str(body, "ascii"))


def _read_uuid(body: memoryview) -> UUID:
    return UUID(bytes=bytes(body))


READERS: Final[dict[int, Reader]] = {
    INT: read_int,
    WTF8: read_text,
    DATETIME: lambda body: read_datetime(str(body, "ascii")),
    DATE: lambda body: date.fromisoformat(str(body, "ascii")),
    TIME: lambda body: read_time(str(body, "ascii")),
    TIMEDELTA: _read_timedelta,
    DECIMAL: _read_decimal,
    UNIQUE_ID: _read_uuid,
}
