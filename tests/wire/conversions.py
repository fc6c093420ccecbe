"""
What becomes of each value that is sent: the table of the tests and of docs/payloads.md.

`test_conversions.py` sends every value; ``python docs/payload_tables.py --write`` writes the page.
"""

from __future__ import annotations

from textwrap import dedent
from typing import Any, NamedTuple

DEFINITIONS = dedent(
    """
    from collections import Counter, OrderedDict, defaultdict, namedtuple
    from dataclasses import dataclass
    from datetime import UTC, date, datetime, time, timedelta, timezone
    from decimal import Decimal
    from enum import Enum, Flag, IntEnum, StrEnum
    from uuid import UUID
    from zoneinfo import ZoneInfo

    import attrs, msgspec, pydantic
    import numpy, pandas, polars, pyarrow
    from headgate import Dataset


    class Colour(Enum):
        RED = "red"
        PAIR = (1, 2)


    class Level(IntEnum):
        LOW = 1


    class Word(StrEnum):
        GO = "go"


    class Bits(Flag):
        A = 1
        B = 2


    class Tag(str):
        def __str__(self):
            return "not the text"


    Point = namedtuple("Point", "x y")


    @dataclass(frozen=True, slots=True)
    class Reading:
        tag: str
        value: object = None
        _quality: int = 192


    @attrs.frozen
    class Valve:
        name: str
        _opened: bool = False


    class Frame(msgspec.Struct, rename="camel"):
        line_number: int
        rest: object = msgspec.UNSET


    class Order(pydantic.BaseModel):
        number: int = pydantic.Field(alias="orderNumber")
        colour: Colour = Colour.RED
        due: date = date(2026, 1, 2)
        _secret: int = 1
    """
).strip()


class Conversion(NamedTuple):
    """A value that is sent and what arrives, both as Python is written."""

    what: str
    sent: str
    arrives: str
    note: str = ""


CARRIED = [
    Conversion("None, bool", "[None, True]", "[None, True]"),
    Conversion("int", "[-1, 2**70]", "[-1, 2**70]", "of any size"),
    Conversion("float", "[-0.0, 5e-324, float('inf')]", "[-0.0, 5e-324, float('inf')]", "nan too"),
    Conversion("str", "'Grüße \\ud800'", "'Grüße \\ud800'", "lone surrogates too"),
    Conversion("bytes", "b'\\x00\\xff'", "b'\\x00\\xff'"),
    Conversion("list, tuple", "[1, (2, [3])]", "[1, (2, [3])]"),
    Conversion(
        "dict",
        "{'a': 1, None: 2, (1, date(2026, 1, 2)): 3}",
        "{'a': 1, None: 2, (1, date(2026, 1, 2)): 3}",
        "keys: whatever is carried and can be hashed; the order is kept",
    ),
    Conversion("set, frozenset", "{1, frozenset({2})}", "{1, frozenset({2})}"),
    Conversion("datetime", "datetime(2026, 1, 2, 3, 4)", "datetime(2026, 1, 2, 3, 4)", "naive"),
    Conversion(
        "",
        "datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo('Europe/Berlin'), fold=1)",
        "datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo('Europe/Berlin'), fold=1)",
        "aware: the zone is kept; only the offset, if the receiver does not know the zone",
    ),
    Conversion(
        "date, time, timedelta",
        "(date(2026, 1, 2), time(3, 4, tzinfo=UTC), timedelta(microseconds=-1))",
        "(date(2026, 1, 2), time(3, 4, tzinfo=UTC), timedelta(microseconds=-1))",
    ),
    Conversion("Decimal", "Decimal('-1.50')", "Decimal('-1.50')", "the exponent is kept"),
    Conversion("UUID", "UUID(int=5)", "UUID(int=5)"),
    Conversion(
        "Dataset",
        "Dataset(['tag', 'value'], [['a', 1.5], ['b', None]])",
        "Dataset(['tag', 'value'], [['a', 1.5], ['b', None]])",
        "[see below](#datasets)",
    ),
    Conversion(
        "NumPy array",
        "numpy.array([[1, 2], [3, 4]], 'int16')",
        "numpy.array([[1, 2], [3, 4]], 'int16')",
        "[see below](#arrays)",
    ),
]
"""What arrives equal and of the same type."""

