"""
A table: named columns of one type each, with rows, as Ignition's scripts know it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, time, timezone
from types import NoneType
from typing import Any

from headgate.scalars import NAMES, plain

__all__ = ["Dataset", "Row", "as_document"]

Types = Mapping[str, type | None] | Iterable[type | None] | None
"""The types of columns, by name or in order; None is for one that the values tell."""


class Row(tuple[Any, ...]):
    """
    A row of a `Dataset`: a tuple whose values are found by name too, ``row["level"]``.

    It is sent as a tuple.
    """

    _dataset: Dataset

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self._dataset._at(key) if isinstance(key, str) else key)

    def __repr__(self) -> str:
        return f"Row({dict(zip(self._dataset._names, self, strict=True))})"


class Dataset:
    """
    A table that does not change: columns with a name and one type each, and rows.

    A value is of its column's type or None. The types are those of single values that a payload
    carries: bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, and
    NoneType for a column without a value. A column keeps its type if it has no row.

    Methods and attributes are those of Ignition's Dataset; like a PyDataSet it is also a sequence
    of rows: ``len(table)``, ``table[0]["level"]``, ``for row in table``. A column's name is found
    whatever its case, after a name that is exactly the same.

    Args:
        names: The columns' names, each once.
        rows: Rows of as many values. Instances of subclasses, of Enum and of NumPy's scalars
            become what a payload carries.
        types: The columns' types. Default: each is that of its values; int and float together
            are float.

    Raises:
        ValueError: A name stands there twice, or a row has more or fewer values than columns.
        TypeError: A value is not of its column's type; the error names row and column.
    """

    __slots__ = ("_columns", "_names", "_places", "_types")

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, names: Iterable[str], rows: Iterable[Sequence[Any]] = (), types: Types = None
    ) -> None:
        names = list(names)
        self._build(names, _transposed(rows, len(names)), types)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Iterable[Any]], types: Types = None) -> Dataset:
        """
        Make a table of columns: ``Dataset.from_columns({"tag": ["a", "b"], "value": [1.5, 2]})``.

        Args:
            columns: The values of each column by its name, equally many for all.
            types: As for `Dataset`.
        """
        dataset = cls.__new__(cls)
        dataset._build(list(columns), list(map(tuple, columns.values())), types)
        return dataset

    @classmethod
    def _of(
        cls, names: Sequence[str], types: Sequence[type], columns: Sequence[tuple[Any, ...]]
    ) -> Dataset:
        """Make a table of columns whose values are known to be of their types."""
        dataset = cls.__new__(cls)
        dataset._set(names, types, columns)
        return dataset

    def _build(self, names: list[str], columns: list[tuple[Any, ...]], types: Types) -> None:
        typed = [
            _typed(name, column, kind)
            for name, column, kind in zip(names, columns, _declared(names, types), strict=True)
        ]
        self._set(names, [kind for kind, _ in typed], [column for _, column in typed])

    def _set(
        self, names: Sequence[str], types: Sequence[type], columns: Sequence[tuple[Any, ...]]
    ) -> None:
        _check_names(names)
        lengths = dict(zip(map(len, columns), names, strict=True))
        if len(lengths) > 1:
            told = ", ".join(f"{name!r} has {length}" for length, name in lengths.items())
            raise ValueError(f"columns differ in their number of values: {told}")
        self._names, self._types, self._columns = tuple(names), tuple(types), tuple(columns)
        self._places = {name.lower(): at for at, name in reversed([*enumerate(names)])}
        self._places |= {name: at for at, name in enumerate(names)}

    @property
    def rowCount(self) -> int:
        """The number of rows."""
        return len(self._columns[0]) if self._columns else 0

    @property
    def columnCount(self) -> int:
        """The number of columns."""
        return len(self._columns)

    def getRowCount(self) -> int:
        """Return the number of rows."""
        return self.rowCount

    def getColumnCount(self) -> int:
        """Return the number of columns."""
        return self.columnCount

    def getColumnNames(self) -> list[str]:
        """Return the columns' names."""
        return list(self._names)

    def getColumnName(self, index: int) -> str:
        """Return the name of the column at an index."""
        return self._names[self._at(index)]

    def getColumnIndex(self, name: str) -> int:
        """Return the index of the column with a name, whatever its case, or -1."""
        return self._places.get(name, self._places.get(name.lower(), -1))

    def getColumnTypes(self) -> list[type]:
        """Return the columns' types."""
        return list(self._types)

    def getColumnType(self, index: int) -> type:
        """Return the type of the column at an index."""
        return self._types[self._at(index)]

    def getColumnAsList(self, index: int) -> list[Any]:
        """Return the values of the column at an index."""
        return list(self._columns[self._at(index)])

    def getValueAt(self, row: int, column: int | str) -> Any:
        """
        Return one value.

        Args:
            row: The row's index, from 0.
            column: The column's index or its name, whatever its case.

        Raises:
            IndexError: There is no such row or column.
        """
        at = self._at(column)
        if not 0 <= row < self.rowCount:
            raise IndexError(f"there is no row {row}: the table has {self.rowCount} rows")
        return self._columns[at][row]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the columns by name; ``pandas.DataFrame(table.to_dict())`` takes that."""
        return dict(zip(self._names, map(list, self._columns), strict=True))

    def __len__(self) -> int:
        return self.rowCount

    def __getitem__(self, index: int) -> Row:
        if not isinstance(index, int):
            raise TypeError(f"rows are found by their index, and {index!r} is none")
        if not -self.rowCount <= index < self.rowCount:
            raise IndexError(f"there is no row {index}: the table has {self.rowCount} rows")
        return self._row(tuple(column[index] for column in self._columns))

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, zip(*self._columns, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dataset):
            return NotImplemented
        return (self._names, self._types, self._columns) == (
            other._names,
            other._types,
            other._columns,
        )

    def __repr__(self) -> str:
        columns = ", ".join(
            f"{name} {NAMES[kind]}" for name, kind in zip(self._names, self._types, strict=True)
        )
        return f"<Dataset of {self.rowCount} rows: {columns or 'no column'}>"

    def _row(self, values: tuple[Any, ...]) -> Row:
        row = Row(values)
        row._dataset = self
        return row

    def _at(self, column: int | str) -> int:
        """Give the index of a column that must be there."""
        at = self.getColumnIndex(column) if isinstance(column, str) else column
        if not 0 <= at < len(self._names):
            known = ", ".join(map(repr, self._names)) or "none"
            raise IndexError(f"there is no column {column!r}: the table has {known}")
        return at


def as_document(table: Dataset) -> dict[str, Any]:
    """
    Return what stands for a table in JSON.

    ``{"columns": [{"name": …, "type": …}], "rows": [[…]]}``; the values are as they are.
    """
    columns = [
        {"name": name, "type": NAMES[kind]}
        for name, kind in zip(table._names, table._types, strict=True)
    ]
    return {"columns": columns, "rows": list(map(list, zip(*table._columns, strict=True)))}


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if type(name) is not str:
            raise TypeError(f"column names are text, and {name!r} is not")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"each column has a name of its own, and {twice[0]!r} stands there twice")


def _transposed(rows: Iterable[Sequence[Any]], width: int) -> list[tuple[Any, ...]]:
    """Give the columns of rows, each of which has so many values."""
    rows = list(rows)
    for at, row in enumerate(rows):
        if isinstance(row, str | bytes | Mapping) or not isinstance(row, Iterable):
            raise TypeError(f"row {at} is {row!r}: a list of values is needed")
    rows = list(map(tuple, rows))
    for at, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"row {at} has {len(row)} values for {width} columns: {row!r}")
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _declared(names: list[str], types: Types) -> list[type | None]:
    """Give the type that each column was declared with, or None."""
    if types is None:
        return [None] * len(names)
    if isinstance(types, Mapping):
        unknown = set(types) - set(names)
        if unknown:
            raise ValueError(f"types names {sorted(unknown)!r}, which are no columns")
        declared = [types.get(name) for name in names]
    else:
        declared = list(types)
    if len(declared) != len(names):
        raise ValueError(f"{len(declared)} types are given for {len(names)} columns")
    for name, kind in zip(names, declared, strict=True):
        if kind is not None and kind not in NAMES:
            raise TypeError(
                f"column {name!r} cannot be of type {kind!r}: write a class, one of "
                f"{', '.join(each.__name__ for each in NAMES)}"
            )
    return declared


def _typed(
    name: str, values: tuple[Any, ...], declared: type | None
) -> tuple[type, tuple[Any, ...]]:
    """Give a column's type and its values, each of that type or None."""
    found = set(map(type, values)) - {NoneType}
    if not found <= NAMES.keys() or not found.isdisjoint((datetime, time)):
        values = _plain(name, values)
        found = set(map(type, values)) - {NoneType}
    kind = declared or _common(found, values)
    if kind is float and int in found:
        values = _floats(name, values)
        found = found - {int}
    if not found <= {kind}:
        at = next(at for at, value in enumerate(values) if type(value) not in (kind, NoneType))
        raise _wrong(name, at, values[at], f"the column is of type {NAMES[kind]}")
    return kind, values


def _common(found: set[type], values: tuple[Any, ...]) -> type:
    """Give the type of a column with values of these types."""
    if found == {int, float}:
        return float
    return next((type(value) for value in values if value is not None), NoneType)


def _plain(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    zones = {type(getattr(value, "tzinfo", None)) for value in values}
    if zones <= {NoneType, timezone} and NAMES.keys() >= set(map(type, values)):
        return values
    result = []
    for at, value in enumerate(values):
        try:
            result.append(plain(value))
        except Exception as error:
            raise _wrong(name, at, value, f"it cannot stand in a table: {error}") from error
    return tuple(result)


def _floats(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    result = []
    for at, value in enumerate(values):
        try:
            result.append(float(value) if type(value) is int else value)
        except OverflowError as error:
            raise _wrong(name, at, value, "it is too large for a float") from error
    return tuple(result)


def _wrong(name: str, row: int, value: Any, reason: str) -> TypeError:
    try:
        shown = repr(value)
    except Exception:  # an int of more digits than Python writes
        shown = "a value"
    shown = shown if len(shown) <= 80 else shown[:79] + "…"
    kind = type(value).__qualname__
    return TypeError(f"column {name!r}, row {row}: {shown} is of type {kind}, and {reason}")
