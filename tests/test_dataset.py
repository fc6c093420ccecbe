"""`headgate.Dataset`: a table as Ignition's scripts know it."""

from __future__ import annotations

import copy
import enum
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy
import pandas
import pytest

from headgate import Dataset

TANKS = Dataset(["Tank", "level"], [["T1", 1.5], ["T2", None]])

ONE_OF_EACH: dict[type, Any] = {
    bool: True,
    int: 2**70,
    float: 1.5,
    str: "ü",
    bytes: b"\x00",
    datetime: datetime(2026, 1, 2, tzinfo=UTC),
    date: date(2026, 1, 2),
    time: time(3, 4),
    timedelta: timedelta(1),
    Decimal: Decimal("1.50"),
    UUID: UUID(int=5),
}


class Level(enum.IntEnum):
    LOW = 1


class Odd(tzinfo):
    """A zone that is neither a ZoneInfo nor a fixed offset."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=2)


class TestReading:
    def test_sizes(self) -> None:
        """The numbers of rows and columns are attributes and methods, as in Ignition."""
        assert (TANKS.rowCount, TANKS.columnCount, len(TANKS)) == (2, 2, 2)
        assert (TANKS.getRowCount(), TANKS.getColumnCount()) == (2, 2)

    def test_columns(self) -> None:
        """Names and types of columns are found by index; values of a column are a list."""
        assert TANKS.getColumnNames() == ["Tank", "level"]
        assert TANKS.getColumnName(1) == "level"
        assert TANKS.getColumnTypes() == [str, float]
        assert TANKS.getColumnType(0) is str
        assert TANKS.getColumnAsList(1) == [1.5, None]

    @pytest.mark.parametrize("column", [1, "level", "LEVEL", "Level"])
    def test_value(self, column: int | str) -> None:
        """A value is found by the column's index, or by its name whatever the case."""
        assert TANKS.getValueAt(0, column) == 1.5
        assert TANKS.getValueAt(1, column) is None

    def test_exact_name_comes_first(self) -> None:
        """Of names that differ in their case the one that is exactly the same is found."""
        table = Dataset(["a", "A", "b"], [[1, 2, 3]])
        assert [table.getValueAt(0, name) for name in ("a", "A", "B")] == [1, 2, 3]
        assert [table.getColumnIndex(name) for name in ("a", "A", "B", "c")] == [0, 1, 2, -1]

    @pytest.mark.parametrize(
        ("row", "column", "words"),
        [
            (2, 0, "no row 2: the table has 2 rows"),
            (-1, 0, "no row -1"),
            (0, 2, "no column 2"),
            (0, -1, "no column -1"),
            (0, "volume", "no column 'volume': the table has 'Tank', 'level'"),
        ],
    )
    def test_no_such_place(self, row: int, column: int | str, words: str) -> None:
        """What is not there is an IndexError that says what is."""
        with pytest.raises(IndexError, match=words):
            TANKS.getValueAt(row, column)

    def test_rows(self) -> None:
        """It is a sequence of rows, which are tuples with names, like a PyDataSet."""
        assert [row["tank"] for row in TANKS] == ["T1", "T2"]
        assert [list(row) for row in TANKS] == [["T1", 1.5], ["T2", None]]
        row = TANKS[0]
        assert (row[0], row[-1], row["LEVEL"], row[:1], len(row)) == ("T1", 1.5, 1.5, ("T1",), 2)
        assert row == ("T1", 1.5)
        assert repr(row) == "Row({'Tank': 'T1', 'level': 1.5})"
        assert TANKS[-1] == ("T2", None)

    @pytest.mark.parametrize("index", [2, -3])
    def test_no_such_row(self, index: int) -> None:
        """A row that is not there is an IndexError, and so is a name that a row does not have."""
        with pytest.raises(IndexError, match="the table has 2 rows"):
            TANKS[index]
        with pytest.raises(IndexError, match="no column 'volume'"):
            TANKS[0]["volume"]

    def test_equality(self) -> None:
        """Tables are equal with equal names, types and values, and are no keys."""
        same = Dataset(["Tank", "level"], [["T1", 1.5], ["T2", None]])
        assert same == TANKS
        assert copy.deepcopy(TANKS) == TANKS
        for other in (
            Dataset(["tank", "level"], TANKS),
            Dataset(["Tank", "level"], [*TANKS][:1]),
            Dataset(["Tank", "level"], [["T1", 1.5], ["T2", 2.0]]),
            "T1",
        ):
            assert other != TANKS
        assert Dataset(["a"], [], [int]) != Dataset(["a"], [], [float])
        with pytest.raises(TypeError):
            hash(TANKS)

    def test_text(self) -> None:
        """Its text tells size, names and types."""
        assert repr(TANKS) == "<Dataset of 2 rows: Tank str, level float>"
        assert repr(Dataset([])) == "<Dataset of 0 rows: no column>"

    def test_it_does_not_change(self) -> None:
        """What it gives out is a copy, and its attributes cannot be set."""
        TANKS.getColumnNames().append("x")
        TANKS.getColumnAsList(0).clear()
        TANKS.to_dict()["Tank"].clear()
        assert TANKS.to_dict() == {"Tank": ["T1", "T2"], "level": [1.5, None]}
        with pytest.raises(AttributeError):
            TANKS.rowCount = 3  # type: ignore[misc]
        with pytest.raises(TypeError):
            TANKS[0] = ()  # type: ignore[index]