CONVERTED = [
    Conversion("Enum", "Colour.RED", "'red'", "its value"),
    Conversion("", "[Colour.PAIR, Level.LOW, Word.GO, Bits.A | Bits.B]", "[(1, 2), 1, 'go', 3]"),
    Conversion(
        "dataclass",
        "Reading('a', Reading('b'))",
        "{'tag': 'a', 'value': {'tag': 'b', 'value': None, '_quality': 192}, '_quality': 192}",
        "a dict of its fields, private ones too",
    ),
    Conversion("attrs", "Valve('v1')", "{'name': 'v1', '_opened': False}", "names of attributes"),
    Conversion("msgspec Struct", "Frame(7)", "{'line_number': 7}", "without what is UNSET"),
    Conversion("", "Frame(7, {2: 3})", "{'line_number': 7, 'rest': {2: 3}}", "no `rename`"),
    Conversion(
        "pydantic",
        "Order(orderNumber=7)",
        "{'number': 7, 'colour': 'red', 'due': date(2026, 1, 2)}",
        "its `model_dump()`: names of fields, values of Python, nothing private",
    ),
    Conversion("subclasses", "Tag('a')", "'a'", "their base"),
    Conversion("", "[Point(1, [2]), Counter('aab')]", "[(1, [2]), {'a': 2, 'b': 1}]"),
    Conversion("", "defaultdict(list, {Level.LOW: [2]})", "{1: [2]}", "keys too"),
    Conversion("", "OrderedDict(b=1, a=2)", "{'b': 1, 'a': 2}"),
    Conversion(
        "bytearray, memoryview", "[bytearray(b'x'), memoryview(b'abcd')[::2]]", "[b'x', b'ac']"
    ),
    Conversion(
        "other time zones",
        "pandas.Timestamp('2026-07-01T12:00', tz='dateutil/Europe/Berlin')",
        "datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))",
        "what is no ZoneInfo: the offset",
    ),
    Conversion("NumPy scalars", "[numpy.int8(3), numpy.float32(1.5)]", "[3, 1.5]"),
    Conversion("", "[numpy.bool_(True), numpy.str_('a'), numpy.bytes_(b'b')]", "[True, 'a', b'b']"),
    Conversion(
        "",
        "[numpy.datetime64('2026-01-02T03:04:05.123456789'), numpy.datetime64('2026-01-02')]",
        "[datetime(2026, 1, 2, 3, 4, 5, 123456), date(2026, 1, 2)]",
        "to the microsecond",
    ),
    Conversion(
        "",
        "[numpy.timedelta64(1500, 'ms'), numpy.datetime64('NaT')]",
        "[timedelta(seconds=1.5), None]",
    ),
    Conversion("pandas scalars", "[pandas.NA, pandas.NaT]", "[None, None]"),
    Conversion(
        "",
        "[pandas.Timestamp('2026-01-02T03:04'), pandas.Timedelta('1h')]",
        "[datetime(2026, 1, 2, 3, 4), timedelta(hours=1)]",
        "to the microsecond",
    ),
    Conversion(
        "pandas DataFrame",
        "pandas.DataFrame({'tag': ['a', None], 'n': [1, 2], 'x': [1.5, 2.0]})",
        "Dataset(['tag', 'n', 'x'], [['a', 1, 1.5], [None, 2, 2.0]], [str, int, float])",
        "without its index: `reset_index()` makes columns of it",
    ),
    Conversion(
        "",
        "pandas.DataFrame({'n': pandas.array([1, None], 'Int64'), 'x': [float('inf'), 1.0]})",
        "Dataset(['n', 'x'], [[1, float('inf')], [None, 1.0]], [int, float])",
        "missing is None; nan stays nan in a column of floats",
    ),
    Conversion(
        "",
        "pandas.DataFrame({'c': pandas.Categorical(['u', None])})",
        "Dataset(['c'], [['u'], [None]])",
        "the type of its categories",
    ),
    Conversion(
        "",
        "pandas.DataFrame({'at': pandas.to_datetime(['2026-01-02']).tz_localize('Europe/Berlin')})",
        "Dataset(['at'], [[datetime(2026, 1, 2, tzinfo=ZoneInfo('Europe/Berlin'))]])",
        "to the microsecond",
    ),
    Conversion(
        "",
        "pandas.DataFrame({'n': pandas.array([], 'int32')})",
        "Dataset(['n'], [], [int])",
        "an empty table keeps its types; an empty or null column of objects is of type null",
    ),
    Conversion(
        "Polars DataFrame",
        "polars.DataFrame({'tag': ['a', None], 'on': [None, True], 'n': None})",
        "Dataset(['tag', 'on', 'n'], [['a', None, None], [None, True, None]])",
    ),
    Conversion(
        "",
        "polars.DataFrame({'n': [1]}, schema={'n': polars.UInt8}).clear()",
        "Dataset(['n'], [], [int])",
    ),
    Conversion(
        "Arrow table, batch",
        "pyarrow.table({'n': pyarrow.array([1, None], 'int8'), 'b': [b'x', b'y']})",
        "Dataset(['n', 'b'], [[1, b'x'], [None, b'y']], [int, bytes])",
    ),
    Conversion(
        "",
        "pyarrow.table({'at': pyarrow.array([0], pyarrow.timestamp('ns', 'UTC'))})",
        "Dataset(['at'], [[datetime(1970, 1, 1, tzinfo=UTC)]])",
        "to the microsecond",
    ),
    Conversion("row of a Dataset", "Dataset(['a'], [[1]])[0]", "(1,)"),
    Conversion(
        "other kinds of arrays",
        "numpy.matrix([[1, 2]])",
        "numpy.array([[1, 2]])",
        "subclasses: the array; one with a mask is refused",
    ),
]
"""What arrives as something else."""


def namespace() -> dict[str, Any]:
    """The names that the conversions are written with."""
    names: dict[str, Any] = {"__name__": "conversions"}
    exec(DEFINITIONS, names)
    return names