class TestMaking:
    @pytest.mark.parametrize("kind", ONE_OF_EACH)
    def test_types_follow_from_the_values(self, kind: type) -> None:
        """A column has the type of its values, and None may stand in each."""
        table = Dataset(["a", "b"], [[None, 1], [ONE_OF_EACH[kind], None]])
        assert table.getColumnTypes() == [kind, int]
        assert table.getValueAt(1, 0) == ONE_OF_EACH[kind]

    def test_declared_types(self) -> None:
        """Types are given in order or by name; what is not given follows from the values."""
        for types in ([int, None], {"a": int}):
            assert Dataset(["a", "b"], [[None, "x"]], types).getColumnTypes() == [int, str]
        assert Dataset(["a"], [[1], [None]], [float]) == Dataset(["a"], [[1.0], [None]])

    def test_empty_and_null(self) -> None:
        """A table without rows keeps its types; a column without any value is of NoneType."""
        types = [*ONE_OF_EACH]
        names = [kind.__name__ for kind in types]
        assert Dataset(names, [], types).getColumnTypes() == types
        assert Dataset(names, [[None] * len(names)], types).getColumnTypes() == types
        assert Dataset(["a"], [[None]]).getColumnTypes() == [type(None)]
        assert list(Dataset(["a"])) == list(Dataset([])) == []

    def test_int_and_float(self) -> None:
        """int and float together are float; bool is neither."""
        assert Dataset(["a"], [[1], [2.5]]).getColumnAsList(0) == [1.0, 2.5]
        assert type(Dataset(["a"], [[2.5], [1]]).getValueAt(1, 0)) is float
        with pytest.raises(TypeError, match="row 1: True is of type bool"):
            Dataset(["a"], [[2.5], [True]])

    def test_from_columns(self) -> None:
        """Columns by name make the same table as rows, also out of to_dict()."""
        assert Dataset.from_columns({"Tank": ("T1", "T2"), "level": [1.5, None]}) == TANKS
        assert Dataset.from_columns(TANKS.to_dict()) == TANKS
        assert Dataset.from_columns({"a": iter([1])}, {"a": float}).getValueAt(0, "a") == 1.0

    def test_values_become_what_is_carried(self) -> None:
        """Instances of subclasses, of Enum and of NumPy's and pandas' scalars become plain."""
        row = [Level.LOW, numpy.int8(3), numpy.float64(1.5), pandas.Timestamp("2026-01-02")]
        (arrived,) = (Dataset("abcd", [row, [pandas.NA, None, None, pandas.NaT]]).to_dict(),)
        assert arrived == {
            "a": [1, None],
            "b": [3, None],
            "c": [1.5, None],
            "d": [datetime(2026, 1, 2), None],
        }
        assert [type(values[0]) for values in arrived.values()] == [int, int, float, datetime]

    def test_zones_become_what_is_carried(self) -> None:
        """A ZoneInfo is kept; a zone that is none becomes its offset."""
        berlin, odd = ZoneInfo("Europe/Berlin"), Odd()
        for zone, kept in ((berlin, berlin), (odd, timezone(timedelta(hours=2))), (UTC, UTC)):
            table = Dataset(["a"], [[datetime(2026, 1, 2, tzinfo=zone)], [None]])
            assert table.getValueAt(0, 0).tzinfo == kept

    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: Dataset(["a", "b"], [[1, 2], [3]]), ValueError, "row 1 has 1 values for 2"),
            (lambda: Dataset(["a"], ["x"]), TypeError, "row 0 is 'x': a list"),
            (lambda: Dataset(["a"], [{"a": 1}]), TypeError, "row 0 is {'a': 1}: a list"),
            (lambda: Dataset(["a"], [1]), TypeError, "row 0 is 1: a list"),
            (lambda: Dataset(["a", "a"]), ValueError, "'a' stands there twice"),
            (lambda: Dataset(["a", 1]), TypeError, "names are text, and 1 is not"),
            (
                lambda: Dataset(["a"], [[None], [1], ["x"]]),
                TypeError,
                "column 'a', row 2: 'x' is of type str, and the column is of type int",
            ),
            (lambda: Dataset(["a"], [[1.5]], [int]), TypeError, "row 0: 1.5 is of type float"),
            (lambda: Dataset(["a"], [[[1]]]), TypeError, "column 'a', row 0: .*list is no single"),
            (lambda: Dataset(["a"], [["x" * 999]], [int]), TypeError, "xxx… is of type str"),
            (lambda: Dataset(["a"], [[10**999]], [float]), TypeError, "too large for a float"),
            (lambda: Dataset(["a"], [], [list]), TypeError, "cannot be of type <class 'list'>"),
            (lambda: Dataset(["a"], [], [int, int]), ValueError, "2 types are given for 1 col"),
            (lambda: Dataset(["a"], [], {"b": int}), ValueError, r"types names \['b'\]"),
            (
                lambda: Dataset.from_columns({"a": [1, 2], "b": [1]}),
                ValueError,
                "'a' has 2, 'b' has 1",
            ),
        ],
    )
    def test_mistakes(self, make: Any, error: type[Exception], words: str) -> None:
        """A mistake is told with its row and column."""
        with pytest.raises(error, match=words):
            make()
